//! Entries of the access log as OpenTelemetry log records, in their protobuf form.
//!
//! Field numbers are those of `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto`; all that are used
//! are below 16, so that a key is one byte. Written without generated types: the published crate brings a whole SDK
//! with it, and this way a record costs no allocation for each field. In `tests/interop` OpenTelemetry's own Collector
//! reads records.

use std::time::{SystemTime, UNIX_EPOCH};

use culvert_hbone::headers::Trace;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::fields::{Field, Value};

/// `SeverityNumber`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Info = 9,
    Error = 17,
}

impl Severity {
    const fn text(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Error => "ERROR",
        }
    }
}

/// `ScopeLogs`.
const LOG_RECORDS: u32 = 2;

/// `LogRecord`.
const TIME: u32 = 1;
const SEVERITY_NUMBER: u32 = 2;
const SEVERITY_TEXT: u32 = 3;
const BODY: u32 = 5;
const ATTRIBUTES: u32 = 6;
const TRACE_ID: u32 = 9;
const SPAN_ID: u32 = 10;
const OBSERVED_TIME: u32 = 11;

/// `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// `AnyValue`.
const STRING: u32 = 1;
const INT: u32 = 3;

/// One record as an element of `ScopeLogs.log_records`. It was seen (`now`) as it happened.
pub(crate) fn record(
    now: SystemTime,
    severity: Severity,
    body: &str,
    trace: Option<&Trace>,
    fields: &[Field<'_>],
) -> Vec<u8> {
    let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let mut inner = Vec::with_capacity(1024);
    put_fixed(TIME, nanos, &mut inner);
    put_number(SEVERITY_NUMBER, severity as u64, &mut inner);
    put_bytes(SEVERITY_TEXT, severity.text().as_bytes(), &mut inner);
    put_length(BODY, delimited(body.len()), &mut inner);
    put_bytes(STRING, body.as_bytes(), &mut inner);
    for (key, value) in fields {
        put_attribute(key, value, &mut inner);
    }
    if let Some(trace) = trace {
        put_bytes(TRACE_ID, &trace.id, &mut inner);
        put_bytes(SPAN_ID, &trace.parent, &mut inner);
    }
    put_fixed(OBSERVED_TIME, nanos, &mut inner);

    let mut element = Vec::with_capacity(delimited(inner.len()));
    put_bytes(LOG_RECORDS, &inner, &mut element);
    element
}

fn put_attribute(key: &str, value: &Value<'_>, out: &mut Vec<u8>) {
    let value_length = match value {
        Value::Text(text) => delimited(text.len()),
        Value::Number(number) => 1 + encoded_len_varint(*number),
    };
    put_length(ATTRIBUTES, delimited(key.len()) + delimited(value_length), out);
    put_bytes(KEY, key.as_bytes(), out);
    put_length(VALUE, value_length, out);
    match value {
        Value::Text(text) => put_bytes(STRING, text.as_bytes(), out),
        Value::Number(number) => put_number(INT, *number, out),
    }
}

/// Length of a field that holds `length` bytes: key, length, bytes.
fn delimited(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_length(number: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_length(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_number(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn put_fixed(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct ScopeLogs {
        #[prost(message, repeated, tag = "2")]
        log_records: Vec<LogRecord>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct LogRecord {
        #[prost(fixed64, tag = "1")]
        time_unix_nano: u64,
        #[prost(int32, tag = "2")]
        severity_number: i32,
        #[prost(string, tag = "3")]
        severity_text: String,
        #[prost(message, optional, tag = "5")]
        body: Option<AnyValue>,
        #[prost(message, repeated, tag = "6")]
        attributes: Vec<KeyValue>,
        #[prost(bytes = "vec", tag = "9")]
        trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "10")]
        span_id: Vec<u8>,
        #[prost(fixed64, tag = "11")]
        observed_time_unix_nano: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    struct KeyValue {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(message, optional, tag = "2")]
        value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct AnyValue {
        #[prost(string, optional, tag = "1")]
        string: Option<String>,
        #[prost(int64, optional, tag = "3")]
        int: Option<i64>,
    }

    fn text(text: &str) -> AnyValue {
        AnyValue { string: Some(text.to_owned()), int: None }
    }

    /// Lengths whose own length has one byte, two and three.
    #[test]
    fn records_one_after_the_other_are_a_message() {
        let now = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let values = ["", "10.0.0.1:80", &"x".repeat(127), &"é\n\"".repeat(100), &"z".repeat(20_000)];
        let mut stream = Vec::new();
        for value in values {
            let fields = [("error", value.into()), ("bytes_sent", Value::Number(u64::from(u32::MAX)))];
            stream.extend(record(now, Severity::Error, "complete", Some(&Trace::new(3, 4)), &fields));
        }
        stream.extend(record(now, Severity::Info, "b", None, &[]));
        let records = ScopeLogs::decode(&*stream).map(|logs| logs.log_records).unwrap_or_default();
        let expected = |value: &str| LogRecord {
            time_unix_nano: 1_700_000_000_123_456_789,
            severity_number: 17,
            severity_text: "ERROR".to_owned(),
            body: Some(text("complete")),
            attributes: vec![
                KeyValue { key: "error".to_owned(), value: Some(text(value)) },
                KeyValue {
                    key: "bytes_sent".to_owned(),
                    value: Some(AnyValue { string: None, int: Some(i64::from(u32::MAX)) }),
                },
            ],
            trace_id: 3_u128.to_be_bytes().to_vec(),
            span_id: 4_u64.to_be_bytes().to_vec(),
            observed_time_unix_nano: 1_700_000_000_123_456_789,
        };
        assert_eq!(records.len(), values.len() + 1);
        for (record, value) in records.iter().zip(values) {
            assert_eq!(*record, expected(value));
        }
        let last = records.last().cloned().unwrap_or_default();
        assert_eq!((last.severity_number, last.severity_text.as_str(), last.trace_id.len()), (9, "INFO", 0));
    }
}
