//! A bound on the bytes that are held for one workload.
//!
//! A connection whose reader is slow holds what has been read for it, and a peer may send as much as its windows allow
//! before anybody takes it. Many such connections add up, so large steps and large windows are lent from a bounded room;
//! without them everything goes on, in small ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// See the module.
#[derive(Debug)]
pub struct Room {
    left: AtomicUsize,
    largest_step: usize,
    denied: Arc<AtomicU64>,
}

impl Room {
    /// Room for `size` bytes; `denied` counts how often it was not enough.
    #[must_use]
    pub fn new(size: usize, denied: Arc<AtomicU64>) -> Arc<Self> {
        Self::in_steps(size, usize::MAX, denied)
    }

    /// The same, for a workload that reads at most `largest_step` bytes at once.
    #[must_use]
    pub fn in_steps(size: usize, largest_step: usize, denied: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(size), largest_step, denied })
    }

    pub(crate) const fn largest_step(&self) -> usize {
        self.largest_step
    }

    /// Take `bytes` of the room if it has them.
    #[must_use]
    pub fn lend(self: &Arc<Self>, bytes: usize) -> Option<Loan> {
        let less = |left: usize| left.checked_sub(bytes);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            self.denied.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Loan { room: self.clone(), bytes })
    }
}

/// Room that was taken, until dropped.
#[derive(Debug)]
pub struct Loan {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that take room until nobody refers to them.
pub(crate) fn held(bytes: BytesMut, loan: Loan) -> Bytes {
    Bytes::from_owner(Held { bytes, _loan: loan })
}

struct Held {
    bytes: BytesMut,
    _loan: Loan,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn room_comes_back_with_the_last_reference() {
        let denied = Arc::new(AtomicU64::new(0));
        let room = Room::new(100, denied.clone());
        let bytes = held(BytesMut::from(&b"hello"[..]), room.lend(60).unwrap());
        assert!(room.lend(60).is_none());
        assert_eq!(denied.load(Ordering::Relaxed), 1);
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(room.lend(60).is_none());
        assert_eq!(&part[..], b"el");
        drop(part);
        assert!(room.lend(100).is_some());
    }
}
