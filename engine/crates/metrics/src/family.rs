//! Families whose label sets are known when they are written.

use culvert_core::proto::engine::{MetricFamily, MetricKind, Sample};

/// A family of one number without labels.
#[must_use]
pub fn single(name: &str, help: &str, kind: MetricKind, value: u64) -> MetricFamily {
    MetricFamily {
        name: name.to_owned(),
        help: help.to_owned(),
        kind: kind.into(),
        samples: vec![Sample { value, ..Default::default() }],
        ..Default::default()
    }
}

/// A family with one label, and a number for each of the label's values. All are exposed from the start, at 0.
pub fn by_label<'a>(
    name: &str,
    help: &str,
    kind: MetricKind,
    label: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> MetricFamily {
    let sample = |(label_value, value): (&str, u64)| Sample {
        label_values: vec![label_value.to_owned()],
        value,
        ..Default::default()
    };
    MetricFamily {
        name: name.to_owned(),
        help: help.to_owned(),
        label_names: vec![label.to_owned()],
        samples: values.into_iter().map(sample).collect(),
        kind: kind.into(),
        ..Default::default()
    }
}
