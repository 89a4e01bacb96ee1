//! Flow-control windows of a tunnel (RFC 9113, 5.2), and state shared by its streams.
//!
//! Each byte of window is a byte that we may have to buffer. A tunnel starts with small windows; they grow once the bytes
//! carried show the need, while the workload's memory budget lasts. Stalled readers carry nothing, so they get no more.
//!
//! All streams share the connection's window, and bytes that a stalled reader has not consumed are missing in it. So that a
//! few stalled readers do not block all other streams, the connection's window grows by one stream's window for each
//! reader that stalls for long.

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

/// Window sizes in bytes. A connection's is four times a stream's, so that one stalled stream cannot block its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    const fn of(stream: u32) -> Self {
        Self { stream, connection: 4 * stream }
    }

    /// The connection's window, plus a stream's window for each of `stalled` streams.
    const fn with_stalled(self, stalled: u32) -> u32 {
        let connection = self.connection.saturating_add(self.stream.saturating_mul(stalled));
        if connection > MAX_WINDOW { MAX_WINDOW } else { connection }
    }
}

/// New window sizes to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    connection: u32,
    /// Of each stream. Sent in SETTINGS, of which only one may be unacknowledged at a time.
    stream: Option<u32>,
}

/// A client's or server's connection.
pub(crate) trait Resize {
    fn resize(&mut self, change: Change) -> Result<(), h2::Error>;
}

/// The two types have the same methods and no common trait.
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

/// The least that HTTP/2 works well with, for a workload whose budget is exhausted.
const MIN: Windows = Windows::of(32 * 1024);
const INITIAL: Windows = Windows::of(256 * 1024);
/// What Istio's ztunnel starts with.
const MAX: Windows = Windows::of(4 * 1024 * 1024);
/// RFC 9113, 6.9.1.
const MAX_WINDOW: u32 = i32::MAX as u32;

/// Bytes carried before windows grow to the maximum, or before the next attempt after a failed one.
const GROWTH_THRESHOLD: u64 = MAX.stream as u64;

/// Stalled streams that leave half of the connection's window to others.
const STALL_TOLERANCE: u32 = 2;
/// A reader counts as stalled after this time; until then the others use the rest of the window.
const STALL_DELAY: Duration = Duration::from_millis(20);
/// How often to check whether stalled readers read again, or whether the budget has recovered.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One tunnel's windows, and whether its peer is trusted.
#[derive(Debug)]
pub(crate) struct TunnelWindow {
    memory: Arc<MemoryBudget>,
    reservations: RefCell<Vec<Reservation>>,
    windows: Cell<Windows>,
    carried: Cell<u64>,
    /// Bytes carried at which the windows try to grow.
    grow_at: Cell<u64>,
    stalls: Stalls,
    /// Set before the tunnel is closed because its peer is no longer trusted, so that its streams report this reason. Here
    /// because each stream has a reference to this anyway, which saves memory per stream.
    untrusted: Cell<Option<Untrusted>>,
}

/// The tunnel's streams whose readers do not consume received bytes.
#[derive(Debug, Default)]
struct Stalls {
    now: Cell<u32>,
    /// The minimum since the last check: that many have been stalled the whole time.
    minimum: Cell<u32>,
    /// One for each stalled stream that the connection's window was enlarged for.
    reservations: RefCell<Vec<Reservation>>,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    /// Whether a check is scheduled, so that the tunnel need not be woken.
    check_pending: Cell<bool>,
    /// Waker of the task that drives the connection.
    tunnel: RefCell<Option<Waker>>,
}

impl Stalls {
    fn reserved(&self) -> u32 {
        u32::try_from(self.reservations.borrow().len()).unwrap_or(u32::MAX)
    }

    fn exceed_tolerance(&self) -> bool {
        self.now.get() > STALL_TOLERANCE + self.reserved()
    }
}

/// Counts a stalled stream until dropped.
#[derive(Debug)]
pub(crate) struct Stalled(Rc<TunnelWindow>);

impl Drop for Stalled {
    fn drop(&mut self) {
        let stalls = &self.0.stalls;
        stalls.now.set(stalls.now.get() - 1);
        stalls.minimum.set(stalls.minimum.get().min(stalls.now.get()));
    }
}

impl TunnelWindow {
    /// The windows of a new tunnel.
    pub(crate) fn new(memory: Arc<MemoryBudget>) -> (Self, Windows) {
        let reservation = memory.try_reserve(INITIAL.connection as usize);
        let windows = if reservation.is_some() { INITIAL } else { MIN };
        let made = Self {
            memory,
            windows: Cell::new(windows),
            reservations: RefCell::new(reservation.into_iter().collect()),
            carried: Cell::new(0),
            grow_at: Cell::new(GROWTH_THRESHOLD),
            stalls: Stalls::default(),
            untrusted: Cell::new(None),
        };
        (made, windows)
    }

    /// Count bytes that a reader has consumed.
    pub(crate) fn add_consumed(&self, bytes: usize) {
        self.carried.set(self.carried.get() + bytes as u64);
    }

    /// A stream's reader does not consume received bytes.
    pub(crate) fn stall(self: &Rc<Self>) -> Stalled {
        let stalls = &self.stalls;
        stalls.now.set(stalls.now.get() + 1);
        // Streams stall and recover all the time; the tunnel is woken once and then checks by itself.
        if stalls.exceed_tolerance()
            && !stalls.check_pending.get()
            && let Some(tunnel) = &*stalls.tunnel.borrow()
        {
            tunnel.wake_by_ref();
        }
        Stalled(self.clone())
    }

    /// Mark the peer as untrusted, for the tunnel's streams.
    pub(crate) fn mark_untrusted(&self, untrusted: Untrusted) {
        self.untrusted.set(Some(untrusted));
    }

    pub(crate) const fn untrusted(&self) -> Option<Untrusted> {
        self.untrusted.get()
    }

    /// Apply pending window changes to the connection. Cheap: the task that drives the connection calls it on each poll, and
    /// is woken when a change is due.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn resize(&self, connection: &mut impl Resize, context: &mut Context<'_>) -> Result<(), h2::Error> {
        self.poll_change(context).map_or(Ok(()), |change| connection.resize(change))
    }

    fn poll_change(&self, context: &mut Context<'_>) -> Option<Change> {
        let grown = self.try_grow();
        let stalls_changed = self.poll_stalls(grown, context);
        (grown || stalls_changed).then(|| {
            let windows = self.windows.get();
            Change { connection: windows.with_stalled(self.stalls.reserved()), stream: grown.then_some(windows.stream) }
        })
    }

    /// Grow the windows if enough bytes were carried and the budget allows; return whether they grew.
    fn try_grow(&self) -> bool {
        if self.carried.get() < self.grow_at.get() {
            return false;
        }
        let current = if self.windows.get() == MIN { 0 } else { self.windows.get().connection };
        match self.memory.try_reserve((MAX.connection - current) as usize) {
            Some(reservation) => {
                self.reservations.borrow_mut().push(reservation);
                self.windows.set(MAX);
                self.grow_at.set(u64::MAX);
                true
            }
            None => {
                self.grow_at.set(self.carried.get() + GROWTH_THRESHOLD);
                false
            }
        }
    }

    /// Adapt the connection's window to the number of stalled readers; return whether it changed.
    fn poll_stalls(&self, grown: bool, context: &mut Context<'_>) -> bool {
        let stalls = &self.stalls;
        let mut tunnel = stalls.tunnel.borrow_mut();
        if !tunnel.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *tunnel = Some(context.waker().clone());
        }
        if grown {
            stalls.reservations.borrow_mut().clear(); // they were for smaller windows
        }
        let mut slot = stalls.timer.borrow_mut();
        if stalls.exceed_tolerance() && !stalls.check_pending.get() {
            stalls.check_pending.set(true);
            stalls.minimum.set(stalls.now.get());
            match &mut *slot {
                Some(timer) => timer.as_mut().reset(Instant::now() + STALL_DELAY),
                None => *slot = Some(Box::pin(sleep(STALL_DELAY))),
            }
        }
        let Some(timer) = &mut *slot else { return false };
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        let wanted = stalls.minimum.get().saturating_sub(STALL_TOLERANCE);
        let changed = self.reserve_for_stalled(wanted);
        let exhausted = stalls.reserved() < wanted;
        let again = if exhausted || !stalls.exceed_tolerance() { RECHECK_INTERVAL } else { STALL_DELAY };
        stalls.minimum.set(stalls.now.get());
        stalls.check_pending.set(stalls.exceed_tolerance());
        if stalls.now.get() > STALL_TOLERANCE || stalls.reserved() > 0 {
            timer.as_mut().reset(Instant::now() + again);
            // Registers the waker for the new deadline.
            let _ = timer.as_mut().poll(context);
        } else {
            *slot = None;
        }
        changed
    }

    /// Reserve a stream's window for each of `wanted` streams, as far as the budget allows.
    fn reserve_for_stalled(&self, wanted: u32) -> bool {
        let stream = self.windows.get().stream as usize;
        let mut reservations = self.stalls.reservations.borrow_mut();
        let before = reservations.len();
        reservations.truncate(wanted as usize);
        while reservations.len() < wanted as usize {
            match self.memory.try_reserve(stream) {
                Some(reservation) => reservations.push(reservation),
                None => break,
            }
        }
        reservations.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROWN: Option<Change> = Some(Change { connection: MAX.connection, stream: Some(MAX.stream) });

    fn change_of(window: &TunnelWindow) -> Option<Change> {
        window.poll_change(&mut Context::from_waker(Waker::noop()))
    }

    const fn with_stalled(windows: Windows, stalled: u32) -> Option<Change> {
        Some(Change { connection: windows.with_stalled(stalled), stream: None })
    }

    /// Let a timer that is as long as the whole pause fire.
    async fn later(window: &TunnelWindow, pause: Duration) -> Option<Change> {
        tokio::time::advance(pause).await;
        change_of(window)
    }

    #[test]
    fn windows_grow_with_what_is_taken_as_long_as_there_is_room() {
        let full = MAX.connection as usize;
        let memory = MemoryBudget::new(full + INITIAL.connection as usize, Arc::default());
        let (busy, first) = TunnelWindow::new(memory.clone());
        let (stalled, second) = TunnelWindow::new(memory.clone());
        busy.add_consumed(GROWTH_THRESHOLD as usize);
        assert_eq!(change_of(&busy), GROWN);
        let (late, third) = TunnelWindow::new(memory.clone());
        assert_eq!((first, second, third), (INITIAL, INITIAL, MIN));
        assert_eq!((change_of(&busy), change_of(&stalled)), (None, None));
        stalled.add_consumed(GROWTH_THRESHOLD as usize);
        assert_eq!(change_of(&stalled), None);
        drop(busy);
        assert_eq!(change_of(&stalled), None, "requests again only after as much again");
        stalled.add_consumed(GROWTH_THRESHOLD as usize);
        assert_eq!(change_of(&stalled), GROWN);
        drop(stalled);
        late.add_consumed(GROWTH_THRESHOLD as usize);
        assert_eq!(change_of(&late), GROWN);
        assert!(memory.try_reserve(INITIAL.connection as usize + 1).is_none(), "all that it may hold is current");
        assert!(memory.try_reserve(INITIAL.connection as usize).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_larger_by_what_stalled_readers_hold() {
        let memory = MemoryBudget::new(usize::MAX, Arc::default());
        let (window, first) = TunnelWindow::new(memory);
        let window = Rc::new(window);
        assert_eq!(change_of(&window), None);
        let mut stalled: Vec<_> = (0..5).map(|_| window.stall()).collect();
        assert_eq!(change_of(&window), None, "for a moment everybody stalls");
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(first, 3));
        assert_eq!(change_of(&window), None);
        stalled.extend((0..2).map(|_| window.stall()));
        assert_eq!(change_of(&window), None);
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(first, 5));
        stalled.truncate(3);
        assert_eq!(later(&window, RECHECK_INTERVAL).await, with_stalled(first, 1));
        stalled.clear();
        assert_eq!(later(&window, RECHECK_INTERVAL).await, with_stalled(first, 0));
        assert_eq!(later(&window, RECHECK_INTERVAL).await, None);
        assert!(window.stalls.timer.borrow().is_none(), "no stalled reader, no timer");
    }

    #[tokio::test(start_paused = true)]
    async fn readers_that_take_turns_have_not_stalled() {
        let (window, _) = TunnelWindow::new(MemoryBudget::new(usize::MAX, Arc::default()));
        let window = Rc::new(window);
        change_of(&window);
        let stalled: Vec<_> = (0..50).map(|_| window.stall()).collect();
        assert_eq!(change_of(&window), None);
        drop(stalled);
        let _others: Vec<_> = (0..50).map(|_| window.stall()).collect();
        assert_eq!(later(&window, STALL_DELAY).await, None);
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(INITIAL, 48), "now they have");
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_the_window_grows_as_far_as_it_can() {
        let memory = MemoryBudget::new((INITIAL.connection + 2 * INITIAL.stream) as usize, Arc::default());
        let (window, first) = TunnelWindow::new(memory.clone());
        let window = Rc::new(window);
        change_of(&window);
        let stalled: Vec<_> = (0..9).map(|_| window.stall()).collect();
        change_of(&window);
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(first, 2));
        assert!(memory.try_reserve(1).is_none());
        drop(stalled);
        later(&window, RECHECK_INTERVAL).await;
        assert!(memory.try_reserve(2 * INITIAL.stream as usize).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn windows_that_grow_count_stalled_readers_anew() {
        let (window, _) = TunnelWindow::new(MemoryBudget::new(usize::MAX, Arc::default()));
        let window = Rc::new(window);
        change_of(&window);
        let _stalled: Vec<_> = (0..3).map(|_| window.stall()).collect();
        change_of(&window);
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(INITIAL, 1));
        window.add_consumed(GROWTH_THRESHOLD as usize);
        assert_eq!(change_of(&window), GROWN);
        assert_eq!(later(&window, STALL_DELAY).await, with_stalled(MAX, 1));
    }

    #[test]
    fn a_window_ends_at_what_http2_allows() {
        assert_eq!(MAX.with_stalled(u32::MAX), MAX_WINDOW);
    }
}
