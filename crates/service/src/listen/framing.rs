//! Clients' bytes are followed as those of other servers are: see [`crate::framing`].

pub(super) use crate::framing::Framing;
