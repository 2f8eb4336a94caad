//! A chunk's name as the key of the cache.

use std::io::{Read, Write};

use foyer::{Code, Error};
use umbel_content::ChunkName;

/// A [`ChunkName`] that foyer can write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name(ChunkName);

impl From<ChunkName> for Name {
    fn from(name: ChunkName) -> Self {
        Self(name)
    }
}

impl Code for Name {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(self.0.as_bytes()).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = [0; 32];
        reader.read_exact(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(ChunkName::from_bytes(bytes)))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}
