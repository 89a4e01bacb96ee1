//! Queries in datagrams.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use culvert_dns::Transport;
use tokio::net::UdpSocket;

use super::{Dns, PATIENCE, answer};
use crate::proxy::pod::{OpenListener, Phase, Pod};

/// The longest query that is read; what is longer is cut and then malformed.
const LONGEST: usize = 4096;

type Received = io::Result<(Vec<u8>, SocketAddr)>;

/// Serve until the pod drains.
pub(crate) async fn serve(pod: Rc<Pod>, dns: Rc<Dns>, socket: UdpSocket, open: OpenListener) {
    let Ok(local) = socket.local_addr() else { return };
    let socket = Rc::new(socket);
    loop {
        let received = tokio::select! {
            biased;
            received = next(&socket) => received,
            () = pod.reached(Phase::Draining) => break,
        };
        take(&pod, &dns, &socket, local, received).await;
    }
    // Another engine shares the port, but what the kernel has put into this socket is this one's, and so is the socket
    // for as long as a query waits for its answer. It is given up at the first moment in which none does.
    let ended = async {
        while !dns.is_idle() {
            let received = tokio::select! {
                biased;
                received = next(&socket) => received,
                () = tokio::time::sleep(Duration::from_millis(10)) => continue,
            };
            take(&pod, &dns, &socket, local, received).await;
        }
    };
    // Whichever comes first.
    let _ = tokio::time::timeout(PATIENCE, ended).await;
    while let Some(received) = try_next(&socket) {
        take(&pod, &dns, &socket, local, received).await;
    }
    drop(socket);
    drop(open);
}

/// Wait for a query. Nothing is held meanwhile: most pods ask seldom.
async fn next(socket: &UdpSocket) -> Received {
    loop {
        socket.readable().await?;
        if let Some(received) = try_next(socket) {
            return received;
        }
    }
}

/// A query that is there already.
fn try_next(socket: &UdpSocket) -> Option<Received> {
    let mut buffer = [0; LONGEST];
    match socket.try_recv_from(&mut buffer) {
        Ok((length, client)) => Some(Ok((buffer.get(..length).unwrap_or_default().to_vec(), client))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(error)),
    }
}

/// Answer a query in a task of its own.
async fn take(pod: &Rc<Pod>, dns: &Rc<Dns>, socket: &Rc<UdpSocket>, local: SocketAddr, received: Received) {
    let Ok((packet, client)) = received else {
        // An earlier answer found nobody, or memory is short: nothing to do but to go on, though not in a spin.
        return tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let (pod, dns, socket) = (pod.clone(), dns.clone(), socket.clone());
    tokio::task::spawn_local(async move {
        let answered = tokio::select! {
            answered = answer(&pod, &dns, &packet, Transport::Udp, || dns.resolver(client, local)) => answered,
            () = pod.reached(Phase::Stopped) => None,
        };
        if let Some(bytes) = answered {
            // A client that has gone needs no answer.
            let _ = socket.send_to(&bytes, client).await;
        }
    });
}
