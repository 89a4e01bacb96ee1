//! What policies of a dry run would have refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;
use culvert_mesh::Denied;
use culvert_metrics::{SeriesLimits, SeriesTable};

/// Policies that are counted one by one; those beyond share a label.
const MAX_POLICIES: usize = 500;
const OVERFLOW: &str = "other";

/// Connections that passed and would not have, by what would have refused them.
#[derive(Debug)]
pub struct DryRuns(SeriesTable<[Arc<str>; 1], AtomicU64>);

impl Default for DryRuns {
    fn default() -> Self {
        let limits = SeriesLimits { capacity: MAX_POLICIES, max_self_reported: 0, idle_timeout: None };
        Self(SeriesTable::new(["policy"], [OVERFLOW.into()], limits))
    }
}

impl DryRuns {
    /// Count a connection.
    pub fn count(&self, denied: &Denied) {
        let policy = match denied {
            Denied::By(policy) | Denied::Unknown(policy) => policy.clone(),
            Denied::NotAllowed => "none allowed".into(),
        };
        self.0.series([policy]).fetch_add(1, Ordering::Relaxed);
    }

    /// The family of these connections.
    #[must_use]
    pub fn family(&self) -> wire::MetricFamily {
        let help = "Connections that passed and that policies of a dry run would have refused, by policy";
        self.0.snapshot().counter("culvert_dry_run_denied", help, |count| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_nothing_goes_uncounted() {
        let all = DryRuns::default();
        for number in 0..MAX_POLICIES + 7 {
            all.count(&Denied::By(format!("shop/{number}").into()));
        }
        all.count(&Denied::By("shop/0".into()));
        let samples = all.family().samples;
        assert_eq!(samples.len(), MAX_POLICIES + 1);
        let of = |name: &str| samples.iter().find(|one| one.label_values == [name]).map(|one| one.value);
        assert_eq!((of(OVERFLOW), of("shop/0")), (Some(7), Some(2)));
    }
}
