//! Default deny for what leaves a pod (`bpf/egress.bpf.c`): its programs, and the maps that those of all pods share.
//!
//! The maps are pinned: what may be answered, and which cgroups are tunnels', must outlive the process that has loaded
//! the programs.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, PerCpuArray};

use crate::error::{BpfError, reason};
use crate::guard::PreexistingConnection;
use crate::layout::egress::{Answerable, BEGUN_BY_PEER, DROPS, ON_LINK_RANGES, OnLink, OnLinkRanges};
use crate::layout::mapped;
use crate::loader::{Loaded, Loader, Object, object};
use crate::pins::Pins;

const OBJECT: Object = object!("egress");

/// A pod's namespace, as far as its programs depend on it.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Its inode number.
    pub inode: u32,
    /// Ranges that are reached without a router, by address and length of the prefix; the first eight count.
    pub on_link: Vec<(IpAddr, u32)>,
}

/// The programs for a pod's links.
#[derive(Debug)]
pub struct EgressPrograms {
    /// For what leaves.
    pub leaving: OwnedFd,
    /// For what arrives.
    pub arriving: OwnedFd,
    /// For what arrives at the other ends of the links, in the host's namespace.
    pub host: OwnedFd,
}

/// See the module. Not thread-safe.
pub struct Egress {
    tunnel_mark: (u32, u32),
    maps: PathBuf,
    drops: PerCpuArray<MapData, u64>,
    tunnels: HashMap<MapData, u64, u32>,
    answerable: HashMap<MapData, Answerable, u32>,
}

impl Egress {
    /// Load the maps, those of an earlier process if there are any.
    ///
    /// `tunnel_mark`: mark of the tunnel's sockets, and the bits of it that are compared.
    ///
    /// # Errors
    /// `folder` is in no BPF file system, the kernel lacks a feature, or the process lacks a capability.
    pub fn open(folder: &Path, tunnel_mark: (u32, u32)) -> Result<Self, BpfError> {
        let maps = Pins::open(folder).map_err(|error| refused(&error))?.maps();
        let mut object = Loader::open(OBJECT).pins(&maps).load()?;
        Ok(Self {
            tunnel_mark,
            drops: PerCpuArray::try_from(object.take_map("cv_egress_drops")?).map_err(|error| refused(&error))?,
            tunnels: HashMap::try_from(object.take_map("cv_tunnels")?).map_err(|error| refused(&error))?,
            answerable: HashMap::try_from(object.take_map("cv_answerable")?).map_err(|error| refused(&error))?,
            maps,
        })
    }

    /// Let the sockets of a cgroup, by its id, be the tunnel's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_tunnel(&mut self, cgroup: u64) -> Result<(), BpfError> {
        if self.tunnels.insert(cgroup, 1, 0).is_ok() {
            return Ok(());
        }
        // Full of cgroups that have gone. One that still drains is lost with them: its packets are dropped.
        let known: Vec<u64> = self.tunnels.keys().flatten().collect();
        for one in known {
            self.tunnels.remove(&one).map_err(|error| refused(&error))?;
        }
        self.tunnels.insert(cgroup, 1, 0).map_err(|error| refused(&error))
    }

    /// Load the programs of a pod, and let connections that peers have begun earlier be answered.
    ///
    /// # Errors
    /// The kernel lacks a feature, or the process a capability.
    pub fn load(
        &mut self,
        namespace: &Namespace,
        accepted: &[PreexistingConnection],
    ) -> Result<EgressPrograms, BpfError> {
        let on_link = ranges(&namespace.on_link);
        let mut object = Loader::open(OBJECT)
            .pins(&self.maps)
            .constant("netns", &namespace.inode)
            .constant("tunnel_mark", &self.tunnel_mark.0)
            .constant("tunnel_mark_mask", &self.tunnel_mark.1)
            .constant("on_link", &on_link)
            .load()?;
        for one in accepted {
            let key = answerable(namespace.inode, one);
            self.answerable.insert(key, BEGUN_BY_PEER, 0).map_err(|error| object.failed(&error))?;
        }
        programs(&mut object)
    }

    /// Packets that were dropped in all pods since the maps were made, by reason.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn drops(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        (0..).zip(DROPS).map(|(number, name)| Ok((name, self.total(number)?))).collect()
    }

    fn total(&self, number: u32) -> Result<u64, BpfError> {
        let of_cpus = self.drops.get(&number, 0).map_err(|error| refused(&error))?;
        Ok(of_cpus.iter().copied().fold(0, u64::saturating_add))
    }
}

fn programs(object: &mut Loaded) -> Result<EgressPrograms, BpfError> {
    Ok(EgressPrograms {
        leaving: object.program("cv_egress_out")?,
        arriving: object.program("cv_egress_in")?,
        host: object.program("cv_egress_host")?,
    })
}

fn ranges(given: &[(IpAddr, u32)]) -> OnLinkRanges {
    let mut all = OnLinkRanges([OnLink::default(); ON_LINK_RANGES]);
    for (place, (address, bits)) in all.0.iter_mut().zip(given) {
        *place = OnLink { address: mapped(*address), bits: *bits };
    }
    all
}

fn answerable(netns: u32, one: &PreexistingConnection) -> Answerable {
    Answerable {
        local: mapped(one.local.ip()),
        remote: mapped(one.remote.ip()),
        local_port: one.local.port().to_be_bytes(),
        remote_port: one.remote.port().to_be_bytes(),
        netns,
        protocol: 6, // IPPROTO_TCP
    }
}

fn refused(error: &dyn std::error::Error) -> BpfError {
    BpfError::NotLoaded { object: OBJECT.name, reason: reason(error) }
}
