//! Frames of the peer protocol: a varint length and one message, bounded before memory is spent.

use std::io;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why nothing sensible can be read from a stream any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("connection lost")]
    Io(#[from] io::Error),
    #[error("frame of {0} bytes is too long")]
    TooLong(u64),
    #[error("frame is not a message")]
    Garbage,
}

/// The next message of at most `limit` bytes, or none at a clean end between two frames.
pub(crate) async fn read<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<M>, FrameError> {
    let Some(length) = read_length(stream, limit).await? else { return Ok(None) };
    let body = read_exactly(stream, length).await?;
    M::decode(body).map(Some).map_err(|_| FrameError::Garbage)
}

/// Exactly `length` bytes; the caller has bounded `length`.
pub(crate) async fn read_exactly(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
    let mut body = BytesMut::zeroed(length);
    stream.read_exact(&mut body).await?;
    Ok(body.freeze())
}

/// At most four bytes of varint: more would be over the limit in any case.
async fn read_length(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Option<usize>, FrameError> {
    let mut length = 0u64;
    for shift in [0, 7, 14, 21] {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && shift == 0 => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return within(limit, length).map(Some);
        }
    }
    Err(FrameError::TooLong(length))
}

fn within(limit: usize, length: u64) -> Result<usize, FrameError> {
    usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(FrameError::TooLong(length))
}

/// A message as a frame.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_wire::{
        MAX_PEER_FRAME,
        peer::{Begin, FromReceiver, from_receiver::Message as Up},
    };

    fn begin(length: usize) -> FromReceiver {
        FromReceiver { message: Some(Up::Begin(Begin { ticket: "t".repeat(length) })) }
    }

    async fn check(bytes: &[u8], expected: Result<Option<FromReceiver>, &str>) {
        let read = read::<FromReceiver>(&mut &*bytes, MAX_PEER_FRAME).await;
        assert_eq!(read.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[tokio::test]
    async fn whole_frames_come_back_and_all_else_is_refused() {
        check(&encode(&begin(3)), Ok(Some(begin(3)))).await;
        check(&encode(&begin(70_000)), Ok(Some(begin(70_000)))).await;
        check(&[], Ok(None)).await;
        check(&encode(&begin(9))[..5], Err("connection lost")).await;
        check(&[0xff, 0xff, 0xff, 0x7f], Err("frame of 268435455 bytes is too long")).await;
        check(&[0x80; 9], Err("frame of 0 bytes is too long")).await;
        check(&[0x81, 0x80, 0x08], Err("frame of 131073 bytes is too long")).await;
        check(&[2, 0xff, 0xff], Err("frame is not a message")).await;
    }
}
