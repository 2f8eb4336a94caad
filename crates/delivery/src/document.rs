//! The document as it is written, sent and stored.

/// The messages of `umbel.delivery.v1` and the keys of the document: the same types.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::use_self, reason = "generated code")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/umbel.delivery.v1.rs"));
}

/// Without values.
impl std::fmt::Debug for proto::HeaderRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeaderRule").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What a provider writes. Nothing in it has been checked: see [`crate::Rules`].
pub type Document = proto::Delivery;

/// What was not written is not shown either.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
