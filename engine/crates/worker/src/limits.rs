//! A pod, and what it may use in this process, on all workers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use culvert_core::identity::Identity;
use culvert_core::proto::engine::workload_ref::Mode;
use culvert_net::memory_budget::MemoryBudget;

use crate::rate_limit::RateLimiter;

/// Refused connections of a pod that may wait for their clients' first bytes at once. Each holds a descriptor and some 500
/// bytes, for [`culvert_net::refusal::GRACE`] at most: enough for 2,500 refusals a second of clients that send nothing.
const MAX_REFUSALS: usize = 256;

/// What the node agent reports of a pod.
#[derive(Debug)]
pub struct PodInfo {
    /// How its connections are captured.
    pub mode: Mode,
    /// Unique in the mesh.
    pub uid: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// The identity that it is served with.
    pub identity: Identity,
    /// Limits for all workers together.
    pub limits: Limits,
}

/// The limits of one pod, as configured; 0 of `max_bandwidth` means none.
#[derive(Debug, Clone, Copy)]
pub struct LimitSettings {
    /// Connections that are open.
    pub max_connections: usize,
    /// TLS handshakes that are under way.
    pub max_handshakes: usize,
    /// Bytes that are buffered.
    pub max_buffered_bytes: usize,
    /// Bytes per second.
    pub max_bandwidth: u64,
}

/// Resource limits of a pod in this process.
#[derive(Debug)]
pub struct Limits {
    /// For bytes buffered for its connections.
    pub memory: Arc<MemoryBudget>,
    /// For bytes carried per second; `None` without a limit.
    pub rate_limiter: Option<RateLimiter>,
    /// For connections.
    pub connections: Semaphore,
    /// For TLS handshakes.
    pub handshakes: Semaphore,
    /// Refused connections that are not closed yet.
    pub refusals: Semaphore,
}

impl Limits {
    /// Nothing is in use. `slowed_by_memory` counts how often the memory was exhausted.
    #[must_use]
    pub fn new(settings: LimitSettings, slowed_by_memory: &Arc<AtomicU64>) -> Self {
        let LimitSettings { max_connections, max_handshakes, max_buffered_bytes, max_bandwidth } = settings;
        let rate_limiter = RateLimiter::new(max_bandwidth);
        let max_io = rate_limiter.as_ref().map_or(usize::MAX, RateLimiter::max_io);
        Self {
            memory: MemoryBudget::with_max_io(max_buffered_bytes, max_io, slowed_by_memory.clone()),
            rate_limiter,
            connections: Semaphore::new(max_connections),
            handshakes: Semaphore::new(max_handshakes),
            refusals: Semaphore::new(MAX_REFUSALS),
        }
    }
}

/// Counts the permits that are left. Without one, a caller is refused; it does not wait.
#[derive(Debug)]
pub struct Semaphore(AtomicUsize);

/// A permit, until dropped.
#[derive(Debug)]
pub struct Permit<'a>(&'a Semaphore);

impl Semaphore {
    /// A semaphore with `permits` permits.
    #[must_use]
    pub const fn new(permits: usize) -> Self {
        Self(AtomicUsize::new(permits))
    }

    /// Take a permit, to be given back by [`Semaphore::release`].
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Give a permit back.
    pub fn release(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A permit that gives itself back.
    pub fn permit(&self) -> Option<Permit<'_>> {
        self.try_acquire().then_some(Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}
