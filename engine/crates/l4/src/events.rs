//! Events from the engine to its host: a bounded batch behind one descriptor.
//!
//! Events of state are few (workloads, identities, sequence numbers) and kept until drained. Entries of the access log,
//! lines and records, are many and are dropped, counted, when the host does not keep up: telemetry must not hold memory
//! or connections hostage.

mod records;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_core::identity::Identity;
use culvert_core::proto::engine as wire;
use culvert_metrics::single;
use culvert_net::wakeup::Wakeup;
use parking_lot::Mutex;
use records::Records;
use tokio::runtime::Handle;
use wire::event::Kind;

/// Bytes of access log kept for the host; about 10,000 lines.
const ACCESS_LOG_BYTES: usize = 4 * 1024 * 1024;

/// How long a line waits for others, and how many bytes do not wait.
const ACCESS_LOG_DELAY: Duration = Duration::from_millis(20);
const ACCESS_LOG_BATCH: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Events {
    wakeup: Wakeup,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    events: Vec<wire::Event>,
    access_log: Vec<u8>,
    dropped: u64,
    records: Records,
    signalled: bool,
    /// A wake-up for the waiting lines of the access log is already scheduled.
    promised: bool,
}

impl Events {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { wakeup: Wakeup::new()?, pending: Mutex::default() })
    }

    /// Readable when something is pending.
    pub(crate) fn fd(&self) -> RawFd {
        self.wakeup.fd()
    }

    /// Take all that is pending.
    pub(crate) fn drain(&self) -> wire::EventBatch {
        let mut pending = self.pending.lock();
        (pending.signalled, pending.promised) = (false, false);
        self.wakeup.reset();
        wire::EventBatch {
            events: std::mem::take(&mut pending.events),
            access_log: std::mem::take(&mut pending.access_log).into(),
            access_log_records: pending.records.take(),
            access_log_records_dropped: pending.records.dropped(),
        }
    }

    /// Number of events lost because the host did not drain them.
    pub(crate) fn family(&self) -> wire::MetricFamily {
        single(
            "culvert_access_log_lines_dropped",
            "Lines of the access log that did not get out of the engine in time",
            wire::MetricKind::Counter,
            self.pending.lock().dropped,
        )
    }

    pub(crate) fn certificate_wanted(&self, identity: &Identity) {
        self.push(Kind::CertificateWanted(wire::CertificateWanted { identity: identity.to_string() }));
    }

    pub(crate) fn certificate_released(&self, identity: &Identity) {
        self.push(Kind::CertificateReleased(wire::CertificateReleased { identity: identity.to_string() }));
    }

    pub(crate) fn workload_started(&self, uid: &str, error: Option<String>) {
        let error = error.unwrap_or_default();
        self.push(Kind::WorkloadStarted(wire::WorkloadStarted { uid: uid.to_owned(), error }));
    }

    pub(crate) fn workload_stopped(&self, uid: &str) {
        self.push(Kind::WorkloadStopped(wire::WorkloadStopped { uid: uid.to_owned() }));
    }

    pub(crate) fn fatal(&self, reason: String) {
        self.push(Kind::Fatal(wire::Fatal { reason }));
    }

    pub(crate) fn applied(&self, sequence: u64) {
        self.push(Kind::Applied(wire::Applied { sequence }));
    }

    /// Add one line, which ends with a newline. The host hears of it within [`ACCESS_LOG_DELAY`]: at once, it would be
    /// woken for every connection, which costs it more than the line.
    pub(crate) fn access_log(self: &Arc<Self>, line: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.access_log.len() + line.len() > ACCESS_LOG_BYTES {
            pending.dropped += 1;
            return;
        }
        pending.access_log.extend_from_slice(line);
        self.signal_soon(&mut pending);
    }

    /// Add one log record, an element of `ScopeLogs.log_records`; the host hears of it as of a line.
    pub(crate) fn access_log_record(self: &Arc<Self>, record: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.records.add(record) {
            self.signal_soon(&mut pending);
        }
    }

    fn signal_soon(self: &Arc<Self>, pending: &mut Pending) {
        let is_much = pending.access_log.len() + pending.records.len() >= ACCESS_LOG_BATCH;
        if pending.signalled || pending.promised && !is_much {
            return;
        }
        match Handle::try_current() {
            Ok(core) if !is_much => {
                pending.promised = true;
                let events = self.clone();
                core.spawn(async move {
                    tokio::time::sleep(ACCESS_LOG_DELAY).await;
                    events.signal(&mut events.pending.lock());
                });
            }
            _ => self.signal(pending),
        }
    }

    fn push(&self, kind: Kind) {
        let mut pending = self.pending.lock();
        pending.events.push(wire::Event { kind: Some(kind) });
        self.signal(&mut pending);
    }

    /// One system call a batch, not one an event.
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
        let events = Arc::new(Events::new().unwrap());
        let line = vec![b'x'; 1 << 16];
        let offered = 2 * ACCESS_LOG_BYTES / line.len();
        (0..offered).for_each(|_| events.access_log(&line));
        let dropped = events.family().samples.first().unwrap().value;
        let kept = events.drain().access_log.len();
        assert!(kept <= ACCESS_LOG_BYTES);
        assert_eq!(u64::try_from(offered - kept / line.len()), Ok(dropped));
        assert!(dropped > 0);
    }
}
