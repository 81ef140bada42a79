//! Request-response frames: a length in 4 bytes, then that many bytes.
//!
//! Invariants: no length over its limit is believed; memory grows with what has come, not with
//! what was announced; requests of all peers together stay within one budget until they are
//! verified.

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response::Codec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for requests that came and are not verified yet, in KiB.
const REQUEST_BUDGET_KIB: usize = 64 * 1024;

/// A request, with its place in the memory budget where it came from a peer.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

/// Reads and writes frames within limits.
#[derive(Debug, Clone)]
pub(super) struct FrameCodec {
    request_limit: usize,
    answer_limit: usize,
    budget: Arc<Semaphore>,
}

impl FrameCodec {
    pub(super) fn new(request_limit: usize, answer_limit: usize) -> Self {
        let budget = Arc::new(Semaphore::new(REQUEST_BUDGET_KIB));
        Self { request_limit, answer_limit, budget }
    }
}

async fn read_len<T>(io: &mut T, limit: usize) -> io::Result<u32>
where
    T: AsyncRead + Unpin + Send,
{
    let mut header = [0; 4];
    io.read_exact(&mut header).await?;
    let length = u32::from_be_bytes(header);
    if length as usize > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is over its limit"));
    }
    Ok(length)
}

async fn read_body<T>(io: &mut T, length: u32) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut bytes = Vec::new();
    io.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if bytes.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write<T>(io: &mut T, bytes: &[u8], limit: usize) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= limit);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is over its limit"));
    };
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.flush().await
}

impl Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Frame;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        let length = read_len(io, self.request_limit).await?;
        let budget = Arc::clone(&self.budget)
            .try_acquire_many_owned(length / 1024 + 1)
            .map_err(|_| io::Error::other("too many requests are waiting"))?;
        let bytes = read_body(io, length).await?;
        Ok(Frame { bytes, budget: Some(budget) })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let length = read_len(io, self.answer_limit).await?;
        read_body(io, length).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Frame,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request.bytes, self.request_limit).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &answer, self.answer_limit).await
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    const NAME: StreamProtocol = StreamProtocol::new("/test");

    fn read(codec: &mut FrameCodec, bytes: &[u8]) -> io::Result<Frame> {
        block_on(codec.read_request(&NAME, &mut &bytes[..]))
    }

    #[test]
    fn fuzz_frames() {
        let mut codec = FrameCodec::new(64, 64);
        crate::fuzz::bytes("frames", vec![vec![0, 0, 0, 2, b'h', b'i']], |bytes| {
            let asked = read(&mut codec, bytes).map(|frame| frame.bytes.len());
            let answered = block_on(codec.read_response(&NAME, &mut &bytes[..]));
            assert!(asked.as_ref().is_ok_and(|length| *length <= 64) || asked.is_err());
            format!("{:?} {:?}", asked.map_err(|error| error.kind()), answered.map(|_| ()))
        });
    }

    #[test]
    fn frames_are_bounded() {
        let mut codec = FrameCodec::new(4, 4);
        assert_eq!(read(&mut codec, b"\0\0\0\x04abcd").unwrap().bytes, b"abcd");
        assert_eq!(read(&mut codec, b"\0\0\0\0").unwrap().bytes, b"");
        for wrong in [&b"\0\0\0\x05abcde"[..], b"\0\0\0\x04abc", b"\xff\xff\xff\xffa", b"\0\0", b""]
        {
            assert!(read(&mut codec, wrong).is_err(), "{wrong:?}");
        }
        let mut out = futures::io::Cursor::new(Vec::new());
        assert!(block_on(codec.write_response(&NAME, &mut out, vec![0; 5])).is_err());
        block_on(codec.write_response(&NAME, &mut out, vec![7; 4])).unwrap();
        assert_eq!(out.into_inner(), [0, 0, 0, 4, 7, 7, 7, 7]);
    }

    #[test]
    fn the_budget_ends_and_comes_back() {
        let mut codec = FrameCodec::new(1 << 20, 4);
        codec.budget = Arc::new(Semaphore::new(2));
        let first = read(&mut codec, b"\0\0\0\x01a").unwrap();
        let second = read(&mut codec, b"\0\0\0\x01a").unwrap();
        assert!(read(&mut codec, b"\0\0\0\x01a").is_err());
        drop((first, second));
        assert!(read(&mut codec, b"\0\0\0\x01a").is_ok());
    }
}
