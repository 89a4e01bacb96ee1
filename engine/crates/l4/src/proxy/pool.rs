//! Which worker threads serve which workload.
//!
//! A workload has a worker group of its own, as long as groups can be added: then the kernel shares the CPUs between
//! workloads, and CPU-bound threads leave reserved CPUs to other groups. With more workloads than groups, some share a
//! group, and each gets a fair part of its time (`culvert_runtime`).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use culvert_core::proto::engine::{MetricFamily, MetricKind};
use culvert_metrics::single;
use culvert_runtime::CpuReservation;

use super::worker::WorkerHandle;
use crate::shared::ProxyState;

/// The worker groups of a process; see the module.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    shared: Arc<ProxyState>,
    cpus: Arc<CpuReservation>,
    groups: Vec<WorkerGroup>,
    /// Index of the group that serves each workload, by UID.
    assigned: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct WorkerGroup {
    workers: Vec<WorkerHandle>,
    workloads: usize,
}

impl WorkerPool {
    /// Start the first group; others are started on demand.
    ///
    /// # Errors
    /// A thread or an event loop cannot be created.
    pub(crate) fn start(shared: Arc<ProxyState>) -> io::Result<Self> {
        let cpus = CpuReservation::new(shared.config.reserved_cpus);
        let mut made = Self { shared, cpus, groups: Vec::new(), assigned: HashMap::new() };
        made.add_group()?;
        Ok(made)
    }

    /// Assign a workload to a group, unless it has one; return the group's workers.
    pub(crate) fn assign(&mut self, uid: &Arc<str>) -> &[WorkerHandle] {
        let index = self.assigned.get(uid).copied().unwrap_or_else(|| {
            let index = self.choose();
            self.assigned.insert(uid.clone(), index);
            if let Some(group) = self.groups.get_mut(index) {
                group.workloads += 1;
            }
            index
        });
        self.workers_of(index)
    }

    /// The workers that serve a workload.
    pub(crate) fn workers_for(&self, uid: &str) -> &[WorkerHandle] {
        self.assigned.get(uid).map_or(&[], |index| self.workers_of(*index))
    }

    /// Release a workload's group for other workloads.
    pub(crate) fn release(&mut self, uid: &str) {
        if let Some(group) = self.assigned.remove(uid).and_then(|index| self.groups.get_mut(index)) {
            group.workloads -= 1;
        }
    }

    /// All workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.groups.iter().flat_map(|group| &group.workers)
    }

    /// Metrics: threads, restricted threads, and workloads without a group of their own.
    pub(crate) fn families(&self) -> [MetricFamily; 3] {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let sharing = self.groups.iter().map(|group| group.workloads).filter(|workloads| *workloads > 1).sum();
        [
            single(
                "culvert_worker_threads",
                "Threads that serve workloads",
                MetricKind::Gauge,
                count(self.workers().count()),
            ),
            single(
                "culvert_worker_threads_restricted",
                "CPU-bound threads that keep off the reserved CPUs",
                MetricKind::Gauge,
                count(self.cpus.restricted()),
            ),
            single(
                "culvert_workloads_sharing_threads",
                "Workloads that share their threads with others, because MAX_WORKER_THREADS is reached",
                MetricKind::Gauge,
                count(sharing),
            ),
        ]
    }

    /// Stop all threads at once; open connections are cut.
    pub(crate) fn close(self) {
        // All are stopped before the first is joined.
        let threads: Vec<_> = self.groups.into_iter().flat_map(|group| group.workers).map(WorkerHandle::end).collect();
        for thread in threads {
            // A panic has been reported as a fatal event already.
            let _ = thread.join();
        }
    }

    /// A group without workloads, a new one, or else the one with the fewest workloads.
    fn choose(&mut self) -> usize {
        let quietest = self.groups.iter().enumerate().min_by_key(|(_, group)| group.workloads);
        let (index, shared) = quietest.map_or((0, true), |(index, group)| (index, group.workloads > 0));
        // If no thread can be created, sharing a group is better than not serving the workload.
        if shared && self.groups.len() < self.shared.config.worker_groups && self.add_group().is_ok() {
            return self.groups.len() - 1;
        }
        index
    }

    fn add_group(&mut self) -> io::Result<()> {
        let size = self.shared.config.workers_per_group;
        let first = self.groups.len() * size;
        let start = |number| {
            let affinity = self.cpus.affinity(self.groups.len());
            WorkerHandle::start(number, affinity, self.shared.clone())
        };
        let workers = (first..first + size).map(start).collect::<io::Result<_>>()?;
        self.groups.push(WorkerGroup { workers, workloads: 0 });
        Ok(())
    }

    fn workers_of(&self, index: usize) -> &[WorkerHandle] {
        self.groups.get(index).map_or(&[], |group| &group.workers)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use culvert_core::proto::engine::EngineConfig;

    use super::*;
    use crate::events::Events;

    fn pool(max_worker_threads: u32) -> WorkerPool {
        let config = EngineConfig { worker_threads: 1, max_worker_threads, ..EngineConfig::default() };
        WorkerPool::start(Arc::new(ProxyState::new(config.into(), Arc::new(Events::new().unwrap())))).unwrap()
    }

    fn assign(pool: &mut WorkerPool, uid: &str) -> usize {
        pool.assign(&uid.into());
        pool.assigned.get(uid).copied().unwrap()
    }

    fn values(pool: &WorkerPool) -> [u64; 2] {
        let [threads, _, sharing] = pool.families().map(|family| family.samples.first().unwrap().value);
        [threads, sharing]
    }

    #[test]
    fn workloads_share_threads_only_at_the_limit() {
        let mut pool = pool(3);
        let groups: Vec<_> = ["a", "b", "c", "d", "a"].map(|uid| assign(&mut pool, uid)).into();
        assert_eq!(groups, [0, 1, 2, 0, 0]);
        assert_eq!(values(&pool), [3, 2]);
        pool.release("d");
        assert_eq!(values(&pool), [3, 0]);
        pool.close();
    }

    #[test]
    fn idle_threads_are_reused_before_new_ones_are_started() {
        let mut pool = pool(8);
        assert_eq!(["a", "b"].map(|uid| assign(&mut pool, uid)), [0, 1]);
        assert_eq!(pool.workers_for("a").len(), 1);
        (0..2).for_each(|_| pool.release("a"));
        assert!(pool.workers_for("a").is_empty());
        assert_eq!(["c", "d"].map(|uid| assign(&mut pool, uid)), [0, 2]);
        pool.close();
    }
}
