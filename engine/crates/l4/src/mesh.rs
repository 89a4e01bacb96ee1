//! Settings of the whole mesh, as the control plane sends them (`istio.mesh.v1alpha1.MeshConfig`).
//!
//! A setting of this ztunnel (`EngineConfig`) takes precedence. A change applies to new connections.

use std::time::Duration;

use culvert_core::Rejection;
use culvert_core::proto::engine;
use culvert_core::proto::mesh::{MeshConfig, TcpKeepalive, mesh_config as wire};
use culvert_mesh::Route;
use culvert_net::socket::{ConnectOptions, Keepalive};
use culvert_telemetry::{AccessLogSettings, Encoding};

use crate::config::Config;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// Linux, `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`.
const KEEPALIVES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);
/// Linux, `MAX_TCP_KEEPCNT`.
const MAX_PROBES: u32 = 127;
const NO_LOG: &str = "/dev/null";
/// Exempt from REGISTRY_ONLY: resolvers such as a node-local cache are not in the registry, and queries over UDP, which
/// is not captured, are exempt as well.
const DNS_PORT: u16 = 53;

/// The settings in force.
#[derive(Debug, Clone)]
pub(crate) struct MeshSettings {
    pub connect_timeout: Duration,
    pub keepalive: Keepalive,
    pub access_log: AccessLogSettings,
    registry_only: bool,
}

impl MeshSettings {
    /// The settings without a mesh configuration.
    pub(crate) fn without_mesh(config: &Config) -> Self {
        Self {
            connect_timeout: config.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            keepalive: Keepalive::default(),
            access_log: match config.access_log {
                engine::AccessLog::Off => AccessLogSettings::Off,
                engine::AccessLog::Json => AccessLogSettings::Fields(Encoding::Json),
                engine::AccessLog::Text | engine::AccessLog::Mesh => AccessLogSettings::Fields(Encoding::Text),
            },
            registry_only: false,
        }
    }

    /// # Errors
    /// Names the first field that cannot be used.
    pub(crate) fn parse(config: &Config, mesh: &MeshConfig) -> Result<Self, Rejection> {
        let mut settings = Self::without_mesh(config);
        if let Some(timeout) = duration("connectTimeout", mesh.connect_timeout.as_ref(), &CONNECT_TIMEOUTS)? {
            settings.connect_timeout = config.connect_timeout.unwrap_or(timeout);
        }
        if let Some(keepalive) = &mesh.tcp_keepalive {
            settings.keepalive = parse_keepalive(keepalive)?;
        }
        settings.registry_only = match &mesh.outbound_traffic_policy {
            Some(policy) => is_registry_only(policy.mode)?,
            None => false,
        };
        let access_log = parse_access_log(mesh)?;
        if config.access_log == engine::AccessLog::Mesh {
            settings.access_log = access_log;
        }
        Ok(settings)
    }

    /// Whether a route leads out of the mesh and must not.
    pub(crate) fn forbids(&self, route: &Route) -> bool {
        self.registry_only && matches!(route, Route::Unknown { to, service: None } if to.port() != DNS_PORT)
    }

    /// How a connection is opened.
    pub(crate) const fn connect_options(&self) -> ConnectOptions {
        ConnectOptions { timeout: self.connect_timeout, keepalive: self.keepalive }
    }
}

fn is_registry_only(mode: i32) -> Result<bool, Rejection> {
    use wire::outbound_traffic_policy::Mode;
    match Mode::try_from(mode) {
        Ok(Mode::RegistryOnly) => Ok(true),
        Ok(Mode::AllowAny | Mode::AllowAnyDynamicDns) => Ok(false),
        Err(_) => Err(Rejection::new("outboundTrafficPolicy.mode", format!("{mode} is not a mode"))),
    }
}

fn parse_keepalive(wire: &TcpKeepalive) -> Result<Keepalive, Rejection> {
    let defaults = Keepalive::default();
    if wire.probes > MAX_PROBES {
        return Err(Rejection::new("tcpKeepalive.probes", format!("{} is more than {MAX_PROBES}", wire.probes)));
    }
    Ok(Keepalive {
        time: duration("tcpKeepalive.time", wire.time.as_ref(), &KEEPALIVES)?.unwrap_or(defaults.time),
        interval: duration("tcpKeepalive.interval", wire.interval.as_ref(), &KEEPALIVES)?.unwrap_or(defaults.interval),
        probes: if wire.probes == 0 { defaults.probes } else { wire.probes },
    })
}

fn parse_access_log(mesh: &MeshConfig) -> Result<AccessLogSettings, Rejection> {
    let encoding = match wire::AccessLogEncoding::try_from(mesh.access_log_encoding) {
        Ok(wire::AccessLogEncoding::Text) => Encoding::Text,
        Ok(wire::AccessLogEncoding::Json) => Encoding::Json,
        Err(_) => {
            let reason = format!("{} is not an encoding", mesh.access_log_encoding);
            return Err(Rejection::new("accessLogEncoding", reason));
        }
    };
    let settings = AccessLogSettings::parse(encoding, &mesh.access_log_format)
        .map_err(|error| Rejection::new("accessLogFormat", error.to_string()))?;
    Ok(if mesh.access_log_file == NO_LOG { AccessLogSettings::Off } else { settings })
}

fn duration(
    field: &str,
    given: Option<&prost_types::Duration>,
    allowed: &std::ops::RangeInclusive<Duration>,
) -> Result<Option<Duration>, Rejection> {
    let Some(given) = given else { return Ok(None) };
    match Duration::try_from(*given) {
        Ok(duration) if allowed.contains(&duration) => Ok(Some(duration)),
        _ => {
            let (least, most) = (allowed.start(), allowed.end());
            Err(Rejection::new(field, format!("{given} is not between {least:?} and {most:?}")))
        }
    }
}

#[cfg(test)]
#[path = "mesh/tests.rs"]
mod tests;
