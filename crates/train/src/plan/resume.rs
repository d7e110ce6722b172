//! Whether a run may go on from the checkpoint of another plan.
use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Length, Plan, REFERENCE, REFERENCE_FILE};
use crate::budget::TokenBudget;
use crate::error::{Error, Result};

impl Plan {
    /// The same with the budget of tokens of a run that has begun in the place of `"auto"`, whatever memory is free now. Where it began
    /// without one, `"auto"` is still to be decided.
    pub(crate) fn with_tokens_of(mut self, stored: &Value) -> Self {
        let stored = stored["train"]["tokens"].as_u64().and_then(|tokens| usize::try_from(tokens).ok());
        if let (Some(TokenBudget::Auto), Some(tokens)) = (self.train.tokens, stored) {
            self.train.tokens = Some(TokenBudget::Tokens(tokens));
        }
        self
    }

    /// Checks that a run of this plan may go on from a checkpoint of `stored`, after `step` steps.
    ///
    /// Allowed to differ: `output` (and with it the place of a precomputed reference that lies there by default), `watch`,
    /// `reference.shared`, `train.threads`, the number of the device, `train.recompute`, `train.tokens` (a step has the same rows, whose
    /// gradients are summed in another order), `evaluation.batch_size` (as `train.tokens`: what is measured is of all held-out rows
    /// together), `data.workers`, and `train.length` where the learning rate does not depend on it and the new
    /// length is no shorter than what is done (of epochs: than it was). What `stored` does not say, since a plan had no such key when it
    /// was written, has its default.
    ///
    /// # Errors
    /// Any other difference, by name, with both values.
    pub fn check_resumes(&self, stored: &Value, step: u64) -> Result<()> {
        let ours = self.entries();
        let theirs = match Self::deserialize(stored) {
            Ok(stored) => stored.entries(),
            Err(_) => entries(stored),
        };
        let mut differences = Vec::new();
        for key in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (our, their) = (ours.get(key), theirs.get(key));
            if key == "reference.precomputed"
                && is_default_reference(our, &ours)
                && is_default_reference(their, &theirs)
            {
                continue;
            }
            let is_of_no_step = key.starts_with("output.") || key.starts_with("watch.") || key == "shares_reference";
            let no_rows = ["train.threads", "train.recompute", "train.tokens", "evaluation.batch_size", "data.workers"];
            let changes_no_rows = no_rows.contains(&key.as_str());
            if our == their || is_of_no_step || changes_no_rows {
                continue;
            }
            let is_device = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|kind| kind != "cpu");
            if key == "train.device" && is_device(our) && is_device(their) {
                continue;
            }
            if key.starts_with("train.length") {
                if self.schedule.depends_on_length() {
                    differences.push(format!(
                        "{key} is {}, was {} (schedule.kind makes the learning rate depend on it)",
                        show(our),
                        show(their)
                    ));
                } else if matches!(self.train.length, Length::Steps(steps) if steps < step) {
                    differences.push(format!("{key} is {}, and {step} steps are done", show(our)));
                } else if key == "train.length.epochs"
                    && let (Some(our), Some(their)) = (our.and_then(Value::as_u64), their.and_then(Value::as_u64))
                    && our < their
                {
                    differences.push(format!("{key} is {our}, was {their}"));
                }
                continue;
            }
            differences.push(format!("{key} is {}, was {}", show(our), show(their)));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Error::OtherPlan { differences: differences.join("; ") }),
        }
    }

    /// Every value under its dotted path.
    pub(super) fn entries(&self) -> BTreeMap<String, Value> {
        entries(&self.to_json())
    }
}

fn entries(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
                }
            }
            leaf => {
                out.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

/// Whether a precomputed reference lies where one of these entries does if nothing else is said, now or in earlier versions.
fn is_default_reference(place: Option<&Value>, entries: &BTreeMap<String, Value>) -> bool {
    let dir = Path::new(entries.get("output.dir").and_then(Value::as_str).unwrap_or_default());
    let place = place.and_then(Value::as_str).map(Path::new);
    place.is_some_and(|place| [REFERENCE, REFERENCE_FILE].iter().any(|name| place == dir.join(name)))
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}
