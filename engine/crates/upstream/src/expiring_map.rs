//! A map of bounded size whose entries expire.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

/// An entry that need not be kept for ever.
pub(crate) trait Expires {
    /// From when on the entry may be evicted to make room for others.
    fn expires_at(&self) -> Instant;
}

/// See the module. Expired entries are evicted when there is no room for a new one, not before.
#[derive(Debug)]
pub(crate) struct ExpiringMap<K, V> {
    capacity: usize,
    entries: HashMap<K, V>,
    /// The first expiry in a map that was full: until then it is not searched again for expired entries.
    full_until: Option<Instant>,
}

impl<K: Hash + Eq, V: Expires> ExpiringMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), full_until: None }
    }

    /// All entries, expired ones included.
    pub(crate) const fn entries(&self) -> &HashMap<K, V> {
        &self.entries
    }

    /// The same, to be changed. Before a new entry is inserted, [`ExpiringMap::has_room_for`] must have said yes.
    pub(crate) const fn entries_mut(&mut self) -> &mut HashMap<K, V> {
        &mut self.entries
    }

    /// Whether there is an entry of `key`, or room for one once expired entries are evicted.
    pub(crate) fn has_room_for(&mut self, key: &K, now: Instant) -> bool {
        if self.entries.len() < self.capacity || self.entries.contains_key(key) {
            return true;
        }
        self.evict_expired(now);
        self.entries.len() < self.capacity
    }

    fn evict_expired(&mut self, now: Instant) {
        if self.full_until.is_none_or(|until| until <= now) {
            self.entries.retain(|_, entry| entry.expires_at() > now);
            self.full_until = self.entries.values().map(V::expires_at).min();
        }
    }
}
