use super::*;

async fn started(dir: &Path) -> Cluster {
    Cluster::start_with(dir, Durability::Disposable).await.unwrap()
}

async fn ask(cluster: &Cluster, statement: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(&cluster.url()).await?;
    sqlx::query(statement).execute(&mut connection).await?;
    connection.close().await
}

#[tokio::test]
async fn data_stays_and_one_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = started(dir.path()).await;
    ask(&cluster, "create table kept (id int)").await.unwrap();
    let second = Cluster::start(dir.path()).await.unwrap_err();
    assert!(matches!(second, ClusterError::InUse { .. }), "{second}");
    cluster.stop().await.unwrap();

    let cluster = started(dir.path()).await;
    ask(&cluster, "select id from kept").await.unwrap();
    // Killed, it leaves `postmaster.pid` behind.
    cluster.signal(Signal::SIGKILL);
    cluster.stop().await.unwrap();
    assert!(dir.path().join("data/postmaster.pid").exists());
    let cluster = started(dir.path()).await;
    ask(&cluster, "select id from kept").await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_outlived_its_owner_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    started(dir.path()).await.stop().await.unwrap();
    let (home, owner) = (dir.path().canonicalize().unwrap(), Owner::choose().unwrap());
    let programs = Programs::find().unwrap();
    let run = home.join("run");
    let data = home.join("data");
    let mut orphan = programs.postgres(owner.as_ref(), &home, &data, &run, Durability::Disposable).unwrap();
    // What is left behind is a server that serves: its lock file says so.
    let serves = || fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("ready"));
    while !serves() {
        assert_eq!(orphan.try_wait().unwrap(), None);
        tokio::task::yield_now().await;
    }
    let cluster = started(dir.path()).await;
    assert!(orphan.wait().await.is_ok());
    ask(&cluster, "select 1").await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_lock_file_of_somebody_elses_process_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    started(dir.path()).await.stop().await.unwrap();
    // Our own id: a process that runs, but not there.
    fs::write(dir.path().join("data/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    started(dir.path()).await.stop().await.unwrap();
}

#[tokio::test]
async fn an_unfinished_cluster_is_made_anew_and_a_long_path_has_a_short_socket() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(120));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(long.join("data.unfinished")).unwrap();
    fs::write(long.join("data.unfinished/PG_VERSION"), "1").unwrap();
    let cluster = started(&long).await;
    ask(&cluster, "select 1").await.unwrap();
    let socket_dir = cluster.socket_dir.clone();
    cluster.stop().await.unwrap();
    assert!(!socket_dir.exists() && !long.join("data.unfinished").exists());
}

#[tokio::test]
async fn a_folder_that_postgres_cannot_enter_is_named() {
    if !geteuid().is_root() {
        // Then Postgres runs as ourselves, and no folder of ours is closed to it.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::start(&dir.path().join("closed/pg")).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Unreachable { path, .. } if path == dir.path()), "{error}");
    assert!(!dir.path().join("closed").exists());
}

#[test]
fn what_a_program_said_is_told_in_one_line() {
    use std::os::unix::process::ExitStatusExt;
    let status = ExitStatus::from_raw(256);
    for (log, expected) in [
        ("a\ninitdb: error: could not write\nb\n", "initdb failed (exit status: 1): initdb: error: could not write"),
        ("FATAL:  x: No space left on device\n", "no space left on the disk for Postgres"),
        ("only this\n\n", "initdb failed (exit status: 1): only this"),
        ("", "initdb failed (exit status: 1): it said nothing"),
    ] {
        assert_eq!(ClusterError::from_log("initdb", status, log).to_string(), expected);
    }
}

#[tokio::test]
async fn a_long_path_has_the_same_url_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("a".repeat(100));
    let cluster = started(&long).await;
    let (url, folder) = (cluster.url(), cluster.socket_dir.clone());
    cluster.stop().await.unwrap();
    assert!(!folder.exists());
    let cluster = started(&long).await;
    assert_eq!(cluster.url(), url);
    cluster.stop().await.unwrap();
    stop_leftover(&long).await.unwrap();
    stop_leftover(&dir.path().join("none")).await.unwrap();
    fs::DirBuilder::new().mode(0o755).create(&folder).unwrap();
    assert!(matches!(Cluster::start(&long).await, Err(ClusterError::File { .. })), "somebody else's");
    fs::remove_dir(&folder).unwrap();
}
