//! A site that is pulled from its provider's own server, on a running network, through the commands that operators, providers and
//! readers have.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::Demo;

/// Far longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

/// Of `/slow`, before and after the gate.
const HALF: usize = 300_000;

/// Of `/long`.
const LONG: usize = 2 << 20;

/// The provider's own server. Each answer says how many there were before it.
#[derive(Clone, Default)]
struct Provider(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    /// Path, and whether an edge added the field that it was told to.
    requests: Vec<(String, bool)>,
    /// Whether `/slow` goes on.
    open: bool,
}

impl Provider {
    fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, provider) = (listener.local_addr().unwrap(), self.clone());
        // They end with the test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let provider = provider.clone();
                // Whoever asked may have gone.
                thread::spawn(move || drop(provider.answer(stream)));
            }
        });
        address
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = Vec::new();
        for line in reader.by_ref().lines() {
            match line? {
                line if line.is_empty() => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let marked = head.iter().any(|line| line == "x-from-edge: yes");
        let number = self.change(|seen| {
            seen.requests.push((path.clone(), marked));
            seen.requests.len()
        });
        if path == "/long" {
            let secure = head.iter().any(|line| line == "x-forwarded-proto: https");
            return long(&mut stream, secure);
        }
        if path == "/slow" {
            return self.slow(&mut stream);
        }
        let body = number.to_string();
        let fields = "Content-Type: text/plain\r\nCache-Control: max-age=600\r\nConnection: close";
        write!(stream, "HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    /// Not for any store; the second half comes when the gate is open.
    fn slow(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let fields = "Cache-Control: no-store\r\nConnection: close";
        write!(stream, "HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n", 2 * HALF)?;
        stream.write_all(&[1; HALF])?;
        self.wait_for(|seen| seen.open);
        stream.write_all(&[2; HALF])
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let changed = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        changed
    }

    fn wait_for(&self, holds: impl Fn(&Seen) -> bool) {
        let seen = self.0.0.lock().unwrap();
        let (_seen, waited) = self.0.1.wait_timeout_while(seen, HANG, |seen| !holds(seen)).unwrap();
        assert!(!waited.timed_out());
    }

    /// How often it was asked for this path.
    fn asked(&self, path: &str) -> usize {
        self.0.0.lock().unwrap().requests.iter().filter(|(asked, _)| asked == path).count()
    }
}

/// Content over https, and for whoever says nothing of it a redirect there, both for all to keep.
fn long(stream: &mut TcpStream, secure: bool) -> std::io::Result<()> {
    let fields = "Cache-Control: max-age=600\r\nConnection: close";
    if !secure {
        let location = "Location: https://pulled.localhost/long\r\nContent-Length: 0";
        return write!(stream, "HTTP/1.1 301 Moved Permanently\r\n{fields}\r\n{location}\r\n\r\n");
    }
    write!(stream, "HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {LONG}\r\n\r\n")?;
    stream.write_all(&[3; LONG])
}

/// It signs itself, for `pulled.localhost`, for nearly a thousand years.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBZDCCAQugAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBwdWxsZWQu
bG9jYWxob3N0MCAXDTAwMDEwMTAwMDAwMFoYDzI5OTkwMTAxMDAwMDAwWjAbMRkw
FwYDVQQDDBBwdWxsZWQubG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAE++6plzoyWBW78lXWuQMNmC7V8aQRVkKVipm5xcr7VcS+LddYQnxgsHcB6xkQ
n6b73DsnSwP/rozjg1umx6T4faM+MDwwGwYDVR0RBBQwEoIQcHVsbGVkLmxvY2Fs
aG9zdDAdBgNVHQ4EFgQUyOw/GbyuhZs0dUaoOf/tB1MYI54wCgYIKoZIzj0EAwID
RwAwRAIgUBHo5mkq8l4iwY04COQQfDLli/qBI2tLXFiXqPyKHOcCIH+TdMdFTmlv
1yiAcQ0wu43ARyv5uBhMN935jcsljdMu
-----END CERTIFICATE-----
";

/// Of nothing but this certificate.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1dN0ArNKcyMGBs+w
DPt/afGqytEov+AgpdPRQHiOdMWhRANCAAT77qmXOjJYFbvyVda5Aw2YLtXxpBFW
QpWKmbnFyvtVxL4t11hCfGCwdwHrGRCfpvvcOydLA/+ujOODW6bHpPh9
-----END PRIVATE KEY-----
";

struct Place {
    demo: Demo,
    provider: Provider,
    folder: tempfile::TempDir,
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_slice(&output.stdout);
    answer.unwrap_or_else(|_| panic!("{}: {error}", String::from_utf8_lossy(&output.stdout)))
}

impl Place {
    /// A command of the admin, whatever comes of it.
    fn try_admin(&self, args: &[&str]) -> Output {
        let mut command = self.demo.umbel(args);
        command.arg("--credentials").arg(self.demo.state().join("admin.toml")).arg("--json").output().unwrap()
    }

    fn admin(&self, args: &[&str]) -> Value {
        let output = self.try_admin(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        if output.stdout.is_empty() { Value::Null } else { json(&output) }
    }

    /// Each edge says that it goes by all that was changed until now.
    fn confirmed(&self) {
        let purged = self.admin(&["purge", "--site", "pulled", "/none", "--wait"]);
        let edges = purged["edges"].as_array().unwrap();
        assert!(edges.len() == 2 && edges.iter().all(|edge| edge["state"] == "confirmed"), "{purged:#}");
    }

    /// What both edges answer when they fetch this, by `Cache-Status`.
    fn warm(&self, path: &str) -> Vec<String> {
        let warmed = self.admin(&["warm", "--site", "pulled", path]);
        let answers = warmed["answers"].as_array().unwrap().iter();
        answers.map(|answer| answer["cache_status"].as_str().unwrap().to_owned()).collect()
    }

    fn get(&self, path: &str) -> Command {
        let url = format!("https://pulled.localhost:{}{path}", self.demo.edge_port());
        let mut command = self.demo.umbel(&["get", &url, "--state"]);
        command.arg(self.demo.state().join("agent-1"));
        command
    }

    fn read(&self, path: &str) -> String {
        let output = self.get(path).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Looks again and again: what other processes have come to, they tell only those who ask.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < HANG, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn commands_work_on_a_running_network() {
    let (tree, place) = (
        tempfile::tempdir().unwrap(),
        Place { demo: Demo::new(), provider: Provider::default(), folder: tempfile::tempdir().unwrap() },
    );
    fs::write(tree.path().join("x"), "x").unwrap();
    let up = place.demo.up(tree.path());
    let upstream = format!("http://{}", place.provider.serve());
    place.admin(&["admin", "site", "create", "pulled", "--host", "pulled.localhost", "--public", "--pull", &upstream]);
    place.confirmed();
    // Edges get certificates for the new host, and the origin hears of the site.
    until("both edges answer for the new site", || {
        place.try_admin(&["warm", "--site", "pulled", "/first"]).status.success()
    });
    purged_things_are_asked_for_again(&place);
    what_an_agent_reads_is_a_version_for_the_next(&place);
    what_is_warm_is_stored_at_both_edges(&place);
    what_is_for_no_store_is_not_warm(&place);
    delivery_rules_reach_the_providers_server(&place);
    keys_are_replaced_with_overlap(&place);
    a_certificate_comes_and_goes(&place);
    hangups_end_nobody(&place);
    a_download_goes_on_while_the_edge_reads_its_configuration_again(&place);
    up.stop();
    place.demo.assert_nothing_runs();
}

/// Also: an agent gets what has no version.
fn purged_things_are_asked_for_again(place: &Place) {
    let body = place.read("/purged");
    let asked = place.provider.asked("/purged");
    assert_eq!((place.read("/purged"), place.provider.asked("/purged")), (body.clone(), asked), "it is stored");
    let purged = place.admin(&["purge", "--site", "pulled", "/purged", "--wait"]);
    let edges = purged["edges"].as_array().unwrap();
    let confirmed = |edge: &Value| edge["state"] == "confirmed" && edge["after_ms"].is_u64();
    assert!(purged["complete"] == true && edges.len() == 2 && edges.iter().all(confirmed), "{purged:#}");
    assert_ne!(place.read("/purged"), body);
    assert!(place.provider.asked("/purged") > asked);
}

/// A question without a reader's fields would get a redirect.
fn what_an_agent_reads_is_a_version_for_the_next(place: &Place) {
    let saved = place.file("long");
    let mut from_disk = Vec::new();
    for _ in 0..3 {
        let output = place.get("/long").args(["--json", "--output"]).arg(&saved).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(&saved).unwrap() == [3; LONG]);
        from_disk.push(json(&output)["from_disk"].as_u64().unwrap());
    }
    assert_eq!(from_disk, [0, 0, LONG as u64], "over HTTPS, as a version, and then as the one that is there");
    assert_eq!(place.provider.asked("/long"), 1);
}

fn what_is_for_no_store_is_not_warm(place: &Place) {
    place.provider.change(|seen| seen.open = true);
    let output = place.try_admin(&["warm", "--site", "pulled", "/slow", "/warm"]);
    let warmed = json(&output);
    let counted = ["warmed", "unstored", "failed"].map(|name| warmed[name].as_u64().unwrap());
    assert_eq!((counted, output.status.code()), ([2, 2, 0], Some(1)), "{warmed:#}");
    place.provider.change(|seen| {
        seen.open = false;
        seen.requests.retain(|(path, _)| path != "/slow");
    });
}

fn what_is_warm_is_stored_at_both_edges(place: &Place) {
    assert_eq!(place.warm("/warm").len(), 2);
    let asked = place.provider.asked("/warm");
    let answers = place.warm("/warm");
    assert!(answers.len() == 2 && answers.iter().all(|said| said.contains("umbel-edge; hit")), "{answers:?}");
    assert_eq!(place.provider.asked("/warm"), asked);
}

fn delivery_rules_reach_the_providers_server(place: &Place) {
    let rules = place.file("delivery.toml");
    fs::write(&rules, "[[request_headers]]\nset = { x-from-edge = \"yes\" }\n").unwrap();
    let shown = place.admin(&["admin", "policy", "delivery", "pulled", "--file", text(&rules)]);
    assert_eq!(place.admin(&["admin", "policy", "delivery", "pulled"]), shown);
    place.confirmed();
    place.warm("/ruled");
    let asked = |marked| place.provider.change(|seen| seen.requests.contains(&("/ruled".to_owned(), marked)));
    assert!(asked(true) && !asked(false));
    fs::write(&rules, "[compression]\ncodings = [\"lzma\"]\n").unwrap();
    let refused = place.try_admin(&["admin", "policy", "delivery", "pulled", "--file", text(&rules)]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(place.admin(&["admin", "policy", "delivery", "pulled"]), shown, "a mistake changes nothing");
}

fn keys_are_replaced_with_overlap(place: &Place) {
    let (old, new) = (place.file("old.json"), place.file("new.json"));
    let made = |name: &str, file: &Path| {
        let args = ["grant", "new-key", name, "--json", "--output", text(file)];
        json(&place.demo.umbel(&args).output().unwrap())["public_key"].as_str().unwrap().to_owned()
    };
    let public = made("old", &old);
    made("new", &new);
    place.admin(&["admin", "key", "reader", "set", "pulled", "old", &public]);
    place.admin(&["admin", "policy", "set", "pulled", "--public", "false", "--share-above", "4MiB"]);
    assert_eq!(place.admin(&["admin", "policy", "show", "pulled"])["share_above"], 4 << 20);
    let grant = |key: &Path| {
        let args = ["grant", "create", "--json", "--site", "pulled", "--key", text(key)];
        json(&place.demo.umbel(&args).output().unwrap())["grant"].as_str().unwrap().to_owned()
    };
    let (with_old, with_new) = (grant(&old), grant(&new));
    let check = |expected: [i32; 3]| {
        place.confirmed();
        let none = place.get("/granted").output().unwrap().status.code().unwrap();
        let by = |grant: &str| place.get("/granted").args(["--grant", grant]).output().unwrap().status.code().unwrap();
        assert_eq!([none, by(&with_old), by(&with_new)], expected);
    };
    check([4, 0, 4]);
    place.admin(&["admin", "key", "reader", "rotate", "pulled", "--new-key", text(&new), "--overlap", "1h"]);
    check([4, 0, 0]);
    place.admin(&["admin", "key", "reader", "remove", "pulled", "old"]);
    check([4, 4, 0]);
    place.admin(&["admin", "policy", "set", "pulled", "--public", "true"]);
    place.confirmed();
}

fn a_certificate_comes_and_goes(place: &Place) {
    let (chain, key) = (place.file("chain.pem"), place.file("key.pem"));
    write_certificate(&chain, &key);
    let set = |key: &Path| {
        let args = ["admin", "site", "certificate", "set", "pulled", "--chain", text(&chain), "--key", text(key)];
        place.try_admin(&args)
    };
    assert_eq!(set(&chain).status.code(), Some(1), "that is no key");
    let shown = json(&set(&key));
    assert_eq!(shown["names"], serde_json::json!(["pulled.localhost"]));
    assert_eq!(place.admin(&["admin", "site", "certificate", "show", "pulled"]), shown);
    place.confirmed();
    let warmed = json(&place.try_admin(&["warm", "--site", "pulled", "/first"]));
    assert_eq!(warmed["failed"], 2, "nobody knows its CA: {warmed:#}");
    assert!(warmed["answers"][0]["error"].as_str().unwrap().contains("--ca"), "{warmed:#}");
    let mut warm = place.demo.umbel(&["warm", "--site", "pulled", "/first", "--credentials"]);
    let warmed = warm.arg(place.demo.state().join("admin.toml")).env("SSL_CERT_FILE", &chain).output().unwrap();
    assert!(warmed.status.success(), "the system knows it: {}", String::from_utf8_lossy(&warmed.stdout));
    place.admin(&["admin", "site", "certificate", "remove", "pulled"]);
    place.confirmed();
    assert_eq!(place.warm("/first").len(), 2);
}

/// What reads its settings at the start alone.
fn hangups_end_nobody(place: &Place) {
    let before = place.demo.processes();
    let others = before.iter().filter(|(name, _)| name.starts_with("origin") || name.starts_with("control"));
    let others: Vec<_> = others.collect();
    assert_eq!(others.len(), 2, "{before:?}");
    for (name, pid) in others {
        assert!(Command::new("kill").args(["-HUP", &pid.to_string()]).status().unwrap().success());
        until("it says so", || place.demo.log(name).contains("SIGHUP"));
    }
    assert_eq!(place.warm("/after-hangups").len(), 2);
    assert_eq!(place.demo.processes(), before);
}

fn write_certificate(chain: &Path, key: &Path) {
    fs::write(chain, CERTIFICATE).unwrap();
    fs::write(key, KEY).unwrap();
}

fn a_download_goes_on_while_the_edge_reads_its_configuration_again(place: &Place) {
    let saved = place.file("slow");
    let download = place.get("/slow").arg("--output").arg(&saved).spawn().unwrap();
    place.provider.wait_for(|seen| seen.requests.iter().any(|(path, _)| path == "/slow"));

    let folder = place.file("certificates");
    fs::create_dir(&folder).unwrap();
    write_certificate(&folder.join("brought.crt"), &folder.join("brought.key"));
    let file = place.demo.state().join("edge-1.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("certificates = {folder:?}\n{before}")).unwrap();
    let (_, edge) = place.demo.processes().into_iter().find(|(name, _)| name == "edge-1").unwrap();
    assert!(Command::new("kill").args(["-HUP", &edge.to_string()]).status().unwrap().success());
    until("the edge has read its configuration", || place.demo.edge_metrics().contains("pair=\"brought\""));

    // A typing error changes nothing, not even the part that is right.
    fs::write(&file, format!("certificates = \"{}x\"\nlog_level = \"error\"\n{before}", folder.display())).unwrap();
    assert!(Command::new("kill").args(["-HUP", &edge.to_string()]).status().unwrap().success());
    until("the edge has found the mistake", || place.demo.log("edge-1").contains("stays as it was"));
    assert!(place.demo.edge_metrics().contains("pair=\"brought\""));

    place.provider.change(|seen| seen.open = true);
    let output = download.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&saved).unwrap() == [[1; HALF], [2; HALF]].concat());
    assert!(place.demo.processes().contains(&("edge-1".to_owned(), edge)), "it is still the same process");
}
