//! A bound on the bytes that are buffered for one workload.
//!
//! A connection whose reader is slow buffers what has been read for it, and a peer may send as much as its windows allow
//! before it is read. Many such connections add up, so large reads and large windows are reserved from a bounded budget.
//! When it is exhausted, connections continue with small reads and small windows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// A workload's budget; see the module.
#[derive(Debug)]
pub struct MemoryBudget {
    left: AtomicUsize,
    max_io: usize,
    exhausted: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of `size` bytes; `exhausted` counts failed reservations.
    #[must_use]
    pub fn new(size: usize, exhausted: Arc<AtomicU64>) -> Arc<Self> {
        Self::with_max_io(size, usize::MAX, exhausted)
    }

    /// The same, for a workload that reads at most `max_io` bytes at once.
    #[must_use]
    pub fn with_max_io(size: usize, max_io: usize, exhausted: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(size), max_io, exhausted })
    }

    pub(crate) const fn max_io(&self) -> usize {
        self.max_io
    }

    /// Reserve `bytes`, or return `None` and count it if fewer are left.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let less = |left: usize| left.checked_sub(bytes);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            self.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Reservation { memory: self.clone(), bytes })
    }
}

/// Reserved bytes; dropping it returns them.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<MemoryBudget>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that hold a reservation until their last reference is dropped.
pub(crate) fn reserved(bytes: BytesMut, reservation: Reservation) -> Bytes {
    Bytes::from_owner(Reserved { bytes, _reservation: reservation })
}

struct Reserved {
    bytes: BytesMut,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_reservation_is_returned_with_the_last_reference() {
        let exhausted = Arc::new(AtomicU64::new(0));
        let memory = MemoryBudget::new(100, exhausted.clone());
        let bytes = reserved(BytesMut::from(&b"hello"[..]), memory.try_reserve(60).unwrap());
        assert!(memory.try_reserve(60).is_none());
        assert_eq!(exhausted.load(Ordering::Relaxed), 1);
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(memory.try_reserve(60).is_none());
        assert_eq!(&part[..], b"el");
        drop(part);
        assert!(memory.try_reserve(100).is_some());
    }
}
