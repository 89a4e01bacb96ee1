//! Loads the guard program of a captured pod (`bpf/guard.bpf.c`).

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::HashMap;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};

/// Constants that the program is loaded with.
#[derive(Debug, Clone, Copy)]
pub struct GuardConfig {
    /// Packet mark of the tunnel's own sockets.
    pub tunnel_mark: u32,
    /// Bits of that mark that are compared.
    pub tunnel_mark_mask: u32,
    /// Packet mark that the capture rules set on what they pass: any of these bits.
    pub passed_mark: u32,
    /// Ports on which the tunnel accepts redirected connections: outbound, inbound. Host order.
    pub redirect_ports: (u16, u16),
}

/// A connection that was established before the guard was attached, and is exempt from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreexistingConnection {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end, as the pod sees it.
    pub remote: SocketAddr,
    /// Whether its handshake is complete.
    pub open: bool,
}

/// The kernel refused the program.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not load the guard: {0}")]
pub struct LoadError(String);

/// Load the guard program for one pod. It lives while its descriptor is open or it is attached.
///
/// # Errors
/// The kernel lacks a feature, or the process lacks `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`).
pub fn load(config: GuardConfig, preexisting: &[PreexistingConnection]) -> Result<OwnedFd, LoadError> {
    let max_entries = u32::try_from(preexisting.len().max(1)).map_err(failed)?;
    let mut object = EbpfLoader::new()
        .btf(None) // nothing here depends on the kernel's
        .set_global("tunnel_mark", &config.tunnel_mark, true)
        .set_global("tunnel_mark_mask", &config.tunnel_mark_mask, true)
        .set_global("passed_mark", &config.passed_mark, true)
        .set_global("outbound_port", &config.redirect_ports.0, true)
        .set_global("inbound_port", &config.redirect_ports.1, true)
        .set_max_entries("cv_preexisting", max_entries)
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o")))
        .map_err(failed)?;
    fill(&mut object, preexisting)?;
    let program: &mut SchedClassifier = object.program_mut("guard").ok_or_else(missing)?.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    program.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(failed)
}

fn fill(object: &mut Ebpf, preexisting: &[PreexistingConnection]) -> Result<(), LoadError> {
    let map = object.map_mut("cv_preexisting").ok_or_else(missing)?;
    let mut map: HashMap<_, Connection, u32> = map.try_into().map_err(failed)?;
    for one in preexisting {
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

// The header asserts the same of its struct; the loader refuses another key size.
const _: () = assert!(size_of::<Connection>() == 36 && offset_of!(Connection, ports) == 32);

// SAFETY: only bytes, no padding.
unsafe impl Pod for Connection {}

impl From<&PreexistingConnection> for Connection {
    fn from(one: &PreexistingConnection) -> Self {
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

/// Join an error and its sources: the kernel's reason is the innermost.
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
    failed(io::Error::other("the object lacks a program or map"))
}
