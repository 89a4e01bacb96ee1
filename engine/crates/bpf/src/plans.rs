//! Plans of pods, in the maps that the capture's programs read.
//!
//! A plan comes into force at once: its ports and ranges are written under a new generation, then the plan itself, which
//! names the generation; the earlier ones are removed last.

use std::collections::HashMap as Index;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError};

use crate::error::BpfError;
use crate::layout::capture::{EXCLUDED_LINKS, POD_FLAGS, PORT_LISTS, PodPlan, PortKey, RANGE_FLAGS};
use crate::layout::mapped;
use crate::loader::Loaded;

/// What is wanted for one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodRules {
    /// Bits: see [`pod_flag`].
    pub flags: u32,
    /// The pod's addresses by which its tunnel is reached.
    pub addresses: Vec<IpAddr>,
    /// Indices of links whose traffic is left alone.
    pub excluded_links: Vec<u32>,
    /// Ports with the list that each is on: see [`port_list`].
    pub ports: Vec<(u16, u16)>,
    /// Ranges: address, length of the prefix, bits: see [`range_flag`].
    pub ranges: Vec<(IpAddr, u32, u32)>,
}

/// A bit of `enum pod_flag` by its name without prefix: `capture`.
#[must_use]
pub fn pod_flag(name: &str) -> Option<u32> {
    value(&POD_FLAGS, "POD_", name)
}

/// A value of `enum port_list` by its name without prefix: `outbound_never`.
#[must_use]
pub fn port_list(name: &str) -> Option<u16> {
    value(&PORT_LISTS, "PORT_", name).and_then(|value| value.try_into().ok())
}

/// A bit of `enum range_flag` by its name without prefix: `local`.
#[must_use]
pub fn range_flag(name: &str) -> Option<u32> {
    value(&RANGE_FLAGS, "RANGE_", name)
}

fn value(values: &[(&str, u32)], prefix: &str, name: &str) -> Option<u32> {
    let wanted = format!("{prefix}{}", name.to_uppercase());
    values.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}

/// `struct range_key` behind its prefix.
type RangeBytes = [u8; 28];

/// Generation and namespace, in front of a range's address (`PLAN_PREFIX_BITS`).
const PREFIX_BITS: u32 = 96;

/// IPv4 addresses are mapped.
const MAPPED_BITS: u32 = 96;

/// The keys that a pod has in the maps.
#[derive(Debug, Default)]
struct Keys {
    ports: Vec<PortKey>,
    ranges: Vec<(u32, RangeBytes)>,
}

/// The maps.
pub(crate) struct Plans {
    pods: HashMap<MapData, u64, PodPlan>,
    ports: HashMap<MapData, PortKey, u32>,
    ranges: LpmTrie<MapData, RangeBytes, u32>,
    /// By namespace; what an earlier process has written included.
    keys: Index<u64, Keys>,
}

impl Plans {
    /// Take the maps of an object, and read which keys there are.
    pub(crate) fn of(object: &mut Loaded) -> Result<Self, BpfError> {
        let (pods, ports, ranges) =
            (object.take_map("cv_pods")?, object.take_map("cv_ports")?, object.take_map("cv_ranges")?);
        Self::new(pods, ports, ranges).map_err(|error| object.failed(&error))
    }

    fn new(pods: Map, ports: Map, ranges: Map) -> Result<Self, MapError> {
        let mut plans = Self {
            pods: HashMap::try_from(pods)?,
            ports: HashMap::try_from(ports)?,
            ranges: LpmTrie::try_from(ranges)?,
            keys: Index::new(),
        };
        for key in plans.ports.keys() {
            let key = key?;
            plans.keys.entry(key.netns).or_default().ports.push(key);
        }
        for key in plans.ranges.keys() {
            let key = key?;
            plans.keys.entry(netns_of(&key.data())).or_default().ranges.push((key.prefix_len(), key.data()));
        }
        Ok(plans)
    }

    /// Whether a namespace has a plan.
    pub(crate) fn has(&self, netns: u64) -> Result<bool, MapError> {
        Ok(self.find(netns)?.is_some())
    }

    /// Whether a namespace has exactly this plan.
    pub(crate) fn is_as(&self, netns: u64, rules: &PodRules) -> Result<bool, MapError> {
        let Some(found) = self.find(netns)? else { return Ok(false) };
        let (ports, ranges) = (port_keys(netns, found.generation, rules), range_keys(netns, found.generation, rules));
        let none = Keys::default();
        let kept = self.keys.get(&netns).unwrap_or(&none);
        if found != plan(found.generation, rules)
            || kept.ports.len() != ports.len()
            || kept.ranges.len() != ranges.len()
        {
            return Ok(false);
        }
        for key in &ports {
            if absent(self.ports.get(key, 0))?.is_none() {
                return Ok(false);
            }
        }
        for (bits, data, flags) in &ranges {
            if absent(self.ranges.get(&Key::new(*bits, *data), 0))? != Some(*flags) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bring a plan into force.
    pub(crate) fn set(&mut self, netns: u64, rules: &PodRules) -> Result<(), MapError> {
        let generation = self.find(netns)?.map_or(1, |found| found.generation.wrapping_add(1));
        let earlier = self.keys.remove(&netns).unwrap_or_default();
        let written = self.write(netns, generation, rules);
        let done = written.and_then(|()| self.pods.insert(netns, plan(generation, rules), 0));
        if done.is_err() {
            // The earlier plan is in force; the next call removes what is left of this one.
            let kept = self.keys.entry(netns).or_default();
            kept.ports.extend(earlier.ports);
            kept.ranges.extend(earlier.ranges);
            return done;
        }
        self.forget(&earlier)
    }

    /// Remove a plan; return whether there was one.
    pub(crate) fn remove(&mut self, netns: u64) -> Result<bool, MapError> {
        let was_there = absent(self.pods.remove(&netns))?.is_some();
        let keys = self.keys.remove(&netns).unwrap_or_default();
        self.forget(&keys)?;
        Ok(was_there)
    }

    fn find(&self, netns: u64) -> Result<Option<PodPlan>, MapError> {
        absent(self.pods.get(&netns, 0))
    }

    fn write(&mut self, netns: u64, generation: u32, rules: &PodRules) -> Result<(), MapError> {
        for key in port_keys(netns, generation, rules) {
            self.keys.entry(netns).or_default().ports.push(key);
            self.ports.insert(key, 1, 0)?;
        }
        for (bits, data, flags) in range_keys(netns, generation, rules) {
            self.keys.entry(netns).or_default().ranges.push((bits, data));
            self.ranges.insert(&Key::new(bits, data), flags, 0)?;
        }
        Ok(())
    }

    fn forget(&mut self, keys: &Keys) -> Result<(), MapError> {
        for key in &keys.ports {
            absent(self.ports.remove(key))?;
        }
        for (bits, data) in &keys.ranges {
            absent(self.ranges.remove(&Key::new(*bits, *data)))?;
        }
        Ok(())
    }
}

fn plan(generation: u32, rules: &PodRules) -> PodPlan {
    let address = |v4: bool| rules.addresses.iter().find(|one| one.is_ipv4() == v4).copied().map(mapped);
    let mut excluded_links = [0; EXCLUDED_LINKS];
    for (place, link) in excluded_links.iter_mut().zip(&rules.excluded_links) {
        *place = *link;
    }
    PodPlan {
        address_v4: address(true).unwrap_or_default(),
        address_v6: address(false).unwrap_or_default(),
        flags: rules.flags,
        generation,
        excluded_links,
    }
}

fn port_keys(netns: u64, generation: u32, rules: &PodRules) -> Vec<PortKey> {
    rules.ports.iter().map(|(port, list)| PortKey { netns, generation, port: *port, list: *list }).collect()
}

fn range_keys(netns: u64, generation: u32, rules: &PodRules) -> Vec<(u32, RangeBytes, u32)> {
    let keys = rules.ranges.iter().map(|(address, length, flags)| {
        let mut data = RangeBytes::default();
        let parts = generation.to_ne_bytes().into_iter().chain(netns.to_ne_bytes()).chain(mapped(*address));
        for (place, byte) in data.iter_mut().zip(parts) {
            *place = byte;
        }
        let in_front = PREFIX_BITS + if address.is_ipv4() { MAPPED_BITS } else { 0 };
        (in_front + length, data, *flags)
    });
    keys.collect()
}

/// The namespace in a range's key, behind the generation.
fn netns_of(data: &RangeBytes) -> u64 {
    let bytes = data.get(4..12).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_ne_bytes).unwrap_or_default()
}

fn absent<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
