//! The guard of a captured pod; what it does stands in `bpf/guard.bpf.c`.

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::HashMap;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};

/// How packets are told apart.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// Mark of the tunnel's own.
    pub tunnel_mark: u32,
    /// Bits of it that count.
    pub tunnel_mark_mask: u32,
    /// Mark of what the rules have seen and let pass: one of these bits.
    pub passed_mark: u32,
    /// Where the tunnel listens for redirected connections, outbound and inbound.
    pub redirect_ports: (u16, u16),
}

/// A connection that is older than the guard, and may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Older {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end, as the pod sees it.
    pub remote: SocketAddr,
    /// Its handshake is over.
    pub open: bool,
}

/// The kernel does not take the program.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not load the guard: {0}")]
pub struct LoadError(String);

/// Load the guard's program for one pod. It lives as long as its descriptor or as it is attached.
///
/// # Errors
/// The kernel lacks something, or does not allow it (`CAP_BPF` and `CAP_NET_ADMIN`, or `CAP_SYS_ADMIN`).
pub fn load(signs: Signs, older: &[Older]) -> Result<OwnedFd, LoadError> {
    let room = u32::try_from(older.len().max(1)).map_err(failed)?;
    let mut object = EbpfLoader::new()
        .btf(None) // nothing here depends on the kernel's
        .set_global("tunnel_mark", &signs.tunnel_mark, true)
        .set_global("tunnel_mark_mask", &signs.tunnel_mark_mask, true)
        .set_global("passed_mark", &signs.passed_mark, true)
        .set_global("outbound_port", &signs.redirect_ports.0, true)
        .set_global("inbound_port", &signs.redirect_ports.1, true)
        .set_max_entries("older", room)
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o")))
        .map_err(failed)?;
    remember(&mut object, older)?;
    let program: &mut SchedClassifier = object.program_mut("guard").ok_or_else(missing)?.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    program.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(failed)
}

fn remember(object: &mut Ebpf, older: &[Older]) -> Result<(), LoadError> {
    let map = object.map_mut("older").ok_or_else(missing)?;
    let mut map: HashMap<_, Connection, u32> = map.try_into().map_err(failed)?;
    for one in older {
        map.insert(Connection::from(one), u32::from(one.open), 0).map_err(failed)?;
    }
    Ok(())
}

/// `struct connection` of `bpf/include/guard.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Connection {
    local: [u8; 16],
    remote: [u8; 16],
    ports: [[u8; 2]; 2],
}

// The header says the same of its struct; that the sizes agree, the loader finds out.
const _: () = assert!(size_of::<Connection>() == 36 && offset_of!(Connection, ports) == 32);

// SAFETY: only bytes, no padding.
unsafe impl Pod for Connection {}

impl From<&Older> for Connection {
    fn from(one: &Older) -> Self {
        Self {
            local: mapped(one.local.ip()),
            remote: mapped(one.remote.ip()),
            ports: [one.local.port().to_be_bytes(), one.remote.port().to_be_bytes()],
        }
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The reason that the kernel gave is the innermost; what is around it says where it was met.
fn failed(error: impl std::error::Error) -> LoadError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    LoadError(text)
}

fn missing() -> LoadError {
    failed(io::Error::other("the object has no such part"))
}
