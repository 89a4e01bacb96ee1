//! The original destination of a redirected datagram, read from connection tracking over netlink.
//!
//! `SO_ORIGINAL_DST` exists for TCP only. The entry is found by what the proxy sees (its reply's way); the kernel
//! answers within the system call, so nothing blocks. Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::socket::SocketFactory;

const NETLINK_NETFILTER: i32 = 12;
const NLM_F_REQUEST: u16 = 1;
const CONNTRACK_NEW: u16 = 0x0100;
const CONNTRACK_GET: u16 = 0x0101;
const NESTED: u16 = 0x8000;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// Of a netlink message, then of the netfilter part behind it.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// A netlink socket of one namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Open it in the factory's namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(sockets: &SocketFactory, home: &Netns) -> io::Result<Self> {
        let socket = sockets.run(home, || {
            Socket::new(
                Domain::from(libc::AF_NETLINK),
                Type::RAW.nonblocking(),
                Some(Protocol::from(NETLINK_NETFILTER)),
            )
        })?;
        Ok(Self { socket })
    }

    /// Where a datagram was going that came from `client` and was redirected to `local`.
    ///
    /// # Errors
    /// `NotFound` where the kernel knows of no such datagram, or it was not redirected; `PermissionDenied` without
    /// `CAP_NET_ADMIN`.
    pub fn original_destination(&self, client: SocketAddr, local: SocketAddr) -> io::Result<SocketAddr> {
        self.socket.send(&request(client, local))?;
        let mut buffer = [0; 4096];
        let length = (&self.socket).read(&mut buffer)?;
        let found = parse(buffer.get(..length).unwrap_or_default())?;
        if found == local { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }
}

fn request(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (family, first) = if local.is_ipv4() { (libc::AF_INET, 1) } else { (libc::AF_INET6, 3) };
    let mut addresses = Vec::new();
    put(&mut addresses, first, &octets(local.ip()));
    put(&mut addresses, first + 1, &octets(client.ip()));
    let mut protocol = Vec::new();
    put(&mut protocol, PROTOCOL_NUMBER, &[u8::try_from(libc::IPPROTO_UDP).unwrap_or(17)]);
    put(&mut protocol, PROTOCOL_SOURCE_PORT, &local.port().to_be_bytes());
    put(&mut protocol, PROTOCOL_DESTINATION_PORT, &client.port().to_be_bytes());
    let mut tuple = Vec::new();
    put(&mut tuple, TUPLE_IP | NESTED, &addresses);
    put(&mut tuple, TUPLE_PROTOCOL | NESTED, &protocol);

    let mut message = vec![0; 4];
    message.extend(CONNTRACK_GET.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([u8::try_from(family).unwrap_or_default(), 0, 0, 0]);
    put(&mut message, TUPLE_REPLY | NESTED, &tuple);
    let length = u32::try_from(message.len()).unwrap_or_default().to_ne_bytes();
    message.splice(..4, length);
    message
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Add an attribute: length, kind, value, and what fills it up to a multiple of four.
fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(u16::try_from(value.len() + 4).unwrap_or_default().to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The value of an attribute among others.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn parse(message: &[u8]) -> io::Result<SocketAddr> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "connection tracking answered nonsense");
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(CONNTRACK_NEW) {
        let attributes = message.get(HEADER + NETFILTER_HEADER..).unwrap_or_default();
        return destination(attributes).ok_or_else(unreadable);
    }
    let error = message.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    Err(error.filter(|code| *code < 0).map_or_else(unreadable, |code| io::Error::from_raw_os_error(-code)))
}

fn destination(attributes: &[u8]) -> Option<SocketAddr> {
    let tuple = attribute(attributes, TUPLE_ORIGINAL)?;
    let addresses = attribute(tuple, TUPLE_IP)?;
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(attribute(addresses, 2)?).ok()?));
    let v6 = || Some(IpAddr::from(<[u8; 16]>::try_from(attribute(addresses, 4)?).ok()?));
    let port = attribute(attribute(tuple, TUPLE_PROTOCOL)?, PROTOCOL_DESTINATION_PORT)?;
    Some(SocketAddr::new(v4().or_else(v6)?, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn answer(first: u16, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let (mut addresses, mut protocol, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        put(&mut addresses, first, source);
        put(&mut addresses, first + 1, destination);
        put(&mut protocol, PROTOCOL_NUMBER, &[17]);
        put(&mut protocol, PROTOCOL_SOURCE_PORT, &40_000_u16.to_be_bytes());
        put(&mut protocol, PROTOCOL_DESTINATION_PORT, &53_u16.to_be_bytes());
        put(&mut tuple, TUPLE_IP | NESTED, &addresses);
        put(&mut tuple, TUPLE_PROTOCOL | NESTED, &protocol);
        let mut message = vec![0; HEADER + NETFILTER_HEADER];
        message.splice(4..6, CONNTRACK_NEW.to_ne_bytes());
        put(&mut message, 7, &[1, 2, 3]);
        put(&mut message, TUPLE_ORIGINAL | NESTED, &tuple);
        message
    }

    #[test]
    fn the_original_destination_is_read_from_any_place() {
        let v4 = parse(&answer(1, &[10, 0, 0, 1], &[10, 96, 0, 10])).unwrap();
        assert_eq!(v4.to_string(), "10.96.0.10:53");
        let v6 = parse(&answer(3, &[1; 16], &[0xFD; 16])).unwrap();
        assert_eq!(v6.to_string(), "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:53");
    }

    #[test]
    fn errors_are_the_kernels_and_cut_answers_are_refused() {
        let mut refused = vec![0; HEADER];
        refused.splice(4..6, 2_u16.to_ne_bytes());
        refused.extend((-libc::ENOENT).to_ne_bytes());
        assert_eq!(parse(&refused).unwrap_err().kind(), io::ErrorKind::NotFound);
        let whole = answer(1, &[10, 0, 0, 1], &[10, 96, 0, 10]);
        for length in 0..whole.len() {
            assert!(parse(whole.get(..length).unwrap()).is_err(), "{length}");
        }
    }
}
