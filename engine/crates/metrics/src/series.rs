//! Time series by label set, bounded in number and in age.
//!
//! A series is evicted once no reference to it is held and none of its counters has moved for
//! [`SeriesLimits::idle_timeout`]. Neither is recorded where events are counted: what still counts in a series (an open
//! connection) holds its `Arc`, and the sweep compares each series with the values of the previous sweep.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_core::proto::engine::{MetricFamily, MetricKind, Sample};
use parking_lot::Mutex;

use crate::histogram::HistogramValues;

/// A sweep visits all series under the table's lock, about 2 ms for 20,000 series, so it is rare. Eviction is late by at
/// most this.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The values of a series' labels, in the order of their names.
pub trait LabelSet: Hash + Eq + Clone + AsRef<[Arc<str>]> {}

impl<L: Hash + Eq + Clone + AsRef<[Arc<str>]>> LabelSet for L {}

/// The counters of one series.
pub trait Instrument: Default {
    /// What they read at one moment.
    type Values: Debug + Default + PartialEq;

    /// Read all counters.
    fn values(&self) -> Self::Values;
}

impl Instrument for AtomicU64 {
    type Values = u64;

    fn values(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
}

/// How many series a table keeps, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct SeriesLimits {
    /// Series in the table; further label sets share the overflow series.
    pub capacity: usize,
    /// Of these, series whose labels a peer reports of itself: any client can make up as many as it likes
    /// (CVE-2025-43915), and must not use up the capacity.
    pub max_self_reported: usize,
    /// A series that is not in use is evicted after this; `None`: never.
    pub idle_timeout: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct SeriesTable<L, T: Instrument> {
    names: Vec<&'static str>,
    overflow: L,
    limits: SeriesLimits,
    entries: Mutex<Entries<L, T>>,
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Entries<L, T: Instrument> {
    by_labels: HashMap<L, Entry<T>>,
    self_reported: usize,
    swept: Instant,
}

#[derive(Debug)]
struct Entry<T: Instrument> {
    series: Arc<T>,
    self_reported: bool,
    /// As of the last sweep.
    values: T::Values,
    /// `None` before the first sweep that has seen it.
    idle_since: Option<Instant>,
}

impl<T: Instrument> Entry<T> {
    fn new(self_reported: bool) -> Self {
        Self { series: Arc::default(), self_reported, values: T::Values::default(), idle_since: None }
    }

    fn is_idle_for(&mut self, timeout: Duration, now: Instant) -> bool {
        let values = self.series.values();
        let is_held = Arc::strong_count(&self.series) > 1;
        if is_held || values != self.values {
            self.values = values;
            self.idle_since = Some(now);
            return false;
        }
        now.duration_since(*self.idle_since.get_or_insert(now)) >= timeout
    }
}

impl<L: LabelSet, T: Instrument> SeriesTable<L, T> {
    /// An empty table of series with labels of these `names`. Label sets beyond the capacity count in the series `overflow`.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = &'static str>, overflow: L, limits: SeriesLimits) -> Self {
        let entries = Entries { by_labels: HashMap::new(), self_reported: 0, swept: Instant::now() };
        Self {
            names: names.into_iter().collect(),
            overflow,
            limits,
            entries: Mutex::new(entries),
            evicted: AtomicU64::new(0),
        }
    }

    /// The series of a label set; it is kept at least until the returned reference is dropped.
    pub fn series(&self, labels: L) -> Arc<T> {
        self.insert(&mut self.entries.lock(), labels, false)
    }

    /// The series of a label set that a peer reports of itself; beyond [`SeriesLimits::max_self_reported`], that of the
    /// labels which `without_report` returns.
    pub fn self_reported(&self, labels: L, without_report: impl FnOnce() -> L) -> Arc<T> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.by_labels.get(&labels) {
            return entry.series.clone();
        }
        if entries.self_reported < self.limits.max_self_reported {
            return self.insert(&mut entries, labels, true);
        }
        self.insert(&mut entries, without_report(), false)
    }

    fn insert(&self, entries: &mut Entries<L, T>, labels: L, self_reported: bool) -> Arc<T> {
        if let Some(entry) = entries.by_labels.get(&labels) {
            return entry.series.clone();
        }
        let is_full = entries.by_labels.len() >= self.limits.capacity;
        let (labels, self_reported) = if is_full { (self.overflow.clone(), false) } else { (labels, self_reported) };
        entries.self_reported += usize::from(self_reported);
        entries.by_labels.entry(labels).or_insert_with(|| Entry::new(self_reported)).series.clone()
    }

    /// Evict idle series if the last sweep is long enough ago. Call it every few seconds.
    pub fn sweep(&self, now: Instant) {
        let Some(timeout) = self.limits.idle_timeout else { return };
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

    /// How many series were evicted since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// All series with their values.
    pub fn snapshot(&self) -> Snapshot<'_, L, T::Values> {
        let entries = self.entries.lock();
        let series = entries.by_labels.iter().map(|(labels, entry)| (labels.clone(), entry.series.values())).collect();
        Snapshot { names: &self.names, series }
    }
}

/// The series of a table at one moment, from which families are made.
#[derive(Debug)]
pub struct Snapshot<'a, L, V> {
    names: &'a [&'static str],
    series: Vec<(L, V)>,
}

impl<L: LabelSet, V> Snapshot<'_, L, V> {
    /// How many series there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The family of one counter. Series in which it is 0 are left out.
    pub fn counter(&self, name: &str, help: &str, value: impl Fn(&V) -> u64) -> MetricFamily {
        self.family(name, help, MetricKind::Counter, |values| Sample { value: value(values), ..Default::default() })
    }

    /// The family of one histogram with upper bounds in seconds. Series without an observation are left out.
    pub fn histogram<const N: usize>(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64; N],
        value: impl Fn(&V) -> HistogramValues<N>,
    ) -> MetricFamily {
        let sample = |values: &V| {
            let values = value(values);
            let buckets = values.buckets();
            Sample { value: buckets.iter().sum(), buckets, sum: values.sum(), ..Default::default() }
        };
        MetricFamily { bounds: bounds.to_vec(), ..self.family(name, help, MetricKind::Histogram, sample) }
    }

    fn family(&self, name: &str, help: &str, kind: MetricKind, sample: impl Fn(&V) -> Sample) -> MetricFamily {
        let samples = self.series.iter().map(|(labels, values)| (labels, sample(values)));
        MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            label_names: self.names.iter().map(ToString::to_string).collect(),
            samples: samples
                .filter(|(_, sample)| sample.value > 0)
                .map(|(labels, sample)| Sample {
                    label_values: labels.as_ref().iter().map(ToString::to_string).collect(),
                    ..sample
                })
                .collect(),
            kind: kind.into(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = SeriesTable<[Arc<str>; 1], AtomicU64>;

    fn table(idle_timeout: Option<Duration>) -> Table {
        let limits = SeriesLimits { capacity: 5, max_self_reported: 2, idle_timeout };
        SeriesTable::new(["name"], ["other".into()], limits)
    }

    fn count(table: &Table, name: &str) {
        table.series([name.into()]).fetch_add(1, Ordering::Relaxed);
    }

    fn report(table: &Table, name: &str) {
        table.self_reported([name.into()], || ["unreported".into()]).fetch_add(1, Ordering::Relaxed);
    }

    fn values(table: &Table) -> Vec<(String, u64)> {
        let samples = table.snapshot().counter("n", "", |value| *value).samples;
        let mut all: Vec<_> = samples.into_iter().map(|one| (one.label_values.concat(), one.value)).collect();
        all.sort_unstable();
        all
    }

    fn named<const N: usize>(values: [(&str, u64); N]) -> Vec<(String, u64)> {
        values.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn label_sets_beyond_the_capacity_share_one_series() {
        let table = table(None);
        ["a", "b", "c", "d", "e", "f", "g", "a"].iter().for_each(|name| count(&table, name));
        assert_eq!(values(&table), named([("a", 2), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("other", 2)]));
    }

    #[test]
    fn self_reported_label_sets_have_a_smaller_bound() {
        let table = table(None);
        ["a", "b", "c", "a"].iter().for_each(|name| report(&table, name));
        assert_eq!(values(&table), named([("a", 2), ("b", 1), ("unreported", 1)]));
    }

    #[test]
    fn a_series_is_evicted_when_it_is_neither_held_nor_used() {
        let (table, mut now) = (table(Some(Duration::from_secs(4))), Instant::now());
        let held = table.series(["held".into()]);
        held.fetch_add(1, Ordering::Relaxed);
        report(&table, "idle");
        for _ in 0..6 {
            count(&table, "busy");
            now += Duration::from_secs(1);
            table.sweep(now);
        }
        assert_eq!((values(&table), table.evicted()), (named([("busy", 6), ("held", 1)]), 1));
        ["x", "y"].iter().for_each(|name| report(&table, name));
        assert_eq!(values(&table), named([("busy", 6), ("held", 1), ("x", 1), ("y", 1)]), "the quota is free again");
    }
}
