//! Stored parts of a representation, and how they come together (RFC 9111, sections 3.3 and 3.4).

use std::borrow::Borrow;
use std::ops::Range;

use http::HeaderValue;

use crate::Stored;
use crate::stored::Part;

/// Bytes of a representation that lie in the body of one stored response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which of the stored responses.
    pub index: usize,
    /// Which bytes of the representation. In the body they begin at `range.start` less the start of [`Stored::part`].
    pub range: Range<u64>,
}

/// Reads `bytes 0-499/1234` (RFC 9110, section 14.4). `None` for everything else, also where the length is not known: without it a suffix
/// cannot be answered, nor the end be told.
#[must_use]
pub fn parse_content_range(field: &HeaderValue) -> Option<Part> {
    let (unit, rest) = field.to_str().ok()?.split_once(' ')?;
    let (range, complete) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, complete) = (number(first)?, number(last)?, number(complete)?);
    let sound = unit.eq_ignore_ascii_case("bytes") && first <= last && last < complete;
    sound.then(|| Part { range: first..last + 1, complete })
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Puts the wanted bytes together from stored parts: the `anchor` and those that are of the same representation as that (the same strong
/// entity tag and length, RFC 9111, section 3.4). The pieces come in order and do not overlap.
///
/// # Errors
/// The bytes that are missing, in order.
pub fn assemble<S: Borrow<Stored>>(
    stored: &[S],
    anchor: usize,
    want: Range<u64>,
) -> Result<Vec<Piece>, Vec<Range<u64>>> {
    let parts = parts_of_same(stored, anchor);
    let (mut pieces, mut gaps) = (Vec::new(), Vec::new());
    let mut at = want.start;
    while at < want.end {
        let longest = parts.iter().filter(|piece| piece.range.contains(&at)).max_by_key(|piece| piece.range.end);
        let next_start = parts.iter().map(|piece| piece.range.start).filter(|start| *start > at).min();
        let start = at;
        at = match longest {
            Some(piece) => piece.range.end.min(want.end),
            None => next_start.unwrap_or(want.end).min(want.end),
        };
        match longest {
            Some(piece) => pieces.push(Piece { index: piece.index, range: start..at }),
            None => gaps.push(start..at),
        }
    }
    if gaps.is_empty() { Ok(pieces) } else { Err(gaps) }
}

fn parts_of_same<S: Borrow<Stored>>(stored: &[S], anchor: usize) -> Vec<Piece> {
    let Some(of) = stored.get(anchor).map(Borrow::borrow) else { return Vec::new() };
    let all = stored.iter().map(Borrow::borrow).enumerate();
    let same = all.filter(|(index, stored)| *index == anchor || is_same_representation(of, stored));
    same.filter_map(|(index, stored)| Some(Piece { index, range: stored.part()?.range.clone() })).collect()
}

fn is_same_representation(one: &Stored, other: &Stored) -> bool {
    let complete = |stored: &Stored| stored.part().map(|part| part.complete);
    one.strong_etag().is_some() && one.strong_etag() == other.strong_etag() && complete(one) == complete(other)
}
