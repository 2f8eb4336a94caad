//! The whole answer to a request for a representation that exists and may be read.

use std::ops::Range;

use http::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, LAST_MODIFIED};
use http::{HeaderValue, Method, StatusCode};

use crate::{
    Boundary, MultipartFraming, Precondition, RangeOutcome, Validators, content_range, evaluate, http_date, select,
};

/// What there is to be sent.
#[derive(Debug, Clone)]
pub struct Representation {
    /// Bytes of it.
    pub length: u64,
    /// Its `Content-Type`.
    pub media_type: HeaderValue,
    /// What tells it from others.
    pub validators: Validators,
    /// Put between parts, should several ranges be asked for. Random.
    pub boundary: Boundary,
}

/// Which bytes of the representation are the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    None,
    /// All; perhaps there are none.
    Whole,
    /// These.
    Range(Range<u64>),
    /// These parts, with what stands between them.
    Multi(MultipartFraming),
}

/// The answer but for fields that do not depend on the request, such as `Cache-Control`, `Age` and those the object brings.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its status.
    pub status: StatusCode,
    /// Fields to be set, `Content-Length` among them where there is one.
    pub headers: HeaderMap,
    /// Its body. Nothing for HEAD, whose fields are still those of GET.
    pub body: Body,
}

/// Plans the answer: preconditions first, then ranges, as RFC 9110, section 13.2.2 has it. Methods other than GET and HEAD get a 405.
#[must_use]
pub fn decide(method: &Method, headers: &HeaderMap, representation: &Representation) -> Plan {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Plan::empty(StatusCode::METHOD_NOT_ALLOWED).with(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    match evaluate(method, headers, &representation.validators) {
        Precondition::Failed => Plan::empty(StatusCode::PRECONDITION_FAILED),
        Precondition::NotModified => representation.not_modified(),
        Precondition::Proceed { range_applies } if range_applies && method == Method::GET => {
            representation.selected(select(headers, representation.length))
        }
        Precondition::Proceed { .. } if method == Method::HEAD => Plan { body: Body::None, ..representation.whole() },
        Precondition::Proceed { .. } => representation.whole(),
    }
}

impl Representation {
    fn selected(&self, outcome: RangeOutcome) -> Plan {
        match outcome {
            RangeOutcome::Whole => self.whole(),
            RangeOutcome::Single(range) => self.part(range),
            RangeOutcome::Multi(ranges) => self.parts(ranges),
            RangeOutcome::Unsatisfiable => self.unsatisfiable(),
        }
    }

    fn whole(&self) -> Plan {
        self.plan(StatusCode::OK, Body::Whole, self.length).with(CONTENT_TYPE, self.media_type.clone())
    }

    fn part(&self, range: Range<u64>) -> Plan {
        let place = content_range(Some(&range), self.length);
        let length = range.end - range.start;
        self.plan(StatusCode::PARTIAL_CONTENT, Body::Range(range), length)
            .with(CONTENT_TYPE, self.media_type.clone())
            .with(CONTENT_RANGE, place)
    }

    fn parts(&self, ranges: Vec<Range<u64>>) -> Plan {
        let framing = MultipartFraming::new(ranges, self.length, &self.media_type, self.boundary.clone());
        let (length, media_type) = (framing.content_length(), framing.content_type());
        self.plan(StatusCode::PARTIAL_CONTENT, Body::Multi(framing), length).with(CONTENT_TYPE, media_type)
    }

    fn plan(&self, status: StatusCode, body: Body, length: u64) -> Plan {
        let plan = self.validated(Plan { status, headers: HeaderMap::new(), body });
        plan.with(CONTENT_LENGTH, length.into()).with(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
    }

    /// RFC 9110, section 15.4.5: validators, but nothing that describes a body.
    fn not_modified(&self) -> Plan {
        self.validated(Plan { status: StatusCode::NOT_MODIFIED, headers: HeaderMap::new(), body: Body::None })
    }

    fn unsatisfiable(&self) -> Plan {
        let plan = Plan::empty(StatusCode::RANGE_NOT_SATISFIABLE).with(CONTENT_RANGE, content_range(None, self.length));
        plan.with(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
    }

    fn validated(&self, plan: Plan) -> Plan {
        let plan = plan.with(ETAG, self.validators.etag().to_value());
        match self.validators.last_modified() {
            Some(modified) => plan.with(LAST_MODIFIED, http_date(modified)),
            None => plan,
        }
    }
}

impl Plan {
    fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Body::None }.with(CONTENT_LENGTH, 0.into())
    }

    fn with(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::ETag;

    fn representation(length: u64) -> Representation {
        let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
        Representation {
            length,
            media_type: HeaderValue::from_static("text/plain"),
            validators: Validators::new(ETag::strong("v1").unwrap(), Some(modified)),
            boundary: Boundary::new("B").unwrap(),
        }
    }

    fn plan(method: &Method, fields: &[(&'static str, &'static str)], length: u64) -> Plan {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        decide(method, &fields.collect(), &representation(length))
    }

    /// The plan as text: status, body, then the fields but for validators, sorted.
    fn show(plan: &Plan) -> String {
        let body = match &plan.body {
            Body::None => "none".to_owned(),
            Body::Whole => "whole".to_owned(),
            Body::Range(range) => format!("{range:?}"),
            Body::Multi(framing) => format!("{} parts", framing.parts().len()),
        };
        let mut fields: Vec<_> =
            plan.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        fields.retain(|field| !field.starts_with("etag") && !field.starts_with("last-modified"));
        fields.sort();
        format!("{} {body} | {}", plan.status.as_u16(), fields.join(" | "))
    }

    #[track_caller]
    fn check(method: &Method, fields: &[(&'static str, &'static str)], length: u64, expected: &str) {
        assert_eq!(show(&plan(method, fields, length)), expected, "{method} {fields:?}");
    }

    const WHOLE: &str = "200 whole | accept-ranges: bytes | content-length: 100 | content-type: text/plain";
    const NOTHING_OF_WHOLE: &str = "200 none | accept-ranges: bytes | content-length: 100 | content-type: text/plain";

    #[test]
    fn answers() {
        let (get, head) = (&Method::GET, &Method::HEAD);
        check(get, &[], 100, WHOLE);
        check(head, &[], 100, NOTHING_OF_WHOLE);
        check(get, &[], 0, "200 whole | accept-ranges: bytes | content-length: 0 | content-type: text/plain");
        check(
            get,
            &[("range", "bytes=10-19")],
            100,
            "206 10..20 | accept-ranges: bytes | content-length: 10 | content-range: bytes 10-19/100 | content-type: text/plain",
        );
        check(head, &[("range", "bytes=10-19")], 100, NOTHING_OF_WHOLE);
        check(head, &[("range", "bytes=200-")], 100, NOTHING_OF_WHOLE);
        check(
            get,
            &[("range", "bytes=0-0,-1")],
            100,
            "206 2 parts | accept-ranges: bytes | content-length: 141 | content-type: multipart/byteranges; boundary=B",
        );
        check(
            get,
            &[("range", "bytes=100-")],
            100,
            "416 none | accept-ranges: bytes | content-length: 0 | content-range: bytes */100",
        );
        check(
            get,
            &[("range", "bytes=0-")],
            0,
            "416 none | accept-ranges: bytes | content-length: 0 | content-range: bytes */0",
        );
        check(get, &[("if-none-match", "\"v1\"")], 100, "304 none | ");
        check(head, &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], 100, "304 none | ");
        check(get, &[("if-none-match", "\"v1\""), ("range", "bytes=0-1")], 100, "304 none | ");
        check(get, &[("if-match", "\"v0\""), ("range", "bytes=0-1")], 100, "412 none | content-length: 0");
        check(get, &[("if-range", "\"v0\""), ("range", "bytes=0-1")], 100, WHOLE);
        check(get, &[("if-range", "\"v0\""), ("range", "bytes=100-")], 100, WHOLE);
        check(
            get,
            &[("if-range", "\"v1\""), ("range", "bytes=100-")],
            100,
            "416 none | accept-ranges: bytes | content-length: 0 | content-range: bytes */100",
        );
        check(get, &[("if-range", "\"v1\"")], 100, WHOLE);
        check(&Method::POST, &[], 100, "405 none | allow: GET, HEAD | content-length: 0");
    }

    #[test]
    fn validators_come_with_every_good_answer() {
        for fields in
            [[("range", "x")], [("range", "bytes=0-1")], [("range", "bytes=0-1,4-5")], [("if-none-match", "*")]]
        {
            let plan = plan(&Method::GET, &fields, 100);
            assert_eq!(plan.headers[ETAG], "\"v1\"", "{fields:?}");
            assert_eq!(plan.headers[LAST_MODIFIED], "Sun, 06 Nov 1994 08:49:37 GMT");
        }
    }

    proptest! {
        #[test]
        fn the_announced_length_is_that_of_the_body(length in 0u64..1000, range in "bytes=[0-9]{0,3}-[0-9]{0,3}(,[0-9]{0,3}-[0-9]{0,3}){0,3}") {
            let headers = HeaderMap::from_iter([(http::header::RANGE, HeaderValue::try_from(range).unwrap())]);
            let plan = decide(&Method::GET, &headers, &representation(length));
            let sent = match &plan.body {
                Body::None => 0,
                Body::Whole => length,
                Body::Range(range) => range.end - range.start,
                Body::Multi(framing) => framing.content_length(),
            };
            prop_assert_eq!(plan.headers[CONTENT_LENGTH].to_str().unwrap().parse::<u64>().unwrap(), sent);
        }
    }
}
