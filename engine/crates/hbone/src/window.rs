//! What a tunnel and its streams share: above all how much the peer may send before anybody has taken it.
//!
//! Each byte of window is a byte that we may have to hold. A tunnel begins with little and gets more once what it has
//! carried shows the need, as long as its workload has room. Readers that stall carry nothing, so they get no more.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use culvert_net::room::{Loan, Room};
use culvert_tls::Untrusted;

/// Window sizes in bytes. A connection's is four streams' worth, so that one stalled stream cannot block its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    const fn of(stream: u32) -> Self {
        Self { stream, connection: 4 * stream }
    }
}

/// The least that HTTP/2 works well with, for workloads without room.
const LEAST: Windows = Windows::of(32 * 1024);
const FIRST: Windows = Windows::of(256 * 1024);
/// Istio's ztunnel has these from the start.
const FULL: Windows = Windows::of(4 * 1024 * 1024);

/// Bytes carried after which a tunnel may have full windows, or may ask again.
const EARNED: u64 = FULL.stream as u64;

/// One tunnel's windows, and a word to its streams.
#[derive(Debug)]
pub(crate) struct TunnelWindow {
    room: Arc<Room>,
    loans: RefCell<Vec<Loan>>,
    /// Bytes of all loans together.
    lent: Cell<u32>,
    carried: Cell<u64>,
    /// Bytes carried at which more is asked for.
    asks_at: Cell<u64>,
    /// Set before the tunnel is closed because its peer is trusted no more, so that its streams end by that and not by
    /// what the closing looks like. Here, because each of them refers to this anyway: they are many.
    untrusted: Cell<Option<Untrusted>>,
}

impl TunnelWindow {
    /// A new tunnel's windows.
    pub(crate) fn new(room: Arc<Room>) -> (Self, Windows) {
        let loan = room.lend(FIRST.connection as usize);
        let windows = if loan.is_some() { FIRST } else { LEAST };
        let made = Self {
            room,
            lent: Cell::new(if loan.is_some() { FIRST.connection } else { 0 }),
            loans: RefCell::new(loan.into_iter().collect()),
            carried: Cell::new(0),
            asks_at: Cell::new(EARNED),
            untrusted: Cell::new(None),
        };
        (made, windows)
    }

    /// Count bytes that somebody has taken.
    pub(crate) fn took(&self, bytes: usize) {
        self.carried.set(self.carried.get() + bytes as u64);
    }

    /// Tell the tunnel's streams that its peer is trusted no more.
    pub(crate) fn distrust(&self, untrusted: Untrusted) {
        self.untrusted.set(Some(untrusted));
    }

    pub(crate) const fn untrusted(&self) -> Option<Untrusted> {
        self.untrusted.get()
    }

    /// Larger windows, if the tunnel has earned them and there is room; cheap enough to ask whenever frames move.
    pub(crate) fn grown(&self) -> Option<Windows> {
        if self.carried.get() < self.asks_at.get() {
            return None;
        }
        match self.room.lend((FULL.connection - self.lent.get()) as usize) {
            Some(loan) => {
                self.loans.borrow_mut().push(loan);
                self.lent.set(FULL.connection);
                self.asks_at.set(u64::MAX);
                Some(FULL)
            }
            None => {
                self.asks_at.set(self.carried.get() + EARNED);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_with_what_is_taken_as_long_as_there_is_room() {
        let full = FULL.connection as usize;
        let room = Room::new(full + FIRST.connection as usize, Arc::default());
        let (busy, first) = TunnelWindow::new(room.clone());
        let (stalled, second) = TunnelWindow::new(room.clone());
        busy.took(EARNED as usize);
        assert_eq!(busy.grown(), Some(FULL));
        let (late, third) = TunnelWindow::new(room.clone());
        assert_eq!((first, second, third), (FIRST, FIRST, LEAST));
        assert_eq!((busy.grown(), stalled.grown()), (None, None));
        stalled.took(EARNED as usize);
        assert_eq!(stalled.grown(), None);
        drop(busy);
        assert_eq!(stalled.grown(), None, "asks again only after as much again");
        stalled.took(EARNED as usize);
        assert_eq!(stalled.grown(), Some(FULL));
        drop(stalled);
        late.took(EARNED as usize);
        assert_eq!(late.grown(), Some(FULL));
        assert!(room.lend(FIRST.connection as usize + 1).is_none(), "all that it may hold is lent");
        assert!(room.lend(FIRST.connection as usize).is_some());
    }
}
