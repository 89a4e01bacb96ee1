//! Queries a resolver from the pod's own namespace, so that it sees the pod as its client.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use culvert_dns::{Transport, is_answer_to, rewrite_id};
use culvert_net::dns::unguessable;
use culvert_net::socket::ConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use crate::proxy::pod::Pod;

/// A datagram that got lost is sent again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(1500);

/// Send `query` to `server` and return its answer, byte by byte, under the query's identifier.
pub(super) async fn query(
    pod: &Pod,
    server: SocketAddr,
    transport: Transport,
    query: &[u8],
    timeout: Duration,
) -> io::Result<Vec<u8>> {
    let (first, second) = (query.first().copied().unwrap_or_default(), query.get(1).copied().unwrap_or_default());
    let mut sent = query.to_vec();
    rewrite_id(&mut sent, unguessable());
    let deadline = Instant::now() + timeout;
    let mut response = match transport {
        Transport::Udp => {
            let socket = pod.sockets.datagrams_to(&pod.context.home, server)?;
            by_datagram(&socket, &sent, deadline).await?
        }
        Transport::Tcp => {
            let options = ConnectOptions { timeout, ..pod.connect_options() };
            let stream = pod.connect(server, options).await?;
            timeout_at(deadline, by_stream(stream, &sent)).await.map_err(|_| silent())??
        }
    };
    rewrite_id(&mut response, u16::from_be_bytes([first, second]));
    Ok(response)
}

async fn by_datagram(socket: &UdpSocket, query: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    loop {
        socket.send(query).await?;
        let until = deadline.min(Instant::now() + AGAIN_AFTER);
        match timeout_at(until, receive(socket, query)).await {
            Ok(answer) => return answer,
            Err(_) if Instant::now() < deadline => {}
            Err(_) => return Err(silent()),
        }
    }
}

/// The first datagram that answers the query; others may be forged.
async fn receive(socket: &UdpSocket, query: &[u8]) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        // Made only now: queries that wait hold no buffer.
        let mut response = Vec::with_capacity(usize::from(u16::MAX));
        match socket.try_recv_buf(&mut response) {
            Ok(_) => {
                if is_answer_to(query, &response) {
                    response.shrink_to_fit();
                    return Ok(response);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn by_stream(mut stream: TcpStream, query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(query);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    if is_answer_to(query, &response) {
        Ok(response)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the resolver answered another question"))
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the resolver is silent")
}
