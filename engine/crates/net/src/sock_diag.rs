//! Single TCP sockets of a namespace, over netlink (`sock_diag(7)`): how much they have carried, and ending them.
//!
//! A socket is named by its addresses and its cookie, so that one that has taken over the addresses is left alone. The
//! kernel answers within the system call. Numbers are those of `linux/sock_diag.h` and `linux/inet_diag.h`.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

const NETLINK_SOCK_DIAG: i32 = 4;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const ALL_STATES: u32 = u32::MAX;
/// The extension `INET_DIAG_INFO`, and its bit in a request.
const INFO: u16 = 2;
const INFO_BIT: u8 = 1 << (INFO - 1);

/// Of a netlink message, and of `struct inet_diag_msg` behind it.
const HEADER: usize = 16;
const ANSWER: usize = 72;
/// Offsets in `struct tcp_info`.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's.
    pub remote: SocketAddr,
    /// Its cookie (`SO_COOKIE`); 0 where it is not known.
    pub cookie: u64,
}

/// Bytes that a socket has carried, without the SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// What its peer has acknowledged.
    pub sent: u64,
    /// What has come from its peer.
    pub received: u64,
}

/// A netlink socket of one namespace.
#[derive(Debug)]
pub struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// Open it in a namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(namespace: &Netns, home: &Netns) -> io::Result<Self> {
        let socket = namespace.run(home, || {
            Socket::new(
                Domain::from(libc::AF_NETLINK),
                Type::RAW.nonblocking(),
                Some(Protocol::from(NETLINK_SOCK_DIAG)),
            )
        })?;
        Ok(Self { socket })
    }

    /// End a socket: its owner gets `ECONNABORTED`, its peer a reset.
    ///
    /// # Errors
    /// `NotFound` where it is gone; `PermissionDenied` without `CAP_NET_ADMIN`; `Unsupported` where the kernel cannot.
    pub fn destroy(&self, one: &TcpSocket) -> io::Result<()> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, one).map(drop)
    }

    /// What a socket has carried so far.
    ///
    /// # Errors
    /// `NotFound` where it is gone.
    pub fn carried(&self, one: &TcpSocket) -> io::Result<Carried> {
        let answer = self.ask(SOCK_DIAG_BY_FAMILY, 0, one)?;
        let info = attribute(answer.get(HEADER + ANSWER..).unwrap_or_default(), INFO).unwrap_or_default();
        let number = |at: usize| info.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
        match (number(BYTES_ACKED), number(BYTES_RECEIVED)) {
            (Some(acked), Some(received)) => Ok(Carried { sent: acked.saturating_sub(1), received }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask(&self, kind: u16, flags: u16, one: &TcpSocket) -> io::Result<Vec<u8>> {
        self.socket.send(&request(kind, flags, one))?;
        let mut buffer = vec![0; 4096];
        let length = (&self.socket).read(&mut buffer)?;
        buffer.truncate(length);
        match error_of(&buffer) {
            Some(0) | None => Ok(buffer),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

/// A header and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, one: &TcpSocket) -> Vec<u8> {
    let family = if one.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    message.extend([byte(family), byte(libc::IPPROTO_TCP), INFO_BIT, 0]);
    message.extend(ALL_STATES.to_ne_bytes());
    message.extend(one.local.port().to_be_bytes());
    message.extend(one.remote.port().to_be_bytes());
    message.extend(octets(one.local.ip()));
    message.extend(octets(one.remote.ip()));
    message.extend([0; 4]); // any link
    let cookie = if one.cookie == 0 { u64::MAX } else { one.cookie };
    message.extend(u32::try_from(cookie & u64::from(u32::MAX)).unwrap_or_default().to_ne_bytes());
    message.extend(u32::try_from(cookie >> 32).unwrap_or_default().to_ne_bytes());
    let length = u32::try_from(message.len()).unwrap_or_default().to_ne_bytes();
    message.splice(..4, length);
    message
}

fn octets(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    bytes
}

/// The code of a message `NLMSG_ERROR`.
fn error_of(message: &[u8]) -> Option<i32> {
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes)?;
    if i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    message.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes)
}

/// The value of an attribute among others.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_tells_what_it_has_carried_and_can_be_named_without_its_cookie() {
        let home = Netns::current().unwrap();
        let diag = SockDiag::open(&home, &home).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).unwrap();
        let one = TcpSocket { local: client.local_addr().unwrap(), remote: client.peer_addr().unwrap(), cookie: 0 };
        assert_eq!(diag.carried(&one).unwrap(), Carried { sent: 5, received: 0 });
        let other = TcpSocket { cookie: 1, ..one };
        assert!(diag.carried(&other).is_err(), "another socket's cookie");
        drop((client, server, listener));
    }
}
