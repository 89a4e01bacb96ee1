//! Lines with the fields of Istio's ztunnel.

use std::fmt::Display;
use std::io::Write as _;

use crate::fields::{Field, Value};

/// Initial capacity of a line in bytes, so that it need not grow.
const LINE: usize = 1024;

/// A line of text. Strings are quoted and escaped as JSON, so that no value can end the line or look like another field.
pub(crate) fn text(level: &str, time: impl Display, (scope, message): (&str, &str), fields: &[Field<'_>]) -> Vec<u8> {
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

/// A line of JSON.
pub(crate) fn json(level: &str, time: impl Display, (scope, message): (&str, &str), fields: &[Field<'_>]) -> Vec<u8> {
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
