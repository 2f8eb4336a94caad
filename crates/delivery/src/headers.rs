//! `[[request_headers]]` and `[[response_headers]]`: what becomes of header fields.

use http::{HeaderMap, HeaderName, HeaderValue};
use umbel_http_cache::is_hop_by_hop;

use crate::{mistakes::Mistakes, proto};

const MOST_RULES: usize = 100;
const MOST_FIELDS: usize = 50;

/// Bytes of a value.
const LONGEST: usize = 4096;

/// Fields that frame a message or are the edge's own to write, in both directions; beside those that are for one hop.
const OURS: [&str; 15] = [
    "age",
    "cache-status",
    "cdn-loop",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "expect",
    "host",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "surrogate-capability",
];

/// Of what the edge asks in its own name.
const OF_QUESTIONS: [&str; 9] = [
    "accept-encoding",
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
];

/// Of what the edge itself says about an answer.
const OF_ANSWERS: [&str; 4] = ["accept-ranges", "etag", "last-modified", "vary"];

/// `umbel-`: what edges and origins say to each other.
fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(&name.as_str()) || is_hop_by_hop(name.as_str()) || name.as_str().starts_with("umbel-")
}

/// Whether a field on its way to the provider's server may be changed.
pub(crate) fn for_server(name: &HeaderName, _appends: bool) -> bool {
    !is_ours(name) && !OF_QUESTIONS.contains(&name.as_str())
}

/// Whether a field on its way to a reader may be changed. To say that an answer varies on more does no harm.
pub(crate) fn for_reader(name: &HeaderName, appends: bool) -> bool {
    let varies = appends && name == http::header::VARY;
    varies || !is_ours(name) && !OF_ANSWERS.contains(&name.as_str())
}

/// Rules in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    prefix: String,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    append: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    pub(crate) fn read(
        key: &str,
        written: &[proto::HeaderRule],
        may: fn(&HeaderName, bool) -> bool,
        mistakes: &mut Mistakes,
    ) -> Self {
        mistakes.at_most(key, written.len(), MOST_RULES);
        let rules = written.iter().take(MOST_RULES).enumerate();
        Self(rules.map(|(number, rule)| Rule::read(&format!("{key}[{number}]"), rule, may, mistakes)).collect())
    }

    /// Applies the rules to a request or an answer about `path`, which is percent-decoded.
    pub fn apply(&self, path: &str, fields: &mut HeaderMap) {
        for rule in self.0.iter().filter(|rule| rule.is_for(path)) {
            rule.apply(fields);
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule {
    fn read(
        place: &str,
        written: &proto::HeaderRule,
        may: fn(&HeaderName, bool) -> bool,
        mistakes: &mut Mistakes,
    ) -> Self {
        let proto::HeaderRule { prefix, remove, set, append } = written;
        if !prefix.is_empty() && !prefix.starts_with('/') {
            mistakes.add(format!("{place}.prefix"), "does not begin with `/`");
        }
        mistakes.at_most(place, remove.len() + set.len() + append.len(), MOST_FIELDS);
        let removed =
            remove.iter().filter_map(|text| name(&format!("{place}.remove"), text, |name| may(name, false), mistakes));
        let remove = removed.collect();
        let mut pairs = |key: &str, appends: bool, pairs: &std::collections::BTreeMap<String, String>| {
            let place = format!("{place}.{key}");
            let read = pairs.iter().filter_map(|(text, content)| {
                let name = name(&place, text, |name| may(name, appends), mistakes)?;
                Some((name, value(&format!("{place}.{text}"), content, mistakes)?))
            });
            read.collect()
        };
        Self { prefix: prefix.clone(), set: pairs("set", false, set), append: pairs("append", true, append), remove }
    }

    /// The path itself, and what is below it.
    fn is_for(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.prefix.as_str()) else { return false };
        self.prefix.ends_with('/') || self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/')
    }

    fn apply(&self, fields: &mut HeaderMap) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name, value.clone());
        }
        for (name, value) in &self.append {
            fields.append(name, value.clone());
        }
    }
}

fn name(place: &str, text: &str, may: impl Fn(&HeaderName) -> bool, mistakes: &mut Mistakes) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        mistakes.add(place, format!("`{}` is no field name", text.escape_debug()));
        return None;
    };
    if !may(&name) {
        mistakes.add(place, format!("`{name}` is the edge's own to write"));
    }
    Some(name)
}

fn value(place: &str, text: &str, mistakes: &mut Mistakes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok().filter(|value| value.len() <= LONGEST);
    if let Some(value) = &mut value {
        // Nobody is shown it who prints the rules.
        value.set_sensitive(true);
    } else {
        mistakes.add(place, format!("is no field value: at most {LONGEST} bytes of visible ASCII"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::{mistakes, rules};

    fn applied(written: &str, path: &str) -> String {
        let mut fields = HeaderMap::new();
        for (name, value) in [("server", "old"), ("x-a", "1"), ("x-b", "2")] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        rules(written).response_headers.apply(path, &mut fields);
        let mut lines: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join(" | ")
    }

    #[test]
    fn rules_are_applied_in_order() {
        let one =
            "[[response_headers]]\nremove = ['Server', 'x-b']\nset = { X-A = '3' }\nappend = { x-b = '4', vary = 'x' }";
        assert_eq!(applied(one, "/"), "vary: x | x-a: 3 | x-b: 4");
        let two = "[[response_headers]]\nset = { x-a = '3' }\n[[response_headers]]\nremove = ['x-a', 'x-b']";
        assert_eq!(applied(two, "/"), "server: old");
        assert_eq!(applied("", "/"), "server: old | x-a: 1 | x-b: 2");
    }

    #[test]
    fn prefixes() {
        let is_for = |prefix: &str, path: &str| {
            let written = format!("[[response_headers]]\nprefix = '{prefix}'\nremove = ['server', 'x-a', 'x-b']");
            applied(&written, path).is_empty()
        };
        for (prefix, path, expected) in [
            ("", "/x", true),
            ("/", "/x", true),
            ("/api", "/api", true),
            ("/api", "/api/x", true),
            ("/api", "/apis", false),
            ("/api/", "/api", false),
            ("/api/", "/api/x", true),
            ("/api", "/x/api", false),
        ] {
            assert_eq!(is_for(prefix, path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn wrong() {
        for (written, place) in [
            ("prefix = 'x'", "prefix"),
            ("set = { 'a b' = 'x' }", "set"),
            ("set = { a = \"x\\ny\" }", "set.a"),
            ("remove = ['Content-Length']", "remove"),
            ("set = { Host = 'x' }", "set"),
            ("append = { cache-status = 'x' }", "append"),
            ("set = { vary = 'x' }", "set"),
            ("set = { etag = 'x' }", "set"),
            ("remove = ['Umbel-Site']", "remove"),
        ] {
            let places = mistakes(&format!("[[response_headers]]\n{written}"));
            assert_eq!(places, [format!("response_headers[0].{place}")], "{written}");
        }
        let of_a_hop = ["connection", "proxy-authentication-info", "te", "transfer-encoding"];
        for ours in OURS.into_iter().chain(of_a_hop).chain(OF_QUESTIONS) {
            let written = format!("[[request_headers]]\nappend = {{ {ours} = 'x' }}");
            assert_eq!(mistakes(&written), ["request_headers[0].append"], "{ours}");
        }
        let fine = "[[request_headers]]\nset = { authorization = 'Basic x', cookie = '' }\n[[response_headers]]\nset = { cache-control = 'x' }";
        rules(fine);
    }
}
