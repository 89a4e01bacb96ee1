//! The log of DNS queries.

use culvert_dns::QueryType;
use culvert_mesh::Workload;

use crate::access_log;
use crate::fields::Value;
use crate::telemetry::Telemetry;

/// One query and its result.
pub struct DnsRecord<'a> {
    /// The workload that has sent it.
    pub source: Option<&'a Workload>,
    /// The type of the records.
    pub kind: QueryType,
    /// The name.
    pub host: &'a str,
    /// What the client was answered.
    pub result: &'a str,
    /// Addresses in the answer.
    pub endpoints: usize,
}

/// Write a line of the log `dns`, if it is on.
pub fn write(telemetry: &Telemetry, record: &DnsRecord<'_>) {
    if !telemetry.settings().dns_log {
        return;
    }
    let mut fields = Vec::with_capacity(6);
    if let Some(source) = record.source {
        fields.push(("src.workload", Value::from(&*source.name)));
        fields.push(("src.namespace", Value::from(&*source.namespace)));
    }
    fields.push(("query", record.kind.label().into()));
    fields.push(("domain", record.host.into()));
    fields.push(("result", record.result.into()));
    fields.push(("endpoints", Value::Number(u64::try_from(record.endpoints).unwrap_or_default())));
    access_log::emit(telemetry, "debug", ("dns", "dns query"), &fields);
}
