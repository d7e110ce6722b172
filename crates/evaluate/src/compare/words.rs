//! The words of a comparison: the section `[compare]` of a configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `[compare]`: what is compared. Everything that the runs share stands in the other sections, as for a single run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CompareWords {
    /// Objectives with their default settings: short for an arm each. Names, or tables with `type` and settings.
    pub objectives: Vec<Value>,
    /// The objectives that are compared, with what each has of its own.
    pub arms: Vec<ArmWords>,
    /// Keys of the configuration and the values that each arm tries, in all combinations, such as
    /// `optimizer.learning_rate = [1e-4, 1e-3]`. A key of `objective` goes to the arms whose objective has it.
    pub grid: BTreeMap<String, Value>,
    /// Seeds of the order of rows and of fresh weights: a list, or how many, counted from 0.
    pub seeds: Seeds,
    /// How many of the seeds the grid is tried on; all by default. The chosen settings run on all of them.
    pub tuning_seeds: Option<usize>,
    /// The arm that the others are compared with; the first by default.
    pub baseline: Option<String>,
    /// Steps between measurements; a tenth of the run by default.
    pub every: Option<u64>,
    /// The held-out accuracy whose first reaching is reported; none by default.
    pub accuracy: Option<f64>,
    /// Held-out prompts that are answered at the end of a run, to measure how far it has drifted from its reference.
    pub drift_prompts: usize,
    /// Most tokens of such an answer.
    pub drift_tokens: usize,
    /// Whether the trained models and their checkpoints stay.
    pub keep_models: bool,
}

impl Default for CompareWords {
    fn default() -> Self {
        Self {
            objectives: Vec::new(),
            arms: Vec::new(),
            grid: BTreeMap::new(),
            seeds: Seeds::default(),
            tuning_seeds: None,
            baseline: None,
            every: None,
            accuracy: None,
            drift_prompts: 64,
            drift_tokens: 64,
            keep_models: false,
        }
    }
}

/// `[[compare.arms]]`: an objective, and what is its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ArmWords {
    /// What it is called; the name of its objective by default.
    pub name: Option<String>,
    /// The objective: a name, or a table with `type` and settings.
    pub objective: Value,
    /// Keys of the configuration with a value of its own, such as `data.path`.
    pub set: BTreeMap<String, Value>,
    /// Keys and values that it tries, in all combinations with those of `compare.grid`; a key that stands there too is taken
    /// from here.
    pub grid: BTreeMap<String, Value>,
}

/// Seeds of runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Seeds {
    /// So many, counted from 0.
    Count(u64),
    /// These.
    These(Vec<u64>),
}

impl Default for Seeds {
    fn default() -> Self {
        Self::Count(3)
    }
}

impl Seeds {
    /// Each of them.
    pub(crate) fn list(&self) -> Vec<u64> {
        match self {
            Self::Count(count) => (0..*count).collect(),
            Self::These(seeds) => seeds.clone(),
        }
    }
}

/// Keys written as tables within tables, as keys with dots.
pub(crate) fn flat(words: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in words {
        flatten(key.clone(), value, &mut flat);
    }
    flat
}

fn flatten(key: String, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        // A value that is a table stands in a list.
        Value::Object(inner) if !inner.is_empty() => {
            for (name, value) in inner {
                flatten(format!("{key}.{name}"), value, into);
            }
        }
        value => {
            into.insert(key, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_may_have_dots_or_be_tables() {
        let dotted = BTreeMap::from([("train.steps".to_owned(), json!([1, 2]))]);
        let nested = BTreeMap::from([("train".to_owned(), json!({ "steps": [1, 2] }))]);
        assert_eq!(flat(&nested), dotted);
        assert_eq!(flat(&dotted), dotted);
    }

    #[test]
    fn seeds_are_counted_or_listed() {
        assert_eq!(serde_json::from_value::<Seeds>(json!(2)).expect("a count").list(), [0, 1]);
        assert_eq!(serde_json::from_value::<Seeds>(json!([7, 3])).expect("a list").list(), [7, 3]);
    }
}
