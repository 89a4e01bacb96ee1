#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use culvert_core::proto::engine::EngineConfig;
use culvert_core::proto::mesh::mesh_config::OutboundTrafficPolicy;

use super::*;

fn config(wire: EngineConfig) -> Config {
    wire.into()
}

fn parse(mesh: &MeshConfig) -> Result<MeshSettings, Rejection> {
    MeshSettings::parse(
        &config(EngineConfig { access_log: engine::AccessLog::Mesh.into(), ..EngineConfig::default() }),
        mesh,
    )
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn what_is_absent_is_the_engines_own() {
    let settings = parse(&MeshConfig::default()).unwrap();
    assert_eq!(settings.connect_timeout, CONNECT_TIMEOUT);
    assert_eq!(settings.keepalive, Keepalive::default());
    assert!(!settings.registry_only);
    assert!(matches!(settings.access_log, AccessLogSettings::Fields(Encoding::Text)));
}

#[test]
fn what_is_given_is_in_force() {
    let keepalive = TcpKeepalive { probes: 3, time: seconds(60), interval: None };
    let settings = parse(&MeshConfig {
        connect_timeout: seconds(2),
        tcp_keepalive: Some(keepalive),
        access_log_encoding: 1,
        outbound_traffic_policy: Some(OutboundTrafficPolicy { mode: 0 }),
        ..MeshConfig::default()
    })
    .unwrap();
    assert_eq!(settings.connect_options().timeout, Duration::from_secs(2));
    assert_eq!((settings.keepalive.probes, settings.keepalive.time), (3, Duration::from_secs(60)));
    assert_eq!(settings.keepalive.interval, Keepalive::default().interval);
    assert!(settings.registry_only);
    assert!(matches!(settings.access_log, AccessLogSettings::Fields(Encoding::Json)));
}

#[test]
fn a_setting_of_this_ztunnel_takes_precedence() {
    let own = EngineConfig { connect_timeout_ms: 500, access_log: 2, ..EngineConfig::default() };
    let mesh = MeshConfig {
        connect_timeout: seconds(2),
        access_log_file: NO_LOG.to_owned(),
        access_log_format: "%DURATION%".to_owned(),
        ..MeshConfig::default()
    };
    let settings = MeshSettings::parse(&config(own), &mesh).unwrap();
    assert_eq!(settings.connect_timeout, Duration::from_millis(500));
    assert!(matches!(settings.access_log, AccessLogSettings::Fields(Encoding::Json)));
}

#[test]
fn the_log_can_be_switched_off() {
    let off = MeshConfig { access_log_file: NO_LOG.to_owned(), ..MeshConfig::default() };
    assert!(matches!(parse(&off).unwrap().access_log, AccessLogSettings::Off));
}

#[test]
fn a_bad_field_is_named() {
    let field = |mesh: MeshConfig| parse(&mesh).unwrap_err().field;
    let default = MeshConfig::default;
    let keepalive = |probes, time| Some(TcpKeepalive { probes, time, interval: None });
    assert_eq!(field(MeshConfig { connect_timeout: seconds(0), ..default() }), "connectTimeout");
    assert_eq!(field(MeshConfig { connect_timeout: seconds(-1), ..default() }), "connectTimeout");
    assert_eq!(field(MeshConfig { tcp_keepalive: keepalive(128, None), ..default() }), "tcpKeepalive.probes");
    assert_eq!(field(MeshConfig { tcp_keepalive: keepalive(1, seconds(40_000)), ..default() }), "tcpKeepalive.time");
    assert_eq!(field(MeshConfig { access_log_encoding: 7, ..default() }), "accessLogEncoding");
    assert_eq!(field(MeshConfig { access_log_format: "%X".to_owned(), ..default() }), "accessLogFormat");
    let policy = Some(OutboundTrafficPolicy { mode: 2 });
    assert_eq!(field(MeshConfig { outbound_traffic_policy: policy, ..default() }), "outboundTrafficPolicy.mode");
}

#[test]
fn only_unknown_destinations_are_forbidden_and_dns_is_not() {
    let policy = Some(OutboundTrafficPolicy { mode: 0 });
    let settings = parse(&MeshConfig { outbound_traffic_policy: policy, ..MeshConfig::default() }).unwrap();
    let unknown = |to: &str| Route::Unknown { to: to.parse().unwrap(), service: None };
    assert!(settings.forbids(&unknown("192.0.2.1:443")));
    assert!(settings.forbids(&unknown("[2001:db8::1]:443")));
    assert!(!settings.forbids(&unknown("169.254.20.10:53")));
    assert!(!parse(&MeshConfig::default()).unwrap().forbids(&unknown("192.0.2.1:443")));
}
