//! `[safety]`: whose costs the multipliers of an objective follow.
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use candlewick_data::{EndOfSequence, RawRows, Source, SourceOptions, Text};
use candlewick_losses::dual::CostMeasure;
use candlewick_losses::{Objective, Recipe};
use candlewick_model::Sampling;
use serde::{Deserialize, Serialize};

use crate::answers::Prompt;
use crate::error::{Error, Result};
use crate::plan::{at_least_one, required};

/// The most of anything that a round may ask for.
const MOST: usize = 1_000_000;

/// `[safety]`: now and then the policy answers prompts, and frozen score models say what its answers cost. The multipliers of
/// the objective follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SafetyWords {
    /// Rows whose prompts are answered, each prompt once. Required.
    pub prompts: Option<PathBuf>,
    /// Nothing but this column of each row is read, a text or a list of messages; by default rows are of any form.
    pub prompt_column: Option<String>,
    /// Who says what an answer costs, one entry for each constraint of the objective. Required.
    pub costs: Vec<CostWords>,
    /// Optimizer steps between two rounds of answers; the first comes before the first step.
    pub every: u64,
    /// Prompts that are answered in a round, drawn anew for each.
    pub prompts_per_round: usize,
    /// Answers to each of them.
    pub completions: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Randomness; 1 draws from the policy as it is, 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Draw among the so many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that hold this share of the probability.
    pub top_p: Option<f64>,
    /// How the score models read plain texts, as `data.end_of_sequence` of the runs that trained them.
    pub end_of_sequence: EndOfSequence,
}

impl Default for SafetyWords {
    fn default() -> Self {
        Self {
            prompts: None,
            prompt_column: None,
            costs: Vec::new(),
            every: 8,
            prompts_per_round: 32,
            completions: 4,
            max_new_tokens: 128,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            end_of_sequence: EndOfSequence::default(),
        }
    }
}

/// Who says what an answer costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a directory of a score model, a list of them, or { model = …, head = \"…\" }")]
#[non_exhaustive]
pub enum CostWords {
    /// The directory of a score model with one head.
    Model(PathBuf),
    /// Several of them: the cost is their mean.
    Mean(Vec<PathBuf>),
    /// One of the heads of a model, or of each of several.
    Head(HeadWords),
}

/// A head of score models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadWords {
    /// The directory or directories.
    pub model: Places,
    /// The name of the head.
    pub head: String,
}

/// A directory, or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Places {
    /// One.
    One(PathBuf),
    /// Several.
    Several(Vec<PathBuf>),
}

impl CostWords {
    /// The directories, to be turned into others.
    pub fn places(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Model(place) | Self::Head(HeadWords { model: Places::One(place), .. }) => vec![place],
            Self::Mean(places) | Self::Head(HeadWords { model: Places::Several(places), .. }) => {
                places.iter_mut().collect()
            }
        }
    }
}

/// What [`SafetyWords`] come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SafetyPlan {
    /// Rows whose prompts are answered.
    pub prompts: PathBuf,
    /// The one column that is read of them.
    pub prompt_column: Option<String>,
    /// Who says what an answer costs, one entry for each constraint.
    pub costs: Vec<CostPlan>,
    /// Optimizer steps between two rounds of answers.
    pub every: u64,
    /// Prompts that are answered in a round.
    pub prompts_per_round: usize,
    /// Answers to each of them.
    pub completions: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Randomness.
    pub temperature: f64,
    /// Draw among the so many likeliest tokens only.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that hold this share of the probability.
    pub top_p: Option<f64>,
    /// How the score models read plain texts.
    #[serde(default)]
    pub end_of_sequence: EndOfSequence,
}

/// Who says what an answer costs: the mean of one head of each of these score models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CostPlan {
    /// Their directories.
    pub models: Vec<PathBuf>,
    /// The name of the head; none for the only one.
    pub head: Option<String>,
}

impl SafetyPlan {
    /// Resolves the section for an objective: those whose multipliers move need it, and no others.
    pub(crate) fn resolve(words: Option<SafetyWords>, objective: &Recipe) -> Result<Option<Self>> {
        let constraints = objective.constraints().len();
        let Some(words) = words else {
            if constraints == 0 {
                return Ok(None);
            }
            let reason = "given, and nobody says what answers of the policy cost, which multipliers follow; add a section [safety] with \
                          prompts and costs, or leave it out and give multipliers in objective.lambda, or drive a Trainer and its `observe`";
            return Err(Error::config("objective.dual", reason));
        };
        if constraints == 0 {
            let reason = "the objective of [objective] has no multipliers that move; give safe_rlhf_lagrangian an objective.dual, or leave \
                          the section out";
            return Err(Error::config("safety", reason));
        }
        let SafetyWords {
            every,
            prompts_per_round,
            completions,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            end_of_sequence,
            ..
        } = words;
        if words.costs.len() != constraints {
            let reason = format!(
                "it has {} entries, and objective.dual has {constraints}; give a score model, or a list of them, for each constraint",
                words.costs.len()
            );
            return Err(Error::config("safety.costs", reason));
        }
        for (k, constraint) in objective.constraints().iter().enumerate() {
            let limit = constraint.settings.limit;
            if constraint.settings.measure == CostMeasure::Rate && !(limit > 0.0 && limit <= 1.0) {
                let reason = format!("{limit}; the measure is a rate: expected a number above 0, and at most 1");
                return Err(Error::config(format!("objective.dual[{k}].limit"), reason));
            }
        }
        let costs = words.costs.into_iter().enumerate().map(|(k, words)| CostPlan::resolve(k, words));
        let costs = costs.collect::<Result<_>>()?;
        let refuse = |key: &str, reason: String| Err(Error::config(format!("safety.{key}"), reason));
        if !(temperature.is_finite() && temperature >= 0.0) {
            return refuse("temperature", format!("{temperature}; expected 0 or a positive number"));
        }
        if temperature <= 0.0 && completions > 1 {
            let reason = format!(
                "0, and every one of the {completions} answers to a prompt would be the same; set safety.completions to 1"
            );
            return refuse("temperature", reason);
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse("top_p", format!("{p}; expected a number above 0 and at most 1"));
        }
        let counts = [
            ("prompts_per_round", prompts_per_round),
            ("completions", completions),
            ("max_new_tokens", max_new_tokens),
        ];
        if let Some((key, count)) = counts.into_iter().find(|(_, count)| *count > MOST) {
            return refuse(key, format!("{count}; expected at most {MOST}"));
        }
        top_k.map_or(Ok(1), |k| at_least_one("safety.top_k", k as u64))?;
        Ok(Some(Self {
            prompts: required("safety.prompts", "a file of prompts that the policy is to answer", words.prompts)?,
            prompt_column: words.prompt_column,
            costs,
            every: at_least_one("safety.every", every)?,
            prompts_per_round: at_least_one("safety.prompts_per_round", prompts_per_round as u64)? as usize,
            completions: at_least_one("safety.completions", completions as u64)? as usize,
            max_new_tokens: at_least_one("safety.max_new_tokens", max_new_tokens as u64)? as usize,
            temperature,
            top_k,
            top_p,
            end_of_sequence,
        }))
    }

    /// How answers are drawn, with another seed each round.
    pub(crate) fn sampling(&self, seed: u64) -> Sampling {
        let Self { max_new_tokens, temperature, top_k, top_p, .. } = *self;
        Sampling { max_new_tokens, temperature, top_k, top_p, seed, stop: Vec::new() }
    }

    /// The directories of all score models, each once.
    pub(crate) fn models(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = Vec::new();
        for model in self.costs.iter().flat_map(|cost| &cost.models) {
            if !all.contains(&model.as_path()) {
                all.push(model);
            }
        }
        all
    }

    /// The files of prompts, and the prompts, each once and in order.
    pub(crate) fn read_prompts(&self) -> Result<(Vec<PathBuf>, Vec<Prompt>)> {
        let in_key = |error: candlewick_data::Error| Error::config("safety.prompts", error.to_string());
        let (mut seen, mut prompts) = (HashSet::new(), Vec::new());
        let mut add = |prompt: Prompt| {
            if seen.insert(format!("{prompt:?}")) {
                prompts.push(prompt);
            }
        };
        if self.prompts == Path::new("-") {
            let reason = "\"-\", and what a run was given this way is not there when it goes on; name a file";
            return Err(Error::config("safety.prompts", reason));
        }
        let options = SourceOptions { strict: true, ..SourceOptions::new(&self.prompts) };
        let paths = match &self.prompt_column {
            None => {
                let alone = |error: candlewick_data::Error| {
                    Error::config(
                        "safety.prompts",
                        format!("{error}; name the column of prompts alone in safety.prompt_column"),
                    )
                };
                let source = Source::open(&options).map_err(alone)?;
                for row in source.records().map_err(in_key)? {
                    let (_, record) =
                        row.map_err(in_key)?.map_err(|of| in_key(candlewick_data::Error::Rejected(of)))?;
                    add(Prompt::of(record));
                }
                source.paths()
            }
            Some(column) => {
                let rows = RawRows::open(&self.prompts, None).map_err(in_key)?;
                let paths = rows.paths().to_vec();
                for row in rows {
                    let (origin, object) =
                        row.map_err(in_key)?.map_err(|of| in_key(candlewick_data::Error::Rejected(of)))?;
                    let Some(prompt) = object.get(column).and_then(Text::of_json) else {
                        let found = if object.contains_key(column) { "neither" } else { "nothing" };
                        let reason = format!(
                            "{origin} holds {found} in a column {column:?}; expected a text, or a list of messages with role and content"
                        );
                        return Err(Error::config("safety.prompt_column", reason));
                    };
                    add(prompt.into());
                }
                paths
            }
        };
        if prompts.is_empty() {
            let reason = format!("{} has no rows; give some prompts", self.prompts.display());
            return Err(Error::config("safety.prompts", reason));
        }
        if prompts.len() < self.prompts_per_round {
            let reason = format!(
                "{}, and {} has {} different prompts; give at most that",
                self.prompts_per_round,
                self.prompts.display(),
                prompts.len()
            );
            return Err(Error::config("safety.prompts_per_round", reason));
        }
        Ok((paths, prompts))
    }
}

impl CostPlan {
    fn resolve(constraint: usize, words: CostWords) -> Result<Self> {
        let key = format!("safety.costs[{constraint}]");
        let (models, head) = match words {
            CostWords::Model(model) => (vec![model], None),
            CostWords::Mean(models) => (models, None),
            CostWords::Head(HeadWords { model: Places::One(model), head }) => (vec![model], Some(head)),
            CostWords::Head(HeadWords { model: Places::Several(models), head }) => (models, Some(head)),
        };
        if models.is_empty() || models.iter().any(|model| model.as_os_str().is_empty()) {
            return Err(Error::config(key, "it names no model; give the directory of a score model"));
        }
        Ok(Self { models, head })
    }
}
