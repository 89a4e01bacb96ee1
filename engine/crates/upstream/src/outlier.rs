//! Endpoints that keep failing, and for how long they are left out.
//!
//! An endpoint is *healthy* until a number of connects in a row fail; then it is *ejected* for a base time, longer
//! with each time that it happens again. After that it is *on probation*: chosen again, and the next such row of
//! failures counts as another time. Each base time that it then serves well is one time forgiven.
//!
//! Known by address and port, as a connection finds them: a pod that is replaced under the same address inherits at
//! most one ejection. Kept for at most [`CAPACITY`] endpoints; beyond, new ones are not watched.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use culvert_core::proto::engine as wire;
use culvert_metrics::single;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::expiring_map::{Expires, ExpiringMap};

/// Endpoints that are watched: only those that failed lately are.
const CAPACITY: usize = 4096;

/// As Envoy's `max_ejection_time`.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

/// When an endpoint is left out, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct OutlierSettings {
    /// Failures in a row; 0 ejects nothing.
    pub failures: u32,
    /// The first ejection's length.
    pub base: Duration,
    /// Share of a service's endpoints that are left out at most.
    pub max_percent: usize,
}

#[derive(Debug)]
struct Record {
    /// In a row, since the last success or ejection.
    failures: u32,
    ejections: u32,
    /// End of the latest ejection, or the first failure.
    since: Instant,
    last_failure: Instant,
}

impl Expires for Record {
    fn expires_at(&self) -> Instant {
        self.last_failure + LONGEST_EJECTION * 2
    }
}

/// The endpoints that are left out now.
#[derive(Debug, Default)]
pub struct Ejected {
    until: HashMap<SocketAddr, Instant>,
    max_percent: usize,
}

/// The failures of endpoints, as all workers have seen them.
#[derive(Debug)]
pub struct Outliers {
    settings: OutlierSettings,
    records: Mutex<ExpiringMap<SocketAddr, Record>>,
    /// Replaced at each change; read at each choice.
    ejected: Mutex<Option<Arc<Ejected>>>,
    /// Number of records, and of ejected endpoints, to be read without a lock: mostly there are none.
    watched: AtomicUsize,
    out: AtomicUsize,
    ejections: AtomicU64,
}

impl Ejected {
    /// Whether `endpoint` is left out now.
    #[must_use]
    pub fn contains(&self, endpoint: SocketAddr) -> bool {
        self.until.get(&endpoint).is_some_and(|until| *until > Instant::now())
    }

    /// How many of `all` endpoints of a service may be left out: never the last one.
    #[must_use]
    pub fn limit(&self, all: usize) -> usize {
        (all * self.max_percent / 100).min(all.saturating_sub(1))
    }
}

impl Outliers {
    /// No endpoint has failed yet.
    #[must_use]
    pub fn new(settings: OutlierSettings) -> Self {
        Self {
            settings,
            records: Mutex::new(ExpiringMap::new(CAPACITY)),
            ejected: Mutex::default(),
            watched: AtomicUsize::new(0),
            out: AtomicUsize::new(0),
            ejections: AtomicU64::new(0),
        }
    }

    /// The endpoints to leave out, if there are any.
    #[must_use]
    pub fn ejected(&self) -> Option<Arc<Ejected>> {
        if self.out.load(Ordering::Acquire) == 0 { None } else { self.ejected.lock().clone() }
    }

    /// A connect failed.
    pub fn failed(&self, endpoint: SocketAddr) {
        if self.settings.failures == 0 {
            return;
        }
        let now = Instant::now();
        let mut records = self.records.lock();
        let fresh = || Record { failures: 0, ejections: 0, since: now, last_failure: now };
        if !records.has_room_for(&endpoint, now) {
            return;
        }
        let record = records.entries_mut().entry(endpoint).or_insert_with(fresh);
        record.last_failure = now;
        let is_out = record.ejections > 0 && record.since > now;
        // One that was tried although it is out, because nothing better was left, is not punished for that.
        if !is_out {
            record.failures += 1;
            if record.failures >= self.settings.failures {
                record.ejections = record.ejections.saturating_sub(self.forgiven(record, now)) + 1;
                record.failures = 0;
                record.since = now + (self.settings.base * record.ejections).min(LONGEST_EJECTION);
                self.ejections.fetch_add(1, Ordering::Relaxed);
                self.publish(records.entries(), now);
            }
        }
        self.watched.store(records.entries().len(), Ordering::Release);
    }

    /// A connect succeeded.
    pub fn succeeded(&self, endpoint: SocketAddr) {
        if self.watched.load(Ordering::Acquire) == 0 {
            return;
        }
        let now = Instant::now();
        let mut records = self.records.lock();
        let Some(record) = records.entries_mut().get_mut(&endpoint) else { return };
        record.failures = 0;
        if record.ejections == 0 || self.forgiven(record, now) >= record.ejections {
            records.entries_mut().remove(&endpoint);
        } else if record.since > now {
            record.since = now;
        }
        if self.out.load(Ordering::Acquire) > 0 {
            self.publish(records.entries(), now);
        }
        self.watched.store(records.entries().len(), Ordering::Release);
    }

    /// Ejections that an endpoint has made up for by the time since the last one ended.
    fn forgiven(&self, record: &Record, now: Instant) -> u32 {
        let quiet = now.saturating_duration_since(record.since);
        u32::try_from(quiet.as_millis() / self.settings.base.as_millis().max(1)).unwrap_or(u32::MAX)
    }

    fn publish(&self, records: &HashMap<SocketAddr, Record>, now: Instant) {
        let until: HashMap<_, _> = records
            .iter()
            .filter(|(_, record)| record.ejections > 0 && record.since > now)
            .map(|(endpoint, record)| (*endpoint, record.since))
            .collect();
        let count = until.len();
        *self.ejected.lock() = Some(Arc::new(Ejected { until, max_percent: self.settings.max_percent }));
        self.out.store(count, Ordering::Release);
    }

    /// The families of ejections.
    #[must_use]
    pub fn families(&self) -> [wire::MetricFamily; 2] {
        let (ejections, active) = (self.ejections.load(Ordering::Relaxed), self.active());
        [
            single(
                "culvert_outlier_ejections",
                "Endpoints left out because their connects kept failing",
                wire::MetricKind::Counter,
                ejections,
            ),
            single(
                "culvert_outlier_ejections_active",
                "Endpoints that are left out now",
                wire::MetricKind::Gauge,
                active,
            ),
        ]
    }

    /// Endpoints that are ejected now.
    fn active(&self) -> u64 {
        let now = Instant::now();
        let out = self.ejected();
        let count = out.map_or(0, |ejected| ejected.until.values().filter(|until| **until > now).count());
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Drop ejections that have ended. Call it every few seconds.
    pub fn tidy(&self) {
        if self.out.load(Ordering::Acquire) > 0 {
            self.publish(self.records.lock().entries(), Instant::now());
        }
    }
}

#[cfg(test)]
#[path = "outlier/tests.rs"]
mod tests;
