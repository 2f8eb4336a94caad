//! `umbel grant`: how a provider lets a reader in.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::{Value, json};
use time::OffsetDateTime;
use umbel_content::ObjectPath;
use umbel_service::unix_now;
use umbel_wire::{
    carrier,
    token::{Grant, parse_network},
};

use crate::show;

mod inspect;
mod key;

pub(crate) use key::ReaderKey;

/// Browsers drop longer cookies, or refuse them.
const MAX_COOKIE: usize = 4096;

/// What `umbel grant` takes.
#[derive(Debug, Subcommand)]
pub(crate) enum GrantCommand {
    /// Make a reader key: the file stays with you, the public half goes to `umbel admin key reader set`
    NewKey {
        /// The name that grants call it by
        id: String,
        /// Where to keep it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign a grant: its bearer may read part of a site
    Create(Wanted),
    /// Sign a URL: who has it may read what it names, and what else you say
    Url {
        #[arg(help = "https://HOST/PATH, as readers will ask for it")]
        url: String,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Make a cookie that lets a browser read part of a site: a Set-Cookie line for your own server to send
    Cookie {
        /// Readers' browsers bring it to this domain and those below it [default: the host that sets it]
        #[arg(long, value_name = "DOMAIN", value_parser = domain)]
        domain: Option<String>,
        #[arg(long, value_name = "URL", help = "Print a curl command that fetches this URL with the cookie, instead")]
        curl: Option<String>,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Explain a grant: what it opens, for whom, until when, and why it would be refused
    Inspect(inspect::InspectArgs),
}

/// What a grant is to say.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// The reader key, as `umbel grant new-key` made it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The site
    #[arg(long, value_name = "NAME")]
    site: String,
    /// Paths it opens: this one and those below it; may be repeated [default: / or the path of the URL alone]
    #[arg(long, value_name = "PATH", value_parser = decoded_path)]
    prefix: Vec<String>,
    /// A path that it opens, without those below; may be repeated
    #[arg(long, value_name = "PATH", value_parser = decoded_path)]
    path: Vec<String>,
    /// Only from this network (192.0.2.0/24) or address; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    network: Vec<IpNet>,
    /// Only for this method of HTTP; may be repeated [default: GET, and HEAD with it]
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// How long it opens them, e.g. 10min or 7days
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires_in: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn decoded_path(text: &str) -> Result<String, String> {
    ObjectPath::from_decoded(text).map(|path| path.as_str().to_owned()).map_err(|error| error.to_string())
}

/// What might end the attribute is no part of a name.
fn domain(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    fits.then(|| text.to_owned()).ok_or("not a domain")
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    parse_network(text).ok_or("write it as 192.0.2.0/24, 2001:db8::/32 or as one address")
}

impl GrantCommand {
    pub(crate) fn answers_as_json(&self) -> bool {
        match self {
            Self::NewKey { json, .. } => *json,
            Self::Create(wanted) | Self::Url { wanted, .. } | Self::Cookie { wanted, .. } => wanted.json,
            Self::Inspect(args) => args.json,
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::NewKey { id, output, json } => key::make(id, &output, json),
            Self::Create(wanted) => {
                let token = wanted.signed("/")?;
                wanted.say(&token.text, json!({ "grant": token.text }), &token)
            }
            Self::Url { url, wanted } => {
                let token = wanted.signed_for(&url_path(&url)?)?;
                let signed = carrier::signed_url(&url, &token.text);
                wanted.say(&signed, json!({ "url": signed }), &token)
            }
            Self::Cookie { domain, curl, wanted } => cookie(&wanted, domain.as_deref(), curl.as_deref()),
            Self::Inspect(args) => args.run(),
        }
    }
}

/// A grant and its text.
struct Token {
    text: String,
    grant: Grant,
}

impl Wanted {
    /// Opens `prefix` if nothing else is said.
    fn signed(&self, prefix: &str) -> anyhow::Result<Token> {
        let default = self.says_nothing().then(|| prefix.to_owned());
        self.sign(self.prefix.iter().cloned().chain(default).collect(), self.path.clone())
    }

    /// Opens this path alone if nothing else is said.
    fn signed_for(&self, path: &str) -> anyhow::Result<Token> {
        let default = self.says_nothing().then(|| path.to_owned());
        let token = self.sign(self.prefix.clone(), self.path.iter().cloned().chain(default).collect())?;
        let opens = token.grant.covers(path);
        ensure!(opens, "this grant would not open the URL itself: add --path {path} or a --prefix above it");
        Ok(token)
    }

    fn says_nothing(&self) -> bool {
        self.prefix.is_empty() && self.path.is_empty()
    }

    fn sign(&self, prefixes: Vec<String>, paths: Vec<String>) -> anyhow::Result<Token> {
        let now = unix_now();
        let grant = Grant {
            site: self.site.clone(),
            prefixes,
            paths,
            networks: self.network.clone(),
            methods: self.method.clone(),
            not_before: now,
            expires: now.saturating_add(self.expires_in.as_secs()),
        };
        Ok(Token { text: grant.sign(&ReaderKey::read(&self.key)?.signer()?), grant })
    }

    fn say(&self, text: &str, mut answer: Value, token: &Token) -> anyhow::Result<()> {
        if !self.json {
            return show::line(text);
        }
        answer["expires"] = moment(token.grant.expires).into();
        show::json(&answer)
    }
}

fn cookie(wanted: &Wanted, domain: Option<&str>, curl: Option<&str>) -> anyhow::Result<()> {
    let token = match curl {
        Some(url) => wanted.signed_for(&url_path(url)?)?,
        None => wanted.signed("/")?,
    };
    let cookie = format!("{}={}", carrier::NAME, token.text);
    let attributes = attributes(&token.grant, wanted.expires_in, domain)?;
    let length = cookie.len() + attributes.len();
    ensure!(length <= MAX_COOKIE, "this cookie has {length} bytes, and browsers keep {MAX_COOKIE}: name fewer paths");
    let line = format!("Set-Cookie: {cookie}{attributes}");
    let command = curl.map(|url| format!("curl --cookie {} {}", quoted(&cookie), quoted(url)));
    let answer = json!({ "cookie": cookie, "set_cookie": format!("{cookie}{attributes}"), "curl": command });
    wanted.say(command.as_ref().unwrap_or(&line), answer, &token)
}

/// Of a `Set-Cookie` field (RFC 6265, section 4.1). A browser brings a cookie to the paths below its own, as a grant opens them.
fn attributes(grant: &Grant, life: Duration, domain: Option<&str>) -> anyhow::Result<String> {
    let path = match (grant.prefixes.as_slice(), grant.paths.as_slice()) {
        ([only], []) => ObjectPath::from_decoded(only)?.to_uri(),
        _ => "/".to_owned(),
    };
    let domain = domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
    Ok(format!("; Path={path}; Max-Age={}{domain}; Secure; HttpOnly; SameSite=Lax", life.as_secs()))
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The decoded path of a URL. Not by a URL parser, which would resolve `..` before anyone could refuse it.
fn url_path(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.filter(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#']));
    ensure!(
        rest.is_some() && url.bytes().all(|byte| byte.is_ascii_graphic()),
        "write it as https://HOST/PATH, percent-encoded"
    );
    let plain = rest.unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
    let raw = plain.find('/').map(|slash| &plain[slash..]);
    let raw = raw.ok_or_else(|| anyhow::anyhow!("the URL has no path: add at least /"))?;
    Ok(ObjectPath::from_uri(raw)?.as_str().to_owned())
}

/// Unix seconds in RFC 3339.
fn moment(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(|| seconds.to_string(), show::time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use umbel_wire::{
        control::PublicKey,
        token::{Access, GrantError, ReaderKeys},
    };

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        wanted: Wanted,
    }

    struct Place {
        key: PathBuf,
        keys: ReaderKeys,
        _folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let key = folder.path().join("key.json");
            key::make("k1".into(), &key, true).unwrap();
            let public = ReaderKey::read(&key).unwrap().signer().unwrap().public().to_vec().into();
            let keys = ReaderKeys::new(&[PublicKey { id: "k1".into(), key: public, not_after: 0 }]);
            Self { key, keys, _folder: folder }
        }

        fn wanted(&self, more: &[&str]) -> Wanted {
            let key = self.key.to_str().unwrap();
            let args = [&["umbel", "--site", "s", "--key", key], more].concat();
            Program::try_parse_from(args).unwrap_or_else(|error| panic!("{error}")).wanted
        }

        fn check(&self, token: &str, path: &str, client: [u8; 4], method: &str, expected: Result<(), GrantError>) {
            let access = Access { site: "s", path, method, client: client.into(), now: unix_now() };
            assert_eq!(Grant::verify(token, &self.keys, &access).map(drop), expected, "{path} {client:?} {method}");
        }
    }

    #[test]
    fn grants_say_what_was_asked_for() {
        let place = Place::new();
        let token = place.wanted(&[]).signed("/").unwrap().text;
        place.check(&token, "/x", [1, 1, 1, 1], "GET", Ok(()));
        let args = ["--prefix", "/a", "--prefix", "/b", "--path", "/c", "--network", "10.0.0.0/8", "--method", "PUT"];
        let token = place.wanted(&args).signed("/").unwrap().text;
        for (path, client, method, expected) in [
            ("/a/x", [10, 0, 0, 1], "PUT", Ok(())),
            ("/b", [10, 0, 0, 1], "PUT", Ok(())),
            ("/c", [10, 0, 0, 1], "PUT", Ok(())),
            ("/c/x", [10, 0, 0, 1], "PUT", Err(GrantError::Path)),
            ("/a", [11, 0, 0, 1], "PUT", Err(GrantError::Network)),
            ("/a", [10, 0, 0, 1], "GET", Err(GrantError::Method)),
        ] {
            place.check(&token, path, client, method, expected);
        }
    }

    #[test]
    fn a_urls_grant_opens_that_url() {
        let place = Place::new();
        let path = url_path("https://a.test/x%20y?z#f").unwrap();
        let token = place.wanted(&[]).signed_for(&path).unwrap().text;
        place.check(&token, "/x y", [1, 1, 1, 1], "GET", Ok(()));
        place.check(&token, "/x y/z", [1, 1, 1, 1], "GET", Err(GrantError::Path));
        assert!(place.wanted(&["--prefix", "/y"]).signed_for(&path).is_err());
        for bad in ["a.test/x", "https://", "https:///x", "https://a.test", "https://a.test/a/../b", "https://a.test/ü"]
        {
            assert!(url_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cookies_are_for_browsers() {
        let grant = |prefixes: &[&str]| Grant {
            prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
            ..Grant::default()
        };
        let life = Duration::from_secs(60);
        assert_eq!(
            attributes(&grant(&["/a b"]), life, Some("a.test")).unwrap(),
            "; Path=/a%20b; Max-Age=60; Domain=a.test; Secure; HttpOnly; SameSite=Lax"
        );
        assert!(attributes(&grant(&["/a", "/b"]), life, None).unwrap().starts_with("; Path=/; "));
        assert!(domain("a.test; Path=/x").is_err() && domain("").is_err() && domain("a.test").is_ok());
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
