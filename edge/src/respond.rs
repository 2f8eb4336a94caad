//! Answers readers: GET and HEAD of a site's objects, as a shared cache would (RFC 9110, 9111, 9211).

use std::{ops::Range, sync::Arc, time::SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use umbel_content::{ObjectPath, PathError};
use umbel_service::{listen::Connection, unix_now};
use umbel_wire::control::Site;

use crate::{
    access::{self, NoAccess},
    core::Core,
    fill::Found,
    lookup::{LookupError, Version},
    refusal::refusal,
    route, site,
    view::View,
};

mod body;
mod plan;

use body::Part;
use plan::{Plan, Representation};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Separates the parts of a multipart answer; random enough not to stand in content.
const BOUNDARY: &str = "umbel-5f0c9e1b7a3d4c68";

/// Fields that describe the connection or that the edge writes itself: an object cannot set them.
const OURS: [&str; 12] = [
    "accept-ranges", "age", "cache-status", "connection", "content-length", "content-range", "content-type", "date", "etag",
    "last-modified", "transfer-encoding", "upgrade",
];

/// Answers one request of a reader.
pub(crate) async fn answer(core: &Arc<Core>, request: &Parts) -> Response<Body> {
    let response = match serve(core, request).await {
        Ok(response) => response,
        Err(refused) => *refused,
    };
    core.metrics.answered(response.status());
    if request.method == Method::HEAD {
        // The fields say what a GET would bring.
        return response.map(|_| Body::empty());
    }
    response
}

/// Boxed: an answer is large, and most requests are not refused.
type Refused = Box<Response<Body>>;
type Answered = Result<Response<Body>, Refused>;

async fn serve(core: &Arc<Core>, request: &Parts) -> Answered {
    let view = core.view.load_full();
    let site = find_site(&view, request)?;
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(not_allowed().into());
    }
    let path = ObjectPath::from_uri(request.uri.path()).and_then(route::object).map_err(|error| Box::new(bad_path(&error)))?;
    let grant = access::brought(&request.headers, &request.uri);
    access::check(site, &view.reader_keys(&site.id), path.as_str(), grant, unix_now()).map_err(|error| Box::new(no_access(error)))?;
    let found = core.lookup.current(site, &path).await;
    let version = found.map_err(|error| {
        let response = no_version(&error);
        drop(core.meter.response(&site.id, path.as_str(), response.status()));
        Refused::from(response)
    })?;
    respond(core, request, site, version).await
}

fn find_site<'a>(view: &'a View, request: &Parts) -> Result<&'a Site, Refused> {
    let connection = request.extensions.get::<Connection>();
    let name = connection.and_then(|connection| connection.server_name.as_deref());
    let found = site::find(&view.installation, request.version, &request.uri, &request.headers, name);
    found.map_err(|error| refusal(error.status(), &error.to_string()).into())
}

fn not_allowed() -> Response<Body> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "content is read with GET and HEAD");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn bad_path(error: &PathError) -> Response<Body> {
    let status = match error {
        PathError::TooLong => StatusCode::URI_TOO_LONG,
        PathError::Reserved => StatusCode::NOT_FOUND,
        PathError::NotAbsolute
        | PathError::Encoding
        | PathError::EncodedSlash
        | PathError::NotUtf8
        | PathError::Control
        | PathError::DotSegment => StatusCode::BAD_REQUEST,
    };
    refusal(status, &error.to_string())
}

fn no_access(error: NoAccess) -> Response<Body> {
    match error {
        NoAccess::Missing => {
            let mut response = refusal(StatusCode::UNAUTHORIZED, &error.to_string());
            let challenge = HeaderValue::from_static("Bearer realm=\"umbel\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
        NoAccess::Refused(_) => refusal(StatusCode::FORBIDDEN, &error.to_string()),
    }
}

fn no_version(error: &LookupError) -> Response<Body> {
    let status = match error {
        LookupError::Absent => StatusCode::NOT_FOUND,
        LookupError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        LookupError::Invalid(_) => StatusCode::BAD_GATEWAY,
    };
    refusal(status, &error.to_string())
}

async fn respond(core: &Arc<Core>, request: &Parts, site: &Site, version: Arc<Version>) -> Answered {
    let object = representation(&version);
    let plan = plan::decide(&request.method, &request.headers, &object);
    let (status, parts) = match plan {
        Plan::Whole => (StatusCode::OK, vec![Part::Object(0..object.length)]),
        Plan::Partial(ranges) => (StatusCode::PARTIAL_CONTENT, partial(&version, &object, &ranges)),
        Plan::NotModified => (StatusCode::NOT_MODIFIED, Vec::new()),
        Plan::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, Vec::new()),
        Plan::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, Vec::new()),
    };
    let has_body = status.is_success() && request.method == Method::GET;
    let first = if has_body { first_chunk(core, &version, &parts).await? } else { None };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    describe(fields, site, &version, &object);
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        put(fields, header::CONTENT_RANGE, &format!("bytes */{}", object.length));
    }
    if status.is_success() {
        describe_body(fields, &version, &object, &parts, status);
    } else if status != StatusCode::NOT_MODIFIED {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    }
    let found = first.as_ref().map_or(Found::Memory, |(_, found)| *found);
    put(fields, CACHE_STATUS, cache_status(found));
    let meter = core.meter.response(&site.id, version.manifest.path().as_str(), status);
    if has_body {
        *response.body_mut() = body::body(core.clone(), version, parts, first.map(|(plain, _)| plain), meter);
    }
    Ok(response)
}

fn representation(version: &Version) -> Representation {
    Representation {
        etag: format!("\"{}\"", version.manifest.version_id()),
        modified: plan::seconds(version.manifest.created_ms()),
        length: version.manifest.layout().length(),
    }
}

/// Fetched before the status is sent: an object that cannot be had at all is an honest 502.
async fn first_chunk(
    core: &Arc<Core>,
    version: &Arc<Version>,
    parts: &[Part],
) -> Result<Option<(Bytes, Found)>, Refused> {
    let first = parts.iter().find_map(|part| match part {
        Part::Object(range) => version.manifest.layout().covering(range.clone()).next(),
        Part::Text(_) => None,
    });
    let Some(slice) = first else { return Ok(None) };
    let fetched = core.plaintext.chunk(version, slice.chunk).await;
    fetched.map(Some).map_err(|error| {
        let response = refusal(StatusCode::BAD_GATEWAY, &error.to_string());
        drop(core.meter.response(&version.site_id, "", response.status()));
        response.into()
    })
}

/// One range is the body; more are a multipart body (RFC 9110, section 14.6).
fn partial(version: &Version, object: &Representation, ranges: &[Range<u64>]) -> Vec<Part> {
    if let [one] = ranges {
        return vec![Part::Object(one.clone())];
    }
    let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
    for range in ranges {
        let head = format!(
            "\r\n--{BOUNDARY}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            version.manifest.media_type(),
            content_range(range, object.length)
        );
        parts.extend([Part::Text(head.into()), Part::Object(range.clone())]);
    }
    parts.push(Part::Text(Bytes::from(format!("\r\n--{BOUNDARY}--\r\n"))));
    parts
}

fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// Fields of every answer about the object, 304 included (RFC 9110, section 15.4.5).
fn describe(fields: &mut HeaderMap, site: &Site, version: &Version, object: &Representation) {
    let stored = version.manifest.fields().iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
    for (name, value) in stored {
        let (name, value) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value.as_bytes()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    put(fields, header::ETAG, &object.etag);
    put(fields, header::LAST_MODIFIED, &httpdate::fmt_http_date(object.modified.min(SystemTime::now())));
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(header::AGE, HeaderValue::from(version.age()));
    let policy = site.policy.as_ref().map(|policy| policy.cache_control.as_str()).filter(|text| !text.is_empty());
    if let (Some(policy), false) = (policy, fields.contains_key(header::CACHE_CONTROL)) {
        put(fields, header::CACHE_CONTROL, policy);
    } else if !access::is_public(site) && !fields.contains_key(header::CACHE_CONTROL) {
        // What needs a grant is not for caches that do not check it.
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

fn describe_body(fields: &mut HeaderMap, version: &Version, object: &Representation, parts: &[Part], status: StatusCode) {
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(parts.iter().map(Part::length).sum::<u64>()));
    match parts {
        [Part::Object(range)] => {
            put(fields, header::CONTENT_TYPE, version.manifest.media_type());
            if status == StatusCode::PARTIAL_CONTENT {
                put(fields, header::CONTENT_RANGE, &content_range(range, object.length));
            }
        }
        _ => put(fields, header::CONTENT_TYPE, &format!("multipart/byteranges; boundary={BOUNDARY}")),
    }
}

fn cache_status(found: Found) -> &'static str {
    match found {
        Found::Memory | Found::Disk => "umbel-edge; hit",
        Found::Filled => "umbel-edge; fwd=miss; stored",
    }
}

/// Texts here are checked with the manifest or made by us; a policy's that cannot be sent is left out.
fn put(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}
