//! Carrying one user connection over one stream.
//!
//! Each direction ends on its own: an end of the application's input becomes END_STREAM, an END_STREAM becomes a
//! shutdown of the application's socket. An abort of one side becomes an abort of the other, never an orderly end.
//! Backpressure is per stream: window is returned only when the application has consumed the bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use culvert_net::copy;
use culvert_net::memory_budget::MemoryBudget;
use culvert_net::transfer::TransferCounter;
use h2::{Reason, RecvStream, SendStream};
use tokio::net::TcpStream;

use crate::Error;
use crate::window::{Stalled, TunnelWindow};

/// The tunnel's side of a user connection. Dropping it before both directions have ended aborts it: the peer sees a reset,
/// not an end.
#[derive(Debug)]
pub struct TunnelStream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
    pub(crate) window: Rc<TunnelWindow>,
    /// Both directions have ended in order.
    pub(crate) ended: bool,
}

impl TunnelStream {
    pub(crate) const fn new(send: SendStream<Bytes>, receive: RecvStream, window: Rc<TunnelWindow>) -> Self {
        Self { send, receive, window, ended: false }
    }

    /// Carry a connection whose client is `client`, a socket, and whose destination is at the other end of the stream.
    ///
    /// Copies both ways until both directions have ended. Large reads are reserved from `memory`; `transfer` counts bytes
    /// while they move. Dropping the future early, or an error, aborts both sides.
    ///
    /// # Errors
    /// The first failure of either side; [`Error::Revoked`] or [`Error::RootRemoved`] where the tunnel was closed for
    /// that.
    pub fn carry_from_client(
        self,
        client: &TcpStream,
        memory: &Arc<MemoryBudget>,
        transfer: &impl TransferCounter,
    ) -> impl Future<Output = Result<(), Error>> {
        self.carry(client, memory, |bytes| transfer.to_destination(bytes), |bytes| transfer.to_client(bytes))
    }

    /// As [`TunnelStream::carry_from_client`], where `destination` is the socket and the client is at the other end of the
    /// stream.
    ///
    /// # Errors
    /// As there.
    pub fn carry_to_destination(
        self,
        destination: &TcpStream,
        memory: &Arc<MemoryBudget>,
        transfer: &impl TransferCounter,
    ) -> impl Future<Output = Result<(), Error>> {
        self.carry(destination, memory, |bytes| transfer.to_client(bytes), |bytes| transfer.to_destination(bytes))
    }

    fn carry(
        mut self,
        application: &TcpStream,
        memory: &Arc<MemoryBudget>,
        to_tunnel: impl Fn(u64),
        from_tunnel: impl Fn(u64),
    ) -> impl Future<Output = Result<(), Error>> {
        let mut guard = Some(copy::ResetUnlessEnded::new(application));
        let (mut up, mut down) = (Upload::default(), Download::default());
        poll_fn(move |context| {
            if let Some(untrusted) = self.window.untrusted() {
                return Poll::Ready(Err(untrusted.into()));
            }
            let downloaded = down.poll(&mut self.receive, application, &self.window, &from_tunnel, context)?;
            let uploaded = up.poll(application, &mut self.send, memory, &to_tunnel, down.listens(), context)?;
            if downloaded.is_pending() || uploaded.is_pending() {
                return Poll::Pending;
            }
            self.ended = true;
            if let Some(guard) = guard.take() {
                guard.ended();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

/// From the application into the tunnel.
#[derive(Debug, Default)]
struct Upload {
    chunk: Bytes,
    carried: u64,
    ended: bool,
}

impl Upload {
    /// `reset_wakes`: a reset wakes the task in any case.
    fn poll(
        &mut self,
        application: &TcpStream,
        send: &mut SendStream<Bytes>,
        memory: &Arc<MemoryBudget>,
        count: &impl Fn(u64),
        reset_wakes: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        while !self.ended {
            if self.chunk.is_empty() {
                match copy::poll_read(application, self.carried, memory, context) {
                    Poll::Ready(chunk) => self.chunk = chunk.map_err(Error::Application)?,
                    Poll::Pending => {
                        peer_stopped(ready!(poll_reset(send, reset_wakes, context)))?;
                        self.ended = true;
                        break;
                    }
                }
                if self.chunk.is_empty() {
                    send.send_data(Bytes::new(), true)?;
                    self.ended = true;
                    break;
                }
            }
            match ready!(poll_capacity(send, self.chunk.len(), context)) {
                Ok(granted) => {
                    let part = self.chunk.split_to(granted.min(self.chunk.len()));
                    let length = part.len() as u64;
                    send.send_data(part, false)?;
                    self.carried += length;
                    count(length);
                }
                Err(error) => {
                    peer_stopped(Err(error))?;
                    self.chunk = Bytes::new();
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Wait until the peer's window and our own buffer take some bytes; at least one.
pub(crate) fn poll_capacity(
    send: &mut SendStream<Bytes>,
    wanted: usize,
    context: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    send.reserve_capacity(wanted);
    // `poll_capacity` reports growth only, so existing capacity must be read first.
    while send.capacity() == 0 {
        match ready!(send.poll_capacity(context)) {
            Some(granted) => granted?,
            None => return Poll::Ready(Err(Reason::CANCEL.into())),
        };
    }
    Poll::Ready(Ok(send.capacity()))
}

/// Wait until the peer wants no more bytes.
fn poll_reset(
    send: &mut SendStream<Bytes>,
    reset_wakes: bool,
    context: &mut Context<'_>,
) -> Poll<Result<Reason, h2::Error>> {
    if reset_wakes {
        // Who waits for a reset here is woken for each frame that is sent, too.
        send.poll_reset(&mut Context::from_waker(Waker::noop()))
    } else {
        send.poll_reset(context)
    }
}

/// The peer wants no more bytes. With NO_ERROR or CANCEL that is an end, as at Istio's ztunnel; else an abort.
pub(crate) fn peer_stopped(reset: Result<Reason, h2::Error>) -> Result<(), Error> {
    let reason = match &reset {
        Ok(reason) => Some(*reason),
        Err(error) => error.reason(),
    };
    match (reason, reset) {
        (Some(Reason::NO_ERROR | Reason::CANCEL), _) => Ok(()),
        (_, Ok(reason)) => Err(h2::Error::from(reason).into()),
        (_, Err(error)) => Err(error.into()),
    }
}

/// From the tunnel to the application.
#[derive(Debug, Default)]
struct Download {
    chunk: Bytes,
    /// Bytes of window that the chunk has taken.
    length: usize,
    stalled: Option<Stalled>,
    ended: bool,
}

impl Download {
    /// Whether it waits for bytes of the peer's, and so is woken by a reset.
    const fn listens(&self) -> bool {
        !self.ended && self.length == 0
    }

    fn poll(
        &mut self,
        receive: &mut RecvStream,
        application: &TcpStream,
        window: &Rc<TunnelWindow>,
        count: &impl Fn(u64),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        while !self.ended {
            if self.length == 0 {
                match ready!(receive.poll_data(context)) {
                    Some(Ok(chunk)) => (self.length, self.chunk) = (chunk.len(), chunk),
                    end => {
                        if let Some(Err(error)) = end {
                            peer_stopped(Err(error))?;
                        }
                        copy::shutdown_write(application).map_err(Error::Application)?;
                        self.ended = true;
                        break;
                    }
                }
            }
            let Poll::Ready(written) = copy::poll_write_all(application, &mut self.chunk, context) else {
                self.stalled.get_or_insert_with(|| window.stall());
                return Poll::Pending;
            };
            self.stalled = None;
            written.map_err(Error::Application)?;
            receive.flow_control().release_capacity(self.length)?;
            window.add_consumed(self.length);
            count(self.length as u64);
            (self.length, self.chunk) = (0, Bytes::new());
        }
        Poll::Ready(Ok(()))
    }
}
