//! `umbel grant inspect`: what a grant says, in words.

use std::{net::IpAddr, time::Duration};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use umbel_service::unix_now;
use umbel_wire::{
    carrier,
    control::PublicKey,
    token::{Access, Grant, ReaderKeys, SignedGrant, Unchecked},
};

use super::{decoded_path, moment, url_path};
use crate::show;

/// What `umbel grant inspect` takes.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The grant, or a signed URL, or a cookie with it
    grant: String,
    /// The public half of the reader key: without it the signature is not checked
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
    /// Would it open this path? [default: that of the URL, or one that it names]
    #[arg(long, value_parser = decoded_path)]
    path: Option<String>,
    /// … for a reader at this address?
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// … with this method of HTTP?
    #[arg(long)]
    method: Option<String>,
    /// … of this site?
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// … at this time? RFC 3339, or seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    at: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn seconds(text: &str) -> Result<u64, &'static str> {
    let moment = || u64::try_from(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp()).ok();
    text.parse().ok().or_else(moment).ok_or("write it as 2030-12-31T23:59:59Z, or as seconds since 1970")
}

impl InspectArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let answer = self.explain(unix_now())?;
        if self.json { show::json(&answer) } else { show::fields(&answer) }
    }

    fn explain(&self, now: u64) -> anyhow::Result<Value> {
        let token = token(&self.grant);
        let Unchecked { kid, grant } = Unchecked::read(token).context("this is not a grant")?;
        let signature = self.public_key.as_deref().map(|key| signature(token, &kid, key)).transpose()?;
        let now = self.at.unwrap_or(now);
        let refused = self.refused(&grant, now)?;
        let verdict = match (signature, &refused) {
            (Some(false), _) => "refused: wrong signature".to_owned(),
            (_, Some(reason)) => format!("refused: {reason}"),
            (None, None) => "opens, if the signature is right (see --public-key)".to_owned(),
            (Some(true), None) => "opens".to_owned(),
        };
        Ok(json!({
            "site": grant.site,
            "prefixes": grant.prefixes,
            "paths": grant.paths,
            "networks": grant.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "methods": methods(&grant),
            "not_before": moment(grant.not_before),
            "expires": moment(grant.expires),
            "time": when(&grant, now),
            "key": kid,
            "signature": match signature { None => "not checked", Some(true) => "good", Some(false) => "wrong" },
            "verdict": verdict,
        }))
    }

    /// What is not asked about is taken to fit.
    fn refused(&self, grant: &Grant, now: u64) -> anyhow::Result<Option<String>> {
        let of_url = self.grant.contains("://").then(|| url_path(&self.grant)).transpose()?;
        let own = grant.paths.first().or(grant.prefixes.first()).cloned();
        let path = self.path.clone().or(of_url).or(own).unwrap_or_default();
        let method = self.method.clone().or(grant.methods.first().cloned());
        let inside = grant.networks.first().map(|network| network.addr());
        let access = Access {
            site: self.site.as_deref().unwrap_or(&grant.site),
            path: &path,
            method: method.as_deref().unwrap_or("GET"),
            client: self.client.or(inside).unwrap_or(IpAddr::from([0; 4])),
            now,
        };
        Ok(grant.check(&access).err().map(|error| error.to_string()))
    }
}

fn methods(grant: &Grant) -> Vec<&str> {
    if grant.methods.is_empty() { vec!["GET"] } else { grant.methods.iter().map(String::as_str).collect() }
}

/// The token in a URL's query or a cookie, or the text itself.
fn token(text: &str) -> &str {
    let text = text.trim();
    let marked = text.find(&format!("{}=", carrier::NAME)).map(|at| &text[at + carrier::NAME.len() + 1..]);
    match marked {
        Some(rest) => rest.split([';', '&', '#', '"', '\'', ' ']).next().unwrap_or(rest),
        None => text.strip_prefix("Bearer ").unwrap_or(text).trim(),
    }
}

fn signature(token: &str, kid: &str, key: &str) -> anyhow::Result<bool> {
    let key = URL_SAFE_NO_PAD.decode(key).ok().filter(|key| key.len() == 32);
    let key = key.context("the public key is not what `umbel grant new-key` printed: 32 bytes in base64url")?;
    let keys = ReaderKeys::new(&[PublicKey { id: kid.to_owned(), key: key.into(), not_after: 0 }]);
    Ok(SignedGrant::open(token, &keys).is_ok())
}

/// Its time, seen from `now`.
fn when(grant: &Grant, now: u64) -> String {
    let span = |seconds: u64| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    if now >= grant.expires {
        format!("expired {} ago", span(now - grant.expires))
    } else if now < grant.not_before {
        format!("begins in {}", span(grant.not_before - now))
    } else {
        format!("expires in {}", span(grant.expires - now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use umbel_wire::token::{TokenSigner, parse_network};

    const NOW: u64 = 1_800_000_000;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: InspectArgs,
    }

    fn check(args: &[&str], expected: &str) {
        let args = [&["umbel"], args].concat();
        let program = Program::try_parse_from(&args).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(program.args.explain(NOW).unwrap()["verdict"], expected, "{args:?}");
    }

    #[test]
    fn what_would_come_of_it() {
        let signer = TokenSigner::from_seed("k", &[1; 32]);
        let token = Grant {
            site: "s".into(),
            prefixes: vec!["/a".into()],
            networks: vec![parse_network("10.0.0.0/8").unwrap()],
            expires: NOW + 60,
            ..Grant::default()
        }
        .sign(&signer);
        let [ours, other] = [signer.public(), &[7; 32]].map(|key| URL_SAFE_NO_PAD.encode(key));
        let with =
            |more: &[&str], expected: &str| check(&[&[token.as_str(), "--public-key", &ours], more].concat(), expected);
        with(&[], "opens");
        with(&["--path", "/a/b", "--client", "10.1.1.1", "--site", "s", "--method", "HEAD"], "opens");
        with(&["--path", "/b"], "refused: not for this path");
        with(&["--client", "11.1.1.1"], "refused: not for this network");
        with(&["--method", "PUT"], "refused: not for this method");
        with(&["--site", "t"], "refused: for another site");
        with(&["--at", "2027-01-15T08:01:00Z"], "refused: expired");
        check(&[&token], "opens, if the signature is right (see --public-key)");
        check(&[&token, "--public-key", &other], "refused: wrong signature");
        let url = |path: &str| carrier::signed_url(&format!("https://a.test{path}?x#y"), &token);
        check(&[&url("/a/x"), "--public-key", &ours], "opens");
        check(&[&url("/b"), "--public-key", &ours], "refused: not for this path");
        check(&[&format!("Set-Cookie: umbel_grant={token}; Path=/"), "--public-key", &ours], "opens");
    }

    #[test]
    fn times_are_said_in_words() {
        let grant = Grant { not_before: NOW, expires: NOW + 3660, ..Grant::default() };
        for (now, expected) in
            [(NOW, "expires in 1h 1m"), (NOW - 5, "begins in 5s"), (NOW + 3660 + 60, "expired 1m ago")]
        {
            assert_eq!(when(&grant, now), expected);
        }
    }
}
