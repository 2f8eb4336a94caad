//! How answers leave, by the rules of their site (`umbel_delivery`): what is decided before anything is looked for, and what
//! becomes of an answer on its way out. A site without rules only has its plain HTTP requests sent to https.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use umbel_content::ObjectPath;
use umbel_delivery::{Foreign, Rules, location};
use umbel_http_cache::{CACHE_TAG, Compression, SURROGATE_KEY, plain_conditions, settled};
use umbel_service::listen::Connection;
use umbel_wire::control::Site;

use crate::{
    core::Core,
    refusal::refusal,
    respond,
    view::{SiteRules, View},
};

mod encode;
mod encoder;
mod limit;
mod pages;

use self::limit::Cap;
pub(crate) use self::{encode::Encodings, limit::Limiter};

/// What a provider's server says to the caches in front of it. This is the last of them.
const FOR_CACHES: [HeaderName; 3] = [SURROGATE_KEY, CACHE_TAG, HeaderName::from_static("surrogate-control")];

/// Answers a request for something of `site`.
pub(crate) async fn answer(core: &Arc<Core>, view: &View, site: &Site, request: Parts, body: Body) -> Response<Body> {
    let rules = view.rules(&site.id);
    if !is_secure(&request) && !rules.is_some_and(|site| site.rules.https.allow_plain) {
        return to_https(view.https_port, &request);
    }
    match rules {
        None => content(core, view, site, request, body).await,
        Some(rules) => by_rules(core, view, site, rules, request, body).await,
    }
}

/// What the site has, as readers are to see it.
async fn content(core: &Arc<Core>, view: &View, site: &Site, request: Parts, body: Body) -> Response<Body> {
    let mut response = respond::content(core, view, site, request, body).await;
    for name in &FOR_CACHES {
        response.headers_mut().remove(name);
    }
    response
}

async fn by_rules(
    core: &Arc<Core>,
    view: &View,
    site: &Site,
    SiteRules { number, rules }: &SiteRules,
    mut request: Parts,
    body: Body,
) -> Response<Body> {
    let (asked, cap) = (Asked::of(&request, rules), Cap::new(rules.limits.request_body));
    let refused = at_once(core, *number, rules, &asked).or_else(|| cap.refuse(&request.headers));
    let mut response = match refused {
        Some(response) => response,
        None => {
            if let Some(compression) = &rules.compression {
                prepare(compression, site, &mut request);
            }
            if rules.ignore_requests {
                request.headers.remove(header::CACHE_CONTROL);
                request.headers.remove(header::PRAGMA);
            }
            let response = content(core, view, site, request, cap.of(body)).await;
            let response = cap.answer(response);
            pages::replace(core, site, &rules.error_pages, &asked, response).await
        }
    };
    dress(rules, &asked, response.headers_mut());
    match &rules.compression {
        Some(compression) => core.encodings.encode(compression, &asked, response).await,
        None => response,
    }
}

/// What is remembered of a request while it is answered: as it came.
struct Asked {
    method: Method,
    uri: Uri,
    /// Empty where no rule looks at them.
    headers: HeaderMap,
    connection: Option<Connection>,
}

impl Asked {
    fn of(request: &Parts, rules: &Rules) -> Self {
        let (method, uri) = (request.method.clone(), request.uri.clone());
        let is_read = rules.compression.is_some() || rules.cors.is_some() || !rules.error_pages.is_empty();
        let headers = if is_read { request.headers.clone() } else { HeaderMap::new() };
        Self { method, uri, headers, connection: request.extensions.get().cloned() }
    }

    fn client(&self) -> Option<IpAddr> {
        self.connection.as_ref().map(|connection| connection.remote.ip())
    }

    fn is_secure(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.secure)
    }
}

/// The answer to a request that is not about anything that the site has.
fn at_once(core: &Core, number: u64, rules: &Rules, asked: &Asked) -> Option<Response<Body>> {
    let limited = core.limiter.refuse(number, &rules.limits, asked.client());
    limited.or_else(|| rules.cors.as_ref()?.preflight(&asked.method, &asked.headers).map(preflight))
}

fn preflight(answer: Result<(), Foreign>) -> Response<Body> {
    match answer {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(foreign) => refusal(StatusCode::FORBIDDEN, &foreign.to_string()),
    }
}

/// The fields of an answer on its way out: the provider's rules first, so that none can undo what the others need.
fn dress(rules: &Rules, asked: &Asked, response: &mut HeaderMap) {
    if !rules.response_headers.is_empty() {
        rules.response_headers.apply(&decoded(&asked.uri), response);
    }
    if let Some(cors) = &rules.cors {
        cors.apply(&asked.method, &asked.headers, response);
    }
    if let Some(strict) = rules.https.strict.as_ref().filter(|_| asked.is_secure()) {
        // RFC 6797, section 7.1. The provider's server is behind the edge and cannot know.
        response.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::clone(strict));
    }
}

/// Changes the fields of what is asked of the provider's own server as the last thing: what the edge says there in the
/// provider's name is no reader's, and nothing of it makes an answer one reader's own.
pub(crate) fn outbound(view: &View, site_id: &str, uri: &Uri, request: &mut HeaderMap) {
    let rules = view.rules(site_id).map(|site| &site.rules.request_headers).filter(|rules| !rules.is_empty());
    if let Some(rules) = rules {
        rules.apply(&decoded(uri), request);
    }
}

/// As it is written without percents, if it is a path.
fn decoded(uri: &Uri) -> Cow<'_, str> {
    ObjectPath::from_uri(uri.path()).map_or(Cow::Borrowed(uri.path()), |path| Cow::Owned(path.as_str().to_owned()))
}

/// Makes the request one for what is not encoded. The provider's server hears of one coding, which may save the work.
fn prepare(compression: &Compression, site: &Site, request: &mut Parts) {
    plain_conditions(&request.method, &mut request.headers, &compression.codings);
    if site.pull.is_some() {
        let coding = settled(&request.headers, &compression.codings);
        request.headers.insert(header::ACCEPT_ENCODING, coding);
    }
}

fn is_secure(request: &Parts) -> bool {
    request.extensions.get::<Connection>().is_none_or(|connection| connection.secure)
}

/// The same, with the same method, at the port for TLS.
fn to_https(port: u16, request: &Parts) -> Response<Body> {
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    match location(host, port, request.uri.path_and_query()) {
        Some(location) => {
            let mut response = refusal(StatusCode::PERMANENT_REDIRECT, "this site is on https only");
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        None => refusal(StatusCode::BAD_REQUEST, "the Host field is missing or malformed"),
    }
}
