//! The answer that a stored response gives (RFC 9111, section 4; RFC 9110, sections 13 to 15).

use std::time::SystemTime;

use http::header::{AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Method, StatusCode, request, response};

use crate::conditions::evaluate_stored;
use crate::vary::Selecting;
use crate::{
    Body, Boundary, Exchange, MultipartFraming, Plan, Policy, Precondition, RangeOutcome, Stored, content_range, select,
};

/// Fields that describe a representation, which a 304 does not bring (RFC 9110, section 15.4.5). The type stays: another cache that
/// asked learns by it that the type has changed (`content-language` likewise).
const OF_A_REPRESENTATION: [&str; 7] = [
    "accept-ranges",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "repr-digest",
];

/// Plans the answer to a GET or HEAD from a stored response that [`crate::reuse()`] chose, or that has just been stored or validated for it:
/// its fields, `Age`, and 304, 206 or 416 where the client asked for that. `Cache-Status` is the shell's to append.
///
/// `length` is that of the stored body; for a part, what counts is the length of the whole. Ranges in the plan are of the whole as well:
/// [`crate::content()`] tells where they are. `boundary` is asked for if there are to be several parts; make it random.
#[must_use]
pub fn answer(
    request: &request::Parts,
    stored: &Stored,
    length: u64,
    boundary: impl FnOnce() -> Boundary,
    now: SystemTime,
) -> Plan {
    let length = stored.part().map_or(length, |part| part.complete);
    let mut whole = whole(stored, length, now);
    match evaluate_stored(request, stored) {
        Precondition::NotModified => not_modified(whole),
        Precondition::Failed => empty(whole, StatusCode::PRECONDITION_FAILED),
        Precondition::Proceed { range_applies: true } if whole.status == StatusCode::OK => {
            part(whole, select(&request.headers, length), length, boundary)
        }
        Precondition::Proceed { .. } => {
            if request.method == Method::HEAD {
                whole.body = Body::None;
            }
            whole
        }
    }
}

/// A 200 that is not stored, and was asked for without the client's conditions and range: makes of it what the client asked for, as far as
/// that needs nothing but the body as it comes. False: nothing of that.
pub fn as_asked(request: &request::Parts, response: &mut response::Parts, exchange: Exchange, policy: &Policy) -> bool {
    let selecting = Selecting::default();
    let stored = Stored::new(response.status, &response.headers, selecting, exchange, None, policy);
    let length = response.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match evaluate_stored(request, &stored) {
        Precondition::NotModified => {
            for name in OF_A_REPRESENTATION {
                response.headers.remove(name);
            }
            response.status = StatusCode::NOT_MODIFIED;
            false
        }
        Precondition::Proceed { range_applies: true } if response.status == StatusCode::OK => {
            let range = length.map(|length| select(&request.headers, length));
            if let (Some(RangeOutcome::Single(range)), Some(length)) = (range, length)
                && range == (0..length)
            {
                response.status = StatusCode::PARTIAL_CONTENT;
                response.headers.insert(CONTENT_RANGE, content_range(Some(&range), length));
            }
            true
        }
        Precondition::Proceed { .. } | Precondition::Failed => true,
    }
}

fn whole(stored: &Stored, length: u64, now: SystemTime) -> Plan {
    let mut headers = stored.headers().clone();
    let mut status = stored.status();
    headers.insert(AGE, stored.freshness(now).age_value());
    if stored.part().is_some() {
        headers.remove(CONTENT_RANGE);
        status = StatusCode::OK;
    }
    if status == StatusCode::NO_CONTENT {
        return Plan { status, headers, body: Body::None };
    }
    headers.insert(CONTENT_LENGTH, length.into());
    Plan { status, headers, body: Body::Whole }
}

fn not_modified(mut plan: Plan) -> Plan {
    for name in OF_A_REPRESENTATION {
        plan.headers.remove(name);
    }
    Plan { status: StatusCode::NOT_MODIFIED, body: Body::None, ..plan }
}

fn part(mut plan: Plan, outcome: RangeOutcome, length: u64, boundary: impl FnOnce() -> Boundary) -> Plan {
    match outcome {
        RangeOutcome::Whole => return plan,
        RangeOutcome::Unsatisfiable => {
            let place = content_range(None, length);
            return with(empty(plan, StatusCode::RANGE_NOT_SATISFIABLE), CONTENT_RANGE, place);
        }
        RangeOutcome::Single(range) => {
            plan.headers.insert(CONTENT_RANGE, content_range(Some(&range), length));
            plan.headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
            plan.body = Body::Range(range);
        }
        RangeOutcome::Multi(ranges) => {
            let media_type = plan.headers.get(CONTENT_TYPE).cloned();
            let media_type = media_type.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
            let framing = MultipartFraming::new(ranges, length, &media_type, boundary());
            plan.headers.insert(CONTENT_TYPE, framing.content_type());
            plan.headers.insert(CONTENT_LENGTH, framing.content_length().into());
            plan.body = Body::Multi(framing);
        }
    }
    Plan { status: StatusCode::PARTIAL_CONTENT, ..plan }
}

/// An answer about the request; of the stored fields it has only the age.
fn empty(plan: Plan, status: StatusCode) -> Plan {
    let mut headers = HeaderMap::new();
    headers.extend(plan.headers.get(AGE).map(|age| (AGE, age.clone())));
    with(Plan { status, headers, body: Body::None }, CONTENT_LENGTH, 0.into())
}

fn with(mut plan: Plan, name: http::HeaderName, value: HeaderValue) -> Plan {
    plan.headers.insert(name, value);
    plan
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{Request, Response};

    use super::*;

    #[test]
    fn what_is_not_stored_is_what_was_asked_for() {
        let check = |asked: (&str, &str), length: Option<&str>, expected: &str| {
            let request = Request::get("/").header(asked.0, asked.1).body(()).unwrap().into_parts().0;
            let response = Response::builder().header("etag", "\"a\"").header("set-cookie", "s=1");
            let response =
                length.into_iter().fold(response, |response, length| response.header("content-length", length));
            let mut response = response.body(()).unwrap().into_parts().0;
            let exchange = Exchange { requested: UNIX_EPOCH, received: UNIX_EPOCH };
            let has_body = as_asked(&request, &mut response, exchange, &Policy::default());
            let said = |name: &str| response.headers.get(name).map_or("-", |value| value.to_str().unwrap());
            let (length, range, cookie) = (said("content-length"), said("content-range"), said("set-cookie"));
            let got = format!("{} {has_body} {length} {range} {cookie}", response.status.as_u16());
            assert_eq!(got, expected, "{asked:?}");
        };
        check(("if-none-match", "\"a\""), Some("9"), "304 false - - s=1");
        check(("if-none-match", "\"b\""), Some("9"), "200 true 9 - s=1");
        check(("range", "bytes=0-"), Some("9"), "206 true 9 bytes 0-8/9 s=1");
        check(("range", "bytes=0-"), None, "200 true - - s=1");
        check(("range", "bytes=1-"), Some("9"), "200 true 9 - s=1");
        check(("range", "bytes=0-"), Some("0"), "200 true 0 - s=1");
    }
}
