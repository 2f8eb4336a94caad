//! Puts the site's own pages in the place of errors. The status stays, and with it what was said about trying again and about
//! caching; what described the content that was there goes with it.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::PathAndQuery};
use umbel_delivery::{ErrorPages, Page};
use umbel_service::listen::Connection;
use umbel_wire::control::Site;

use super::Asked;
use crate::{core::Core, refusal::Own, respond};

/// Fields about content.
const OF_CONTENT: [HeaderName; 12] = [
    header::ACCEPT_RANGES,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// The same answer with the page for its status, if there is one and somebody is to look at it.
pub(super) async fn replace(
    core: &Arc<Core>,
    site: &Site,
    pages: &ErrorPages,
    asked: &Asked,
    response: Response<Body>,
) -> Response<Body> {
    let own = response.extensions().get::<Own>().is_some();
    let reads = matches!(asked.method, Method::GET | Method::HEAD);
    let Some(page) = pages.page(response.status(), own).filter(|_| reads) else { return response };
    let content = match page {
        Page::Html(html) => Some(html_page(html)),
        Page::At(path) => stored(core, site, path, asked).await,
    };
    match content {
        Some(content) => with_content(response, content),
        // Better the error than another one about its page.
        None => response,
    }
}

fn html_page(html: &str) -> Response<Body> {
    let mut page = Response::new(Body::from(html.to_owned()));
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    page.headers_mut().insert(header::CONTENT_LENGTH, html.len().into());
    page
}

/// What the site has at `path`, for everyone: its provider wants it shown.
async fn stored(core: &Arc<Core>, site: &Site, path: &PathAndQuery, asked: &Asked) -> Option<Response<Body>> {
    let mut request = Request::new(());
    *request.uri_mut() = path.clone().into();
    request.headers_mut().extend(asked.headers.get(header::HOST).map(|host| (header::HOST, host.clone())));
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(connection) = &asked.connection {
        request.extensions_mut().insert(Connection::clone(connection));
    }
    let page = respond::page(core, site, request.into_parts().0).await;
    (page.status() == StatusCode::OK).then_some(page)
}

fn with_content(error: Response<Body>, page: Response<Body>) -> Response<Body> {
    let (mut head, _) = error.into_parts();
    let (described, body) = page.into_parts();
    for name in OF_CONTENT {
        head.headers.remove(&name);
    }
    head.headers.extend(description(described.headers));
    Response::from_parts(head, body)
}

/// No tag and no date: they would be those of the page, and not of what was asked for.
fn description(page: HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let kept = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];
    kept.into_iter().filter_map(move |name| page.get(&name).cloned().map(|value| (name, value)))
}
