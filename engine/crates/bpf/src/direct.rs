//! Direct connections between pods of this node, as the engine sees them: what is allowed, and what there is.
//!
//! The maps are those that the node agent's programs have pinned (`capture`); nothing is loaded here. An engine that
//! ends leaves them as they are, so the kernel goes on deciding by the last verdicts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use aya::maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, Queue};

use crate::error::{BpfError, reason};
use crate::layout::direct::{
    CLOSED, COUNTS, DirectEndpoint, DirectEvent, DirectFlow, DirectKey, DirectService, DirectVerdict, ENDPOINTS,
    FIN_ACKED, FIN_RECEIVED, FORBIDDEN, OPENED, OWNER, SEEN, USED,
};
use crate::layout::{Connection, mapped};
use crate::pins::Pins;

/// A pod, by the cookie of its namespace, and what it connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The client's namespace.
    pub netns: u64,
    /// Address and port of the destination.
    pub destination: SocketAddr,
}

/// For which two pods a pair is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The destination's namespace.
    pub destination_netns: u64,
    /// The client's address.
    pub source: IpAddr,
}

/// A direct connection. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectConnection {
    /// The client's namespace.
    pub source_netns: u64,
    /// The destination's namespace.
    pub destination_netns: u64,
    /// The client's end.
    pub client: SocketAddr,
    /// The destination's end.
    pub server: SocketAddr,
    /// What the client has connected to: a service, or the destination itself.
    pub target: SocketAddr,
    /// Cookie of the client's socket.
    pub cookie: u64,
    /// When the client has connected.
    pub began: u64,
    /// When the handshake was complete, if it was.
    pub opened: Option<u64>,
}

impl DirectConnection {
    /// What has allowed it.
    #[must_use]
    pub const fn pair(&self) -> Pair {
        Pair { netns: self.source_netns, destination: self.server }
    }
}

/// What has happened to a direct connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Its handshake is complete.
    Opened,
    /// Its client's socket is closed.
    Closed {
        /// Bytes of the client.
        to_destination: u64,
        /// Bytes of the destination.
        to_client: u64,
        /// When.
        at: u64,
        /// Whether it ended without a FIN of either side that the other has seen.
        reset: bool,
    },
    /// It was established while policy changed, and is no longer allowed.
    Forbidden,
}

/// The maps. Not thread-safe.
pub struct DirectMaps {
    verdicts: HashMap<MapData, DirectKey, DirectVerdict>,
    services: HashMap<MapData, DirectKey, DirectService>,
    flows: HashMap<MapData, Connection, DirectFlow>,
    events: Queue<MapData, DirectEvent>,
    table: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
}

impl DirectMaps {
    /// Open the maps that a node agent has pinned below `folder`.
    ///
    /// # Errors
    /// There are none, or the process may not use them.
    pub fn open(folder: &Path) -> Result<Self, BpfError> {
        let maps = Pins::below(folder).maps();
        let pinned = |name: &str| MapData::from_pin(maps.join(name));
        let open = || -> Result<Self, MapError> {
            Ok(Self {
                verdicts: HashMap::try_from(Map::HashMap(pinned("cv_direct")?))?,
                services: HashMap::try_from(Map::HashMap(pinned("cv_services")?))?,
                flows: HashMap::try_from(Map::HashMap(pinned("cv_flows")?))?,
                events: Queue::try_from(Map::Queue(pinned("cv_flow_events")?))?,
                table: Array::try_from(Map::Array(pinned("cv_flow_table")?))?,
                counts: PerCpuArray::try_from(Map::PerCpuArray(pinned("cv_flow_counts")?))?,
            })
        };
        open().map_err(|error| BpfError::Unreadable { reason: format!("{}: {}", maps.display(), reason(&error)) })
    }

    /// Whether these are the maps that are pinned below `folder` now: an agent may have been installed anew.
    #[must_use]
    pub fn is_current(&self, folder: &Path) -> bool {
        let id = |data: &MapData| data.info().map(|info| info.id()).ok();
        let pinned = MapData::from_pin(Pins::below(folder).maps().join("cv_direct"));
        pinned.is_ok_and(|pinned| id(&pinned).is_some() && id(&pinned) == id(self.verdicts.map()))
    }

    /// Let connections of a pair be direct.
    ///
    /// # Errors
    /// The map is full.
    pub fn allow(&mut self, pair: Pair, verdict: Verdict) -> Result<(), BpfError> {
        let verdict = DirectVerdict { destination_netns: verdict.destination_netns, source: mapped(verdict.source) };
        self.verdicts.insert(key(pair), verdict, 0).map_err(unreadable)
    }

    /// Send new connections of a pair to the tunnel.
    pub fn forbid(&mut self, pair: Pair) {
        // It fails where there is none.
        let _ = self.verdicts.remove(&key(pair));
    }

    /// Let the kernel choose among these endpoints of a service, each with its weight, for the client of `pair`. Those
    /// that are no allowed pairs themselves are left to the tunnel.
    ///
    /// # Errors
    /// The map is full, or there are too many endpoints; what was there is removed.
    pub fn set_service(&mut self, pair: Pair, endpoints: &[(SocketAddr, u32)]) -> Result<(), BpfError> {
        let service = service(endpoints);
        let written = service.ok_or_else(|| BpfError::Unreadable { reason: "too many endpoints".to_owned() });
        let written = written.and_then(|service| self.services.insert(key(pair), service, 0).map_err(unreadable));
        written.inspect_err(|_| self.remove_service(pair))
    }

    /// Leave a service's connections to the tunnel.
    pub fn remove_service(&mut self, pair: Pair) {
        // It fails where there is none.
        let _ = self.services.remove(&key(pair));
    }

    /// The services that are known.
    #[must_use]
    pub fn services(&self) -> Vec<Pair> {
        let pairs = self.services.keys().flatten();
        pairs.map(|key| Pair { netns: key.netns, destination: at(key.address, key.port) }).collect()
    }

    /// The pairs that are allowed.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        self.verdicts
            .keys()
            .flatten()
            .map(|key| Pair { netns: key.netns, destination: at(key.address, key.port) })
            .collect()
    }

    /// The direct connections that there are.
    #[must_use]
    pub fn connections(&self) -> Vec<DirectConnection> {
        self.flows.iter().flatten().map(|(connection, flow)| described(&connection, &flow)).collect()
    }

    /// What has happened since, the oldest first.
    pub fn next_event(&mut self) -> Option<(DirectConnection, Happened)> {
        loop {
            let event = self.events.pop(0).ok()?;
            let happened = match event.kind {
                OPENED => Happened::Opened,
                CLOSED => closed(&event),
                FORBIDDEN => Happened::Forbidden,
                _ => continue, // of a later release
            };
            return Some((described(&event.connection, &event.flow), happened));
        }
    }

    /// Forget a connection whose socket has gone unnoticed.
    pub fn forget(&mut self, connection: &DirectConnection) {
        let key = Connection {
            local: mapped(connection.client.ip()),
            remote: mapped(connection.server.ip()),
            local_port: connection.client.port().to_be_bytes(),
            remote_port: connection.server.port().to_be_bytes(),
        };
        if self.flows.remove(&key).is_ok() {
            let used = u64::try_from(self.flows.keys().count()).unwrap_or_default();
            let _ = self.table.set(USED, used, 0);
        }
    }

    /// Become the engine that decides, at the time `now`.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn claim(&mut self, owner: u64, now: u64) -> Result<(), BpfError> {
        self.table.set(SEEN, now, 0).map_err(unreadable)?;
        self.table.set(OWNER, owner, 0).map_err(unreadable)
    }

    /// Go on deciding.
    pub fn seen(&mut self, now: u64) {
        // It has been written before; at worst another engine takes over.
        let _ = self.table.set(SEEN, now, 0);
    }

    /// Decide no more, where this engine does.
    pub fn release(&mut self, owner: u64) {
        if self.owner().0 == owner {
            // At worst the others wait until it has not been seen for a while.
            let _ = self.table.set(OWNER, 0, 0);
        }
    }

    /// The engine that decides, 0 for none, and when it has last been seen to.
    #[must_use]
    pub fn owner(&self) -> (u64, u64) {
        let value = |key| self.table.get(&key, 0).unwrap_or_default();
        (value(OWNER), value(SEEN))
    }

    /// What the programs have counted: name and number.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let sum = |key: u32| self.counts.get(&key, 0).map(|of| of.iter().copied().fold(0, u64::saturating_add));
        (0..).zip(COUNTS).map(|(key, name)| (name, sum(key).unwrap_or_default())).collect()
    }

    /// Direct connections that are open or opening.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.table.get(&USED, 0).unwrap_or_default()
    }
}

impl std::fmt::Debug for DirectMaps {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DirectMaps")
    }
}

/// `None` where the kernel's table has too few places, or no endpoint a weight.
fn service(endpoints: &[(SocketAddr, u32)]) -> Option<DirectService> {
    let mut made = DirectService { count: 0, shares: 0, endpoints: [DirectEndpoint::default(); ENDPOINTS] };
    if endpoints.len() > ENDPOINTS {
        return None;
    }
    for (place, (address, weight)) in made.endpoints.iter_mut().zip(endpoints) {
        made.shares = made.shares.checked_add(*weight)?;
        made.count += 1;
        *place =
            DirectEndpoint { address: mapped(address.ip()), port: address.port(), _pad: 0, share_end: made.shares };
    }
    Some(made).filter(|made| made.shares > 0)
}

/// The kernel counts SYN and FIN as a byte each.
fn closed(event: &DirectEvent) -> Happened {
    let bit = |bit: u32| u64::from(event.flow.ending & bit != 0);
    let syn = u64::from(event.flow.opened != 0);
    Happened::Closed {
        to_destination: event.to_destination.saturating_sub(syn + bit(FIN_ACKED)),
        to_client: event.to_client.saturating_sub(bit(FIN_RECEIVED)),
        at: event.at,
        reset: event.flow.opened != 0 && event.flow.ending == 0,
    }
}

fn described(connection: &Connection, flow: &DirectFlow) -> DirectConnection {
    DirectConnection {
        source_netns: flow.source_netns,
        destination_netns: flow.destination_netns,
        client: at(connection.local, u16::from_be_bytes(connection.local_port)),
        server: at(connection.remote, u16::from_be_bytes(connection.remote_port)),
        target: at(flow.target, u16::from_be_bytes(flow.target_port)),
        cookie: flow.cookie,
        began: flow.began,
        opened: Some(flow.opened).filter(|opened| *opened != 0),
    }
}

fn at(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), port)
}

fn key(pair: Pair) -> DirectKey {
    DirectKey { netns: pair.netns, address: mapped(pair.destination.ip()), port: pair.destination.port(), _pad: [0; 3] }
}

fn unreadable(error: MapError) -> BpfError {
    BpfError::Unreadable { reason: reason(&error) }
}
