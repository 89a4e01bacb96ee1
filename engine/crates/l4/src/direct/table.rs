//! The pairs and services that the kernel knows, and what each is worth now.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_bpf::BpfError;
use culvert_bpf::direct::{DirectMaps, Pair};
use culvert_runtime::clock;
use culvert_upstream::{Outliers, SelectionContext};

use super::pods::LocalPods;
use super::verdict::World;

/// Pairs, services among them, that one pod may have; connections of others go through the tunnel. So a pod that calls
/// every port of its neighbours leaves them their part of the kernel's tables.
const MAX_PAIRS_OF_POD: usize = 1024;

/// The kernel's tables (`cv_direct`, `cv_services`).
const MAX_PAIRS: usize = 16_384;

/// An engine that decides and has not been seen for so long has ended, or hangs.
const GONE_NS: u64 = 3_000_000_000;

/// How long a pair that has failed is left to the tunnel.
const BARRED: Duration = Duration::from_secs(300);

/// How often it is looked whether endpoints are ejected, which ends by time alone.
const EJECTIONS_INTERVAL: Duration = Duration::from_secs(1);

/// Endpoints of a service with their weights, and those of them that are direct.
#[derive(Debug, Default, PartialEq, Eq)]
struct KnownService {
    endpoints: Vec<(SocketAddr, u32)>,
    direct: Vec<SocketAddr>,
}

/// Direct endpoints by the uid of the client's pod and the service's address.
pub(super) type Mixed = HashMap<(Arc<str>, SocketAddr), Arc<[SocketAddr]>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) maps: DirectMaps,
    folder: PathBuf,
    owner: u64,
    /// The pairs that are known, and whether each is allowed.
    pairs: HashMap<Pair, bool>,
    services: HashMap<Pair, KnownService>,
    /// Pairs whose direct connections have failed, until when.
    barred: HashMap<Pair, Instant>,
    /// Whether what `mixed` returns may have changed.
    has_changed: bool,
    /// When ejections are looked at again, and whether there were any.
    ejections: (Instant, bool),
}

impl Table {
    /// Open the maps below `folder`, and become the engine that decides; `None` where a later one does.
    pub(super) fn open(folder: &Path, owner: u64) -> Result<Option<Self>, BpfError> {
        let mut maps = DirectMaps::open(folder)?;
        let (other, seen) = maps.owner();
        let now = clock::now();
        if other > owner && now.saturating_sub(seen) < GONE_NS {
            return Ok(None);
        }
        maps.claim(owner, now)?;
        let pairs = maps.pairs().into_iter().map(|pair| (pair, true)).collect();
        let services = maps.services().into_iter().map(|pair| (pair, KnownService::default())).collect();
        let ejections = (Instant::now(), false);
        Ok(Some(Self {
            maps,
            folder: folder.to_owned(),
            owner,
            pairs,
            services,
            barred: HashMap::new(),
            has_changed: false,
            ejections,
        }))
    }

    /// Where the maps are pinned.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tell other engines that this one goes on.
    pub(super) fn go_on(&mut self) {
        self.maps.seen(clock::now());
    }

    /// Leave the decision to another engine.
    pub(super) fn release(&mut self) {
        self.maps.release(self.owner);
    }

    /// Whether these are the maps below `folder`.
    pub(super) fn is_current(&self, folder: &Path) -> bool {
        self.folder == folder && self.maps.is_current(folder)
    }

    /// Whether no other engine decides now.
    pub(super) fn is_owner(&self) -> bool {
        self.maps.owner().0 == self.owner
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// What a pod may connect to directly now, in order.
    pub(super) fn destinations(&self, netns: u64) -> Vec<SocketAddr> {
        let of_pod = self.pairs.iter().filter(|(pair, allowed)| **allowed && pair.netns == netns);
        let mut found: Vec<_> = of_pod.map(|(pair, _)| pair.destination).collect();
        found.sort_unstable();
        found
    }

    /// How many of the known pairs are allowed now.
    pub(super) fn allowed_pairs(&self) -> u64 {
        self.pairs.values().filter(|allowed| **allowed).count() as u64
    }

    /// Learn of a pair or a service that the tunnel has just carried a connection of.
    pub(super) fn learn(&mut self, world: World<'_>, outliers: &Outliers, pair: Pair) {
        let is_known = self.pairs.contains_key(&pair) || self.services.contains_key(&pair);
        if is_known || self.is_barred(pair) || !self.is_owner() {
            return;
        }
        if self.learn_pair(world, pair) {
            return;
        }
        let service = self.evaluate_service(world, outliers, pair);
        if !service.direct.is_empty() && !self.is_full_for(pair.netns) {
            self.write_service(pair, service);
        }
    }

    /// The direct endpoints of services of which others are not direct, if that may have changed since the last call.
    pub(super) fn mixed(&mut self, pods: &LocalPods) -> Option<Mixed> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let mixed = self.services.iter().filter(|(_, one)| one.direct.len() < one.endpoints.len());
        let named = mixed.filter_map(|(pair, one)| {
            Some(((pods.with_cookie(pair.netns)?.info.uid.clone(), pair.destination), one.direct.as_slice().into()))
        });
        Some(named.collect())
    }

    /// Bring the kernel's tables in line with what is decided now.
    pub(super) fn decide(&mut self, world: World<'_>, outliers: &Outliers) {
        let Self { maps, pairs, services, .. } = self;
        let is_served = |pair: &Pair| world.pods.with_cookie(pair.netns).is_some_and(|pod| pod.served);
        pairs.retain(|pair, _| {
            is_served(pair) || {
                maps.forbid(*pair);
                false
            }
        });
        services.retain(|pair, _| {
            is_served(pair) || {
                maps.remove_service(*pair);
                false
            }
        });
        for (pair, allowed) in pairs.iter_mut() {
            match world.decide(*pair) {
                Some(verdict) => *allowed = maps.allow(*pair, verdict).is_ok(),
                None if *allowed => {
                    maps.forbid(*pair);
                    *allowed = false;
                }
                None => {}
            }
        }
        self.has_changed = true;
        self.decide_services(world, outliers);
    }

    /// Decide services again where endpoints are, or were, ejected or barred.
    pub(super) fn follow_ejections(&mut self, world: World<'_>, outliers: &Outliers) {
        let (due, were_any) = self.ejections;
        let now = Instant::now();
        if due > now {
            return;
        }
        let are_any = outliers.ejected().is_some();
        self.ejections = (now + EJECTIONS_INTERVAL, are_any);
        let barred = self.barred.len();
        self.barred.retain(|_, until| *until > now);
        if are_any || were_any || self.barred.len() < barred {
            self.decide_services(world, outliers);
        }
    }

    /// Leave a pair to the tunnel for a while.
    pub(super) fn bar(&mut self, pair: Pair) {
        let now = Instant::now();
        self.barred.retain(|_, until| *until > now);
        if self.barred.len() < MAX_PAIRS {
            self.barred.insert(pair, now + BARRED);
        }
        self.pairs.remove(&pair);
        self.maps.forbid(pair);
        self.has_changed = true;
        for service in self.services.values_mut() {
            service.direct.retain(|endpoint| *endpoint != pair.destination);
        }
    }

    fn decide_services(&mut self, world: World<'_>, outliers: &Outliers) {
        let pairs: Vec<Pair> = self.services.keys().copied().collect();
        for pair in pairs {
            let service = self.evaluate_service(world, outliers, pair);
            if self.services.get(&pair) != Some(&service) {
                self.write_service(pair, service);
            }
        }
    }

    /// A service without a direct endpoint stays known, and leaves the kernel's table.
    fn write_service(&mut self, pair: Pair, service: KnownService) {
        self.has_changed = true;
        if service.direct.is_empty() {
            self.maps.remove_service(pair);
        } else if self.maps.set_service(pair, &service.endpoints).is_err() {
            self.services.remove(&pair);
            return;
        }
        self.services.insert(pair, service);
    }

    /// The endpoints that the tunnel would choose among; those that may be direct become pairs.
    fn evaluate_service(&mut self, world: World<'_>, outliers: &Outliers, pair: Pair) -> KnownService {
        let mut known = KnownService::default();
        let Some(source) = world.pods.with_cookie(pair.netns).and_then(|pod| pod.workload(world.store)) else {
            return known;
        };
        let ejected = outliers.ejected();
        let choice = SelectionContext { ejected: ejected.as_deref(), ..SelectionContext::default() };
        for endpoint in world.store.shared_endpoints(source, pair.destination, choice) {
            known.endpoints.push((endpoint.address, endpoint.weight));
            let of_endpoint = Pair { destination: endpoint.address, ..pair };
            // Mostly an endpoint is a pod of another node, which is quick to see.
            if world.pods.of_workload(&endpoint.workload).is_some() && self.is_direct(world, of_endpoint) {
                known.direct.push(endpoint.address);
            }
        }
        known
    }

    fn is_direct(&mut self, world: World<'_>, pair: Pair) -> bool {
        match self.pairs.get(&pair) {
            Some(allowed) => *allowed,
            None => !self.is_barred(pair) && self.learn_pair(world, pair),
        }
    }

    fn learn_pair(&mut self, world: World<'_>, pair: Pair) -> bool {
        let Some(verdict) = world.decide(pair) else { return false };
        let is_written = !self.is_full_for(pair.netns) && self.maps.allow(pair, verdict).is_ok();
        if is_written {
            self.pairs.insert(pair, true);
        }
        is_written
    }

    fn is_barred(&self, pair: Pair) -> bool {
        self.barred.get(&pair).is_some_and(|until| *until > Instant::now())
    }

    fn is_full_for(&self, netns: u64) -> bool {
        let of_pod = self.pairs.keys().chain(self.services.keys()).filter(|pair| pair.netns == netns).count();
        self.pairs.len() >= MAX_PAIRS || of_pod >= MAX_PAIRS_OF_POD
    }
}
