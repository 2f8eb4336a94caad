//! What an operator may decide where RFC 9111 leaves the decision to the cache.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// Choices of a site. The default is what RFC 9111 says or advises, and where it says nothing, what is least surprising to an origin. The
/// times of staleness are for responses that were fresh for a while: what was never meant to be shared is not kept for an outage either.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The target list of RFC 9213: fields that stand in for `Cache-Control` and `Expires`, the first that is there and well formed.
    pub targets: Vec<HeaderName>,
    /// The name by which origins address this cache in `Surrogate-Control` (W3C Edge Architecture); `None` to leave that field alone. It
    /// counts after `targets`. A shell then sends [`Policy::surrogate_capability`] along.
    pub surrogate: Option<Box<str>>,
    /// How long a response may be fresh that says nothing about it.
    pub heuristic: Heuristic,
    /// What to do with `Set-Cookie`.
    pub set_cookie: SetCookie,
    /// Whether `Cache-Control` and `Pragma` of requests count, which are advice (RFC 9111, section 5.2.1). Readers who may not spend the
    /// origin's time at will should be refused this.
    pub request_directives: bool,
    /// How long after its lifetime a response may be served when the next server answers 500, 502, 503 or 504, where neither response
    /// nor request says (`stale-if-error`).
    pub stale_if_error: Duration,
    /// The same when the next server cannot be reached or does not answer (RFC 9111, section 4.2.4: "disconnected").
    pub stale_if_unreachable: Duration,
    /// How long after its lifetime a response that does not say may be served while it is validated in the background.
    pub stale_while_revalidate: Duration,
    /// Lets `stale-while-revalidate` and `stale-if-error` count beside `s-maxage`, which by RFC 9111, section 5.2.2.10 forbids it. Some
    /// frameworks send both and mean it.
    pub stale_despite_s_maxage: bool,
    /// Lets a response in the one language that a request likes best be used for it, although `Accept-Language` is not the same. Right
    /// for origins that negotiate by weight.
    pub negotiate_language: bool,
    /// A 304 to a validation that named one stored response refreshes that response, though it may carry another validator: some servers
    /// change the entity tag with the content coding. Off: RFC 9111, section 4.3.4 to the letter.
    pub trust_lone_304: bool,
}

/// Heuristic freshness (RFC 9111, section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heuristic {
    /// Hundredths of the time since `Last-Modified`. 0 for no heuristics.
    pub percent: u32,
    /// No longer than this.
    pub most: Duration,
}

/// Whether responses with `Set-Cookie` are stored. RFC 9111, section 7.3 leaves it to `Cache-Control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCookie {
    /// Like any other.
    Store,
    /// If the origin says how long they are fresh, or `public`; never by heuristics: nobody meant a session to be shared who said nothing.
    StoreIfExplicit,
    /// Never.
    Refuse,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            targets: vec![HeaderName::from_static("cdn-cache-control")],
            surrogate: Some("umbel".into()),
            heuristic: Heuristic { percent: 10, most: Duration::from_hours(24) },
            set_cookie: SetCookie::StoreIfExplicit,
            request_directives: true,
            stale_if_error: Duration::ZERO,
            stale_if_unreachable: Duration::from_hours(24),
            stale_while_revalidate: Duration::ZERO,
            stale_despite_s_maxage: false,
            negotiate_language: false,
            trust_lone_304: true,
        }
    }
}

impl Policy {
    /// `Surrogate-Capability` for requests to the origin, if `Surrogate-Control` counts.
    #[must_use]
    pub fn surrogate_capability(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}=\"Surrogate/1.0\"", self.surrogate.as_ref()?)).ok()
    }
}
