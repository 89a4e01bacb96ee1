//! Loads the guard program of a captured pod (`bpf/guard.bpf.c`).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use aya::maps::{HashMap, MapData};

use crate::error::BpfError;
use crate::layout::{Connection, Stage, mapped};
use crate::loader::{Loaded, Loader, Object, object};

pub(crate) const OBJECT: Object = object!("guard");

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

/// Load the guard program for one pod. It lives while its descriptor is open or it is attached.
///
/// # Errors
/// The kernel lacks a feature, or the process lacks `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`).
pub fn load(config: GuardConfig, preexisting: &[PreexistingConnection]) -> Result<OwnedFd, BpfError> {
    let max_entries = u32::try_from(preexisting.len().max(1)).unwrap_or(u32::MAX);
    let mut object = Loader::open(OBJECT)
        .constant("tunnel_mark", &config.tunnel_mark)
        .constant("tunnel_mark_mask", &config.tunnel_mark_mask)
        .constant("passed_mark", &config.passed_mark)
        .constant("outbound_port", &config.redirect_ports.0)
        .constant("inbound_port", &config.redirect_ports.1)
        .max_entries("cv_preexisting", max_entries)
        .load()?;
    exempt(&mut object, preexisting)?;
    object.program("guard")
}

/// Exempt connections that are older than a guard.
pub(crate) fn exempt(object: &mut Loaded, preexisting: &[PreexistingConnection]) -> Result<(), BpfError> {
    let map = HashMap::try_from(object.map("cv_preexisting")?);
    let result = map.and_then(|mut map: HashMap<&mut MapData, Connection, u32>| {
        for one in preexisting {
            let stage = if one.open { Stage::Open } else { Stage::Opening };
            map.insert(Connection::from(one), stage as u32, 0)?;
        }
        Ok(())
    });
    result.map_err(|error| object.failed(&error))
}

impl From<&PreexistingConnection> for Connection {
    fn from(one: &PreexistingConnection) -> Self {
        Self {
            local: mapped(one.local.ip()),
            remote: mapped(one.remote.ip()),
            local_port: one.local.port().to_be_bytes(),
            remote_port: one.remote.port().to_be_bytes(),
        }
    }
}
