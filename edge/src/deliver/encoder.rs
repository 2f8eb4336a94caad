//! The codings themselves: bytes in, bytes out.

use std::io::{self, Write};

use brotli::{CompressorWriter, enc::BrotliEncoderParams};
use bytes::Bytes;
use flate2::write::GzEncoder;
use umbel_http_cache::Coding;
use zstd::stream::raw::CParameter;

/// What an answer's bytes are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Kept and sent many times.
    Kept,
    /// Sent once, as it comes.
    Once,
}

/// Memory that one encoder of [`Effort::Once`] may take is mostly its window, 2 to the power of this.
const WINDOW: u32 = 18;

/// Encodes one body.
pub(super) enum Encoder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(coding: Coding, effort: Effort) -> io::Result<Self> {
        Ok(match coding {
            Coding::Brotli => Self::Brotli(Box::new(brotli(effort))),
            Coding::Zstd => Self::Zstd(zstd(effort)?),
            Coding::Gzip => {
                let level = if effort == Effort::Kept { 7 } else { 3 };
                Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(level)))
            }
        })
    }

    /// The whole at once.
    pub(super) fn encode(coding: Coding, effort: Effort, bytes: &[u8]) -> io::Result<Bytes> {
        let mut encoder = Self::new(coding, effort)?;
        encoder.write(bytes)?;
        encoder.finish()
    }

    /// Takes bytes in.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Brotli(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// From what has come out so far, all that was taken in can be read.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }

    /// What has come out.
    pub(super) fn take(&mut self) -> Bytes {
        let out = match self {
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        };
        std::mem::take(out).into()
    }

    /// The rest.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Brotli(encoder) => Ok(encoder.into_inner().into()),
            Self::Zstd(encoder) => encoder.finish().map(Bytes::from),
            Self::Gzip(encoder) => encoder.finish().map(Bytes::from),
        }
    }
}

fn brotli(effort: Effort) -> CompressorWriter<Vec<u8>> {
    let (quality, lgwin) = if effort == Effort::Kept { (7, 20) } else { (3, WINDOW as i32) };
    let parameters = BrotliEncoderParams { quality, lgwin, ..BrotliEncoderParams::default() };
    CompressorWriter::with_params(Vec::new(), 16 * 1024, &parameters)
}

fn zstd(effort: Effort) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let (level, window) = if effort == Effort::Kept { (12, 20) } else { (2, WINDOW) };
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    // Browsers take windows of up to 8 MiB (RFC 9659).
    encoder.set_parameter(CParameter::WindowLog(window))?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader: Box<dyn Read> = match coding {
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        // What was only flushed has no end.
        let _end = reader.read_to_end(&mut out);
        out
    }

    #[test]
    fn what_comes_out_can_be_read() {
        let text: Vec<u8> = (0..50_000_u32).flat_map(|n| (n % 1000).to_string().into_bytes()).collect();
        for coding in Coding::ALL {
            for effort in [Effort::Kept, Effort::Once] {
                let whole = Encoder::encode(coding, effort, &text).unwrap();
                assert_eq!(decoded(coding, &whole), text, "{coding} {effort:?}");
                assert!(whole.len() < text.len() / 4);
                assert_eq!(decoded(coding, &Encoder::encode(coding, effort, b"").unwrap()), b"");
            }
            let mut encoder = Encoder::new(coding, Effort::Once).unwrap();
            encoder.write(b"first").unwrap();
            encoder.flush().unwrap();
            let mut out = encoder.take().to_vec();
            assert_eq!(decoded(coding, &out), b"first", "{coding}");
            encoder.write(b" second").unwrap();
            out.extend(encoder.finish().unwrap());
            assert_eq!(decoded(coding, &out), b"first second", "{coding}");
        }
    }
}
