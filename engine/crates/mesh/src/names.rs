//! The services and addresses behind a host name, for DNS.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_dns::names::{meanings, wildcards};

use crate::service::Service;
use crate::store::Store;
use crate::workload::Workload;

impl Store {
    /// The service that `client` means by a name, complete or as far as its search path would complete it; a host of
    /// that name before a wildcard that covers it.
    #[must_use]
    pub fn service_named(&self, client: &Workload, name: &str, domain: &str) -> Option<&Arc<Service>> {
        let visible = |host: &str| self.service_of_host(host, &client.namespace);
        meanings(name, &client.namespace, domain)
            .iter()
            .find_map(|meaning| visible(meaning).or_else(|| wildcards(meaning).find_map(|wildcard| visible(&wildcard))))
    }

    /// All addresses of a service that `client` can use: its own, or, where it has none, those of its endpoints that
    /// are ready. None at all means that the mesh does not know the name.
    #[must_use]
    pub fn addresses_of(&self, client: &Workload, service: &Service) -> Vec<IpAddr> {
        let own = service.addresses.iter().filter(|address| address.network == client.network);
        let own: Vec<IpAddr> = own.map(|address| address.ip).filter(|&ip| service.has_family_of(ip)).collect();
        if !own.is_empty() {
            return own;
        }
        self.endpoints(&service.key)
            .filter(|workload| workload.healthy || service.publish_not_ready)
            .filter(|workload| workload.network == client.network)
            .flat_map(|workload| workload.addresses.iter().copied())
            .filter(|&ip| service.has_family_of(ip))
            .collect()
    }
}

#[cfg(test)]
#[path = "names/tests.rs"]
mod tests;
