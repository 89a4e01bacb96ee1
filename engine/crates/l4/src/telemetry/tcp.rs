//! The time series of connections by label set, bounded in number and in age.
//!
//! A series is evicted once no connection that counts in it is open and none of its counters has moved for
//! [`SeriesSettings::idle_timeout`]. Neither is recorded where connections are carried: an open connection holds an `Arc` of
//! its series, and the sweep compares each series with what it was the last time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::flow::{Flow, ResponseFlag};
use super::labels::{LabelSelection, Labels};

/// Series that are kept; beyond, connections are counted together under `unknown` labels.
pub(super) const MAX_SERIES: usize = 20_000;

/// Of these, series whose labels a peer reports of itself (baggage): any client of the mesh can make up as many as it
/// likes (CVE-2025-43915), and must not use up the series of known workloads. Beyond, what it reports is left out.
pub(super) const MAX_SELF_REPORTED: usize = 2_000;

/// A sweep visits all series under the table's lock, some 2 ms at the bound, so it is rare. Eviction is late by this much
/// at most.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Counters of one label set.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub failed: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// Values of a [`Series`], in its order.
pub(super) type Values = [u64; 5];

impl Series {
    fn values(&self) -> Values {
        [&self.opened, &self.closed, &self.failed, &self.sent, &self.received].map(|it| it.load(Ordering::Relaxed))
    }
}

/// See the fields of `EngineConfig` in `meshapi/proto/engine.proto`.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeriesSettings {
    /// `None`: series are never evicted.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) labels: LabelSelection,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SeriesTable {
    settings: SeriesSettings,
    entries: Mutex<Entries>,
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Entries {
    by_labels: HashMap<Labels, Entry>,
    self_reported: usize,
    swept: Instant,
}

#[derive(Debug, Default)]
struct Entry {
    series: Arc<Series>,
    self_reported: bool,
    /// As of the last sweep.
    values: Values,
    /// `None` before the first sweep that has seen it.
    idle_since: Option<Instant>,
}

impl Entry {
    fn is_idle_for(&mut self, timeout: Duration, now: Instant) -> bool {
        let values = self.series.values();
        let has_open_connection = Arc::strong_count(&self.series) > 1;
        if has_open_connection || values != self.values {
            self.values = values;
            self.idle_since = Some(now);
            return false;
        }
        now.duration_since(*self.idle_since.get_or_insert(now)) >= timeout
    }
}

impl SeriesTable {
    pub(super) fn new(settings: SeriesSettings) -> Self {
        let entries = Entries { by_labels: HashMap::new(), self_reported: 0, swept: Instant::now() };
        Self { settings, entries: Mutex::new(entries), evicted: AtomicU64::new(0) }
    }

    /// The series of a connection; it is kept at least until the returned reference is dropped.
    pub(super) fn of(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        let selection = self.settings.labels;
        let labels = Labels::of(flow, flag, selection);
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.by_labels.get(&labels) {
            return entry.series.clone();
        }
        if !flow.self_reported() {
            return entries.insert(labels, false, selection);
        }
        if entries.self_reported < MAX_SELF_REPORTED {
            return entries.insert(labels, true, selection);
        }
        entries.insert(Labels::of(&flow.without_baggage(), flag, selection), false, selection)
    }

    /// Evict idle series if the last sweep is long enough ago.
    pub(super) fn sweep(&self, now: Instant) {
        let Some(timeout) = self.settings.idle_timeout else { return };
        let mut entries = self.entries.lock();
        if now.saturating_duration_since(entries.swept) < MAX_SWEEP_INTERVAL.min(timeout / 4) {
            return;
        }
        entries.swept = now;
        let before = entries.by_labels.len();
        let mut self_reported = 0;
        entries.by_labels.retain(|_, entry| {
            let is_kept = !entry.is_idle_for(timeout, now);
            self_reported += usize::from(is_kept && entry.self_reported);
            is_kept
        });
        entries.self_reported = self_reported;
        let evicted = before - entries.by_labels.len();
        self.evicted.fetch_add(u64::try_from(evicted).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// All label sets with their values.
    pub(super) fn snapshot(&self) -> Vec<(Labels, Values)> {
        let entries = self.entries.lock();
        entries.by_labels.iter().map(|(labels, entry)| (labels.clone(), entry.series.values())).collect()
    }

    pub(super) fn label_names(&self) -> Vec<String> {
        self.settings.labels.names().map(ToOwned::to_owned).collect()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl Entries {
    fn insert(&mut self, labels: Labels, self_reported: bool, selection: LabelSelection) -> Arc<Series> {
        let is_full = self.by_labels.len() >= MAX_SERIES && !self.by_labels.contains_key(&labels);
        let (labels, self_reported) =
            if is_full { (Labels::overflow(selection), false) } else { (labels, self_reported) };
        self.self_reported += usize::from(self_reported);
        let entry = self.by_labels.entry(labels).or_insert_with(|| Entry { self_reported, ..Entry::default() });
        entry.series.clone()
    }
}
