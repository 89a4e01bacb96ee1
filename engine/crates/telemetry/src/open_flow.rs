//! A connection while it is open: counted, and logged when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_mesh::Denied;
use culvert_net::transfer::{Transfer, TransferCounter};

use crate::access_log;
use crate::flow::Flow;
use crate::outcome::{FlowEnd, ResponseFlag};
use crate::tcp::Series;
use crate::telemetry::Telemetry;

/// A counted connection; [`OpenFlow::finish`] must be called, and a dropped one counts as closed without error.
#[derive(Debug)]
pub struct OpenFlow {
    flow: Flow,
    telemetry: Arc<Telemetry>,
    series: Arc<Series>,
    started: Instant,
    to_destination: AtomicU64,
    to_client: AtomicU64,
    finished: bool,
}

impl Flow {
    /// Count the connection as opened.
    #[must_use]
    pub fn open(self, telemetry: &Arc<Telemetry>) -> OpenFlow {
        let series = telemetry.metrics.series(&self, ResponseFlag::None);
        series.opened.fetch_add(1, Ordering::Relaxed);
        OpenFlow {
            flow: self,
            telemetry: telemetry.clone(),
            series,
            started: Instant::now(),
            to_destination: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            finished: false,
        }
    }

    /// Count and log that policies of a dry run would refuse the connection; it goes on.
    pub fn would_be_refused(&self, telemetry: &Arc<Telemetry>, denied: &Denied) {
        telemetry.metrics.dry_runs.count(denied);
        access_log::write_dry_run(telemetry, self, denied);
    }

    /// Count and log a connection that was refused before it began.
    pub fn refuse(self, telemetry: &Arc<Telemetry>, end: &FlowEnd) {
        self.open(telemetry).finish(end);
    }
}

impl OpenFlow {
    /// Bytes so far, both ways together.
    pub fn carried(&self) -> u64 {
        let Transfer { to_destination, to_client } = self.transfer();
        to_destination + to_client
    }

    /// Bytes so far, each way.
    pub fn transfer(&self) -> Transfer {
        Transfer {
            to_destination: self.to_destination.load(Ordering::Relaxed),
            to_client: self.to_client.load(Ordering::Relaxed),
        }
    }

    /// Count the end and write the access log's line.
    pub fn finish(mut self, end: &FlowEnd) {
        self.finished = true;
        self.closed(end);
    }

    /// The same for a connection whose end is learned of later.
    pub fn finish_after(mut self, end: &FlowEnd, duration: Duration) {
        self.finished = true;
        self.closed_after(end, duration);
    }

    /// Leave the rest to another process.
    pub fn hand_over(mut self) {
        self.finished = true;
    }

    fn closed(&self, end: &FlowEnd) {
        self.closed_after(end, self.started.elapsed());
    }

    fn closed_after(&self, end: &FlowEnd, duration: Duration) {
        let metrics = &self.telemetry.metrics;
        match end.flag {
            ResponseFlag::None => self.series.closed.fetch_add(1, Ordering::Relaxed),
            flag => metrics.series(&self.flow, flag).closed.fetch_add(1, Ordering::Relaxed),
        };
        metrics.untrusted_peers.count(end.flag, self.flow.direction);
        if end.error.is_some() {
            metrics.series(&self.flow, end.flag).failed.fetch_add(1, Ordering::Relaxed);
        }
        access_log::write(&self.telemetry, &self.flow, duration, self.transfer(), end);
    }
}

impl TransferCounter for OpenFlow {
    fn to_destination(&self, bytes: u64) {
        self.to_destination.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_destination.fetch_add(bytes, Ordering::Relaxed);
    }

    fn to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_client.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if !self.finished {
            self.closed(&FlowEnd::failed(ResponseFlag::None, "connection closed: the workload was removed"));
        }
    }
}
