//! Answers readers: GET and HEAD of a site's objects, as a shared cache would (RFC 9110, 9111, 9211).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tracing::error;
use umbel_content::{ObjectPath, PathError};
use umbel_http_cache::{
    Body as PlannedBody, Boundary, CacheStatus, ETag, Forward, Plan, Representation, Validators, decide,
};
use umbel_service::{listen::Connection, unix_now};
use umbel_wire::{control::Site, token::Access};

use crate::{
    access, cache,
    core::Core,
    deliver,
    fill::Found,
    lookup::{LookupError, Version},
    refusal::refusal,
    route, site,
    view::View,
};

mod body;

use body::Part;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// As this cache calls itself in `Cache-Status`.
const CACHE_NAME: &str = "umbel-edge";

/// Answers one request of a reader.
pub(crate) async fn answer(core: &Arc<Core>, request: Request<Body>) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let response = serve(core, request).await;
    core.metrics.answered(response.status());
    if is_head {
        // The fields say what a GET would bring.
        return response.map(|_| Body::empty());
    }
    response
}

/// Boxed: an answer is large, and most requests are not refused.
type Refused = Box<Response<Body>>;
type Answered = Result<Response<Body>, Refused>;

async fn serve(core: &Arc<Core>, request: Request<Body>) -> Response<Body> {
    let view = core.view.load_full();
    let (parts, body) = request.into_parts();
    let pending = core.log.as_ref().map(|log| log.begin(&parts));
    let (site, mut response) = match find_site(&view, &parts) {
        Ok(site) => (Some(site), deliver::answer(core, &view, site, parts, body).await),
        Err(refused) => (None, *refused),
    };
    let status = response.status();
    response.headers_mut().entry(CACHE_STATUS).or_insert_with(|| without_content(status));
    match pending {
        Some(pending) => pending.answered(site.map(|site| site.name.as_str()), response),
        None => response,
    }
}

/// `Cache-Status` of an answer that no content was looked for: the edge has made it, and says why.
fn without_content(status: StatusCode) -> HeaderValue {
    let why = match status {
        StatusCode::SWITCHING_PROTOCOLS => return CacheStatus::forward(CACHE_NAME, Forward::Bypass).to_value(),
        StatusCode::NO_CONTENT => "preflight".to_owned(),
        StatusCode::PERMANENT_REDIRECT => "https-only".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => "limited".to_owned(),
        status => status.canonical_reason().unwrap_or("refused").to_ascii_lowercase().replace(' ', "-"),
    };
    HeaderValue::try_from(format!("{CACHE_NAME}; detail={why}")).unwrap_or(HeaderValue::from_static(CACHE_NAME))
}

/// What the site has, or why there is nothing.
pub(crate) async fn content(core: &Arc<Core>, view: &View, site: &Site, request: Parts, body: Body) -> Response<Body> {
    let mut answered = if site.pull.is_some() {
        pulled(core, view, site, request, body).await
    } else {
        uploaded(core, view, site, &request).await
    };
    if let (Ok(response), false) = (&mut answered, access::is_public(site)) {
        access::keep_private(response.headers_mut());
    }
    answered.unwrap_or_else(|refused| *refused)
}

/// What the site has for everyone, whoever may read the rest: a page that its provider wants shown.
pub(crate) async fn page(core: &Arc<Core>, site: &Site, request: Parts) -> Response<Body> {
    if site.pull.is_some() {
        return cache::answer(core, site, Request::from_parts(request, Body::empty())).await;
    }
    let path = ObjectPath::from_uri(request.uri.path()).and_then(route::object);
    let answered = match path {
        Ok(path) => object(core, site, &request, &path).await,
        Err(error) => Err(bad_path(&error).into()),
    };
    answered.unwrap_or_else(|refused| *refused)
}

/// What the provider's own server has.
async fn pulled(core: &Arc<Core>, view: &View, site: &Site, mut request: Parts, body: Body) -> Answered {
    if !access::is_public(site) {
        let path = ObjectPath::from_uri(request.uri.path()).map_err(|error| Box::new(bad_path(&error)))?;
        if path.may_be_another() {
            return Err(refusal(StatusCode::BAD_REQUEST, "servers read this path in more than one way").into());
        }
        check_access(core, view, site, &path, &request)?;
    }
    access::taken_out(site).take_out(&mut request);
    Ok(cache::answer(core, site, Request::from_parts(request, body)).await)
}

/// What was uploaded.
async fn uploaded(core: &Arc<Core>, view: &View, site: &Site, request: &Parts) -> Answered {
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(not_allowed().into());
    }
    let path = ObjectPath::from_uri(request.uri.path()).map_err(|error| Box::new(bad_path(&error)))?;
    check_access(core, view, site, &path, request)?;
    let path = route::object(path).map_err(|error| Box::new(bad_path(&error)))?;
    object(core, site, request, &path).await
}

async fn object(core: &Arc<Core>, site: &Site, request: &Parts, path: &ObjectPath) -> Answered {
    let found = core.lookup.current(site, path).await;
    let version = found.map_err(|error| {
        let response = no_version(&error);
        drop(core.meter.response(&site.id, path.as_str(), response.status()));
        Refused::from(response)
    })?;
    respond(core, request, site, version).await
}

fn check_access(core: &Core, view: &View, site: &Site, path: &ObjectPath, request: &Parts) -> Result<(), Refused> {
    let connection = request.extensions.get::<Connection>();
    let access = Access {
        site: &site.name,
        path: path.as_str(),
        method: request.method.as_str(),
        client: connection.map_or(IpAddr::from([0; 4]), |connection| connection.remote.ip()),
        now: unix_now(),
    };
    let brought = access::carriers(site).brought(&request.headers, &request.uri);
    access::check(core, view, site, &access, brought).map_err(|error| access::refused(error).into())
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

fn no_version(error: &LookupError) -> Response<Body> {
    let status = match error {
        LookupError::Absent => StatusCode::NOT_FOUND,
        LookupError::Unavailable | LookupError::Unshared => StatusCode::SERVICE_UNAVAILABLE,
        LookupError::Invalid(_) => StatusCode::BAD_GATEWAY,
    };
    refusal(status, &error.to_string())
}

async fn respond(core: &Arc<Core>, request: &Parts, site: &Site, version: Arc<Version>) -> Answered {
    let representation = representation(&version).map_err(|text| Box::new(unservable(&version, &text)))?;
    let Plan { status, headers, body } = decide(&request.method, &request.headers, &representation);
    let parts = parts(body, representation.length);
    let first = first_chunk(core, &version, &parts).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    describe(response.headers_mut(), site, &version);
    response.headers_mut().extend(headers);
    let found = first.as_ref().map_or(Found::Memory, |(_, found)| *found);
    response.headers_mut().insert(CACHE_STATUS, cache_status(found).to_value());
    let meter = core.meter.response(&site.id, version.manifest.path().as_str(), status);
    if !parts.is_empty() {
        *response.body_mut() = body::body(core.clone(), version, parts, first.map(|(plain, _)| plain), meter);
    }
    Ok(response)
}

fn representation(version: &Version) -> Result<Representation, String> {
    let manifest = &version.manifest;
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(manifest.created_ms());
    let etag = ETag::strong(&manifest.version_id().to_string()).map_err(|error| error.to_string())?;
    let boundary = Boundary::new(&format!("umbel-{:032x}", rand::random::<u128>()));
    Ok(Representation {
        length: manifest.layout().length(),
        media_type: HeaderValue::from_str(manifest.media_type()).map_err(|error| error.to_string())?,
        validators: Validators::new(etag, Some(modified)),
        boundary: boundary.map_err(|error| error.to_string())?,
    })
}

/// Manifests are checked, so this never happens; if it does, it is the origin's doing.
fn unservable(version: &Version, reason: &str) -> Response<Body> {
    error!(path = %version.manifest.path(), reason, "an object cannot be described in HTTP");
    refusal(StatusCode::BAD_GATEWAY, reason)
}

/// The plan's body as what is to be streamed.
fn parts(body: PlannedBody, length: u64) -> Vec<Part> {
    match body {
        PlannedBody::None => Vec::new(),
        PlannedBody::Whole => vec![Part::Object(0..length)],
        PlannedBody::Range(range) => vec![Part::Object(range)],
        PlannedBody::Multi(framing) => {
            let framed = framing.parts().iter();
            let pairs =
                framed.flat_map(|part| [Part::Text(part.header.clone().into()), Part::Object(part.range.clone())]);
            pairs.chain([Part::Text(framing.closing().into())]).collect()
        }
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

/// Fields of every answer about the object that do not depend on the request.
fn describe(fields: &mut HeaderMap, site: &Site, version: &Version) {
    // A manifest with a field that is the edge's to write was refused.
    for (name, value) in version.manifest.fields() {
        let (name, value) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value.as_bytes()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields.insert(header::AGE, HeaderValue::from(version.age()));
    let policy = site.policy.as_ref().map(|policy| policy.cache_control.as_str()).filter(|text| !text.is_empty());
    if let (Some(policy), false) = (policy, fields.contains_key(header::CACHE_CONTROL)) {
        put(fields, header::CACHE_CONTROL, policy);
    }
}

fn cache_status(found: Found) -> CacheStatus {
    match found {
        Found::Memory | Found::Disk => CacheStatus::hit(CACHE_NAME),
        Found::Filled => CacheStatus { stored: true, ..CacheStatus::forward(CACHE_NAME, Forward::UriMiss) },
    }
}

/// Texts here are checked with the manifest or made by us; a policy's that cannot be sent is left out.
fn put(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}
