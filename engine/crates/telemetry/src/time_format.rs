//! Times in the access log, by the conversions of strftime that make sense for UTC, and Envoy's fractions of a second.

use std::time::{SystemTime, UNIX_EPOCH};

/// Envoy's default for `%START_TIME%`.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";

/// How a time is written.
#[derive(Debug, Clone)]
pub(crate) struct TimeFormat(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Literal(char),
    /// Bytes of `2026-01-02T03:04:05.123456789Z`.
    Slice(std::ops::Range<usize>),
    UnixSeconds,
}

impl TimeFormat {
    /// `None` where there is a conversion that is not known. An empty format is Envoy's default.
    pub(crate) fn parse(format: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut chars = if format.is_empty() { DEFAULT } else { format }.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                parts.push(Part::Literal(char));
                continue;
            }
            match chars.next()? {
                '%' => parts.push(Part::Literal('%')),
                'Y' => parts.push(Part::Slice(0..4)),
                'm' => parts.push(Part::Slice(5..7)),
                'd' => parts.push(Part::Slice(8..10)),
                'H' => parts.push(Part::Slice(11..13)),
                'M' => parts.push(Part::Slice(14..16)),
                'S' => parts.push(Part::Slice(17..19)),
                'F' => parts.push(Part::Slice(0..10)),
                'T' => parts.push(Part::Slice(11..19)),
                'z' => parts.extend("+0000".chars().map(Part::Literal)),
                'Z' => parts.extend("UTC".chars().map(Part::Literal)),
                's' => parts.push(Part::UnixSeconds),
                'f' => parts.push(Part::Slice(20..29)),
                digit @ '1'..='9' => {
                    let digits = usize::try_from(digit.to_digit(10)?).ok()?;
                    parts.push(Part::Slice(20..20 + digits));
                    (chars.next()? == 'f').then_some(())?;
                }
                _ => return None,
            }
        }
        Some(Self(parts))
    }

    pub(crate) fn write(&self, time: SystemTime) -> String {
        let whole = humantime::format_rfc3339_nanos(time).to_string();
        let mut written = String::with_capacity(whole.len());
        for part in &self.0 {
            match part {
                Part::Literal(char) => written.push(*char),
                Part::Slice(range) => written.push_str(whole.get(range.clone()).unwrap_or_default()),
                Part::UnixSeconds => {
                    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                    written.push_str(&since.as_secs().to_string());
                }
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::Duration;

    use super::*;

    #[test]
    fn conversions() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_767_322_985_123_456_789);
        let write = |format| TimeFormat::parse(format).unwrap().write(time);
        assert_eq!(write(""), "2026-01-02T03:03:05.123Z");
        assert_eq!(write("%Y/%m/%d %H.%M.%S"), "2026/01/02 03.03.05");
        assert_eq!(write("%F %T%z %Z %% %s"), "2026-01-02 03:03:05+0000 UTC % 1767322985");
        assert_eq!(write("%f %6f %1f"), "123456789 123456 1");
    }

    #[test]
    fn unknown_conversions_are_refused() {
        for format in ["%Q", "%", "%3", "%3s", "%0f"] {
            assert!(TimeFormat::parse(format).is_none(), "{format}");
        }
    }
}
