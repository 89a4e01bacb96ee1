//! Lines and records that wait for the host. When the host does not keep up they are dropped, and counted: telemetry must
//! not hold memory or connections hostage.

mod records;

use std::sync::Arc;
use std::time::Duration;

use culvert_core::proto::engine as wire;
use culvert_metrics::single;
use culvert_net::wakeup::Wakeup;
use parking_lot::Mutex;
use records::Records;
use tokio::runtime::Handle;

/// Bytes of lines kept for the host; about 10,000 lines.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long a line waits for others, and how many bytes do not wait.
const DELAY: Duration = Duration::from_millis(20);
const BATCH: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct LogBuffer {
    wakeup: Arc<Wakeup>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    dropped: u64,
    records: Records,
    signalled: bool,
    /// A wake-up for the waiting lines is already scheduled.
    promised: bool,
}

/// What was taken out of a [`LogBuffer`].
#[derive(Debug)]
pub struct LogBatch {
    /// Whole lines.
    pub lines: Vec<u8>,
    /// Records, in portions that fit a request.
    pub records: Vec<wire::LogRecords>,
    /// Records that were dropped since the start.
    pub records_dropped: u64,
}

impl LogBuffer {
    /// An empty buffer, which signals `wakeup` when it holds something.
    #[must_use]
    pub fn new(wakeup: Arc<Wakeup>) -> Arc<Self> {
        Arc::new(Self { wakeup, pending: Mutex::default() })
    }

    /// Take all that is pending. Reset the wake-up before, so that what is added meanwhile signals it again.
    pub fn drain(&self) -> LogBatch {
        let mut pending = self.pending.lock();
        (pending.signalled, pending.promised) = (false, false);
        LogBatch {
            lines: std::mem::take(&mut pending.lines),
            records: pending.records.take(),
            records_dropped: pending.records.dropped(),
        }
    }

    /// The family of lines that were dropped.
    #[must_use]
    pub fn family(&self) -> wire::MetricFamily {
        single(
            "culvert_access_log_lines_dropped",
            "Lines of the access log that did not get out of the engine in time",
            wire::MetricKind::Counter,
            self.pending.lock().dropped,
        )
    }

    /// Add one line, which ends with a newline. The host hears of it within [`DELAY`]: at once, it would be
    /// woken for every connection, which costs it more than the line.
    pub fn line(self: &Arc<Self>, line: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.lines.len() + line.len() > MAX_BYTES {
            pending.dropped += 1;
            return;
        }
        pending.lines.extend_from_slice(line);
        self.signal_soon(&mut pending);
    }

    /// Add one log record, an element of `ScopeLogs.log_records`; the host hears of it as of a line.
    pub fn record(self: &Arc<Self>, record: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.records.add(record) {
            self.signal_soon(&mut pending);
        }
    }

    fn signal_soon(self: &Arc<Self>, pending: &mut Pending) {
        let is_much = pending.lines.len() + pending.records.len() >= BATCH;
        if pending.signalled || pending.promised && !is_much {
            return;
        }
        match Handle::try_current() {
            Ok(core) if !is_much => {
                pending.promised = true;
                let buffer = self.clone();
                core.spawn(async move {
                    tokio::time::sleep(DELAY).await;
                    buffer.signal(&mut buffer.pending.lock());
                });
            }
            _ => self.signal(pending),
        }
    }

    /// One system call a batch, not one a line.
    fn signal(&self, pending: &mut Pending) {
        if !pending.signalled {
            pending.signalled = true;
            self.wakeup.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn lines_that_nobody_drains_are_dropped_and_counted() {
        let buffer = LogBuffer::new(Arc::new(Wakeup::new().unwrap()));
        let line = vec![b'x'; 1 << 16];
        let offered = 2 * MAX_BYTES / line.len();
        (0..offered).for_each(|_| buffer.line(&line));
        let dropped = buffer.family().samples.first().unwrap().value;
        let kept = buffer.drain().lines.len();
        assert!(kept <= MAX_BYTES);
        assert_eq!(u64::try_from(offered - kept / line.len()), Ok(dropped));
        assert!(dropped > 0);
    }
}
