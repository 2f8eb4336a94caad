//! A private Postgres: made with the machine's own `initdb`, in a folder of ours, reachable only through a unix socket,
//! a child of this process. It never touches a cluster of the system.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, chown, geteuid},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};

use crate::secrets;

mod error;
mod owner;
mod programs;
mod stale;

pub use error::ClusterError;
use owner::Owner;
use programs::Programs;

/// Superuser of the cluster; who may open the socket's folder is who may use it.
const SUPERUSER: &str = "umbel";
/// The database of the control plane.
const DATABASE: &str = "umbel";
/// A unix socket's path may have 107 bytes; Postgres adds `/.s.PGSQL.5432.lock`.
const LONGEST_SOCKET_DIR: usize = 85;
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// What the cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Commits survive a power cut.
    Durable,
    /// Commits survive nothing but a clean stop; faster, for tests.
    Disposable,
}

/// A running Postgres. Dropped without [`Cluster::stop`], it is told to quit at once, which loses no commit.
#[derive(Debug)]
pub struct Cluster {
    child: Child,
    socket_dir: PathBuf,
    // Held as long as the cluster runs: another of us must not stop it as a leftover.
    _lock: fs::File,
    short_socket_dir: Option<PathBuf>,
}

impl Cluster {
    /// Starts the cluster that lives in `dir`, making it first where there is none. As root, Postgres runs as `postgres`
    /// (or `nobody`), to whom `dir` is given.
    ///
    /// # Errors
    /// See [`ClusterError`]; each is one line for the operator.
    pub async fn start(dir: &Path) -> Result<Self, ClusterError> {
        Self::start_with(dir, Durability::Durable).await
    }

    /// As [`Cluster::start`], with a choice of durability.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(dir: &Path, durability: Durability) -> Result<Self, ClusterError> {
        let programs = Programs::find()?;
        let owner = Owner::choose()?;
        let home = prepare_home(dir, owner.as_ref())?;
        let lock = take_lock(&home)?;
        let data = home.join("data");
        stale::clear(&data).await?;
        if !data.exists() {
            make_data(&programs, owner.as_ref(), &home, &data, durability).await?;
        }
        let (socket_dir, short) = socket_dir(&home, owner.as_ref())?;
        let child = programs.postgres(owner.as_ref(), &home, &data, &socket_dir, durability)?;
        let mut cluster = Self { child, socket_dir, _lock: lock, short_socket_dir: short };
        cluster.wait_until_ready(&home).await?;
        cluster.create_database(DATABASE).await.or_else(already_there)?;
        Ok(cluster)
    }

    /// Where sqlx finds the control plane's database.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// Where sqlx finds the database `name`.
    pub fn url_of(&self, name: &str) -> String {
        let dir = self.socket_dir.to_string_lossy();
        let mut url = url::form_urlencoded::Serializer::new(format!("postgres://{SUPERUSER}@localhost/{name}?"));
        url.append_pair("host", &dir);
        url.finish()
    }

    /// Makes an empty database. `name` must be letters, digits and underscores.
    ///
    /// # Errors
    /// It exists already, or Postgres refuses.
    pub async fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "a plain name");
        let mut connection = PgConnection::connect(&self.url_of("postgres")).await.map_err(ClusterError::Connect)?;
        // Made of checked characters; identifiers cannot be parameters.
        let statement = AssertSqlSafe(format!("create database {name}"));
        sqlx::query(statement).execute(&mut connection).await.map_err(ClusterError::Connect)?;
        connection.close().await.map_err(ClusterError::Connect)
    }

    /// Process id of the postmaster.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns when the server has ended by itself.
    ///
    /// # Errors
    /// The child cannot be waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus, ClusterError> {
        self.child.wait().await.map_err(ClusterError::Io)
    }

    /// Ends all sessions and stops (Postgres' fast shutdown); after 20 s without mercy.
    ///
    /// # Errors
    /// The child cannot be waited for.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        self.signal(Signal::SIGINT);
        if timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGQUIT);
            self.child.wait().await.map_err(ClusterError::Io)?;
        }
        self.short_socket_dir.as_deref().map_or(Ok(()), remove_folder)
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // It may have ended between the two lines; then there is nothing to tell.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    async fn wait_until_ready(&mut self, home: &Path) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().map_err(ClusterError::Io)? {
                return Err(ClusterError::from_log("postgres", status, &programs::log_tail(home)));
            }
            match PgConnection::connect(&self.url_of("postgres")).await {
                Ok(connection) => return connection.close().await.map_err(ClusterError::Connect),
                Err(error) if Instant::now() > deadline => return Err(ClusterError::Connect(error)),
                Err(_) => sleep(Duration::from_millis(30)).await,
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing after `stop`: the child has been waited for and has no id. SIGQUIT makes the postmaster end its children
        // too, which a kill would leave behind.
        self.signal(Signal::SIGQUIT);
    }
}

fn already_there(error: ClusterError) -> Result<(), ClusterError> {
    const DUPLICATE_DATABASE: &str = "42P04";
    let ClusterError::Connect(sqlx::Error::Database(refusal)) = &error else { return Err(error) };
    if refusal.code().as_deref() == Some(DUPLICATE_DATABASE) { Ok(()) } else { Err(error) }
}

/// Whether a cluster could be made and run in `dir`, which need not be there yet. Nothing is made.
///
/// # Errors
/// No server programs, nobody to run them as, or no way for them to get to `dir`.
pub fn require_possible(dir: &Path) -> Result<(), ClusterError> {
    Programs::find()?;
    require_way(&std::path::absolute(dir).map_err(ClusterError::io(dir))?, Owner::choose()?.as_ref())
}

/// The folder, absolute, owned by whom Postgres runs as, and reachable by them.
fn prepare_home(dir: &Path, owner: Option<&Owner>) -> Result<PathBuf, ClusterError> {
    // Looked at before anything is made, and again when it is clear where links and new folders lead.
    require_way(&std::path::absolute(dir).map_err(ClusterError::io(dir))?, owner)?;
    fs::create_dir_all(dir).map_err(ClusterError::io(dir))?;
    let home = dir.canonicalize().map_err(ClusterError::io(dir))?;
    require_way(&home, owner)?;
    give(&home, owner)?;
    Ok(home)
}

/// The owner must be able to pass through every folder above.
fn require_way(dir: &Path, owner: Option<&Owner>) -> Result<(), ClusterError> {
    let Some(owner) = owner else { return Ok(()) };
    match dir.ancestors().skip(1).find(|parent| parent.exists() && !owner.may_enter(parent)) {
        Some(parent) => Err(ClusterError::Unreachable { path: parent.to_owned(), user: owner.name.clone() }),
        None => Ok(()),
    }
}

fn give(path: &Path, owner: Option<&Owner>) -> Result<(), ClusterError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(ClusterError::io(path))?;
    if let Some(owner) = owner {
        chown(path, Some(owner.uid), Some(owner.gid)).map_err(|error| ClusterError::io(path)(error.into()))?;
    }
    Ok(())
}

fn take_lock(home: &Path) -> Result<fs::File, ClusterError> {
    let path = home.join("umbel.lock");
    let file = fs::File::create(&path).map_err(ClusterError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ClusterError::InUse { dir: home.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(ClusterError::io(&path)(error)),
    }
}

/// All or nothing: a folder named `data` is a finished one.
async fn make_data(
    programs: &Programs,
    owner: Option<&Owner>,
    home: &Path,
    data: &Path,
    durability: Durability,
) -> Result<(), ClusterError> {
    let unfinished = home.join("data.unfinished");
    remove_folder(&unfinished)?;
    if let Err(error) = programs.initdb(owner, home, &unfinished, durability).await {
        remove_folder(&unfinished)?;
        return Err(error);
    }
    fs::rename(&unfinished, data).map_err(ClusterError::io(data))
}

fn remove_folder(path: &Path) -> Result<(), ClusterError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ClusterError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Stops the Postgres of `dir` that outlived who started it, if there is one; a folder that is not there has none.
///
/// # Errors
/// Another process of ours runs the cluster, or the server does not obey.
pub async fn stop_leftover(dir: &Path) -> Result<(), ClusterError> {
    if !dir.join("data").exists() {
        return Ok(());
    }
    let home = dir.canonicalize().map_err(ClusterError::io(dir))?;
    let _lock = take_lock(&home)?;
    stale::clear(&home.join("data")).await?;
    let short = short_socket_dir(&home);
    if is_ours(&short, Owner::choose()?.as_ref()) { remove_folder(&short) } else { Ok(()) }
}

/// Beside the data where its path is short enough for a socket, else in a folder of its own under /tmp.
fn socket_dir(home: &Path, owner: Option<&Owner>) -> Result<(PathBuf, Option<PathBuf>), ClusterError> {
    let beside = home.join("run");
    if beside.as_os_str().len() <= LONGEST_SOCKET_DIR {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&beside);
        made.map_err(ClusterError::io(&beside))?;
        give(&beside, owner)?;
        return Ok((beside, None));
    }
    let short = short_socket_dir(home);
    match fs::DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_ours(&short, owner) => {}
        made => made.map_err(ClusterError::io(&short))?,
    }
    give(&short, owner)?;
    Ok((short.clone(), Some(short)))
}

/// The same for the same cluster, so that a URL that was written down stays good.
fn short_socket_dir(home: &Path) -> PathBuf {
    let digest = secrets::short_digest(home.as_os_str().as_bytes());
    Path::new("/tmp").join(format!("umbel-pg-{:032x}", u128::from_be_bytes(digest)))
}

/// A folder, no link, that nobody but us or Postgres' user could have made.
fn is_ours(folder: &Path, owner: Option<&Owner>) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let made_by = |uid: Uid| metadata.uid() == uid.as_raw();
    metadata.is_dir()
        && metadata.mode() & 0o077 == 0
        && (made_by(geteuid()) || owner.is_some_and(|owner| made_by(owner.uid)))
}

impl Owner {
    /// Whether this user may pass through `folder`.
    fn may_enter(&self, folder: &Path) -> bool {
        let Ok(metadata) = fs::metadata(folder) else { return false };
        let bit = if metadata.uid() == self.uid.as_raw() {
            0o100
        } else if metadata.gid() == self.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        metadata.mode() & bit != 0
    }
}

#[cfg(test)]
mod tests;
