//! Connections that end when they are closed, though the other side takes nothing any more.
//!
//! The library says what it still has to say before it lets go. Where large packets get lost, or nobody is
//! there, that takes TCP a quarter of an hour, and until then requests are sent on what was given up.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection that is closed within a moment.
#[derive(Debug)]
pub(super) struct Hasty<M> {
    inner: M,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<M> Hasty<M> {
    pub(super) fn new(inner: M) -> Self {
        Self { inner, closing: None }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Hasty<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.inner).poll_inbound(cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.inner).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(closed);
        }
        let wait = self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WORDS)));
        wait.as_mut().poll(cx).map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A connection to somebody who takes nothing any more.
    struct Stuck;

    impl StreamMuxer for Stuck {
        type Substream = futures::io::Cursor<Vec<u8>>;
        type Error = Infallible;

        fn poll_inbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_outbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<StreamMuxerEvent, Infallible>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_is_closed_ends_though_nobody_listens() {
        let mut stuck = Hasty::new(Stuck);
        let closed = std::future::poll_fn(|cx| Pin::new(&mut stuck).poll_close(cx));
        tokio::time::timeout(2 * LAST_WORDS, closed).await.unwrap().unwrap();
    }
}
