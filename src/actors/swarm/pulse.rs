//! Asking one connection whether it is alive, when there is a reason to ask.
//!
//! libp2p's ping asks every connection in its own time, and gives one up after half a minute; until
//! then requests and gossip go where nobody hears them. Here a beat is sent on the connection that is
//! named, and has to come back in the time that is given (`docs/PROTOCOL.md` §6). Invariants: of each
//! connection one beat is under way; what is echoed is short; no stream of this keeps a connection open.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::time::Sleep;

/// The protocol: a length of 2 bytes (big endian) and that many bytes, which come back.
pub(super) const PULSE: StreamProtocol = StreamProtocol::new("/messagehub/pulse/1");
/// Bytes of a beat.
const NARROW: u16 = 8;
/// Bytes of a beat that has to fill a whole packet: TCP does not notice where these get lost.
const WIDE: u16 = 2048;
/// Most that is echoed.
const ECHO_MAX: u16 = 4096;

/// A beat to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// It fills a packet.
    pub(super) wide: bool,
    /// When it has to be back; where one is under way, that one.
    pub(super) within: Duration,
}

/// What came of a beat.
#[derive(Debug)]
pub(super) struct Beaten {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    /// How long it took; none: it did not come back in time.
    pub(super) took: Option<Duration>,
}

/// Sends beats.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    queue: VecDeque<ToSwarm<Beaten, Beat>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Sends a beat on a connection; a [`Beaten`] comes of it, or the connection ends.
    pub(super) fn beat(&mut self, peer_id: PeerId, connection: ConnectionId, beat: Beat) {
        let handler = NotifyHandler::One(connection);
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: beat });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Beaten;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        took: THandlerOutEvent<Self>,
    ) {
        self.queue.push_back(ToSwarm::GenerateEvent(Beaten { peer, connection, took }));
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.queue.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Where a beat of ours is.
#[derive(Default)]
enum Own {
    /// None is under way.
    #[default]
    Quiet,
    /// A stream is being opened for it.
    Opening,
    /// It was sent.
    Sent(BoxFuture<'static, io::Result<Stream>>),
    /// The other side said that it does not speak this, so it is alive.
    Refused,
}

/// A beat that has to come back.
struct Wait {
    since: Instant,
    wide: bool,
    /// It goes over a stream that was there, which the other side may have closed since.
    over_old: bool,
    until: Pin<Box<Sleep>>,
}

/// The beats of one connection.
#[derive(Default)]
pub(super) struct Handler {
    own: Own,
    wait: Option<Wait>,
    stream: Option<Stream>,
    open: bool,
    echo: Option<BoxFuture<'static, io::Result<Stream>>>,
    waker: Option<Waker>,
}

impl Handler {
    fn begin(&mut self, beat: Beat) {
        let until = tokio::time::Instant::now() + beat.within;
        match &mut self.wait {
            Some(wait) => {
                let until = until.min(wait.until.deadline());
                wait.until.as_mut().reset(until);
            }
            None => {
                let until = Box::pin(tokio::time::sleep_until(until));
                let wide = beat.wide;
                self.wait = Some(Wait { since: Instant::now(), wide, over_old: false, until });
                self.send();
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Sends what waits, over the stream that there is or a new one.
    fn send(&mut self) {
        let Some(wait) = &mut self.wait else { return };
        wait.over_old = self.stream.is_some();
        match self.stream.take() {
            Some(stream) => self.own = Own::Sent(ask(stream, wait.wide).boxed()),
            None => {
                self.own = Own::Opening;
                self.open = true;
            }
        }
    }

    /// The beat is over.
    fn end(&mut self, came_back: bool) -> Option<Duration> {
        self.own = Own::Quiet;
        let wait = self.wait.take()?;
        came_back.then(|| wait.since.elapsed())
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Option<Duration>> {
        if matches!(self.own, Own::Refused) {
            return Poll::Ready(self.end(true));
        }
        if let Own::Sent(sent) = &mut self.own
            && let Poll::Ready(result) = sent.poll_unpin(cx)
        {
            match result {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Poll::Ready(self.end(true));
                }
                Err(_) if self.wait.as_ref().is_some_and(|wait| wait.over_old) => self.send(),
                Err(_) => return Poll::Ready(self.end(false)),
            }
        }
        let late = self.wait.as_mut().is_some_and(|wait| wait.until.as_mut().poll(cx).is_ready());
        if late { Poll::Ready(self.end(false)) } else { Poll::Pending }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Beat;
    type ToBehaviour = Option<Duration>;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PULSE), ())
    }

    fn on_behaviour_event(&mut self, beat: Beat) {
        self.begin(beat);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(echo) = &mut self.echo
            && let Poll::Ready(result) = echo.poll_unpin(cx)
        {
            self.echo = result.ok().map(|stream| echo_one(stream).boxed());
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(took) = self.poll_own(cx) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(took));
        }
        if std::mem::take(&mut self.open) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PULSE), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.echo = Some(echo_one(stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.stream = Some(stream);
                if matches!(self.own, Own::Opening) && self.wait.is_some() {
                    self.send();
                    if let Some(wait) = &mut self.wait {
                        wait.over_old = false;
                    }
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                error: StreamUpgradeError::NegotiationFailed,
                ..
            }) => {
                if matches!(self.own, Own::Opening) {
                    self.own = Own::Refused;
                }
            }
            _ => {}
        }
    }
}

/// Sends a beat, and reads it back.
async fn ask(mut stream: Stream, wide: bool) -> io::Result<Stream> {
    let length = if wide { WIDE } else { NARROW };
    let mut message = length.to_be_bytes().to_vec();
    message.resize(message.len() + usize::from(length), rand::random());
    stream.write_all(&message).await?;
    stream.flush().await?;
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).await?;
    match back == message {
        true => Ok(stream),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends one beat of the other side back.
async fn echo_one(mut stream: Stream) -> io::Result<Stream> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let count = u16::from_be_bytes(length);
    if count > ECHO_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; count.into()];
    stream.read_exact(&mut bytes).await?;
    stream.write_all(&length).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(stream)
}
