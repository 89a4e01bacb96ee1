//! One entry a connection, in the fields and order of Istio's ztunnel: as a line, as an OpenTelemetry log record, or both.
//! The mesh configuration may give lines another form (see `line_format`).

use std::time::{Duration, SystemTime};

use culvert_mesh::Denied;
use culvert_net::transfer::Transfer;

use crate::fields::{self, Field};
use crate::flow::Flow;
use crate::line;
use crate::line_format::Ended;
use crate::otlp::{self, Severity};
use crate::outcome::FlowEnd;
use crate::settings::{AccessLogSettings, Encoding};
use crate::telemetry::Telemetry;

/// Write the entry of a connection that has ended.
pub(crate) fn write(telemetry: &Telemetry, flow: &Flow, duration: Duration, transfer: Transfer, end: &FlowEnd) {
    let access_log = telemetry.access_log();
    let now = SystemTime::now();
    let has_fields = telemetry.settings().access_log_records || matches!(*access_log, AccessLogSettings::Fields(_));
    if has_fields {
        let severity = if end.error.is_some() { Severity::Error } else { Severity::Info };
        let fields = fields::of_ended(flow, duration, transfer, end);
        let with_line = !access_log.has_format();
        enter(
            telemetry,
            &access_log,
            now,
            with_line,
            Entry { severity, message: "connection complete", flow, fields: &fields },
        );
    }
    if let AccessLogSettings::Format(format, _) = &*access_log {
        telemetry.logs.line(&format.line(&Ended { flow, end, duration, transfer, now }));
    }
}

/// Write what policies of a dry run would do to a connection that has not begun yet.
pub(crate) fn write_dry_run(telemetry: &Telemetry, flow: &Flow, denied: &Denied) {
    let access_log = telemetry.access_log();
    if access_log.is_on() || telemetry.settings().access_log_records {
        let mut fields = fields::about(flow);
        fields.push(("dry_run", denied.to_string().into()));
        let entry = Entry { severity: Severity::Info, message: "connection would be refused", flow, fields: &fields };
        enter(telemetry, &access_log, SystemTime::now(), true, entry);
    }
}

struct Entry<'a> {
    severity: Severity,
    message: &'static str,
    flow: &'a Flow,
    fields: &'a [Field<'a>],
}

/// Write an entry in each form that is on, as a line only `with_line`.
fn enter(telemetry: &Telemetry, access_log: &AccessLogSettings, now: SystemTime, with_line: bool, entry: Entry<'_>) {
    let Entry { severity, message, flow, fields } = entry;
    if with_line && access_log.is_on() {
        let level = if severity == Severity::Error { "error" } else { "info" };
        write_line(telemetry, access_log.encoding(), now, level, ("access", message), fields);
    }
    if telemetry.settings().access_log_records {
        telemetry.logs.record(&otlp::record(now, severity, message, flow.trace(), fields));
    }
}

/// Write one line of `what`, a scope and a message, that is not an entry of the access log.
pub(crate) fn emit(telemetry: &Telemetry, level: &str, what: (&str, &str), fields: &[Field<'_>]) {
    write_line(telemetry, telemetry.access_log().encoding(), SystemTime::now(), level, what, fields);
}

fn write_line(
    telemetry: &Telemetry,
    encoding: Encoding,
    now: SystemTime,
    level: &str,
    what: (&str, &str),
    fields: &[Field<'_>],
) {
    let time = humantime::format_rfc3339_micros(now);
    let line = match encoding {
        Encoding::Json => line::json(level, time, what, fields),
        Encoding::Text => line::text(level, time, what, fields),
    };
    telemetry.logs.line(&line);
}
