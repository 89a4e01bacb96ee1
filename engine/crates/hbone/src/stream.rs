//! Carrying one user connection over one stream.
//!
//! Each direction ends on its own: an end of the application's input becomes END_STREAM, an END_STREAM becomes a
//! shutdown of the application's socket. An abort of one side becomes an abort of the other, never an orderly end.
//! Backpressure is per stream: window is returned only when the application has taken the bytes.

use std::future::poll_fn;

use bytes::Bytes;
use culvert_net::copy;
use h2::{Reason, RecvStream, SendStream};
use tokio::net::TcpStream;

use crate::Error;

/// The tunnel's side of a user connection. Dropped before both directions have ended, it is aborted: the peer sees a
/// reset, not an end.
#[derive(Debug)]
pub struct TunnelStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    ended: bool,
}

impl TunnelStream {
    pub(crate) const fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, ended: false }
    }

    /// Copy both ways until both directions have ended.
    ///
    /// `to_tunnel` and `from_tunnel` count bytes while they move.
    ///
    /// # Errors
    /// The first failure of either side; both are then aborted.
    pub async fn carry(
        mut self,
        application: &TcpStream,
        to_tunnel: impl Fn(u64),
        from_tunnel: impl Fn(u64),
    ) -> Result<(), Error> {
        let result = tokio::try_join!(
            upload(application, &mut self.send, to_tunnel),
            download(&mut self.receive, application, from_tunnel)
        );
        self.ended = result.is_ok();
        if result.is_err() {
            copy::reset_on_drop(application);
        }
        result.map(|_| ())
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

async fn upload(application: &TcpStream, send: &mut SendStream<Bytes>, count: impl Fn(u64)) -> Result<(), Error> {
    let mut carried = 0u64;
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = copy::read(application, carried) => chunk.map_err(Error::Application)?,
            reset = poll_fn(|context| send.poll_reset(context)) => return peer_stopped(reset),
        };
        let length = chunk.len() as u64;
        if length == 0 {
            send.send_data(Bytes::new(), true)?;
            return Ok(());
        }
        let mut chunk = chunk.freeze();
        while !chunk.is_empty() {
            let granted = match capacity(send, chunk.len()).await {
                Ok(granted) => granted,
                Err(error) => return peer_stopped(Err(error)),
            };
            send.send_data(chunk.split_to(granted.min(chunk.len())), false)?;
        }
        carried += length;
        count(length);
    }
}

/// Wait until the peer's window and our own buffer take some bytes; at least one.
async fn capacity(send: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, h2::Error> {
    send.reserve_capacity(wanted);
    // `poll_capacity` tells of growth only, so what stands already must be asked for first.
    while send.capacity() == 0 {
        match poll_fn(|context| send.poll_capacity(context)).await {
            Some(granted) => granted?,
            None => return Err(Reason::CANCEL.into()),
        };
    }
    Ok(send.capacity())
}

/// The peer wants no more bytes. With NO_ERROR or CANCEL that is an end, as at Istio's ztunnel; else an abort.
fn peer_stopped(reset: Result<Reason, h2::Error>) -> Result<(), Error> {
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

async fn download(receive: &mut RecvStream, application: &TcpStream, count: impl Fn(u64)) -> Result<(), Error> {
    while let Some(chunk) = receive.data().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                peer_stopped(Err(error))?;
                break;
            }
        };
        copy::write_all(application, &chunk).await.map_err(Error::Application)?;
        receive.flow_control().release_capacity(chunk.len())?;
        count(chunk.len() as u64);
    }
    copy::shutdown_write(application).map_err(Error::Application)
}
