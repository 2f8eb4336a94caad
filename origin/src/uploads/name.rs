//! A part's name in the store says everything that a listing asks.

use std::{fmt, str::FromStr};

/// One uploaded part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartName {
    pub(crate) number: u32,
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) md5: [u8; 16],
    /// Plaintext bytes.
    pub(crate) length: u64,
    /// Name of its sealed bytes.
    pub(crate) data: String,
}

impl PartName {
    /// Without quotes.
    pub(crate) fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:05}-{:015}-{}-{}-{}", self.number, self.at_ms, self.etag(), self.length, self.data)
    }
}

/// Not the name of a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAPart;

impl FromStr for PartName {
    type Err = NotAPart;

    fn from_str(text: &str) -> Result<Self, NotAPart> {
        let fields: Vec<&str> = text.split('-').collect();
        let [number, at_ms, md5, length, data] = fields.as_slice() else { return Err(NotAPart) };
        let mut bytes = [0; 16];
        hex::decode_to_slice(md5, &mut bytes).map_err(|_| NotAPart)?;
        Ok(Self {
            number: number.parse().map_err(|_| NotAPart)?,
            at_ms: at_ms.parse().map_err(|_| NotAPart)?,
            md5: bytes,
            length: length.parse().map_err(|_| NotAPart)?,
            data: (*data).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let name = PartName { number: 7, at_ms: 1_700_000_000_000, md5: [0xab; 16], length: 5, data: "00ff".into() };
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!("00001-5".parse::<PartName>(), Err(NotAPart));
    }
}
