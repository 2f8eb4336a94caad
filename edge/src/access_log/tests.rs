use std::{fs, net::IpAddr};

use super::{line::Line, *};

const UNTOLD: Duration = Duration::from_secs(20);

fn line<'a>(target: &'a Uri, referer: Option<&'a [u8]>, agent: Option<&'a [u8]>) -> Line<'a> {
    Line {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(971_186_136_789),
        client: Some(IpAddr::from([192, 0, 2, 7])),
        site: Some("docs"),
        method: "GET",
        target,
        version: Version::HTTP_2,
        status: 200,
        bytes: 5,
        duration: Duration::from_micros(1500),
        referer,
        agent,
        cache: Some("hit"),
        tls: Some("TLSv1.3"),
    }
}

fn text(line: &Line<'_>, format: AccessLogFormat) -> String {
    let mut text = String::new();
    line.with(format, |line| text = String::from_utf8(line.to_vec()).unwrap());
    text
}

#[track_caller]
fn check(target: &str, referer: &[u8], agent: &[u8], json: [&str; 3], combined: [&str; 3]) {
    let target: Uri = target.parse().unwrap();
    let line = line(&target, Some(referer), Some(agent));
    let object: serde_json::Value = serde_json::from_str(&text(&line, AccessLogFormat::Json)).unwrap();
    assert_eq!(["target", "referer", "user_agent"].map(|name| object[name].as_str().unwrap()), json);
    let [said, came, by] = combined;
    let expected =
        format!("192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] \"GET {said} HTTP/2.0\" 200 5 \"{came}\" \"{by}\"\n");
    assert_eq!(text(&line, AccessLogFormat::Combined), expected);
}

#[test]
fn lines() {
    check(
        "/a?b=c",
        b"https://x.test/",
        b"curl",
        ["/a?b=c", "https://x.test/", "curl"],
        ["/a?b=c", "https://x.test/", "curl"],
    );
    // Nobody ends a line, or the quotes around what he says.
    check(
        "/",
        b"a\" 200 9\n1.1.1.1 - -",
        b"\\\xff\t",
        ["/", "a\" 200 9\n1.1.1.1 - -", "\\\u{fffd}\t"],
        ["/", "a\\\" 200 9\\x0a1.1.1.1 - -", "\\\\\\xff\\x09"],
    );
    // No grant gets in.
    let (target, referer) = ("/a?umbel_grant=ey.s&b", "https://x.test/?c&umbel_grant=ey.s#d");
    let (clean, from) = ("/a?umbel_grant=-&b", "https://x.test/?c&umbel_grant=-#d");
    check(target, referer.as_bytes(), b"", [clean, from, ""], [clean, from, ""]);
}

#[test]
fn a_line_is_one_line_of_json() {
    let target = Uri::from_static("/x");
    let expected = "{\"time\":\"2000-10-10T13:55:36.789Z\",\"client\":\"192.0.2.7\",\"site\":\"docs\",\"method\":\"GET\",\
        \"target\":\"/x\",\"protocol\":\"HTTP/2.0\",\"status\":200,\"bytes\":5,\"duration\":0.0015,\"referer\":null,\
        \"user_agent\":null,\"cache\":\"hit\",\"tls\":\"TLSv1.3\"}\n";
    assert_eq!(text(&line(&target, None, None), AccessLogFormat::Json), expected);
}

#[test]
fn nothing_is_lost_when_the_file_is_moved_away_or_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let dropped = Counter::default();
    let log = AccessLog::open(AccessLogTarget::File(path.clone()), AccessLogFormat::Json, dropped.clone()).unwrap();
    log.queue.add(b"one\n");
    fs::rename(&path, &moved).unwrap();
    log.reopen();
    let until = Instant::now() + UNTOLD;
    while !path.exists() {
        assert!(Instant::now() < until, "the log was not opened anew");
        thread::yield_now();
    }
    log.queue.add(b"two\n");
    drop(log);
    assert_eq!((fs::read(&moved).unwrap(), fs::read(&path).unwrap()), (b"one\n".to_vec(), b"two\n".to_vec()));
    assert_eq!(dropped.get(), 0);
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let queue = Queue { waiting: Mutex::default(), news: Condvar::new(), dropped: Counter::default() };
    let line = vec![b'x'; MOST / 2];
    for _ in 0..3 {
        queue.add(&line);
    }
    assert_eq!((queue.lock().count, queue.dropped.get()), (2, 1));
}
