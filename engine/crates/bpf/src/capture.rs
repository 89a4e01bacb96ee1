//! Capture by BPF: hooks at the node's cgroup and at the tunnels', and in each pod a `sk_lookup` program.
//!
//! What is attached stays when the process ends: links and maps are pinned (`pins`). A process that starts puts its own
//! programs into the links that it finds, each in one step, and goes on with the maps.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::loaded_programs;

use crate::error::{BpfError, reason};
use crate::guard::{PreexistingConnection, exempt};
use crate::layout::capture::{COUNTS, LISTENER_SLOTS, ListenerSlot};
use crate::loader::{Loaded, Loader, Object, object};
use crate::pins::{self, Pins};
use crate::plans::{Plans, PodRules};
use crate::sys::{self, AttachType, LinkTarget};

const HOOKS: Object = object!("capture");
const TUNNEL: Object = object!("tunnel");
const INBOUND: Object = object!("inbound");
const FLOWS: Object = object!("flows");
const ADOPT: Object = object!("adopt");
const DIRECT: Object = object!("direct");

/// The program at the node's cgroup that records direct connections.
const RECORDER: &str = "cv_direct_ops";

/// What the adopting program is run with; it reads nothing of it. The kernel wants no shorter one.
const PACKET: [u8; 64] = [0; 64];

/// Its answer where a listener is known now (`TC_ACT_OK`).
const FOUND: u32 = 0;

/// Programs at the node's cgroup. Answers before questions: what connects is never told less than what listens.
const AT_NODE: [(&str, AttachType); 8] = [
    ("cv_getpeername4", AttachType::Getpeername4),
    ("cv_getpeername6", AttachType::Getpeername6),
    ("cv_recvmsg4", AttachType::Recvmsg4),
    ("cv_recvmsg6", AttachType::Recvmsg6),
    ("cv_sendmsg4", AttachType::Sendmsg4),
    ("cv_sendmsg6", AttachType::Sendmsg6),
    ("cv_connect4", AttachType::Connect4),
    ("cv_connect6", AttachType::Connect6),
];

/// Programs at a tunnel's cgroup.
const AT_TUNNEL: [(&str, AttachType); 2] =
    [("cv_getsockopt", AttachType::Getsockopt), ("cv_listening", AttachType::SockOps)];

/// Ports of the tunnel in a pod, host order.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Captured connections from the pod.
    pub outbound: u16,
    /// Captured connections to the pod.
    pub inbound: u16,
    /// Tunnels of peers.
    pub hbone: u16,
    /// DNS, on loopback.
    pub dns: u16,
}

/// Constants that the programs are loaded with.
#[derive(Debug, Clone, Copy)]
pub struct CaptureConfig {
    /// Mark of the tunnel's own sockets, and the bits of it that are compared.
    pub tunnel_mark: (u32, u32),
    /// Mark by which the application's answers are routed to the tunnel, and the bits of it.
    pub reply_mark: (u32, u32),
    /// The tunnel's.
    pub ports: Ports,
    /// Direct connections at a time; 0: none, and nothing is recorded.
    pub direct_limit: u64,
}

/// The programs for a pod's links.
#[derive(Debug)]
pub struct LinkPrograms {
    /// For what leaves by the loopback link.
    pub leaving: OwnedFd,
    /// For what arrives there.
    pub arriving: OwnedFd,
    /// For what arrives by every other link.
    pub outside: OwnedFd,
    /// For what leaves by every other link; no connection is exempt.
    pub guard: OwnedFd,
}

/// A loaded program, and where it belongs.
struct Hook {
    name: &'static str,
    at: AttachType,
    program: OwnedFd,
}

/// See the module. Not thread-safe.
pub struct Capture {
    config: CaptureConfig,
    pins: Pins,
    at_node: Vec<Hook>,
    at_tunnel: Vec<Hook>,
    plans: Plans,
    counts: PerCpuArray<MapData, u64>,
    /// Looked up as a plain map: the value is the socket's cookie.
    listeners: HashMap<MapData, ListenerSlot, u64>,
}

impl Capture {
    /// Load the programs, with the maps of an earlier process if there are any. Nothing is attached.
    ///
    /// # Errors
    /// `folder` is in no BPF file system, the kernel lacks a feature, or the process lacks a capability.
    pub fn open(folder: &Path, config: CaptureConfig) -> Result<Self, BpfError> {
        let pins = Pins::open(folder).map_err(|error| refused(HOOKS, &error))?;
        let Ports { outbound, inbound, dns, .. } = config.ports;
        let mut hooks = Loader::open(HOOKS)
            .pins(&pins.maps())
            .constant("tunnel_mark", &config.tunnel_mark.0)
            .constant("tunnel_mark_mask", &config.tunnel_mark.1)
            .constant("outbound_port", &outbound)
            .constant("dns_port", &dns)
            .constant("direct_limit", &config.direct_limit)
            .load()?;
        let mut tunnel = Loader::open(TUNNEL)
            .pins(&pins.maps())
            .constant("outbound_port", &outbound)
            .constant("inbound_port", &inbound)
            .constant("dns_port", &dns)
            .load()?;
        let at_node = AT_NODE.into_iter().map(|(name, at)| Ok(Hook { name, at, program: hooks.program(name)? }));
        let mut at_node = at_node.collect::<Result<Vec<_>, BpfError>>()?;
        if config.direct_limit > 0 {
            let program = Loader::open(DIRECT).pins(&pins.maps()).load()?.program(RECORDER)?;
            at_node.insert(0, Hook { name: RECORDER, at: AttachType::SockOps, program });
        }
        let at_tunnel = AT_TUNNEL.into_iter().map(|(name, at)| Ok(Hook { name, at, program: tunnel.program(name)? }));
        let at_tunnel = at_tunnel.collect::<Result<Vec<_>, BpfError>>()?;
        let plans = Plans::of(&mut hooks)?;
        let counts = PerCpuArray::try_from(hooks.take_map("cv_captures")?).map_err(|error| refused(HOOKS, &error))?;
        let listeners = MapData::from_pin(pins.maps().join("cv_listeners")).map(Map::HashMap);
        let listeners = listeners.and_then(HashMap::try_from).map_err(|error| refused(HOOKS, &error))?;
        Ok(Self { config, pins, at_node, at_tunnel, plans, counts, listeners })
    }

    /// Attach the hooks to the node's cgroup (a folder of the unified hierarchy), or replace those that are there.
    ///
    /// # Errors
    /// The kernel's refusal; some hooks may be attached.
    pub fn attach(&self, cgroup: &Path) -> Result<(), BpfError> {
        attach_all(&self.at_node, &self.pins.hooks(), cgroup).map_err(|error| refused(HOOKS, &error))?;
        if self.config.direct_limit == 0 {
            pins::detach(&self.pins.hooks().join(RECORDER)).map_err(|error| refused(DIRECT, &error))?;
        }
        self.pins.remove_other_layouts().map_err(|error| refused(HOOKS, &error))
    }

    /// Detach the hooks from the node's cgroup; plans stay.
    ///
    /// # Errors
    /// Some hooks may be attached.
    pub fn detach(&self) -> Result<(), BpfError> {
        self.pins.remove_hooks().map_err(|error| refused(HOOKS, &error))
    }

    /// Attach the hooks to the cgroup of a tunnel; those of tunnels that have gone are removed.
    ///
    /// # Errors
    /// As `attach`.
    pub fn attach_tunnel(&self, cgroup: &Path) -> Result<(), BpfError> {
        let attach = || {
            let folder = self.pins.tunnel(fs::metadata(cgroup)?.ino());
            attach_all(&self.at_tunnel, &folder, cgroup)?;
            for tunnel in self.pins.tunnels()? {
                let folder = self.pins.tunnel(tunnel);
                if pins::is_orphan(&folder.join(AT_TUNNEL[0].0))? {
                    fs::remove_dir_all(folder)?;
                }
            }
            Ok(())
        };
        attach().map_err(|error: io::Error| refused(TUNNEL, &error))
    }

    /// Names of hooks that the node's cgroup lacks.
    ///
    /// # Errors
    /// Links cannot be read.
    pub fn missing(&self, cgroup: &Path) -> Result<Vec<&'static str>, BpfError> {
        let find = || {
            let inode = fs::metadata(cgroup)?.ino();
            let mut names = Vec::new();
            for hook in &self.at_node {
                if pins::find(&self.pins.hooks().join(hook.name), |target| target.inode == inode)?.is_none() {
                    names.push(hook.name);
                }
            }
            Ok(names)
        };
        find().map_err(|error: io::Error| refused(HOOKS, &error))
    }

    /// Attach the program for connections from outside to a pod's namespace, or replace the one that is there.
    ///
    /// # Errors
    /// The kernel's refusal; it is as it was.
    pub fn attach_pod(&self, cookie: u64, netns: BorrowedFd<'_>) -> Result<(), BpfError> {
        let mut object = Loader::open(INBOUND)
            .pins(&self.pins.maps())
            .constant("netns", &cookie)
            .constant("hbone_port", &self.config.ports.hbone)
            .load()?;
        let program = object.program("cv_inbound")?;
        let attach = || {
            let inode = inode(netns)?;
            let there = |target: LinkTarget| target.inode == inode;
            pins::attach(&self.pins.pod(cookie), program.as_fd(), netns, AttachType::SkLookup, there)
        };
        attach().map_err(|error| refused(INBOUND, &error))
    }

    /// Find the tunnel's listener that is older than the hooks, in the namespace that the calling thread is in; return
    /// whether one is known now.
    ///
    /// # Errors
    /// The kernel has no way to do so.
    pub fn adopt_listener(&self, cookie: u64) -> Result<bool, BpfError> {
        if self.knows_listener(cookie) {
            return Ok(true);
        }
        let mut object = Loader::open(ADOPT)
            .pins(&self.pins.maps())
            .constant("netns", &cookie)
            .constant("inbound_port", &self.config.ports.inbound)
            .load()?;
        let program = object.program("cv_adopt")?;
        let found = sys::test_run(program.as_fd(), &PACKET).map_err(|error| refused(ADOPT, &error))?;
        Ok(found == FOUND)
    }

    /// Whether a listener of the tunnel is known, without a program: most pods are enrolled after it listens.
    fn knows_listener(&self, cookie: u64) -> bool {
        (0..LISTENER_SLOTS).any(|slot| self.listeners.get(&ListenerSlot { netns: cookie, slot, _pad: 0 }, 0).is_ok())
    }

    /// Whether a pod's namespace has its program.
    ///
    /// # Errors
    /// The link cannot be read.
    pub fn has_pod(&self, cookie: u64, netns: BorrowedFd<'_>) -> Result<bool, BpfError> {
        let find = || {
            let inode = inode(netns)?;
            Ok(pins::find(&self.pins.pod(cookie), |target| target.inode == inode)?.is_some())
        };
        find().map_err(|error: io::Error| refused(INBOUND, &error))
    }

    /// Bring a pod's plan into force.
    ///
    /// # Errors
    /// A map is full; the earlier plan stays.
    pub fn set_plan(&mut self, cookie: u64, rules: &PodRules) -> Result<(), BpfError> {
        self.plans.set(cookie, rules).map_err(|error| refused(HOOKS, &error))
    }

    /// Whether a pod has exactly this plan.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn is_plan(&self, cookie: u64, rules: &PodRules) -> Result<bool, BpfError> {
        self.plans.is_as(cookie, rules).map_err(|error| refused(HOOKS, &error))
    }

    /// Whether a pod has a plan.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn has_plan(&self, cookie: u64) -> Result<bool, BpfError> {
        self.plans.has(cookie).map_err(|error| refused(HOOKS, &error))
    }

    /// Detach from a pod and remove its plan; return whether it had one.
    ///
    /// # Errors
    /// The kernel's refusal; some of it may be left.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<bool, BpfError> {
        pins::detach(&self.pins.pod(cookie)).map_err(|error| refused(INBOUND, &error))?;
        self.plans.remove(cookie).map_err(|error| refused(HOOKS, &error))
    }

    /// Remove what pods have left whose namespaces have gone; return their cookies.
    ///
    /// # Errors
    /// As `remove_pod`.
    pub fn prune(&mut self) -> Result<Vec<u64>, BpfError> {
        let mut gone = Vec::new();
        for cookie in self.pins.pods().map_err(|error| refused(INBOUND, &error))? {
            if pins::is_orphan(&self.pins.pod(cookie)).map_err(|error| refused(INBOUND, &error))? {
                self.remove_pod(cookie)?;
                gone.push(cookie);
            }
        }
        Ok(gone)
    }

    /// Load the programs for a pod's links. Each lives while its descriptor is open or it is attached.
    ///
    /// # Errors
    /// The kernel lacks a feature.
    pub fn link_programs(&self, cookie: u64) -> Result<LinkPrograms, BpfError> {
        let mut object = self.flows(cookie, 0)?;
        Ok(LinkPrograms {
            leaving: object.program("cv_loopback")?,
            arriving: object.program("cv_arrival")?,
            outside: object.program("cv_outside")?,
            guard: object.program("cv_guard")?,
        })
    }

    /// Load the guard alone, with connections that are older than it and exempt.
    ///
    /// # Errors
    /// As `link_programs`.
    pub fn guard_program(&self, cookie: u64, preexisting: &[PreexistingConnection]) -> Result<OwnedFd, BpfError> {
        let mut object = self.flows(cookie, preexisting.len())?;
        exempt(&mut object, preexisting)?;
        object.program("cv_guard")
    }

    fn flows(&self, cookie: u64, exempt: usize) -> Result<Loaded, BpfError> {
        let CaptureConfig { tunnel_mark, reply_mark, ports, .. } = &self.config;
        Loader::open(FLOWS)
            .pins(&self.pins.maps())
            .constant("netns", &cookie)
            .constant("tunnel_mark", &tunnel_mark.0)
            .constant("tunnel_mark_mask", &tunnel_mark.1)
            .constant("reply_mark", &reply_mark.0)
            .constant("reply_mark_mask", &reply_mark.1)
            .constant("outbound_port", &ports.outbound)
            .constant("hbone_port", &ports.hbone)
            .constant("dns_port", &ports.dns)
            .max_entries("cv_preexisting", u32::try_from(exempt.max(1)).unwrap_or(u32::MAX))
            .load()
    }

    /// Files that change when hooks, or those of a pod, are removed.
    #[must_use]
    pub fn files(&self, cookie: u64) -> [PathBuf; 2] {
        [self.pins.hooks(), self.pins.pod(cookie)]
    }

    /// What the programs have counted since the maps were made: name and number.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        let read = |(key, name): (u32, &'static str)| {
            let of_cpus = self.counts.get(&key, 0).map_err(|error| refused(HOOKS, &error))?;
            Ok((name, of_cpus.iter().copied().fold(0, u64::saturating_add)))
        };
        (0..).zip(COUNTS).map(read).collect()
    }

    /// Detach everything and remove all pins. What is attached to links of pods is the caller's.
    ///
    /// # Errors
    /// Some pins are left.
    pub fn uninstall(self) -> Result<(), BpfError> {
        self.pins.remove().map_err(|error| refused(HOOKS, &error))
    }
}

/// The programs of everybody that are attached to a cgroup where the capture's are: hook and name of each.
///
/// # Errors
/// The kernel does not say; it needs `CAP_NET_ADMIN`.
pub fn programs_at(cgroup: &Path) -> Result<Vec<(&'static str, String)>, BpfError> {
    let read = || {
        let cgroup = File::open(cgroup)?;
        let mut found = Vec::new();
        for (hook, at) in AT_NODE {
            let ids = sys::programs_at(cgroup.as_fd(), at)?;
            let programs = loaded_programs().flatten().filter(|info| ids.contains(&info.id()));
            let hook = hook.trim_start_matches("cv_");
            found.extend(programs.map(|info| (hook, info.name_as_str().unwrap_or_default().to_owned())));
        }
        Ok(found)
    };
    read().map_err(|error: io::Error| BpfError::Unreadable { reason: reason(&error) })
}

fn attach_all(hooks: &[Hook], folder: &Path, cgroup: &Path) -> io::Result<()> {
    let cgroup = File::open(cgroup)?;
    let inode = cgroup.metadata()?.ino();
    for hook in hooks {
        let there = |target: LinkTarget| target.inode == inode;
        pins::attach(&folder.join(hook.name), hook.program.as_fd(), cgroup.as_fd(), hook.at, there)?;
    }
    Ok(())
}

fn inode(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(File::from(descriptor.try_clone_to_owned()?).metadata()?.ino())
}

fn refused(object: Object, error: &dyn std::error::Error) -> BpfError {
    BpfError::NotLoaded { object: object.name, reason: reason(error) }
}
