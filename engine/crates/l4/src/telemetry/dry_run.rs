//! What policies of a dry run would have refused.

use std::collections::BTreeMap;

use culvert_core::proto::engine as wire;
use parking_lot::Mutex;

use crate::policy::Denied;

/// Names that are counted one by one; those beyond share a label.
const MAX_NAMES: usize = 500;
const OVERFLOW: &str = "other";

/// Connections that passed and would not have, by what would have refused them.
#[derive(Debug, Default)]
pub(crate) struct DryRuns(Mutex<BTreeMap<String, u64>>);

impl DryRuns {
    pub(crate) fn count(&self, denied: &Denied) {
        let name = match denied {
            Denied::By(policy) | Denied::Unknown(policy) => policy.to_string(),
            Denied::NotAllowed => "none allowed".to_owned(),
        };
        let mut all = self.0.lock();
        let is_new = !all.contains_key(&name);
        let name = if is_new && all.len() >= MAX_NAMES { OVERFLOW.to_owned() } else { name };
        *all.entry(name).or_default() += 1;
    }

    pub(crate) fn family(&self) -> wire::MetricFamily {
        let sample = |(name, value): (&String, &u64)| wire::Sample {
            label_values: vec![name.clone()],
            value: *value,
            ..Default::default()
        };
        wire::MetricFamily {
            name: "culvert_dry_run_denied".to_owned(),
            help: "Connections that passed and that policies of a dry run would have refused, by policy".to_owned(),
            label_names: vec!["policy".to_owned()],
            samples: self.0.lock().iter().map(sample).collect(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_nothing_goes_uncounted() {
        let all = DryRuns::default();
        for number in 0..MAX_NAMES + 7 {
            all.count(&Denied::By(format!("shop/{number}").into()));
        }
        all.count(&Denied::By("shop/0".into()));
        let samples = all.family().samples;
        assert_eq!(samples.len(), MAX_NAMES + 1);
        let of = |name: &str| samples.iter().find(|one| one.label_values == [name]).map(|one| one.value);
        assert_eq!((of(OVERFLOW), of("shop/0")), (Some(7), Some(2)));
    }
}
