//! Settings of the engine, with the defaults of a production node.

use std::sync::Arc;
use std::time::Duration;

use culvert_core::names;
use culvert_core::proto::engine::{AccessLog, EngineConfig};
use culvert_telemetry::{LabelSelection, SeriesSettings, TelemetrySettings};
use culvert_upstream::OutlierSettings;
use culvert_worker::{LimitSettings, WorkerSettings};

/// See the fields of `EngineConfig` in `meshapi/proto/engine.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "described where the message is defined")]
pub struct Config {
    pub(crate) workers: WorkerSettings,
    pub trust_domain: String,
    pub network: Arc<str>,
    pub cluster_id: String,
    pub node: String,
    /// `None`: as the mesh configuration says.
    pub connect_timeout: Option<Duration>,
    pub handshake_timeout: Duration,
    pub workload_wait: Duration,
    pub tunnel_idle: Duration,
    pub max_streams_per_tunnel: usize,
    pub(crate) limits: LimitSettings,
    pub access_log: AccessLog,
    pub connect_attempts: usize,
    pub connect_attempt_delay: Duration,
    pub(crate) outliers: OutlierSettings,
    pub(crate) telemetry: TelemetrySettings,
    pub dns_proxy: bool,
    pub cluster_domain: String,
    pub resolv_conf: String,
    pub direct_connections: bool,
}

impl From<EngineConfig> for Config {
    fn from(wire: EngineConfig) -> Self {
        let machine = std::thread::available_parallelism().map_or(1, usize::from);
        let number = |value: u32, default: u32| usize::try_from(if value == 0 { default } else { value }).unwrap_or(1);
        let workers_per_group = number(wire.worker_threads, 2).min(machine);
        let duration =
            |value: u32, default_ms: u32| Duration::from_millis(u64::from(if value == 0 { default_ms } else { value }));
        let text = |value: String, default: &str| if value.is_empty() { default.to_owned() } else { value };
        Self {
            workers: WorkerSettings {
                workers_per_group,
                worker_groups: (number(wire.max_worker_threads, 128) / workers_per_group).max(1),
                reserved_cpus: wire.reserved_cpus.map_or(1, |spare| usize::try_from(spare).unwrap_or(usize::MAX)),
                removal_drain: duration(wire.removal_drain_ms, 3_600_000),
                removal_accept: duration(wire.removal_accept_ms, 10_000),
            },
            access_log: wire.access_log(),
            trust_domain: text(wire.trust_domain, names::DEFAULT_TRUST_DOMAIN),
            network: wire.network.into(),
            cluster_id: text(wire.cluster_id, names::DEFAULT_CLUSTER_ID),
            node: wire.node,
            connect_timeout: (wire.connect_timeout_ms > 0).then(|| duration(wire.connect_timeout_ms, 0)),
            handshake_timeout: duration(wire.handshake_timeout_ms, 10_000),
            workload_wait: duration(wire.workload_wait_ms, 5_000),
            tunnel_idle: duration(wire.tunnel_idle_ms, 300_000),
            max_streams_per_tunnel: number(wire.max_streams_per_tunnel, 100),
            limits: LimitSettings {
                max_connections: number(wire.max_connections_per_workload, 20_000),
                max_handshakes: number(wire.max_handshakes_per_workload, 512),
                max_buffered_bytes: match wire.max_buffered_bytes_per_workload {
                    0 => 256 << 20,
                    bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
                },
                max_bandwidth: wire.max_bandwidth_per_workload,
            },
            connect_attempts: number(wire.connect_attempts, 3),
            connect_attempt_delay: duration(wire.connect_attempt_delay_ms, 1_000),
            outliers: OutlierSettings {
                failures: wire.outlier_consecutive_failures.unwrap_or(5),
                base: duration(wire.outlier_base_ejection_ms, 30_000),
                max_percent: usize::try_from(wire.outlier_max_ejection_percent.unwrap_or(50)).unwrap_or(100).min(100),
            },
            telemetry: TelemetrySettings {
                access_log_records: wire.access_log_records,
                dns_log: wire.dns_log,
                series: SeriesSettings {
                    idle_timeout: match wire.metrics_idle_ms.unwrap_or(1_800_000) {
                        0 => None,
                        milliseconds => Some(Duration::from_millis(milliseconds.into())),
                    },
                    labels: LabelSelection::without(&wire.metrics_excluded_labels),
                },
            },
            dns_proxy: wire.dns_proxy,
            cluster_domain: text(wire.cluster_domain, names::DEFAULT_CLUSTER_DOMAIN),
            direct_connections: wire.direct_connections,
            resolv_conf: text(wire.resolv_conf, "/etc/resolv.conf"),
        }
    }
}
