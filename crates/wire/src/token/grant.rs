//! Grant: a provider says that its bearer may read part of a site.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{MAX_TOKEN_BYTES, TokenError, TokenSigner, check_time, open};
use crate::control::PublicKey;

/// A reader's right to paths of a site. What is asked for is under one of `prefixes` or is one of `paths`, and nothing else
/// that is set here speaks against it. One without a prefix or path opens nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Claims", into = "Claims")]
pub struct Grant {
    /// Name of the site.
    pub site: String,
    /// Decoded paths, each with all that is below it; `/` is the whole site.
    pub prefixes: Vec<String>,
    /// Decoded paths, each for itself.
    pub paths: Vec<String>,
    /// Where the reader has to be; none: anywhere.
    pub networks: Vec<IpNet>,
    /// What the reader may do, in HTTP's words; none: GET. HEAD goes with GET.
    pub methods: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch; not valid from this second on.
    pub expires: u64,
}

/// What a reader wants.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Name of the site.
    pub site: &'a str,
    /// Decoded, as it was asked for.
    pub path: &'a str,
    /// HTTP's.
    pub method: &'a str,
    /// The reader's address.
    pub client: IpAddr,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Why a grant does not open what is asked for, in the order in which it is found out: of several refusals, the greatest is of
/// the grant that came closest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum GrantError {
    /// Not a grant at all, of another algorithm, or with claims that this program does not know and might have to obey.
    #[error("malformed")]
    Malformed,
    /// Signed by a key that the site does not have.
    #[error("signed by an unknown key")]
    UnknownKey,
    /// The signature does not match.
    #[error("wrong signature")]
    Signature,
    /// Signed by a key whose time is over.
    #[error("signed by a key that has been replaced")]
    RetiredKey,
    /// For another site.
    #[error("for another site")]
    Site,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Not for this path.
    #[error("not for this path")]
    Path,
    /// Not for this method.
    #[error("not for this method")]
    Method,
    /// Not for the reader's address.
    #[error("not for this network")]
    Network,
}

impl GrantError {
    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::RetiredKey => "retired_key",
            Self::Site => "site",
            Self::NotYet => "not_yet",
            Self::Expired => "expired",
            Self::Path => "path",
            Self::Method => "method",
            Self::Network => "network",
        }
    }

    /// Whether another grant is needed, or this one is good but not for this (RFC 6750, section 3.1: `invalid_token` and
    /// `insufficient_scope`).
    pub fn is_invalid(self) -> bool {
        self < Self::Path
    }
}

impl From<TokenError> for GrantError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Malformed => Self::Malformed,
            TokenError::UnknownKey => Self::UnknownKey,
            TokenError::Signature => Self::Signature,
            TokenError::NotYet => Self::NotYet,
            TokenError::Expired => Self::Expired,
            TokenError::Audience | TokenError::Issuer | TokenError::Binding => Self::Site,
        }
    }
}

impl Grant {
    /// The token's text, by one of the site's reader keys.
    pub fn sign(&self, signer: &TokenSigner) -> String {
        signer.sign(self)
    }

    /// Checks that `token` gives its bearer this access. `keys` are the site's.
    pub fn verify(token: &str, keys: &ReaderKeys, access: &Access<'_>) -> Result<Self, GrantError> {
        let signed = SignedGrant::open(token, keys)?;
        signed.check(keys, access)?;
        Ok(signed.grant)
    }

    /// Whether it would give this access, whoever signed it.
    pub fn check(&self, access: &Access<'_>) -> Result<(), GrantError> {
        if self.site != access.site {
            return Err(GrantError::Site);
        }
        check_time(access.now, self.not_before, self.expires)?;
        if !self.covers(access.path) {
            return Err(GrantError::Path);
        }
        if !self.allows(access.method) {
            return Err(GrantError::Method);
        }
        if !self.is_for(access.client) {
            return Err(GrantError::Network);
        }
        Ok(())
    }

    /// Bytes of its claims in memory.
    pub fn size(&self) -> usize {
        let lists = [&self.prefixes, &self.paths, &self.methods];
        let texts = lists.into_iter().flatten().map(|text| text.len() + size_of::<String>());
        self.site.len() + texts.sum::<usize>() + self.networks.len() * size_of::<IpNet>()
    }

    /// Whether it is for this path.
    pub fn covers(&self, path: &str) -> bool {
        self.paths.iter().any(|exact| exact == path) || self.prefixes.iter().any(|prefix| covers(prefix, path))
    }

    fn allows(&self, method: &str) -> bool {
        let method = if method == "HEAD" && !self.methods.iter().any(|known| known == "HEAD") { "GET" } else { method };
        if self.methods.is_empty() { method == "GET" } else { self.methods.iter().any(|known| known == method) }
    }

    fn is_for(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&client))
    }
}

/// Whole segments: `/a` covers `/a` and `/a/b`, not `/ab`.
fn covers(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.starts_with('/') && (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// A network in CIDR notation, or one address. IPv4 in IPv6 clothes is IPv4.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let IpNet::V6(v6) = network else { return Some(network) };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let mapped = mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    Some(mapped.map_or(network, IpNet::V4))
}

/// The claims as they are written. Others than these are refused: a restriction that this program does not know would not be
/// obeyed, nor one with a typing error in its name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    aud: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefixes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    net: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<String>>,
    #[serde(default)]
    nbf: u64,
    exp: u64,
    /// What providers' libraries add and providers note for themselves: it restricts nothing.
    #[serde(default, skip_serializing, rename = "iss")]
    _issuer: Option<IgnoredAny>,
    #[serde(default, skip_serializing, rename = "sub")]
    _subject: Option<IgnoredAny>,
    #[serde(default, skip_serializing, rename = "jti")]
    _id: Option<IgnoredAny>,
    #[serde(default, skip_serializing, rename = "iat")]
    _issued: Option<IgnoredAny>,
}

/// What is wrong with a grant's claims.
#[derive(Debug, thiserror::Error)]
enum BadClaims {
    #[error("`{0}` is an empty list, which would open nothing: leave it out or name something")]
    Empty(&'static str),
    #[error("it needs `prefix`, `prefixes` or `paths`")]
    NoPath,
    #[error("a path begins with /")]
    NotAbsolute,
    #[error("`net` has networks as in 192.0.2.0/24 or 2001:db8::/32")]
    Network,
}

impl TryFrom<Claims> for Grant {
    type Error = BadClaims;

    fn try_from(claims: Claims) -> Result<Self, BadClaims> {
        let prefixes = named("prefixes", claims.prefixes)?.into_iter().chain(claims.prefix).collect::<Vec<_>>();
        let paths = named("paths", claims.paths)?;
        if prefixes.is_empty() && paths.is_empty() {
            return Err(BadClaims::NoPath);
        }
        if prefixes.iter().chain(&paths).any(|path| !path.starts_with('/')) {
            return Err(BadClaims::NotAbsolute);
        }
        let networks = named("net", claims.net)?.into_iter().map(|text| parse_network(&text).ok_or(BadClaims::Network));
        Ok(Self {
            site: claims.aud,
            prefixes,
            paths,
            networks: networks.collect::<Result<_, _>>()?,
            methods: named("methods", claims.methods)?,
            not_before: claims.nbf,
            expires: claims.exp,
        })
    }
}

/// A list that is there says something.
fn named(name: &'static str, list: Option<Vec<String>>) -> Result<Vec<String>, BadClaims> {
    match list {
        Some(list) if list.is_empty() => Err(BadClaims::Empty(name)),
        list => Ok(list.unwrap_or_default()),
    }
}

impl From<Grant> for Claims {
    fn from(grant: Grant) -> Self {
        let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        let (prefix, prefixes) = match <[String; 1]>::try_from(grant.prefixes) {
            Ok([only]) => (Some(only), None),
            Err(several) => (None, some(several)),
        };
        Self {
            aud: grant.site,
            prefix,
            prefixes,
            paths: some(grant.paths),
            net: some(grant.networks.iter().map(IpNet::to_string).collect()),
            methods: some(grant.methods),
            nbf: grant.not_before,
            exp: grant.expires,
            _issuer: None,
            _subject: None,
            _id: None,
            _issued: None,
        }
    }
}

/// The keys that grants of one site are checked with.
#[derive(Clone, Default)]
pub struct ReaderKeys(BTreeMap<String, ReaderKey>);

#[derive(Clone)]
struct ReaderKey {
    public: [u8; 32],
    decoding: DecodingKey,
    /// Seconds since the Unix epoch.
    not_after: Option<u64>,
}

impl ReaderKeys {
    /// Those of a site's policy; what is no Ed25519 key is left out.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Self {
        let keys = keys.into_iter().filter_map(|key| {
            let public = <[u8; 32]>::try_from(key.key.as_ref()).ok()?;
            let not_after = Some(key.not_after).filter(|end| *end != 0);
            Some((key.id.clone(), ReaderKey { public, decoding: DecodingKey::from_ed_der(&public), not_after }))
        });
        Self(keys.collect())
    }
}

impl fmt::Debug for ReaderKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A grant whose signature held when it was looked at: the costly half of its check, which need not be done again.
#[derive(Debug, Clone)]
pub struct SignedGrant {
    grant: Grant,
    kid: String,
    key: [u8; 32],
}

impl SignedGrant {
    /// Checks the signature.
    pub fn open(token: &str, keys: &ReaderKeys) -> Result<Self, GrantError> {
        let (kid, grant) = open(token, |kid| keys.0.get(kid).map(|key| &key.decoding))?;
        let key = keys.0.get(&kid).ok_or(GrantError::UnknownKey)?.public;
        Ok(Self { grant, kid, key })
    }

    /// Checks all but the signature. `keys` are those that the site has now: the key is still among them.
    pub fn check(&self, keys: &ReaderKeys, access: &Access<'_>) -> Result<(), GrantError> {
        let key = keys.0.get(&self.kid).filter(|known| known.public == self.key).ok_or(GrantError::UnknownKey)?;
        if key.not_after.is_some_and(|end| access.now >= end) {
            return Err(GrantError::RetiredKey);
        }
        self.grant.check(access)
    }

    /// Whether one of these keys signed it.
    pub fn is_by(&self, keys: &ReaderKeys) -> bool {
        keys.0.get(&self.kid).is_some_and(|known| known.public == self.key)
    }

    /// What it says.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
}

/// What a token says that may be anybody's, to explain it to a person.
#[derive(Debug)]
pub struct Unchecked {
    /// The key that is said to have signed it.
    pub kid: String,
    /// What it is said to open.
    pub grant: Grant,
}

/// Why a token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Too long to be looked at.
    #[error("longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not a JSON Web Token that names its key.
    #[error("not a JSON Web Token with the header fields `alg` and `kid`")]
    Header,
    /// Signed in a way that is not accepted.
    #[error("the algorithm is not EdDSA")]
    Algorithm,
    /// The claims are not those of a grant.
    #[error("the claims are not those of a grant")]
    Claims(#[source] serde_json::Error),
}

impl Unchecked {
    /// Reads a token, whoever signed it.
    pub fn read(token: &str) -> Result<Self, Unreadable> {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Unreadable::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unreadable::Header)?;
        if header.alg != jsonwebtoken::Algorithm::EdDSA {
            return Err(Unreadable::Algorithm);
        }
        let kid = header.kid.ok_or(Unreadable::Header)?;
        let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let grant = serde_json::from_slice(&claims.ok_or(Unreadable::Header)?).map_err(Unreadable::Claims)?;
        Ok(Self { kid, grant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_segments() {
        for (prefix, path, expected) in [
            ("/", "/a", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/", "/a", false),
            ("", "/a", false),
            ("a", "/a", false),
        ] {
            assert_eq!(covers(prefix, path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn networks() {
        for (text, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.7", "192.0.3.7"),
            ("192.0.2.9/24", "192.0.2.7", "192.0.3.7"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("::ffff:192.0.2.0/120", "192.0.2.7", "192.0.3.7"),
            ("192.0.2.0/24", "::ffff:192.0.2.7", "::ffff:192.0.3.7"),
            ("0.0.0.0/0", "1.2.3.4", "2001:db8::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
        ] {
            let grant = Grant { networks: vec![parse_network(text).unwrap()], ..Grant::default() };
            assert!(grant.is_for(inside.parse().unwrap()), "{text} {inside}");
            assert!(!grant.is_for(outside.parse().unwrap()), "{text} {outside}");
        }
        for bad in ["", "192.0.2.0/33", "192.0.2", "a.b", "192.0.2.0/24 "] {
            assert_eq!(parse_network(bad), None, "{bad}");
        }
    }

    #[test]
    fn methods() {
        for (methods, method, expected) in [
            (&[][..], "GET", true),
            (&[], "HEAD", true),
            (&[], "POST", false),
            (&["POST"], "POST", true),
            (&["POST"], "GET", false),
            (&["POST"], "HEAD", false),
            (&["GET", "PUT"], "HEAD", true),
            (&["HEAD"], "HEAD", true),
            (&["HEAD"], "GET", false),
            (&["post"], "POST", false),
        ] {
            let methods: Vec<_> = methods.iter().map(|&name| name.to_owned()).collect();
            let grant = Grant { methods, ..Grant::default() };
            assert_eq!(grant.allows(method), expected, "{grant:?} {method}");
        }
    }

    #[test]
    fn claims() {
        let check = |claims: &str, expected: bool| {
            let read = serde_json::from_str::<Grant>(claims);
            assert_eq!(read.is_ok(), expected, "{claims}: {read:?}");
        };
        check(r#"{"aud":"s","prefix":"/","exp":1}"#, true);
        check(r#"{"aud":"s","prefixes":["/a","/b"],"paths":["/c"],"exp":1}"#, true);
        check(r#"{"aud":"s","paths":["/c"],"net":["10.0.0.0/8","::1"],"methods":["GET"],"nbf":1,"exp":2}"#, true);
        check(r#"{"aud":"s","prefix":"/","exp":1,"iss":"me","sub":7,"jti":"x","iat":1.5}"#, true);
        check(r#"{"aud":"s","exp":1}"#, false);
        check(r#"{"aud":"s","prefix":"/"}"#, false);
        check(r#"{"prefix":"/","exp":1}"#, false);
        check(r#"{"aud":"s","prefix":"a","exp":1}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1,"net":[]}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1,"methods":[]}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1,"net":["10.0.0.0/99"]}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1,"network":["10.0.0.0/8"]}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1,"exp":2}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":-1}"#, false);
        check(r#"{"aud":"s","prefix":"/","exp":1.5}"#, false);
    }
}
