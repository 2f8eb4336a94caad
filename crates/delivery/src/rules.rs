//! The document, checked and typed.

use umbel_http_cache::Compression;

use crate::{
    Cors, Document, ErrorPages, HeaderRules, Https, Invalid, Limits, compression, headers, mistakes::Mistakes,
};

/// What edges go by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// None: answers are sent as they are.
    pub compression: Option<Compression>,
    /// Plain HTTP, and HSTS.
    pub https: Https,
    /// None: answers say of it what they say.
    pub cors: Option<Cors>,
    /// How often each edge answers.
    pub limits: Limits,
    /// For what goes to the provider's own server.
    pub request_headers: HeaderRules,
    /// For what readers get.
    pub response_headers: HeaderRules,
    /// In place of errors.
    pub error_pages: ErrorPages,
    /// What requests say about caching does not count: it is advice (RFC 9111, section 5.2.1).
    pub ignore_requests: bool,
}

impl Rules {
    /// Reads a document.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn of(document: &Document) -> Result<Self, Invalid> {
        let mut mistakes = Mistakes::default();
        let Document { compression, https, cors, limits, request_headers, response_headers, error_pages, caching } =
            document;
        let rules = Self {
            compression: compression.as_ref().map(|written| compression::read(written, &mut mistakes)),
            https: https.as_ref().map(|written| Https::read(written, &mut mistakes)).unwrap_or_default(),
            cors: cors.as_ref().map(|written| Cors::read(written, &mut mistakes)),
            limits: limits.as_ref().map(|written| Limits::read(written, &mut mistakes)).unwrap_or_default(),
            request_headers: HeaderRules::read("request_headers", request_headers, headers::for_server, &mut mistakes),
            response_headers: HeaderRules::read(
                "response_headers",
                response_headers,
                headers::for_reader,
                &mut mistakes,
            ),
            error_pages: ErrorPages::read(error_pages, &mut mistakes),
            ignore_requests: caching.as_ref().is_some_and(|written| written.ignore_requests),
        };
        mistakes.or(rules)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use umbel_http_cache::Coding;

    use super::*;

    fn document(text: &str) -> Document {
        toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    pub(crate) fn rules(text: &str) -> Rules {
        Rules::of(&document(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The places of what is wrong.
    pub(crate) fn mistakes(text: &str) -> Vec<String> {
        Rules::of(&document(text)).unwrap_err().0.into_iter().map(|mistake| mistake.place).collect()
    }

    #[test]
    fn compression() {
        let read = |text: &str| rules(text).compression.unwrap();
        assert_eq!(
            (read("compression = {}").codings, read("compression = {}").min_length),
            (Coding::ALL.to_vec(), 1024)
        );
        let text = "[compression]\ncodings = ['gzip', 'br']\nmin_size = '2KB'\ntypes = ['model/*', '+cbor']";
        assert_eq!((read(text).codings, read(text).min_length), (vec![Coding::Gzip, Coding::Brotli], 2000));
        assert_eq!(read(text).types.len(), 2);
        let wrong = "[compression]\ncodings = ['br', 'lzma']\nmin_size = 'small'\ntypes = ['x']\n[https.hsts]";
        let places = ["compression.codings[1]", "compression.min_size", "compression.types[0]", "https.hsts.max_age"];
        assert_eq!(mistakes(wrong), places);
    }

    #[test]
    fn the_documentation_is_right() {
        let text = include_str!("../../../docs/delivery.md");
        let examples: Vec<_> = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            rules(example);
        }
    }

    #[test]
    fn what_is_written_is_shown_and_nothing_else() {
        for text in ["compression = {}", "[https]\nallow_plain = true", ""] {
            let document = document(text);
            assert_eq!(document, toml::from_str(&toml::to_string(&document).unwrap()).unwrap());
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(document, serde_json::from_str(&json).unwrap(), "{json}");
            assert!(!json.contains("null") && !json.contains("[]"), "{json}");
        }
        assert!(toml::from_str::<Document>("[https]\nhstss = {}").is_err());
    }
}
