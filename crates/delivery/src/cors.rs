//! `[cors]`: which other origins' pages may read the site (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::str::FromStr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
    uri::Uri,
};
use umbel_http_cache::vary_on;

use crate::{mistakes::Mistakes, proto};

const MOST: usize = 100;

/// What pages of other origins may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// None: anyone.
    origins: Option<Vec<Origins>>,
    credentials: bool,
    /// Of the answer to a preflight, beside the origin.
    preflight: HeaderMap,
    exposed: Option<HeaderValue>,
}

/// An origin that may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pages of this origin may not use this site")]
pub struct Foreign;

impl Cors {
    pub(crate) fn read(written: &proto::Cors, mistakes: &mut Mistakes) -> Self {
        let proto::Cors { origins, methods, headers, expose, credentials, max_age } = written;
        if origins.is_empty() {
            mistakes.add("cors.origins", "is missing: which origins, such as `https://www.example.org`");
        }
        let wild = [("origins", origins), ("methods", methods), ("headers", headers), ("expose", expose)];
        for (key, _) in wild.iter().filter(|(_, list)| *credentials && has_star(list)) {
            mistakes.add(format!("cors.{key}"), "`*` does not go with credentials: name them");
        }
        let mut preflight = HeaderMap::new();
        let methods = if methods.is_empty() { &["GET".to_owned(), "HEAD".to_owned()] } else { methods.as_slice() };
        let methods = joined::<Token>("cors.methods", methods, mistakes);
        preflight.extend(methods.map(|value| (ACCESS_CONTROL_ALLOW_METHODS, value)));
        let headers = joined::<Token>("cors.headers", headers, mistakes);
        preflight.extend(headers.map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
        let max_age = mistakes.time("cors.max_age", max_age);
        preflight.extend(max_age.map(|age| (ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()))));
        Self {
            origins: (!has_star(origins)).then(|| mistakes.list("cors.origins", origins, MOST)),
            credentials: *credentials,
            preflight,
            exposed: joined::<Token>("cors.expose", expose, mistakes),
        }
    }

    /// Whether a preflight is to be answered with yes; none if the request is no preflight. [`Cors::apply`] says the rest.
    ///
    /// # Errors
    /// When the origin may not.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Result<(), Foreign>> {
        let may = || self.allowed(request.get(ORIGIN)).map(drop).ok_or(Foreign);
        is_preflight(method, request).then(may)
    }

    /// Says in an answer what the page may that asked. What the answer said about that itself counts no more.
    pub fn apply(&self, method: &Method, request: &HeaderMap, response: &mut HeaderMap) {
        let said: Vec<_> = response.keys().filter(|name| is_about_cors(name)).cloned().collect();
        for name in said {
            response.remove(name);
        }
        if self.origins.is_some() {
            vary_on(response, &ORIGIN);
        }
        let Some(allowed) = self.allowed(request.get(ORIGIN)) else { return };
        response.extend(allowed);
        if is_preflight(method, request) {
            response.extend(self.preflight.clone());
        } else {
            response.extend(self.exposed.clone().map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        }
    }

    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<impl Iterator<Item = (HeaderName, HeaderValue)> + use<>> {
        let origin = match &self.origins {
            None => HeaderValue::from_static("*"),
            Some(listed) => {
                let text = origin?.to_str().ok()?;
                listed.iter().any(|origins| origins.have(text)).then(|| origin.cloned())??
            }
        };
        let credentials =
            self.credentials.then(|| (ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        Some([(ACCESS_CONTROL_ALLOW_ORIGIN, origin)].into_iter().chain(credentials))
    }
}

fn is_preflight(method: &Method, request: &HeaderMap) -> bool {
    *method == Method::OPTIONS && request.contains_key(ORIGIN) && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn has_star(list: &[String]) -> bool {
    list.iter().any(|text| text == "*")
}

fn is_about_cors(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}

fn joined<T: FromStr<Err: std::fmt::Display> + Into<String>>(
    place: &str,
    texts: &[String],
    mistakes: &mut Mistakes,
) -> Option<HeaderValue> {
    let names: Vec<String> = mistakes.list::<T>(place, texts, MOST).into_iter().map(Into::into).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// The name of a method or a field, or `*`.
struct Token(String);

#[derive(Debug, thiserror::Error)]
#[error("not a name")]
struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        // The grammar of methods is that of all tokens, and leaves case alone.
        Method::from_bytes(text.as_bytes()).map(|_| Self(text.to_owned())).map_err(|_| NoToken)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

/// One origin, or all whose host is below a name: as browsers write them, in lower case and without the scheme's own port.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    One(String),
    /// Before the name, and the name with a dot before it and what comes after.
    Below(String, String),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an origin such as `https://www.example.org`, `https://*.example.org` or `*`")]
struct NoOrigin;

impl FromStr for Origins {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let text = text.to_ascii_lowercase();
        match text.split_once("://*.") {
            Some((scheme, rest)) => {
                let whole = origin(&format!("{scheme}://{rest}")).ok_or(NoOrigin)?;
                let name = whole.strip_prefix(&format!("{scheme}://")).ok_or(NoOrigin)?;
                Ok(Self::Below(format!("{scheme}://"), format!(".{name}")))
            }
            None => origin(&text).map(Self::One).ok_or(NoOrigin),
        }
    }
}

/// Scheme, host and port, and nothing else.
fn origin(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let plain = text.strip_prefix(scheme)?.strip_prefix("://")? == authority.as_str();
    let good = plain && !authority.as_str().contains(['@', '*']) && !authority.host().is_empty();
    let port = authority.port_u16().filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    good.then(|| format!("{scheme}://{}{port}", authority.host()))
}

impl Origins {
    fn have(&self, origin: &str) -> bool {
        match self {
            Self::One(one) => one == origin,
            Self::Below(before, after) => {
                let name = origin.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                name.is_some_and(|name| !name.is_empty() && name.bytes().all(fine))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{mistakes, rules};

    fn cors(written: &str) -> Cors {
        rules(&format!("[cors]\n{written}")).cors.unwrap()
    }

    fn request(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn shown(fields: &HeaderMap) -> String {
        let mut lines: Vec<_> = fields
            .iter()
            .map(|(name, value)| {
                format!("{}: {}", name.as_str().replace("access-control-", ""), value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        lines.join(" | ")
    }

    #[test]
    fn origins() {
        let listed =
            cors("origins = ['https://a.test', 'HTTPS://*.B.test:443', 'http://c.test:8080', 'http://[::1]:80']");
        for (origin, expected) in [
            ("https://a.test", true),
            ("http://a.test", false),
            ("https://a.test:8443", false),
            ("https://a.test.evil.test", false),
            ("https://x.b.test", true),
            ("https://x.y.b.test", true),
            ("https://b.test", false),
            ("https://.b.test", false),
            ("https://xb.test", false),
            ("https://evil.test/.b.test", false),
            ("https://u@x.b.test", false),
            ("http://x.b.test", false),
            ("https://x.b.test:8443", false),
            ("http://c.test:8080", true),
            ("http://[::1]", true),
            ("null", false),
            ("", false),
        ] {
            let mut response = HeaderMap::new();
            listed.apply(&Method::GET, &request(&[("origin", origin)]), &mut response);
            let expected =
                if expected { format!("allow-origin: {origin} | vary: origin") } else { "vary: origin".into() };
            assert_eq!(shown(&response), expected);
        }
    }

    #[test]
    fn answers() {
        let check = |written: &str, fields: &[(&'static str, &'static str)], expected: &str| {
            let mut response = request(&[("access-control-allow-origin", "https://upstreams.own"), ("x", "y")]);
            cors(written).apply(&Method::GET, &request(fields), &mut response);
            response.remove("x");
            assert_eq!(shown(&response), expected, "{written}");
        };
        let from_a = [("origin", "https://a.test")];
        check("origins = ['*']", &[], "allow-origin: *");
        check("origins = ['*']\nexpose = ['X-Id', 'etag']", &from_a, "allow-origin: * | expose-headers: X-Id, etag");
        check("origins = ['https://a.test']", &[], "vary: origin");
        check(
            "origins = ['https://a.test']\ncredentials = true",
            &from_a,
            "allow-credentials: true | allow-origin: https://a.test | vary: origin",
        );
    }

    #[test]
    fn preflights() {
        let written = "origins = ['https://a.test']\nmethods = ['PUT', 'GET']\nheaders = ['X-A']\nmax_age = '10min'";
        let asks = |method: Method, origin: &'static str| {
            let fields = request(&[("origin", origin), ("access-control-request-method", "PUT")]);
            let (answer, mut response) = (cors(written).preflight(&method, &fields), HeaderMap::new());
            cors(written).apply(&method, &fields, &mut response);
            (answer, shown(&response))
        };
        let allowed =
            "allow-headers: X-A | allow-methods: PUT, GET | allow-origin: https://a.test | max-age: 600 | vary: origin";
        assert_eq!(asks(Method::OPTIONS, "https://a.test"), (Some(Ok(())), allowed.into()));
        assert_eq!(asks(Method::OPTIONS, "https://b.test"), (Some(Err(Foreign)), "vary: origin".into()));
        assert_eq!(asks(Method::GET, "https://a.test"), (None, "allow-origin: https://a.test | vary: origin".into()));
        let plain = cors("origins = ['*']");
        assert_eq!(plain.preflight(&Method::OPTIONS, &request(&[("origin", "https://a.test")])), None);
        assert_eq!(plain.preflight(&Method::OPTIONS, &request(&[("access-control-request-method", "PUT")])), None);
    }

    #[test]
    fn wrong() {
        for (written, places) in [
            ("", &["cors.origins"] as &[_]),
            ("origins = ['*']\ncredentials = true", &["cors.origins"]),
            (
                "origins = ['http://a']\nheaders = ['*']\nexpose = ['*']\ncredentials = true",
                &["cors.headers", "cors.expose"],
            ),
            ("origins = ['http://a', 'null']", &["cors.origins[1]"]),
            (
                "origins = ['a.test', 'http://a/', 'https://*', 'https://a.*.b', 'http://u@a', 'https://*.']",
                &[
                    "cors.origins[0]",
                    "cors.origins[1]",
                    "cors.origins[2]",
                    "cors.origins[3]",
                    "cors.origins[4]",
                    "cors.origins[5]",
                ],
            ),
            (
                "origins = ['*']\nmethods = ['G ET']\nheaders = ['a:']\nmax_age = 'x'",
                &["cors.methods[0]", "cors.headers[0]", "cors.max_age"],
            ),
        ] {
            assert_eq!(mistakes(&format!("[cors]\n{written}")), places, "{written}");
        }
    }
}
