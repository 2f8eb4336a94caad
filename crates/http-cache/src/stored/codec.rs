//! The form in which stored metadata lies beside a body on disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Part, Stored};
use crate::Policy;
use crate::age::Exchange;
use crate::freshness::Terms;
use crate::vary::{MAX_NAMES, Selecting};

/// Most bytes of an encoded form. More than servers take as a header.
pub const MAX_ENCODED: usize = 128 << 10;

/// The first byte; another one is another form, which is a miss.
const VERSION: u8 = 1;

/// The header is too long to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored header would take more than {MAX_ENCODED} bytes")]
pub struct TooLarge;

/// Bytes that are no stored metadata; to a cache, a miss.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More than [`MAX_ENCODED`].
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Written by another release, or not at all.
    #[error("stored metadata of another version")]
    Version,
    /// The bytes end early or say something impossible.
    #[error("stored metadata is malformed")]
    Malformed(#[source] postcard::Error),
    /// A field, status or range that HTTP does not have.
    #[error("stored metadata is not of an HTTP response")]
    Invalid,
}

/// Borrowed from the encoded bytes or from a [`Stored`]. Times are in milliseconds.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    status: u16,
    requested: u64,
    waited: u64,
    initial_age: u64,
    part: Option<(u64, u64, u64)>,
    expired_at: Option<u64>,
    #[serde(borrow)]
    fields: Vec<(&'a str, &'a [u8])>,
    #[serde(borrow)]
    selecting: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl Stored {
    /// Its compact form, at most [`MAX_ENCODED`] bytes. Times are kept to the millisecond.
    ///
    /// # Errors
    /// When it would be longer.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        let requested = self.exchange.requested;
        let form = Form {
            status: self.status.as_u16(),
            requested: millis(requested.duration_since(UNIX_EPOCH).unwrap_or_default()),
            waited: millis(self.exchange.received.duration_since(requested).unwrap_or_default()),
            initial_age: millis(self.initial_age),
            part: self.part.as_ref().map(|part| (part.range.start, part.range.end, part.complete)),
            expired_at: self.expired_at.map(millis),
            fields: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            selecting: self.selecting.0.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect(),
        };
        let encoded = postcard::to_extend(&form, vec![VERSION]).map_err(|_| TooLarge)?;
        if encoded.len() > MAX_ENCODED { Err(TooLarge) } else { Ok(encoded) }
    }

    /// Reads what [`Stored::encode`] wrote. What follows from the policy follows from the one given now.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(encoded: &[u8], policy: &Policy) -> Result<Self, DecodeError> {
        if encoded.len() > MAX_ENCODED {
            return Err(TooLarge.into());
        }
        let (version, form) = encoded.split_first().ok_or(DecodeError::Version)?;
        if *version != VERSION {
            return Err(DecodeError::Version);
        }
        let form: Form<'_> = postcard::from_bytes(form).map_err(DecodeError::Malformed)?;
        form.into_stored(policy).ok_or(DecodeError::Invalid)
    }
}

impl Form<'_> {
    fn into_stored(self, policy: &Policy) -> Option<Stored> {
        let requested = UNIX_EPOCH.checked_add(Duration::from_millis(self.requested))?;
        let received = requested.checked_add(Duration::from_millis(self.waited))?;
        let status = StatusCode::from_u16(self.status).ok()?;
        let headers = fields(&self.fields)?;
        let terms = Terms::of(status, &headers, received, policy);
        let part = match self.part {
            Some(bounds) => Some(part(bounds)?),
            None => None,
        };
        Some(Stored {
            status,
            headers,
            selecting: selecting(&self.selecting)?,
            exchange: Exchange { requested, received },
            initial_age: Duration::from_millis(self.initial_age).min(crate::age::UNKNOWN),
            part,
            expired_at: self.expired_at.map(Duration::from_millis),
            terms,
        })
    }
}

fn fields(fields: &[(&str, &[u8])]) -> Option<HeaderMap> {
    // A header map panics beyond 32768 fields; MAX_ENCODED allows more empty ones.
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let (name, value) = (HeaderName::try_from(*name).ok()?, HeaderValue::from_bytes(value).ok()?);
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn selecting(selecting: &[(&str, Option<&[u8]>)]) -> Option<Selecting> {
    if selecting.len() > MAX_NAMES {
        return None;
    }
    let named =
        |(name, value): &(&str, Option<&[u8]>)| Some((HeaderName::try_from(*name).ok()?, value.map(<[u8]>::to_vec)));
    selecting.iter().map(named).collect::<Option<_>>().map(Selecting)
}

fn part((start, end, complete): (u64, u64, u64)) -> Option<Part> {
    (start < end && end <= complete).then_some(Part { range: start..end, complete })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Rounds down to what the form keeps.
pub(crate) fn whole_millis(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored() -> impl Strategy<Value = Stored> {
        let field = ("[a-z-]{1,12}", proptest::collection::vec(0x20u8..0x7f, 0..20));
        let fields = proptest::collection::vec(field, 0..8);
        let part = proptest::option::of((0u64..1000, 1u64..1000, 0u64..1000));
        (fields, part, 0u64..1 << 40, 0u64..1 << 20, proptest::option::of(0u64..1 << 30), 200u16..600).prop_map(
            |(fields, part, requested, waited, expired, status)| {
                let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
                let headers = super::fields(&fields).unwrap();
                let selecting = headers.iter().take(3).map(|(n, v)| (n.clone(), Some(v.as_bytes().to_vec())));
                let requested = UNIX_EPOCH + Duration::from_millis(requested);
                let exchange = Exchange { requested, received: requested + Duration::from_millis(waited) };
                let part = part.map(|(start, length, more)| Part {
                    range: start..start + length,
                    complete: start + length + more,
                });
                let status = StatusCode::from_u16(status).unwrap();
                let selecting = Selecting(selecting.chain([(http::header::ACCEPT, None)]).collect());
                let stored = Stored::new(status, &headers, selecting, exchange, part, &Policy::default());
                Stored { expired_at: expired.map(Duration::from_millis), ..stored }
            },
        )
    }

    proptest! {
        #[test]
        fn goes_both_ways(stored in stored()) {
            let encoded = stored.encode().unwrap();
            prop_assert_eq!(Stored::decode(&encoded, &Policy::default()).unwrap(), stored);
        }

        #[test]
        fn cut_off_is_an_error(stored in stored(), at: prop::sample::Index) {
            let encoded = stored.encode().unwrap();
            let cut = at.index(encoded.len());
            prop_assert!(Stored::decode(&encoded[..cut], &Policy::default()).is_err());
        }

        #[test]
        fn garbage_is_no_panic(stored in stored(), at: prop::sample::Index, byte: u8, mut garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut encoded = stored.encode().unwrap();
            let at = at.index(encoded.len());
            encoded[at] = byte;
            let _ = Stored::decode(&encoded, &Policy::default());
            garbage.insert(0, VERSION);
            let _ = Stored::decode(&garbage, &Policy::default());
        }
    }

    #[test]
    fn bounds() {
        let policy = Policy::default();
        assert!(matches!(Stored::decode(&vec![VERSION; MAX_ENCODED + 1], &policy), Err(DecodeError::TooLarge(_))));
        assert!(matches!(Stored::decode(&[], &policy), Err(DecodeError::Version)));
        assert!(matches!(Stored::decode(&[9, 9], &policy), Err(DecodeError::Version)));
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::try_from("x".repeat(MAX_ENCODED)).unwrap());
        let exchange = Exchange { requested: UNIX_EPOCH, received: UNIX_EPOCH };
        let stored = Stored::new(StatusCode::OK, &headers, Selecting::default(), exchange, None, &policy);
        assert_eq!(stored.encode(), Err(TooLarge));
    }
}
