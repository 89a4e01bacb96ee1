//! Which worker threads serve which workload.
//!
//! A workload has a worker group of its own, as long as groups can be added: then the kernel shares the CPUs between
//! workloads, and CPU-bound threads leave reserved CPUs to other groups. With more workloads than groups, some share a
//! group, and each gets a fair part of its time (`culvert_runtime`).

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_core::proto::engine::{MetricFamily, MetricKind};
use culvert_metrics::single;
use culvert_runtime::CpuReservation;

use crate::command::{Command, Started, Stopped};
use crate::host::Host;
use crate::limits::PodInfo;
use crate::protocol::Protocol;
use crate::thread::WorkerHandle;

/// Why a command has not reached all threads.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The queue of a thread is full, or the thread has ended.
    #[error("the queue of a worker thread is full")]
    Busy,
    /// The descriptor of a namespace cannot be duplicated.
    #[error("cannot keep the namespace: {0}")]
    Namespace(io::Error),
}

/// The worker groups of a process; see the module.
#[derive(Debug)]
pub struct WorkerPool<P> {
    host: Arc<Host>,
    protocol: Arc<P>,
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

impl<P: Protocol> WorkerPool<P> {
    /// Start the first group; others are started on demand.
    ///
    /// # Errors
    /// A thread or an event loop cannot be created.
    pub fn start(host: Arc<Host>, protocol: Arc<P>) -> io::Result<Self> {
        let cpus = CpuReservation::new(host.settings.reserved_cpus);
        let mut made = Self { host, protocol, cpus, groups: Vec::new(), assigned: HashMap::new() };
        made.add_group()?;
        Ok(made)
    }

    /// Serve a pod in a network namespace; a `WorkloadStarted` event reports when its listeners are open.
    ///
    /// The descriptor is duplicated.
    ///
    /// # Errors
    /// See [`PoolError`]; some threads may serve the pod nevertheless.
    pub fn add(&mut self, pod: &Arc<PodInfo>, netns: BorrowedFd<'_>) -> Result<(), PoolError> {
        let events = self.host.events.clone();
        let workers = self.assign(&pod.uid);
        let started = Started::new(pod.uid.clone(), events, workers.len());
        for worker in workers {
            let netns = netns.try_clone_to_owned().map_err(PoolError::Namespace)?;
            if !worker.send(Command::Add { pod: pod.clone(), netns, started: started.clone() }) {
                return Err(PoolError::Busy);
            }
        }
        Ok(())
    }

    /// Stop serving a pod. Peers that do not know yet are served a little longer, open connections run to their end (both
    /// limited by settings); a `WorkloadStopped` event reports when the last has ended.
    ///
    /// # Errors
    /// [`PoolError::Busy`].
    pub fn remove(&mut self, uid: &Arc<str>) -> Result<(), PoolError> {
        let stopped = Arc::new(Stopped { uid: uid.clone(), events: self.host.events.clone() });
        send(self.workers_for(uid), || Command::Remove { uid: uid.clone(), stopped: stopped.clone() })?;
        self.release(uid);
        Ok(())
    }

    /// Drain: take no new connections, let open ones run for up to `timeout`, then close them.
    ///
    /// # Errors
    /// [`PoolError::Busy`].
    pub fn drain(&self, timeout: Duration) -> Result<(), PoolError> {
        send(self.workers(), || Command::Drain { timeout })
    }

    /// Assign a workload to a group, unless it has one; return the group's workers.
    fn assign(&mut self, uid: &Arc<str>) -> &[WorkerHandle] {
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
    fn workers_for(&self, uid: &str) -> &[WorkerHandle] {
        self.assigned.get(uid).map_or(&[], |index| self.workers_of(*index))
    }

    /// Release a workload's group for other workloads.
    fn release(&mut self, uid: &str) {
        if let Some(group) = self.assigned.remove(uid).and_then(|index| self.groups.get_mut(index)) {
            group.workloads -= 1;
        }
    }

    /// All workers.
    fn workers(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.groups.iter().flat_map(|group| &group.workers)
    }

    /// Metrics: threads, restricted threads, and workloads without a group of their own.
    #[must_use]
    pub fn families(&self) -> [MetricFamily; 3] {
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
    pub fn close(self) {
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
        if shared && self.groups.len() < self.host.settings.worker_groups && self.add_group().is_ok() {
            return self.groups.len() - 1;
        }
        index
    }

    fn add_group(&mut self) -> io::Result<()> {
        let size = self.host.settings.workers_per_group;
        let first = self.groups.len() * size;
        let start = |number| {
            let affinity = self.cpus.affinity(self.groups.len());
            WorkerHandle::start(number, affinity, self.host.clone(), self.protocol.clone())
        };
        let workers = (first..first + size).map(start).collect::<io::Result<_>>()?;
        self.groups.push(WorkerGroup { workers, workloads: 0 });
        Ok(())
    }

    fn workers_of(&self, index: usize) -> &[WorkerHandle] {
        self.groups.get(index).map_or(&[], |group| &group.workers)
    }
}

fn send<'a>(
    workers: impl IntoIterator<Item = &'a WorkerHandle>,
    command: impl Fn() -> Command,
) -> Result<(), PoolError> {
    if workers.into_iter().all(|worker| worker.send(command())) { Ok(()) } else { Err(PoolError::Busy) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::rc::Rc;

    use culvert_net::netns::Netns;
    use culvert_net::socket::SocketFactory;

    use super::*;
    use crate::drain::PodLife;
    use crate::host::WorkerSettings;
    use crate::protocol::{Pod, Worker};

    struct Nothing;

    impl Protocol for Nothing {
        type Worker = Self;

        fn begin(self: Arc<Self>, _: usize, _: Netns) -> Self {
            Self
        }
    }

    impl Worker for Nothing {
        type Pod = Rc<PodLife>;

        fn serve(&self, _: Arc<PodInfo>, _: SocketFactory) -> io::Result<Rc<Rc<PodLife>>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Pod for Rc<PodLife> {
        fn life(&self) -> &PodLife {
            self
        }
    }

    fn pool(max_worker_threads: usize) -> WorkerPool<Nothing> {
        let settings = WorkerSettings {
            workers_per_group: 1,
            worker_groups: max_worker_threads,
            reserved_cpus: 0,
            removal_accept: Duration::ZERO,
            removal_drain: Duration::ZERO,
        };
        WorkerPool::start(Host::new(settings).unwrap(), Arc::new(Nothing)).unwrap()
    }

    fn assign(pool: &mut WorkerPool<Nothing>, uid: &str) -> usize {
        pool.assign(&uid.into());
        pool.assigned.get(uid).copied().unwrap()
    }

    fn values(pool: &WorkerPool<Nothing>) -> [u64; 2] {
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
