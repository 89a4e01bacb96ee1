//! One entry a connection, in the fields and order of Istio's ztunnel: as a line, as an OpenTelemetry log record, or both.
//! The mesh configuration may give lines another form (see `log_format`).

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_mesh::Denied;
use culvert_net::transfer::Transfer;

use super::flow::{Direction, Flow, FlowEnd, Peer, Security};
use super::log_format::{Ended, FormatError, LineFormat};
use super::otlp::{self, Severity};
use crate::mesh::MeshSettings;
use crate::shared::ProxyState;

/// Bytes of a line, so that it need not grow.
const LINE: usize = 1024;

/// Lines as text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Text,
    Json,
}

/// Which lines are written.
#[derive(Debug, Clone)]
pub(crate) enum AccessLogSettings {
    Off,
    /// The fields of Istio's ztunnel.
    Fields(Encoding),
    /// A format of the mesh's own. Lines that are not about the end of a connection have ztunnel's fields.
    Format(Arc<LineFormat>, Encoding),
}

impl AccessLogSettings {
    /// Lines in the mesh's encoding and format; an empty format means the fields of Istio's ztunnel.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub(crate) fn parse(encoding: Encoding, format: &str) -> Result<Self, FormatError> {
        if format.is_empty() {
            return Ok(Self::Fields(encoding));
        }
        let parsed = match encoding {
            Encoding::Text => LineFormat::text(format),
            Encoding::Json => LineFormat::json(format),
        };
        Ok(Self::Format(Arc::new(parsed?), encoding))
    }

    /// Whether lines may show more than the fields of Istio's ztunnel.
    pub(crate) const fn has_format(&self) -> bool {
        matches!(self, Self::Format(..))
    }

    const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    const fn encoding(&self) -> Encoding {
        match self {
            Self::Off => Encoding::Text,
            Self::Fields(encoding) | Self::Format(_, encoding) => *encoding,
        }
    }
}

pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

pub(super) type Field<'a> = (&'static str, Value<'a>);

pub(crate) fn write(shared: &Arc<ProxyState>, flow: &Flow, duration: Duration, transfer: Transfer, end: &FlowEnd) {
    let mesh = shared.mesh();
    let now = SystemTime::now();
    let has_fields = shared.config.access_log_records || matches!(mesh.access_log, AccessLogSettings::Fields(_));
    if has_fields {
        let severity = if end.error.is_some() { Severity::Error } else { Severity::Info };
        let fields = fields(flow, duration, transfer, end);
        let with_line = !mesh.access_log.has_format();
        enter(shared, &mesh, now, with_line, Entry { severity, message: "connection complete", flow, fields: &fields });
    }
    if let AccessLogSettings::Format(format, _) = &mesh.access_log {
        shared.events.access_log(&format.line(&Ended { flow, end, duration, transfer, now }));
    }
}

/// Write what policies of a dry run would do to a connection that has not begun yet.
pub(crate) fn write_dry_run(shared: &Arc<ProxyState>, flow: &Flow, denied: &Denied) {
    let mesh = shared.mesh();
    if mesh.access_log.is_on() || shared.config.access_log_records {
        let mut fields = about(flow);
        fields.push(("dry_run", denied.to_string().into()));
        let entry = Entry { severity: Severity::Info, message: "connection would be refused", flow, fields: &fields };
        enter(shared, &mesh, SystemTime::now(), true, entry);
    }
}

struct Entry<'a> {
    severity: Severity,
    message: &'static str,
    flow: &'a Flow,
    fields: &'a [Field<'a>],
}

/// Write an entry in each form that is on, as a line only `with_line`.
fn enter(shared: &ProxyState, mesh: &MeshSettings, now: SystemTime, with_line: bool, entry: Entry<'_>) {
    let Entry { severity, message, flow, fields } = entry;
    if with_line && mesh.access_log.is_on() {
        let level = if severity == Severity::Error { "error" } else { "info" };
        write_line(shared, mesh.access_log.encoding(), now, level, ("access", message), fields);
    }
    if shared.config.access_log_records {
        shared.events.access_log_record(&otlp::record(now, severity, message, flow.trace(), fields));
    }
}

/// Write one line of `what`, a scope and a message, that is not an entry of the access log.
pub(super) fn emit(shared: &ProxyState, level: &str, what: (&str, &str), fields: &[Field<'_>]) {
    write_line(shared, shared.mesh().access_log.encoding(), SystemTime::now(), level, what, fields);
}

fn write_line(
    shared: &ProxyState,
    encoding: Encoding,
    now: SystemTime,
    level: &str,
    what: (&str, &str),
    fields: &[Field<'_>],
) {
    let time = humantime::format_rfc3339_micros(now);
    let line = match encoding {
        Encoding::Json => json(level, time, what, fields),
        Encoding::Text => text(level, time, what, fields),
    };
    shared.events.access_log(&line);
}

fn fields<'a>(flow: &'a Flow, duration: Duration, transfer: Transfer, end: &'a FlowEnd) -> Vec<Field<'a>> {
    let mut all = about(flow);
    // What was sent, and what was received, by the end of the tunnel that writes the entry.
    let Transfer { to_destination, to_client } = transfer;
    let (sent, received) = match flow.direction {
        Direction::Inbound => (to_client, to_destination),
        Direction::Outbound => (to_destination, to_client),
    };
    all.push(("bytes_sent", Value::Number(sent)));
    all.push(("bytes_recv", Value::Number(received)));
    all.push(("duration", format!("{}ms", duration.as_millis()).into()));
    if let Some(error) = &end.error {
        all.push(("error", error.as_str().into()));
    }
    all
}

/// Who talks to whom.
fn about<'a>(flow: &'a Flow) -> Vec<Field<'a>> {
    let mutual = flow.security == Security::MutualTls;
    let proved = |peer: &'a Peer| match &peer.identity {
        Some(identity) if mutual => identity.as_str(),
        _ => "",
    };
    let (source, destination) = (Named::of(&flow.source), Named::of(&flow.destination));
    let hbone_address = flow.hbone_address.map(|address| address.to_string());
    let mut all = Vec::with_capacity(20);
    all.extend([
        ("src.addr", flow.source_address.to_string().into()),
        ("src.workload", source.workload.into()),
        ("src.namespace", source.namespace.into()),
        ("src.identity", proved(&flow.source).into()),
        ("src.cluster", source.cluster.into()),
        ("dst.addr", flow.destination_address.to_string().into()),
        ("dst.hbone_addr", hbone_address.unwrap_or_default().into()),
        ("dst.service", flow.service.as_ref().map_or("", |service| &service.key.hostname).into()),
        ("dst.workload", destination.workload.into()),
        ("dst.namespace", destination.namespace.into()),
        ("dst.identity", proved(&flow.destination).into()),
        ("dst.cluster", destination.cluster.into()),
        ("direction", if flow.direction == Direction::Inbound { "inbound" } else { "outbound" }.into()),
    ]);
    all.retain(|(_, value)| !matches!(value, Value::Text(text) if text.is_empty()));
    all
}

/// A peer's names; empty where they are not known.
#[derive(Default)]
struct Named<'a> {
    workload: &'a str,
    namespace: &'a str,
    cluster: &'a str,
}

impl<'a> Named<'a> {
    fn of(peer: &'a Peer) -> Self {
        if let Some(workload) = &peer.workload {
            return Self { workload: &workload.name, namespace: &workload.namespace, cluster: &workload.cluster };
        }
        let Some(baggage) = &peer.baggage else { return Self::default() };
        let or_empty = |name: &'a Option<String>| name.as_deref().unwrap_or_default();
        Self {
            workload: or_empty(&baggage.workload),
            namespace: or_empty(&baggage.namespace),
            cluster: or_empty(&baggage.cluster),
        }
    }
}

/// Strings are quoted and escaped as JSON, so that no value can end the line or look like another field.
fn text(level: &str, time: impl Display, (scope, message): (&str, &str), fields: &[Field<'_>]) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE);
    // A line in memory can always be written.
    let _ = write!(line, "{time}\t{level}\t{scope}\t{message}\t");
    for (index, (key, value)) in fields.iter().enumerate() {
        line.extend_from_slice(if index == 0 { "" } else { " " }.as_bytes());
        line.extend_from_slice(key.as_bytes());
        line.push(b'=');
        match value {
            Value::Text(text) if matches!(*key, "src.addr" | "dst.addr" | "dst.hbone_addr") => {
                line.extend_from_slice(text.as_bytes());
            }
            value => write_json(&mut line, value),
        }
    }
    line.push(b'\n');
    line
}

fn json(level: &str, time: impl Display, (scope, message): (&str, &str), fields: &[Field<'_>]) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE);
    let _ = write!(line, r#"{{"level":"{level}","time":"{time}","scope":"{scope}","message":"{message}""#);
    for (key, value) in fields {
        line.extend_from_slice(b",\"");
        line.extend_from_slice(key.as_bytes());
        line.extend_from_slice(b"\":");
        write_json(&mut line, value);
    }
    line.extend_from_slice(b"}\n");
    line
}

fn write_json(line: &mut Vec<u8>, value: &Value<'_>) {
    let _ = match value {
        Value::Number(number) => serde_json::to_writer(line, number),
        Value::Text(text) => serde_json::to_writer(line, text),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_field() {
        let fields = [("error", "a\" b=\"c\nd".into())];
        let what = ("access", "connection complete");
        assert_eq!(
            String::from_utf8_lossy(&text("info", "t", what, &fields)),
            "t\tinfo\taccess\tconnection complete\terror=\"a\\\" b=\\\"c\\nd\"\n"
        );
        let parsed: serde_json::Value = serde_json::from_slice(&json("info", "t", what, &fields)).unwrap_or_default();
        assert_eq!(parsed.get("error").and_then(|value| value.as_str()), Some("a\" b=\"c\nd"));
    }

    #[test]
    fn no_character_ends_a_line_or_a_field() {
        let what = ("access", "connection complete");
        for value in (0..0x2_0ff_u32).chain([0xfffd, 0x1f600]).filter_map(char::from_u32) {
            let fields = [("error", format!("a{value}b").into()), ("bytes_sent", Value::Number(1))];
            for line in [text("info", "t", what, &fields), json("info", "t", what, &fields)] {
                let line = String::from_utf8_lossy(&line);
                let inner = line.strip_suffix('\n').unwrap_or_default();
                assert!(!inner.is_empty() && !inner.contains(|char: char| char < ' ' && char != '\t'), "{line:?}");
                assert!(inner.matches('\t').count() == if inner.starts_with('{') { 0 } else { 4 }, "{line:?}");
                assert_eq!(inner.matches("bytes_sent").count(), 1);
            }
            let parsed: serde_json::Value =
                serde_json::from_slice(&json("info", "t", what, &fields)).unwrap_or_default();
            assert_eq!(parsed.get("error").and_then(|value| value.as_str()), Some(&*format!("a{value}b")));
        }
    }
}
