//! Addresses of endpoints that are known by host name only, for as long as their resolver allows.
//!
//! A name that cannot be resolved keeps what it had, so that an outage of DNS is none of the endpoint's; one that
//! never could is left out of choices for a moment.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::expiring_map::{Expires, ExpiringMap};

/// Capacity in names. When full, expired names are evicted; if there are none, new names are not cached.
const CAPACITY: usize = 4096;

/// A resolver's word is kept at least and at most so long.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// After a failure, the next question comes so much later.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Entry {
    /// Empty where the name cannot be resolved.
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

impl Expires for Entry {
    fn expires_at(&self) -> Instant {
        self.until
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachedHost {
    /// Not cached.
    NotResolved,
    /// Its addresses; there is at least one.
    Addresses(Arc<[IpAddr]>),
    /// No resolver knows it.
    Unresolvable,
}

/// Cached names.
#[derive(Debug)]
pub struct DnsCache(Mutex<ExpiringMap<Arc<str>, Entry>>);

impl Default for DnsCache {
    fn default() -> Self {
        Self(Mutex::new(ExpiringMap::new(CAPACITY)))
    }
}

impl DnsCache {
    /// What is known of `name` now.
    pub fn get(&self, name: &str) -> CachedHost {
        let entries = self.0.lock();
        match entries.entries().get(name).filter(|entry| entry.until > Instant::now()) {
            None => CachedHost::NotResolved,
            Some(entry) if entry.addresses.is_empty() => CachedHost::Unresolvable,
            Some(entry) => CachedHost::Addresses(entry.addresses.clone()),
        }
    }

    /// Cache a resolver's answer.
    pub fn resolved(&self, name: &Arc<str>, addresses: Vec<IpAddr>, ttl: Duration) {
        if addresses.is_empty() {
            return self.failed(name);
        }
        let until = Instant::now() + ttl.clamp(SHORTEST, LONGEST);
        self.put(name, Entry { addresses: addresses.into(), until });
    }

    /// Cache a failure: no resolver gave a usable answer.
    pub fn failed(&self, name: &Arc<str>) {
        let held = self.0.lock().entries().get(name).map(|entry| entry.addresses.clone());
        self.put(name, Entry { addresses: held.unwrap_or_default(), until: Instant::now() + AFTER_FAILURE });
    }

    fn put(&self, name: &Arc<str>, entry: Entry) {
        let mut entries = self.0.lock();
        if entries.has_room_for(name, Instant::now()) {
            entries.entries_mut().insert(name.clone(), entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(host: CachedHost) -> Option<usize> {
        if let CachedHost::Addresses(all) = host { Some(all.len()) } else { None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_kept_for_its_time_and_beyond_where_dns_is_out() {
        let (hosts, name) = (DnsCache::default(), Arc::from("db.example.com"));
        assert_eq!(hosts.get(&name), CachedHost::NotResolved);
        hosts.resolved(&name, vec![IpAddr::from([10, 0, 0, 1])], Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(addresses(hosts.get(&name)), Some(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(hosts.get(&name), CachedHost::NotResolved);
        hosts.failed(&name);
        assert_eq!(addresses(hosts.get(&name)), Some(1));
        tokio::time::advance(AFTER_FAILURE).await;
        assert_eq!(hosts.get(&name), CachedHost::NotResolved);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_knows_is_asked_for_again_soon() {
        let (hosts, name) = (DnsCache::default(), Arc::from("db.example.com"));
        hosts.resolved(&name, vec![], Duration::from_secs(300));
        assert_eq!(hosts.get(&name), CachedHost::Unresolvable);
        tokio::time::advance(AFTER_FAILURE).await;
        assert_eq!(hosts.get(&name), CachedHost::NotResolved);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let hosts = DnsCache::default();
        let fail = |number: usize| hosts.failed(&Arc::from(number.to_string()));
        (0..CAPACITY + 10).for_each(fail);
        assert_eq!(hosts.0.lock().entries().len(), CAPACITY);
        tokio::time::advance(AFTER_FAILURE).await;
        fail(CAPACITY + 20);
        assert_eq!(hosts.0.lock().entries().len(), 1);
    }
}
