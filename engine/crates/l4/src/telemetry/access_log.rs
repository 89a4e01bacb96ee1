//! One entry a connection, in the fields and order of Istio's ztunnel: as a line, as an OpenTelemetry log record, or both.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_core::proto::engine::AccessLog;

use super::flow::{Direction, Flow, FlowEnd, Peer, Security};
use super::otlp::{self, Severity};
use crate::config::Config;
use crate::policy::Denied;
use crate::shared::Shared;

pub(super) enum Value {
    Text(String),
    Number(u64),
}

pub(crate) fn write(shared: &Arc<Shared>, flow: &Flow, duration: Duration, sent: u64, received: u64, end: &FlowEnd) {
    if is_on(&shared.config) {
        let severity = if end.error.is_some() { Severity::Error } else { Severity::Info };
        let fields = fields(flow, duration, sent, received, end);
        enter(shared, severity, "connection complete", flow, &fields);
    }
}

/// Write what policies of a dry run would do to a connection that has not begun yet.
pub(crate) fn write_dry_run(shared: &Arc<Shared>, flow: &Flow, denied: &Denied) {
    if is_on(&shared.config) {
        let mut fields = about(flow);
        fields.push(("dry_run", Value::Text(denied.to_string())));
        enter(shared, Severity::Info, "connection would be refused", flow, &fields);
    }
}

fn is_on(config: &Config) -> bool {
    config.access_log != AccessLog::Off || config.access_log_records
}

/// Write an entry in each form that is on.
fn enter(shared: &Shared, severity: Severity, message: &str, flow: &Flow, fields: &[(&'static str, Value)]) {
    let now = SystemTime::now();
    if shared.config.access_log != AccessLog::Off {
        let level = if severity == Severity::Error { "error" } else { "info" };
        write_line(shared, now, level, ("access", message), fields);
    }
    if shared.config.access_log_records {
        shared.events.access_log_record(&otlp::record(now, severity, message, flow.trace.as_deref(), fields));
    }
}

/// Write one line of `what`, a scope and a message, that is not an entry of the access log.
pub(super) fn emit(shared: &Shared, level: &str, what: (&str, &str), fields: &[(&'static str, Value)]) {
    write_line(shared, SystemTime::now(), level, what, fields);
}

fn write_line(shared: &Shared, now: SystemTime, level: &str, what: (&str, &str), fields: &[(&'static str, Value)]) {
    let time = humantime::format_rfc3339_micros(now).to_string();
    let line = match shared.config.access_log {
        AccessLog::Json => json(level, &time, what, fields),
        _ => text(level, &time, what, fields),
    };
    shared.events.access_log(line.as_bytes());
}

fn fields(flow: &Flow, duration: Duration, sent: u64, received: u64, end: &FlowEnd) -> Vec<(&'static str, Value)> {
    let mut all = about(flow);
    // At the client's side, what the destination received was sent by us.
    let (bytes_sent, bytes_received) = match flow.direction {
        Direction::Inbound => (sent, received),
        Direction::Outbound => (received, sent),
    };
    all.push(("bytes_sent", Value::Number(bytes_sent)));
    all.push(("bytes_recv", Value::Number(bytes_received)));
    all.push(("duration", Value::Text(format!("{}ms", duration.as_millis()))));
    if let Some(error) = &end.error {
        all.push(("error", Value::Text(error.clone())));
    }
    all
}

/// Who talks to whom.
fn about(flow: &Flow) -> Vec<(&'static str, Value)> {
    let mut all = Vec::with_capacity(20);
    let mut put = |key: &'static str, value: Option<String>| {
        all.extend(value.filter(|value| !value.is_empty()).map(|value| (key, Value::Text(value))));
    };
    let mutual = flow.security == Security::MutualTls;
    let identity = |peer: &Peer| peer.identity.as_ref().filter(|_| mutual).map(ToString::to_string);
    let (source, destination) = (Named::of(&flow.source), Named::of(&flow.destination));
    put("src.addr", Some(flow.source_address.to_string()));
    put("src.workload", source.workload);
    put("src.namespace", source.namespace);
    put("src.identity", identity(&flow.source));
    put("src.cluster", source.cluster);
    put("dst.addr", Some(flow.destination_address.to_string()));
    put("dst.hbone_addr", flow.hbone_address.map(|address| address.to_string()));
    put("dst.service", flow.service.as_ref().map(|service| service.key.hostname.to_string()));
    put("dst.workload", destination.workload);
    put("dst.namespace", destination.namespace);
    put("dst.identity", identity(&flow.destination));
    put("dst.cluster", destination.cluster);
    let direction = if flow.direction == Direction::Inbound { "inbound" } else { "outbound" };
    put("direction", Some(direction.to_owned()));
    all
}

struct Named {
    workload: Option<String>,
    namespace: Option<String>,
    cluster: Option<String>,
}

impl Named {
    fn of(peer: &Peer) -> Self {
        if let Some(workload) = &peer.workload {
            return Self {
                workload: Some(workload.name.to_string()),
                namespace: Some(workload.namespace.to_string()),
                cluster: Some(workload.cluster.to_string()),
            };
        }
        let said = peer.baggage.as_deref().cloned().unwrap_or_default();
        Self { workload: said.workload, namespace: said.namespace, cluster: said.cluster }
    }
}

/// Strings are quoted and escaped as JSON, so that no value can end the line or look like another field.
fn text(level: &str, time: &str, (scope, message): (&str, &str), fields: &[(&'static str, Value)]) -> String {
    let mut line = format!("{time}\t{level}\t{scope}\t{message}\t");
    for (index, (key, value)) in fields.iter().enumerate() {
        let space = if index == 0 { "" } else { " " };
        let bare = matches!(*key, "src.addr" | "dst.addr" | "dst.hbone_addr");
        let _ = match value {
            Value::Number(number) => write!(line, "{space}{key}={number}"),
            Value::Text(text) if bare => write!(line, "{space}{key}={text}"),
            Value::Text(text) => write!(line, "{space}{key}={}", serde_json::Value::from(text.as_str())),
        };
    }
    line.push('\n');
    line
}

fn json(level: &str, time: &str, (scope, message): (&str, &str), fields: &[(&'static str, Value)]) -> String {
    let mut line = format!(r#"{{"level":"{level}","time":"{time}","scope":"{scope}","message":"{message}""#);
    for (key, value) in fields {
        let _ = match value {
            Value::Number(number) => write!(line, r#","{key}":{number}"#),
            Value::Text(text) => write!(line, r#","{key}":{}"#, serde_json::Value::from(text.as_str())),
        };
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_field() {
        let fields = [("error", Value::Text("a\" b=\"c\nd".to_owned()))];
        let what = ("access", "connection complete");
        assert_eq!(
            text("info", "t", what, &fields),
            "t\tinfo\taccess\tconnection complete\terror=\"a\\\" b=\\\"c\\nd\"\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&json("info", "t", what, &fields)).unwrap_or_default();
        assert_eq!(parsed.get("error").and_then(|value| value.as_str()), Some("a\" b=\"c\nd"));
    }

    #[test]
    fn no_character_ends_a_line_or_a_field() {
        let what = ("access", "connection complete");
        for value in (0..0x2_0ff_u32).chain([0xfffd, 0x1f600]).filter_map(char::from_u32) {
            let fields = [("error", Value::Text(format!("a{value}b"))), ("bytes_sent", Value::Number(1))];
            for line in [text("info", "t", what, &fields), json("info", "t", what, &fields)] {
                let inner = line.strip_suffix('\n').unwrap_or_default();
                assert!(!inner.is_empty() && !inner.contains(|char: char| char < ' ' && char != '\t'), "{line:?}");
                assert!(inner.matches('\t').count() == if inner.starts_with('{') { 0 } else { 4 }, "{line:?}");
                assert_eq!(inner.matches("bytes_sent").count(), 1);
            }
            let parsed: serde_json::Value = serde_json::from_str(&json("info", "t", what, &fields)).unwrap_or_default();
            assert_eq!(parsed.get("error").and_then(|value| value.as_str()), Some(&*format!("a{value}b")));
        }
    }
}
