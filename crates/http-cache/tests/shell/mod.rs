//! A whole cache made of the crate's decisions: in memory, one request at a time, its origin a function. What an edge does over sockets
//! and disks, in as few lines as show it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode, request, response};
use umbel_http_cache::{
    Body, Boundary, CacheStatus, Conditional, Content, Exchange, Failure, Fate, Plan, Policy, Reuse, Stored, Updated,
    answer, content, invalidates, on_error, replaces, reuse, storable, strip_hop_by_hop, updated_by_304,
    updated_by_head,
};

/// A stored response and its body.
type Entry = (Arc<Stored>, Vec<u8>);

/// Answers a request, or nothing.
pub(crate) type Origin<'a> = &'a mut dyn FnMut(&request::Parts, &[u8]) -> Option<Response<Vec<u8>>>;

pub(crate) struct Cache {
    pub(crate) policy: Policy,
    pub(crate) entries: HashMap<String, Vec<Entry>>,
}

/// One request on its way.
struct Exchanged<'a> {
    request: &'a request::Parts,
    key: String,
    now: SystemTime,
    status: CacheStatus,
}

impl Cache {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, entries: HashMap::new() }
    }

    pub(crate) fn handle(
        &mut self,
        request: Request<Vec<u8>>,
        now: SystemTime,
        origin: Origin<'_>,
    ) -> Response<Vec<u8>> {
        let (mut request, body) = request.into_parts();
        strip_hop_by_hop(&mut request.headers);
        let key = request.uri.to_string();
        let decision = reuse(&self.stored(&key), &request, &self.policy, now);
        let at = Exchanged { request: &request, key, now, status: decision.cache_status("test") };
        match decision {
            Reuse::Fresh { index, .. } => self.serve(&at, index),
            Reuse::Stale { index, revalidate, .. } => {
                let answer = self.serve(&at, index);
                if let Some(conditional) = revalidate {
                    self.validate(at, index, Some(conditional), origin);
                }
                answer
            }
            Reuse::Revalidate { index, conditional, .. } => self.validate(at, index, conditional, origin),
            Reuse::Complete { conditional, .. } => self.forward(at, None, Some(conditional), &[], origin),
            Reuse::Forward { conditional, .. } => self.forward(at, None, conditional, &body, origin),
            Reuse::GatewayTimeout => at.finish(error(StatusCode::GATEWAY_TIMEOUT)),
        }
    }

    fn validate(
        &mut self,
        at: Exchanged<'_>,
        index: usize,
        how: Option<Conditional>,
        origin: Origin<'_>,
    ) -> Response<Vec<u8>> {
        self.forward(at, Some(index), how, &[], origin)
    }

    fn forward(
        &mut self,
        mut at: Exchanged<'_>,
        validated: Option<usize>,
        conditional: Option<Conditional>,
        body: &[u8],
        origin: Origin<'_>,
    ) -> Response<Vec<u8>> {
        let mut upstream = at.request.clone();
        if let Some(capability) = self.policy.surrogate_capability() {
            upstream.headers.insert("surrogate-capability", capability);
        }
        if let Some(conditional) = &conditional {
            conditional.apply(&mut upstream.headers);
        }
        let Some(response) = origin(&upstream, body) else {
            return self.fail(at, validated, Failure::Unreachable, error(StatusCode::BAD_GATEWAY));
        };
        at.status.forward_status = Some(response.status());
        if response.status().is_server_error() && validated.is_some() {
            let failure = Failure::Status(response.status());
            return self.fail(at, validated, failure, response);
        }
        match &conditional {
            Some(conditional) if response.status() == StatusCode::NOT_MODIFIED && conditional.has_conditions() => {
                return self.not_modified(at, conditional, &response.into_parts().0, origin);
            }
            _ => {}
        }
        self.take(at, conditional.is_some(), &upstream, response, origin)
    }

    fn fail(
        &self,
        at: Exchanged<'_>,
        validated: Option<usize>,
        failure: Failure,
        instead: Response<Vec<u8>>,
    ) -> Response<Vec<u8>> {
        let stored = self.stored(&at.key);
        let index =
            validated.filter(|index| on_error(&stored[*index], at.request, failure, &self.policy, at.now).is_some());
        match index {
            Some(index) => self.serve(&at, index),
            None => at.finish(instead),
        }
    }

    fn not_modified(
        &mut self,
        at: Exchanged<'_>,
        sent: &Conditional,
        news: &response::Parts,
        origin: Origin<'_>,
    ) -> Response<Vec<u8>> {
        let updated = updated_by_304(&self.stored(&at.key), sent, at.request, news, at.exchange(), &self.policy);
        let Some(Updated { index, stored, .. }) = updated.first().cloned() else {
            return self.forward(at, None, Some(Conditional::default()), &[], origin);
        };
        let before = self.stored(&at.key);
        let fate = |index| updated.iter().find(|updated| updated.index == index).map_or(Fate::Kept, |news| news.fate);
        let (fates, is_kept): (Vec<_>, _) = ((0..before.len()).map(fate).collect(), fate(index) == Fate::Kept);
        self.update(&at.key, updated);
        let entries = self.entries.get_mut(&at.key).unwrap();
        let mut adopted = None;
        if !stored.matches(&at.request.headers, &self.policy) {
            let body = entries[index].1.clone();
            entries.push((stored.adopted_by(&at.request.headers).expect("it varies on names").into(), body));
            adopted = Some(entries.len() - 1);
        }
        let index = adopted.unwrap_or(index);
        if content(&self.stored(&at.key), index, at.request) == Content::Missing {
            return self.forward(at, None, Some(Conditional::default()), &[], origin);
        }
        let answer = self.serve(&at, index);
        let mut fates = fates.into_iter().zip(before);
        self.entries.get_mut(&at.key).unwrap().retain_mut(|(stored, _)| match fates.next() {
            Some((Fate::Kept, _)) => true,
            Some((Fate::Untouched, before)) => {
                *stored = before;
                true
            }
            Some((Fate::Removed, _)) => false,
            None => is_kept,
        });
        answer
    }

    fn update(&mut self, key: &str, updated: Vec<Updated>) {
        let entries = self.entries.entry(key.to_owned()).or_default();
        for Updated { index, stored, .. } in updated {
            entries[index].0 = stored.into();
        }
    }

    /// A response of the origin's: stored if it may be.
    fn take(
        &mut self,
        mut at: Exchanged<'_>,
        is_ours: bool,
        upstream: &request::Parts,
        response: Response<Vec<u8>>,
        origin: Origin<'_>,
    ) -> Response<Vec<u8>> {
        let (parts, body) = response.into_parts();
        for uri in invalidates(at.request, &parts) {
            self.entries.remove(&uri.to_string());
        }
        let mut updated = updated_by_head(&self.stored(&at.key), at.request, &parts, at.exchange(), &self.policy);
        updated.retain(|updated| updated.fate == Fate::Kept);
        self.update(&at.key, updated);
        match storable(upstream, &parts, at.exchange(), &self.policy) {
            Ok(stored) => {
                at.status.stored = true;
                let index = self.store(&at, stored, body.clone());
                if is_ours && content(&self.stored(&at.key), index, at.request) == Content::Missing {
                    return self.forward(at, None, Some(Conditional::default()), &[], origin);
                }
                if is_ours {
                    return self.serve(&at, index);
                }
            }
            // A part for a client that wanted more, and it may not be put to the others.
            Err(_) if is_ours && parts.status == StatusCode::PARTIAL_CONTENT => {
                return self.forward(at, None, Some(Conditional::default()), &[], origin);
            }
            Err(reason) => at.status.detail = Some(reason.as_str().to_owned()),
        }
        at.finish(Response::from_parts(parts, body))
    }

    fn store(&mut self, at: &Exchanged<'_>, stored: Stored, body: Vec<u8>) -> usize {
        let encoded = stored.encode().expect("storable has measured it");
        let stored = Stored::decode(&encoded, &self.policy).unwrap();
        let entries = self.entries.entry(at.key.clone()).or_default();
        entries.retain(|(old, _)| !replaces(&stored, old, &at.request.headers, &self.policy));
        entries.push((stored.into(), body));
        entries.len() - 1
    }

    fn stored(&self, key: &str) -> Vec<Arc<Stored>> {
        self.entries.get(key).into_iter().flatten().map(|(stored, _)| stored.clone()).collect()
    }

    /// From the store, put together if it is in parts.
    fn serve(&self, at: &Exchanged<'_>, index: usize) -> Response<Vec<u8>> {
        let entries = &self.entries[&at.key];
        let (stored, body) = &entries[index];
        let pieces = match content(&self.stored(&at.key), index, at.request) {
            Content::Whole => return render(at, stored, body, 0),
            Content::Parts(pieces) => pieces,
            Content::Missing => unreachable!("only after a fill, and that looks first"),
        };
        let start = pieces.first().map_or(0, |piece| piece.range.start);
        let bytes = pieces.iter().flat_map(|piece| {
            let (stored, body) = &entries[piece.index];
            let offset = stored.part().map_or(0, |part| part.range.start);
            body[(piece.range.start - offset) as usize..(piece.range.end - offset) as usize].iter().copied()
        });
        render(at, stored, &bytes.collect::<Vec<_>>(), start)
    }
}

impl Exchanged<'_> {
    fn exchange(&self) -> Exchange {
        Exchange { requested: self.now, received: self.now }
    }

    fn finish(&self, mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
        strip_hop_by_hop(response.headers_mut());
        response.headers_mut().append("cache-status", self.status.to_value());
        if self.request.method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

/// The planned answer; `body` has the representation's bytes from `start` on.
fn render(at: &Exchanged<'_>, stored: &Stored, body: &[u8], start: u64) -> Response<Vec<u8>> {
    let boundary = || Boundary::new("B").unwrap();
    let plan = answer(at.request, stored, body.len() as u64, boundary, at.now);
    let slice = |range: &std::ops::Range<u64>| &body[(range.start - start) as usize..(range.end - start) as usize];
    let bytes = match &plan.body {
        Body::None => Vec::new(),
        Body::Whole => body.to_vec(),
        Body::Range(range) => slice(range).to_vec(),
        Body::Multi(framing) => {
            let parts = framing.parts().iter().map(|part| [&part.header, slice(&part.range)].concat());
            parts.chain([framing.closing()]).collect::<Vec<_>>().concat()
        }
    };
    at.finish(with_body(plan, bytes))
}

fn with_body(plan: Plan, bytes: Vec<u8>) -> Response<Vec<u8>> {
    let announced = plan.headers.get(CONTENT_LENGTH).map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
    assert!(plan.body == Body::None || announced == Some(bytes.len()), "{announced:?} announced, {} sent", bytes.len());
    let mut response = Response::new(bytes);
    *response.status_mut() = plan.status;
    *response.headers_mut() = plan.headers;
    response
}

fn error(status: StatusCode) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    response
}
