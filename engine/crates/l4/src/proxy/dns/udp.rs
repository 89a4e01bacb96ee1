//! Queries in datagrams.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use culvert_dns::Transport;
use culvert_runtime::budget;
use culvert_worker::{OpenListener, Phase};
use tokio::net::UdpSocket;

use super::answer::answer;
use super::pending::Dns;
use crate::proxy::pod::Pod;

/// The longest query that is read; what is longer is cut and then malformed.
const LONGEST: usize = 4096;

/// No peer ever sends from it (RFC 863).
const DISCARD: u16 = 9;

/// A datagram whose socket the kernel has chosen is in that socket's queue after so long.
const DELIVERY: Duration = Duration::from_millis(50);

type Received = io::Result<(Vec<u8>, SocketAddr)>;

/// A socket, and what counts it for as long as an answer may have to leave through it.
struct Port {
    socket: UdpSocket,
    local: SocketAddr,
    _open: OpenListener,
}

/// Serve until the pod drains.
pub(crate) async fn serve(pod: Rc<Pod>, dns: Rc<Dns>, socket: UdpSocket, open: OpenListener) {
    let Ok(local) = socket.local_addr() else { return };
    let port = Rc::new(Port { socket, local, _open: open });
    loop {
        let received = tokio::select! {
            biased;
            received = next(&port.socket) => received,
            () = pod.reached(Phase::Draining) => break,
        };
        take(&pod, &dns, &port, received).await;
    }
    // Another engine shares the port. The kernel gives what is new to sockets without a peer only, so one that has a
    // peer (who never speaks) is left with what it has, and answers can still leave through it.
    if port.socket.connect(SocketAddr::new(local.ip(), DISCARD)).await.is_ok() {
        for wait in [Duration::ZERO, DELIVERY] {
            tokio::time::sleep(wait).await;
            while let Some(received) = left_over(&port.socket) {
                take(&pod, &dns, &port, received).await;
            }
        }
    }
}

/// Wait for a query. Holds no buffer meanwhile: most pods query rarely.
async fn next(socket: &UdpSocket) -> Received {
    loop {
        poll_fn(budget::poll_proceed).await;
        socket.readable().await?;
        if let Some(received) = try_next(socket) {
            return received;
        }
    }
}

/// A query that is there already.
fn try_next(socket: &UdpSocket) -> Option<Received> {
    read(|buffer| socket.try_recv_from(buffer))
}

/// The same, read from the kernel: the runtime knows only the readiness of its last poll.
fn left_over(socket: &UdpSocket) -> Option<Received> {
    let same = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned().ok()?);
    read(|buffer| same.recv_from(buffer))
}

fn read(receive: impl FnOnce(&mut [u8]) -> io::Result<(usize, SocketAddr)>) -> Option<Received> {
    let mut buffer = [0; LONGEST];
    match receive(&mut buffer) {
        Ok((length, client)) => Some(Ok((buffer.get(..length).unwrap_or_default().to_vec(), client))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(error)),
    }
}

/// Answer a query in a task of its own.
async fn take(pod: &Rc<Pod>, dns: &Rc<Dns>, port: &Rc<Port>, received: Received) {
    let Ok((packet, client)) = received else {
        // An earlier answer had no receiver, or memory is short: continue, but do not spin.
        return tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let (pod, dns, port) = (pod.clone(), dns.clone(), port.clone());
    culvert_runtime::spawn(async move {
        let answered = tokio::select! {
            answered = answer(&pod, &dns, &packet, Transport::Udp, || dns.resolver(client, port.local)) => answered,
            () = pod.reached(Phase::Stopped) => None,
        };
        if let Some(bytes) = answered {
            // A client that has gone needs no answer.
            let _ = port.socket.send_to(&bytes, client).await;
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[tokio::test]
    async fn what_came_since_the_runtime_looked_is_left_over() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(try_next(&socket).is_none());
        client.send_to(b"query", socket.local_addr().unwrap()).unwrap();
        assert!(try_next(&socket).is_none(), "the runtime has not looked again");
        let (query, from) = left_over(&socket).unwrap().unwrap();
        assert_eq!((&query[..], from), (&b"query"[..], client.local_addr().unwrap()));
        assert!(left_over(&socket).is_none());
    }
}
