//! `[compression]`

use umbel_http_cache::{Coding, Compression};

use crate::{mistakes::Mistakes, proto};

/// Shorter texts fit into the same packet either way.
const MIN_LENGTH: u64 = 1024;

const MOST_TYPES: usize = 100;

pub(crate) fn read(written: &proto::Compression, mistakes: &mut Mistakes) -> Compression {
    let mut codings: Vec<Coding> = mistakes.list("compression.codings", &written.codings, Coding::ALL.len());
    if codings.is_empty() {
        codings = Coding::ALL.to_vec();
    }
    Compression {
        codings,
        min_length: mistakes.size("compression.min_size", &written.min_size, MIN_LENGTH),
        types: mistakes.list("compression.types", &written.types, MOST_TYPES),
    }
}
