//! One line. Nobody who asks for something decides where it ends: all that a client says is quoted, and what could end the quotes
//! is escaped. Grants are secrets and do not get in.

use std::{
    borrow::Cow,
    cell::RefCell,
    io::Write,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::{Uri, Version};
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, macros::format_description};
use umbel_wire::carrier::NAME;

use super::AccessLogFormat;

/// What is said of a request and its answer.
#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    pub(super) time: SystemTime,
    pub(super) client: Option<IpAddr>,
    pub(super) site: Option<&'a str>,
    pub(super) method: &'a str,
    pub(super) target: &'a Uri,
    pub(super) version: Version,
    pub(super) status: u16,
    /// Of the content, as handed to the connection.
    pub(super) bytes: u64,
    /// From the request's head to the end of the answer.
    pub(super) duration: Duration,
    pub(super) referer: Option<&'a [u8]>,
    pub(super) agent: Option<&'a [u8]>,
    pub(super) cache: Option<&'a str>,
    pub(super) tls: Option<&'static str>,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    client: Option<IpAddr>,
    site: Option<&'a str>,
    method: &'a str,
    target: Cow<'a, str>,
    protocol: &'a str,
    status: u16,
    bytes: u64,
    /// Seconds.
    duration: f64,
    referer: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    cache: Option<&'a str>,
    tls: Option<&'static str>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

impl Line<'_> {
    /// Writes it, with its end, for as long as `done` takes.
    pub(super) fn with(&self, format: AccessLogFormat, done: impl FnOnce(&[u8])) {
        thread_local!(static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        TEXT.with_borrow_mut(|text| {
            text.clear();
            match format {
                AccessLogFormat::Json => self.json(text),
                AccessLogFormat::Combined => self.combined(text),
            }
            text.push(b'\n');
            done(text);
        });
    }

    fn json(&self, text: &mut Vec<u8>) {
        let line = Json {
            time: self.time,
            client: self.client,
            site: self.site,
            method: self.method,
            target: without_grant(target(self.target)),
            protocol: protocol(self.version),
            status: self.status,
            bytes: self.bytes,
            duration: (self.duration.as_secs_f64() * 1e6).round() / 1e6,
            referer: self.referer.map(|referer| without_grant(String::from_utf8_lossy(referer))),
            user_agent: self.agent.map(String::from_utf8_lossy),
            cache: self.cache,
            tls: self.tls,
        };
        // Nothing in it can fail, and memory does not.
        drop(serde_json::to_writer(text, &line));
    }

    fn combined(&self, text: &mut Vec<u8>) {
        match self.client {
            Some(client) => drop(write!(text, "{client}")),
            None => text.push(b'-'),
        }
        text.extend_from_slice(b" - - [");
        with_time(self.time, |time| text.extend_from_slice(time.as_bytes()));
        text.extend_from_slice(b"] \"");
        escape(self.method.as_bytes(), text);
        text.push(b' ');
        escape(without_grant(target(self.target)).as_bytes(), text);
        drop(write!(text, " {}\" {} {} \"", protocol(self.version), self.status, self.bytes));
        let referer = self.referer.map(|referer| without_grant(String::from_utf8_lossy(referer)));
        escape(referer.as_deref().unwrap_or("-").as_bytes(), text);
        text.extend_from_slice(b"\" \"");
        escape(self.agent.unwrap_or(b"-"), text);
        text.push(b'"');
    }
}

/// As Apache writes it. Once a second: to format it takes longer than the rest of the line.
fn with_time(time: SystemTime, done: impl FnOnce(&str)) {
    thread_local!(static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) });
    let time = OffsetDateTime::from(time);
    LAST.with_borrow_mut(|(second, text)| {
        if *second != time.unix_timestamp() {
            let format = format_description!(
                "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
            );
            *second = time.unix_timestamp();
            *text = time.format(format).unwrap_or_default();
        }
        done(text);
    });
}

/// As the request line has it. Over HTTP/2 the host is not part of it.
fn target(uri: &Uri) -> Cow<'_, str> {
    uri.path_and_query().map_or(Cow::Borrowed("/"), |target| Cow::Borrowed(target.as_str()))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// As Apache does it: quotes and backslashes by a backslash, what is not printable ASCII by its number.
fn escape(said: &[u8], text: &mut Vec<u8>) {
    for byte in said {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => text.push(*byte),
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
}

/// Every grant in a target or URL becomes `-`.
fn without_grant(said: Cow<'_, str>) -> Cow<'_, str> {
    if !said.contains(NAME) {
        return said;
    }
    let (mut kept, mut rest) = (String::with_capacity(said.len()), &*said);
    while let Some((before, after)) = rest.split_once(&format!("{NAME}=")) {
        kept.extend([before, NAME, "=-"]);
        rest = &after[after.find(['&', '#']).unwrap_or(after.len())..];
    }
    Cow::Owned(kept + rest)
}
