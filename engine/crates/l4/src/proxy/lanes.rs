//! Which threads serve which workload.
//!
//! A workload has a lane, threads of its own, as long as there are lanes to be had: then it is the kernel that shares the
//! processor between workloads; threads that go without a pause leave some cpus to the other lanes'. Where there are
//! more workloads than lanes some share one, and each has a fair part of its time (`culvert_runtime`).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use culvert_core::proto::engine::{MetricFamily, MetricKind};
use culvert_runtime::CpuReservation;

use super::worker::WorkerHandle;
use crate::shared::Shared;
use crate::telemetry::single;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    cpus: Arc<CpuReservation>,
    lanes: Vec<Lane>,
    /// Where each workload is served.
    places: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Lane {
    workers: Vec<WorkerHandle>,
    workloads: usize,
}

impl Lanes {
    /// Start the first lane; others follow when they are wanted.
    ///
    /// # Errors
    /// A thread or an event loop cannot be had.
    pub(crate) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let cpus = CpuReservation::new(shared.config.reserved_cpus);
        let mut made = Self { shared, cpus, lanes: Vec::new(), places: HashMap::new() };
        made.open()?;
        Ok(made)
    }

    /// The threads for a workload.
    pub(crate) fn take(&mut self, uid: &Arc<str>) -> &[WorkerHandle] {
        let place = self.places.get(uid).copied().unwrap_or_else(|| {
            let place = self.choose();
            self.places.insert(uid.clone(), place);
            if let Some(lane) = self.lanes.get_mut(place) {
                lane.workloads += 1;
            }
            place
        });
        self.workers_of(place)
    }

    /// The threads that serve a workload.
    pub(crate) fn of(&self, uid: &str) -> &[WorkerHandle] {
        self.places.get(uid).map_or(&[], |place| self.workers_of(*place))
    }

    /// Other workloads need not avoid this one's threads any more.
    pub(crate) fn leave(&mut self, uid: &str) {
        if let Some(lane) = self.places.remove(uid).and_then(|place| self.lanes.get_mut(place)) {
            lane.workloads -= 1;
        }
    }

    /// All threads.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.lanes.iter().flat_map(|lane| &lane.workers)
    }

    /// Threads, those of them that are restricted, and workloads that have none of their own, as metrics.
    pub(crate) fn families(&self) -> [MetricFamily; 3] {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let sharing = self.lanes.iter().map(|lane| lane.workloads).filter(|workloads| *workloads > 1).sum();
        [
            single(
                "culvert_worker_threads",
                "Threads that serve workloads",
                MetricKind::Gauge,
                count(self.workers().count()),
            ),
            single(
                "culvert_worker_threads_restricted",
                "Threads that go without a pause, and leave cpus to other workloads' meanwhile",
                MetricKind::Gauge,
                count(self.cpus.restricted()),
            ),
            single(
                "culvert_workloads_sharing_threads",
                "Workloads that share their threads with others, because there are too few",
                MetricKind::Gauge,
                count(sharing),
            ),
        ]
    }

    /// End all threads at once; connections that stand are cut.
    pub(crate) fn close(self) {
        // All are told before the first is waited for.
        let threads: Vec<_> = self.lanes.into_iter().flat_map(|lane| lane.workers).map(WorkerHandle::end).collect();
        for thread in threads {
            // A panic has been reported as a fatal event already.
            let _ = thread.join();
        }
    }

    /// A lane that nobody has, else the one with fewest workloads.
    fn choose(&mut self) -> usize {
        let quietest = self.lanes.iter().enumerate().min_by_key(|(_, lane)| lane.workloads);
        let (place, shared) = quietest.map_or((0, true), |(place, lane)| (place, lane.workloads > 0));
        // Where another thread cannot be had, sharing one is better than not to be served.
        if shared && self.lanes.len() < self.shared.config.lanes && self.open().is_ok() {
            return self.lanes.len() - 1;
        }
        place
    }

    fn open(&mut self) -> io::Result<()> {
        let size = self.shared.config.workers_per_lane;
        let first = self.lanes.len() * size;
        let start = |number| {
            let affinity = self.cpus.affinity(self.lanes.len());
            WorkerHandle::start(number, affinity, self.shared.clone())
        };
        let workers = (first..first + size).map(start);
        let workers = workers.collect::<io::Result<_>>()?;
        self.lanes.push(Lane { workers, workloads: 0 });
        Ok(())
    }

    fn workers_of(&self, place: usize) -> &[WorkerHandle] {
        self.lanes.get(place).map_or(&[], |lane| &lane.workers)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use culvert_core::proto::engine::EngineConfig;

    use super::*;
    use crate::events::Events;

    fn lanes(max_worker_threads: u32) -> Lanes {
        let config = EngineConfig { worker_threads: 1, max_worker_threads, ..EngineConfig::default() };
        Lanes::start(Arc::new(Shared::new(config.into(), Arc::new(Events::new().unwrap())))).unwrap()
    }

    fn place(lanes: &mut Lanes, uid: &str) -> usize {
        lanes.take(&uid.into());
        lanes.places.get(uid).copied().unwrap()
    }

    fn values(lanes: &Lanes) -> [u64; 2] {
        let [threads, _, sharing] = lanes.families().map(|family| family.samples.first().unwrap().value);
        [threads, sharing]
    }

    #[test]
    fn workloads_share_threads_only_where_there_are_too_few() {
        let mut lanes = lanes(3);
        let places: Vec<_> = ["a", "b", "c", "d", "a"].map(|uid| place(&mut lanes, uid)).into();
        assert_eq!(places, [0, 1, 2, 0, 0]);
        assert_eq!(values(&lanes), [3, 2]);
        lanes.leave("d");
        assert_eq!(values(&lanes), [3, 0]);
        lanes.close();
    }

    #[test]
    fn threads_that_are_free_again_are_used_before_others_are_started() {
        let mut lanes = lanes(8);
        assert_eq!(["a", "b"].map(|uid| place(&mut lanes, uid)), [0, 1]);
        assert_eq!(lanes.of("a").len(), 1);
        (0..2).for_each(|_| lanes.leave("a"));
        assert!(lanes.of("a").is_empty());
        assert_eq!(["c", "d"].map(|uid| place(&mut lanes, uid)), [0, 2]);
        lanes.close();
    }
}
