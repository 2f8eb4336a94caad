//! Interim answers (1xx) of a server on their way to whoever asked (RFC 9110, section 15.2).

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, header};
use umbel_http_cache::strip_hop_by_hop;

use crate::listen::Interim;

/// So many of one question are passed on.
const MOST: usize = 16;

/// Has the interim answers to `question`, which is about to be sent by a client, passed on to one who asked. Clients that speak
/// HTTP/2 do not tell of any.
pub fn pass_interim<B>(question: &mut Request<B>, asker: Option<&Interim>) {
    let Some(asker) = asker.cloned() else { return };
    let passed = AtomicUsize::new(0);
    hyper::ext::on_informational(question, move |came| {
        if passed.fetch_add(1, Ordering::Relaxed) >= MOST {
            return;
        }
        let mut interim = Response::new(());
        *interim.status_mut() = came.status();
        interim.headers_mut().clone_from(came.headers());
        strip_hop_by_hop(interim.headers_mut());
        // It has no content (RFC 9110, section 8.6).
        interim.headers_mut().remove(header::CONTENT_LENGTH);
        asker.send(interim);
    });
}
