//! The indexes over workloads, services and policies. Every change costs what the object itself refers to.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::NetworkAddress;
use crate::policy::Policies;
use crate::service::Service;
use crate::service_key::ServiceKey;
use crate::workload::{Protocol, Workload};

/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

/// All workloads, services and policies.
#[derive(Debug, Default)]
pub struct Store {
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    by_address: HashMap<NetworkAddress, Vec<Arc<Workload>>>,
    by_name: HashMap<PodName, Vec<Arc<Workload>>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Vec<Arc<Service>>>,
    by_host: HashMap<Arc<str>, Vec<Arc<Service>>>,
    ranges: Vec<Arc<Service>>,
    /// Also of services that are not known yet. Ordered, so that a dump is stable.
    endpoints: HashMap<ServiceKey, BTreeMap<Arc<str>, Arc<Workload>>>,
    /// All policies.
    pub policies: Policies,
}

impl Store {
    /// Add a workload, or replace the one of the same UID.
    pub fn insert_workload(&mut self, workload: Workload) {
        self.remove_workload(&workload.uid);
        let workload = Arc::new(workload);
        for address in indexed_addresses(&workload) {
            self.by_address.entry(address).or_default().push(workload.clone());
        }
        let name = (workload.namespace.clone(), workload.name.clone());
        self.by_name.entry(name).or_default().push(workload.clone());
        for key in workload.services.keys() {
            self.endpoints.entry(key.clone()).or_default().insert(workload.uid.clone(), workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    /// Remove a workload; returns whether there was one.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(workload) = self.workloads.remove(uid) else { return false };
        for address in indexed_addresses(&workload) {
            remove_from(&mut self.by_address, &address, |other| Arc::ptr_eq(other, &workload));
        }
        let name = (workload.namespace.clone(), workload.name.clone());
        remove_from(&mut self.by_name, &name, |other| Arc::ptr_eq(other, &workload));
        for key in workload.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(key) {
                endpoints.remove(&workload.uid);
                if endpoints.is_empty() {
                    self.endpoints.remove(key);
                }
            }
        }
        true
    }

    /// Add a service, or replace the one of the same key.
    pub fn insert_service(&mut self, service: Service) {
        self.remove_service(&service.key);
        let service = Arc::new(service);
        for address in &service.addresses {
            self.by_vip.entry(address.clone()).or_default().push(service.clone());
        }
        if !service.ranges.is_empty() {
            self.ranges.push(service.clone());
        }
        self.by_host.entry(host_key(&service.key)).or_default().push(service.clone());
        self.services.insert(service.key.clone(), service);
    }

    /// Remove a service; returns whether there was one.
    pub fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(service) = self.services.remove(key) else { return false };
        for address in &service.addresses {
            remove_from(&mut self.by_vip, address, |other| Arc::ptr_eq(other, &service));
        }
        self.ranges.retain(|other| !Arc::ptr_eq(other, &service));
        remove_from(&mut self.by_host, &host_key(key), |other| Arc::ptr_eq(other, &service));
        true
    }

    /// The workload behind an address: a pod rather than anything else, then one that speaks HBONE.
    #[must_use]
    pub fn workload_at(&self, network: &Arc<str>, ip: IpAddr) -> Option<&Arc<Workload>> {
        let found = self.by_address.get(&NetworkAddress { network: network.clone(), ip })?;
        found.iter().max_by_key(|workload| (workload.uid.contains("//Pod/"), workload.protocol == Protocol::Hbone))
    }

    /// The workload of a UID.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that the node agent names so.
    #[must_use]
    pub fn workload_named(&self, namespace: &str, name: &str, account: &str) -> Option<&Arc<Workload>> {
        let found = self.by_name.get(&(namespace.into(), name.into()))?;
        found.iter().find(|workload| workload.identity.service_account() == account)
    }

    /// The service behind an address, as a client of `namespace` sees it: exact before range; among equals its own
    /// namespace's, then the canonical one; the longest range wins.
    #[must_use]
    pub fn service_at(&self, network: &Arc<str>, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        let visible = |service: &&Arc<Service>| !service.private || *service.key.namespace == *namespace;
        let own = |service: &Arc<Service>| *service.key.namespace == *namespace;
        let exact = self
            .by_vip
            .get(&NetworkAddress { network: network.clone(), ip })
            .and_then(|found| found.iter().filter(visible).max_by_key(|service| (own(service), service.canonical)));
        exact.or_else(|| {
            let length = |service: &Arc<Service>| {
                let covering = service.ranges.iter().filter(|(n, range)| n == network && range.contains(&ip));
                covering.map(|(_, range)| range.prefix_len()).max()
            };
            let covering = self.ranges.iter().filter(visible).filter(|service| length(service).is_some());
            covering.max_by_key(|service| (own(service), length(service), service.canonical))
        })
    }

    /// The service of a key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service of a hostname (in lower case) that a client of `namespace` sees: that namespace's own, then the
    /// canonical one.
    #[must_use]
    pub fn service_of_host(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        let found = self.by_host.get(hostname)?;
        let visible = found.iter().filter(|service| !service.private || *service.key.namespace == *namespace);
        visible.max_by_key(|service| (*service.key.namespace == *namespace, service.canonical))
    }

    /// The endpoints of a service, ready or not.
    pub fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(key).into_iter().flat_map(BTreeMap::values)
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

/// Pods of the host's network share its address, so none of them can be found by it.
fn indexed_addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    let addresses = if workload.host_network { &[] } else { workload.addresses.as_slice() };
    addresses.iter().map(|&ip| NetworkAddress { network: workload.network.clone(), ip })
}

/// Host names have no letter case.
fn host_key(key: &ServiceKey) -> Arc<str> {
    if key.hostname.bytes().any(|byte| byte.is_ascii_uppercase()) {
        key.hostname.to_ascii_lowercase().into()
    } else {
        key.hostname.clone()
    }
}

fn remove_from<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, Vec<V>>, key: &K, is_it: impl Fn(&V) -> bool) {
    if let Some(list) = map.get_mut(key) {
        list.retain(|value| !is_it(value));
        if list.is_empty() {
            map.remove(key);
        }
    }
}
