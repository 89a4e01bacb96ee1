//! What counts and logs connections: settings, counters, and the buffer for the host.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::log_buffer::LogBuffer;
use crate::metrics::Metrics;
use crate::settings::{AccessLogSettings, TelemetrySettings};

/// Shared by all workers.
#[derive(Debug)]
pub struct Telemetry {
    /// All counters.
    pub metrics: Metrics,
    /// Lines and records for the host.
    pub logs: Arc<LogBuffer>,
    settings: TelemetrySettings,
    access_log: RwLock<Arc<AccessLogSettings>>,
}

impl Telemetry {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(settings: TelemetrySettings, access_log: AccessLogSettings, logs: Arc<LogBuffer>) -> Arc<Self> {
        let access_log = RwLock::new(Arc::new(access_log));
        Arc::new(Self { metrics: Metrics::new(&settings.series), logs, settings, access_log })
    }

    /// Which lines are written of connections that end now.
    pub fn access_log(&self) -> Arc<AccessLogSettings> {
        self.access_log.read().clone()
    }

    /// Write other lines from now on.
    pub fn set_access_log(&self, settings: AccessLogSettings) {
        *self.access_log.write() = Arc::new(settings);
    }

    pub(crate) const fn settings(&self) -> &TelemetrySettings {
        &self.settings
    }
}
