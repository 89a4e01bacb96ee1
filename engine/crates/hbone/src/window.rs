//! What a tunnel and its streams share: above all how much the peer may send before anybody has taken it.
//!
//! Each byte of window is a byte that we may have to hold. A tunnel begins with little and gets more once what it has
//! carried shows the need, as long as its workload has memory. Readers that stall carry nothing, so they get no more.
//!
//! All streams share the tunnel's own window, and what a stalled reader has not taken is missing in it. So that a few of
//! them do not hold up all others, the tunnel's window is larger by a stream's for each reader that stalls for long.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use culvert_net::memory_budget::{MemoryBudget, Reservation};
use culvert_tls::Untrusted;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

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

    /// The connection's, with as much for each of `stalled` streams beside it.
    const fn beside(self, stalled: u32) -> u32 {
        let connection = self.connection.saturating_add(self.stream.saturating_mul(stalled));
        if connection > LARGEST { LARGEST } else { connection }
    }
}

/// What is different now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    connection: u32,
    /// Of each stream. It goes into SETTINGS, of which only one at a time can be under way.
    stream: Option<u32>,
}

/// A connection of either side.
pub(crate) trait Resize {
    fn resize(&mut self, change: Change) -> Result<(), h2::Error>;
}

/// The two types have the same methods, and no trait in common.
macro_rules! resize {
    ($($connection:ty),*) => {$(
        impl<T: AsyncRead + AsyncWrite + Unpin> Resize for $connection {
            fn resize(&mut self, change: Change) -> Result<(), h2::Error> {
                self.set_target_window_size(change.connection);
                change.stream.map_or(Ok(()), |bytes| self.set_initial_window_size(bytes))
            }
        }
    )*};
}
resize!(h2::client::Connection<T>, h2::server::Connection<T, Bytes>);

/// The least that HTTP/2 works well with, for workloads without memory.
const LEAST: Windows = Windows::of(32 * 1024);
const FIRST: Windows = Windows::of(256 * 1024);
/// Istio's ztunnel has these from the start.
const FULL: Windows = Windows::of(4 * 1024 * 1024);
/// RFC 9113, 6.9.1.
const LARGEST: u32 = i32::MAX as u32;

/// Bytes carried after which a tunnel may have full windows, or may ask again.
const EARNED: u64 = FULL.stream as u64;

/// So many stalled streams leave half of the tunnel's window to others.
const BEARABLE: u32 = 2;
/// A reader that takes nothing for so long has stalled; others have gone on meanwhile with what was left.
const SOON: Duration = Duration::from_millis(20);
/// How often it is looked whether those that have stalled read again, or whether there is memory again.
const NOW_AND_THEN: Duration = Duration::from_secs(1);

/// One tunnel's windows, and a word to its streams.
#[derive(Debug)]
pub(crate) struct TunnelWindow {
    memory: Arc<MemoryBudget>,
    loans: RefCell<Vec<Reservation>>,
    windows: Cell<Windows>,
    carried: Cell<u64>,
    /// Bytes carried at which more is asked for.
    asks_at: Cell<u64>,
    stalls: Stalls,
    /// Set before the tunnel is closed because its peer is trusted no more, so that its streams end by that and not by
    /// what the closing looks like. Here, because each of them refers to this anyway: they are many.
    untrusted: Cell<Option<Untrusted>>,
}

/// The tunnel's streams whose readers do not take what has come.
#[derive(Debug, Default)]
struct Stalls {
    now: Cell<u32>,
    /// The fewest since it was looked last: so many have stalled all the time.
    fewest: Cell<u32>,
    /// One for each of them that the tunnel's window is larger for.
    loans: RefCell<Vec<Reservation>>,
    look: RefCell<Option<Pin<Box<Sleep>>>>,
    /// Whether it is looked anyway, so that nobody needs to wake the tunnel for it.
    soon: Cell<bool>,
    /// Of the task that moves the tunnel's frames.
    tunnel: RefCell<Option<Waker>>,
}

impl Stalls {
    fn covered(&self) -> u32 {
        u32::try_from(self.loans.borrow().len()).unwrap_or(u32::MAX)
    }

    fn are_too_many(&self) -> bool {
        self.now.get() > BEARABLE + self.covered()
    }
}

/// A stream whose reader does not take what has come, until dropped.
#[derive(Debug)]
pub(crate) struct Stalled(Rc<TunnelWindow>);

impl Drop for Stalled {
    fn drop(&mut self) {
        let stalls = &self.0.stalls;
        stalls.now.set(stalls.now.get() - 1);
        stalls.fewest.set(stalls.fewest.get().min(stalls.now.get()));
    }
}

impl TunnelWindow {
    /// A new tunnel's windows.
    pub(crate) fn new(memory: Arc<MemoryBudget>) -> (Self, Windows) {
        let reservation = memory.try_reserve(FIRST.connection as usize);
        let windows = if reservation.is_some() { FIRST } else { LEAST };
        let made = Self {
            memory,
            windows: Cell::new(windows),
            loans: RefCell::new(reservation.into_iter().collect()),
            carried: Cell::new(0),
            asks_at: Cell::new(EARNED),
            stalls: Stalls::default(),
            untrusted: Cell::new(None),
        };
        (made, windows)
    }

    /// Count bytes that somebody has taken.
    pub(crate) fn took(&self, bytes: usize) {
        self.carried.set(self.carried.get() + bytes as u64);
    }

    /// Note that a stream's reader does not take what has come.
    pub(crate) fn stall(self: &Rc<Self>) -> Stalled {
        let stalls = &self.stalls;
        stalls.now.set(stalls.now.get() + 1);
        // Streams stall and go on all the time; the tunnel hears of it once, and looks for itself.
        if stalls.are_too_many()
            && !stalls.soon.get()
            && let Some(tunnel) = &*stalls.tunnel.borrow()
        {
            tunnel.wake_by_ref();
        }
        Stalled(self.clone())
    }

    /// Tell the tunnel's streams that its peer is trusted no more.
    pub(crate) fn distrust(&self, untrusted: Untrusted) {
        self.untrusted.set(Some(untrusted));
    }

    pub(crate) const fn untrusted(&self) -> Option<Untrusted> {
        self.untrusted.get()
    }

    /// Give a connection the windows that it shall have; cheap enough to be called whenever frames move, by the task
    /// that moves them, which is woken when it should be called again.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn resize(&self, connection: &mut impl Resize, context: &mut Context<'_>) -> Result<(), h2::Error> {
        self.poll_change(context).map_or(Ok(()), |change| connection.resize(change))
    }

    fn poll_change(&self, context: &mut Context<'_>) -> Option<Change> {
        let grown = self.grows();
        let stalls_changed = self.poll_stalls(grown, context);
        (grown || stalls_changed).then(|| {
            let windows = self.windows.get();
            Change { connection: windows.beside(self.stalls.covered()), stream: grown.then_some(windows.stream) }
        })
    }

    /// Whether the tunnel has earned larger windows and gets them.
    fn grows(&self) -> bool {
        if self.carried.get() < self.asks_at.get() {
            return false;
        }
        let lent = if self.windows.get() == LEAST { 0 } else { self.windows.get().connection };
        match self.memory.try_reserve((FULL.connection - lent) as usize) {
            Some(reservation) => {
                self.loans.borrow_mut().push(reservation);
                self.windows.set(FULL);
                self.asks_at.set(u64::MAX);
                true
            }
            None => {
                self.asks_at.set(self.carried.get() + EARNED);
                false
            }
        }
    }

    /// Whether the window grows or shrinks with the number of stalled readers.
    fn poll_stalls(&self, grown: bool, context: &mut Context<'_>) -> bool {
        let stalls = &self.stalls;
        let mut tunnel = stalls.tunnel.borrow_mut();
        if !tunnel.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *tunnel = Some(context.waker().clone());
        }
        if grown {
            stalls.loans.borrow_mut().clear(); // of smaller windows
        }
        let mut look = stalls.look.borrow_mut();
        if stalls.are_too_many() && !stalls.soon.get() {
            stalls.soon.set(true);
            stalls.fewest.set(stalls.now.get());
            match &mut *look {
                Some(look) => look.as_mut().reset(Instant::now() + SOON),
                None => *look = Some(Box::pin(sleep(SOON))),
            }
        }
        let Some(timer) = &mut *look else { return false };
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        let wanted = stalls.fewest.get().saturating_sub(BEARABLE);
        let changed = self.cover(wanted);
        let exhausted = stalls.covered() < wanted;
        let again = if exhausted || !stalls.are_too_many() { NOW_AND_THEN } else { SOON };
        stalls.fewest.set(stalls.now.get());
        stalls.soon.set(stalls.are_too_many());
        if stalls.now.get() > BEARABLE || stalls.covered() > 0 {
            timer.as_mut().reset(Instant::now() + again);
            // Registers the new time.
            let _ = timer.as_mut().poll(context);
        } else {
            *look = None;
        }
        changed
    }

    /// Lend a stream's window for each of `wanted` streams, as far as there is memory.
    fn cover(&self, wanted: u32) -> bool {
        let stream = self.windows.get().stream as usize;
        let mut loans = self.stalls.loans.borrow_mut();
        let before = loans.len();
        loans.truncate(wanted as usize);
        while loans.len() < wanted as usize {
            match self.memory.try_reserve(stream) {
                Some(reservation) => loans.push(reservation),
                None => break,
            }
        }
        loans.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_NEW: Option<Change> = Some(Change { connection: FULL.connection, stream: Some(FULL.stream) });

    fn asked(window: &TunnelWindow) -> Option<Change> {
        window.poll_change(&mut Context::from_waker(Waker::noop()))
    }

    const fn beside(windows: Windows, stalled: u32) -> Option<Change> {
        Some(Change { connection: windows.beside(stalled), stream: None })
    }

    /// Let a timer that is as long as the whole pause fire.
    async fn later(window: &TunnelWindow, pause: Duration) -> Option<Change> {
        tokio::time::advance(pause).await;
        asked(window)
    }

    #[test]
    fn windows_grow_with_what_is_taken_as_long_as_there_is_room() {
        let full = FULL.connection as usize;
        let memory = MemoryBudget::new(full + FIRST.connection as usize, Arc::default());
        let (busy, first) = TunnelWindow::new(memory.clone());
        let (stalled, second) = TunnelWindow::new(memory.clone());
        busy.took(EARNED as usize);
        assert_eq!(asked(&busy), ALL_NEW);
        let (late, third) = TunnelWindow::new(memory.clone());
        assert_eq!((first, second, third), (FIRST, FIRST, LEAST));
        assert_eq!((asked(&busy), asked(&stalled)), (None, None));
        stalled.took(EARNED as usize);
        assert_eq!(asked(&stalled), None);
        drop(busy);
        assert_eq!(asked(&stalled), None, "asks again only after as much again");
        stalled.took(EARNED as usize);
        assert_eq!(asked(&stalled), ALL_NEW);
        drop(stalled);
        late.took(EARNED as usize);
        assert_eq!(asked(&late), ALL_NEW);
        assert!(memory.try_reserve(FIRST.connection as usize + 1).is_none(), "all that it may hold is lent");
        assert!(memory.try_reserve(FIRST.connection as usize).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_larger_by_what_stalled_readers_hold() {
        let memory = MemoryBudget::new(usize::MAX, Arc::default());
        let (window, first) = TunnelWindow::new(memory);
        let window = Rc::new(window);
        assert_eq!(asked(&window), None);
        let mut stalled: Vec<_> = (0..5).map(|_| window.stall()).collect();
        assert_eq!(asked(&window), None, "for a moment everybody stalls");
        assert_eq!(later(&window, SOON).await, beside(first, 3));
        assert_eq!(asked(&window), None);
        stalled.extend((0..2).map(|_| window.stall()));
        assert_eq!(asked(&window), None);
        assert_eq!(later(&window, SOON).await, beside(first, 5));
        stalled.truncate(3);
        assert_eq!(later(&window, NOW_AND_THEN).await, beside(first, 1));
        stalled.clear();
        assert_eq!(later(&window, NOW_AND_THEN).await, beside(first, 0));
        assert_eq!(later(&window, NOW_AND_THEN).await, None);
        assert!(window.stalls.look.borrow().is_none(), "nobody stalls, nobody looks");
    }

    #[tokio::test(start_paused = true)]
    async fn readers_that_take_turns_have_not_stalled() {
        let (window, _) = TunnelWindow::new(MemoryBudget::new(usize::MAX, Arc::default()));
        let window = Rc::new(window);
        asked(&window);
        let stalled: Vec<_> = (0..50).map(|_| window.stall()).collect();
        assert_eq!(asked(&window), None);
        drop(stalled);
        let _others: Vec<_> = (0..50).map(|_| window.stall()).collect();
        assert_eq!(later(&window, SOON).await, None);
        assert_eq!(later(&window, SOON).await, beside(FIRST, 48), "now they have");
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_the_window_grows_as_far_as_it_can() {
        let memory = MemoryBudget::new((FIRST.connection + 2 * FIRST.stream) as usize, Arc::default());
        let (window, first) = TunnelWindow::new(memory.clone());
        let window = Rc::new(window);
        asked(&window);
        let stalled: Vec<_> = (0..9).map(|_| window.stall()).collect();
        asked(&window);
        assert_eq!(later(&window, SOON).await, beside(first, 2));
        assert!(memory.try_reserve(1).is_none());
        drop(stalled);
        later(&window, NOW_AND_THEN).await;
        assert!(memory.try_reserve(2 * FIRST.stream as usize).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn windows_that_grow_count_stalled_readers_anew() {
        let (window, _) = TunnelWindow::new(MemoryBudget::new(usize::MAX, Arc::default()));
        let window = Rc::new(window);
        asked(&window);
        let _stalled: Vec<_> = (0..3).map(|_| window.stall()).collect();
        asked(&window);
        assert_eq!(later(&window, SOON).await, beside(FIRST, 1));
        window.took(EARNED as usize);
        assert_eq!(asked(&window), ALL_NEW);
        assert_eq!(later(&window, SOON).await, beside(FULL, 1));
    }

    #[test]
    fn a_window_ends_at_what_http2_allows() {
        assert_eq!(FULL.beside(u32::MAX), LARGEST);
    }
}
