//! Queries over TCP: several on one connection, answered as each is ready (RFC 7766).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use culvert_dns::Transport;
use culvert_net::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::answer::answer;
use super::pending::Dns;
use crate::proxy::pod::{ConnectionPermit, Pod};

/// Queries of one connection that are answered at a time; further ones are not read.
const AT_ONCE: u32 = 16;

/// A connection without a query is closed after this.
const IDLE: Duration = Duration::from_secs(30);

/// Serve one connection to its end, in a task of its own.
pub(crate) fn begin(pod: Rc<Pod>, permit: ConnectionPermit, stream: TcpStream, _client: SocketAddr) {
    let Some(dns) = pod.dns.clone() else { return };
    let serving = Box::pin(serve(pod.clone(), dns, stream));
    pod.spawn(async move {
        serving.await;
        drop(permit);
    });
}

async fn serve(pod: Rc<Pod>, dns: Rc<Dns>, stream: TcpStream) {
    let resolver = stream
        .local_addr()
        .ok()
        .map(socket::canonical)
        .and_then(|local| socket::original_destination(&stream, local).ok().filter(|original| *original != local));
    let (mut reader, writer) = stream.into_split();
    let writer = Rc::new(Mutex::new(writer));
    let permits = Arc::new(Semaphore::new(AT_ONCE as usize));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let Some(packet) = read(&mut reader).await else { break };
        let (owner, dns, writer) = (pod.clone(), dns.clone(), writer.clone());
        let answering = Box::pin(async move {
            let _permit = permit;
            if let Some(bytes) = answer(&owner, &dns, &packet, Transport::Tcp, || resolver).await {
                write(&writer, &bytes).await;
            }
        });
        pod.spawn(answering);
    }
    // A client may close its side and wait for pending answers. The semaphore is never closed.
    let _ = permits.acquire_many(AT_ONCE).await;
}

async fn read(reader: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let message = async {
        let length = reader.read_u16().await.ok()?;
        let mut packet = vec![0; usize::from(length)];
        reader.read_exact(&mut packet).await.ok()?;
        Some(packet)
    };
    timeout(IDLE, message).await.ok().flatten()
}

/// A client that does not read is given up with its connection's end.
async fn write(writer: &Mutex<OwnedWriteHalf>, bytes: &[u8]) {
    let Ok(length) = u16::try_from(bytes.len()) else { return };
    let mut message = length.to_be_bytes().to_vec();
    message.extend(bytes);
    let _ = timeout(IDLE, async { writer.lock().await.write_all(&message).await }).await;
}
