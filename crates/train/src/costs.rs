//! Answers of the policy while it is trained, and what they cost.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candlewick_data::{EncodeOptions, Encoder, EndOfSequence, Origin, Record, ScoredTokens, Text};
use candlewick_kernels::Element;
use candlewick_losses::Objective;
use candlewick_losses::dual::{Constraint, Observed};
use candlewick_model::{CausalLm, Config, ScoreModel};

use crate::answers::{Answers, Prompt, mixed};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::plan::Plan;
use crate::row_scorer::RowScorer;
use crate::safety::{CostPlan, SafetyPlan};

/// Answers that are scored together.
pub(crate) const SCORED_AT_ONCE: usize = 16;
/// What tells the seed of answers from those of the order of rows and of fresh weights.
const ANSWERS: u64 = 0x0000_00c0_5715;

/// The score models and the prompts of a plan's `[safety]`.
#[derive(Debug)]
pub(crate) struct Costs {
    plan: SafetyPlan,
    constraints: Vec<Constraint>,
    seed: u64,
    encoder: Encoder,
    prompts: Vec<Prompt>,
    prompts_file: Fingerprint,
    scorers: Vec<RowScorer>,
    /// Of each constraint: which scorers, and which of their heads.
    heads: Vec<Vec<(usize, usize)>>,
}

/// A round of answers, and what they cost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CostReport {
    /// Optimizer steps done before.
    pub step: u64,
    /// Answers that were scored.
    pub answers: usize,
    /// Prompts that these answer.
    pub prompts: usize,
    /// Answers that were empty however often they were drawn, and count nothing.
    pub empty: usize,
    /// Answers that a score model could not read, or to which it gives no number; they count nothing either.
    pub left_out: usize,
    /// Why the first of those was left out.
    pub reason: Option<String>,
    /// What they cost, constraint by constraint.
    pub costs: Vec<CostFigures>,
}

/// What a round says of one constraint.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CostFigures {
    /// The limit.
    pub limit: f64,
    /// The mean of what is held below it.
    pub mean: f64,
    /// The share of answers with a cost above 0.
    pub unsafe_share: f64,
    /// The variance of what is held below the limit among the answers to a prompt, mean over prompts; with one answer a
    /// prompt that of all answers, which is more.
    pub variance: f64,
    /// The mean over prompts of the least cost among the answers to each: no choice among these answers has a lower mean.
    pub least: f64,
    /// The rate of the multiplier.
    pub rate: f64,
    /// The rate below which multiplier and policy settle, by
    /// [`largest_rate_of_rounds`](candlewick_losses::dual::DualSettings::largest_rate_of_rounds).
    pub largest_rate: f64,
}

impl Costs {
    /// What a plan names, loaded; `None` of a plan without the section.
    pub(crate) fn of_plan(plan: &Plan) -> Result<Option<Self>> {
        let Some(safety) = &plan.safety else { return Ok(None) };
        let encoder = encoder_of_answers(plan)?;
        let (paths, prompts) = safety.read_prompts()?;
        // A prompt that cannot be encoded shows before the first step.
        for (place, prompt) in prompts.iter().enumerate() {
            let found = prompt.ids(&encoder).map_err(|error| error.to_string());
            let reason = match found {
                Ok(ids) if !ids.is_empty() => continue,
                Ok(_) => "it has no token to go on from; leave it out".to_owned(),
                Err(error) => error,
            };
            return Err(Error::config("safety.prompts", format!("prompt {place}, counted from 0: {reason}")));
        }
        let has_chats = prompts.iter().any(|prompt| matches!(prompt.text, Text::Chat(_)));
        let models = safety.models();
        let scorers = models.iter().map(|model| scorer(model, key_of(safety, model), has_chats, plan, safety));
        let scorers = scorers.collect::<Result<Vec<_>>>()?;
        let heads = safety.costs.iter().enumerate().map(|(k, cost)| heads_of(k, cost, &models, &scorers));
        Ok(Some(Self {
            constraints: plan.objective.constraints(),
            seed: mixed(plan.train.seed, ANSWERS, 0),
            encoder,
            prompts_file: Fingerprint::of_all(&paths)?,
            prompts,
            heads: heads.collect::<Result<_>>()?,
            scorers,
            plan: safety.clone(),
        }))
    }

    /// The file of prompts.
    pub(crate) fn prompts_file(&self) -> &Fingerprint {
        &self.prompts_file
    }

    /// The constraints.
    pub(crate) fn constraints(&self) -> &[Constraint] {
        &self.constraints
    }

    /// Whether a round comes after so many steps.
    pub(crate) fn are_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.plan.every)
    }

    /// A round after so many steps: the same for the same weights, whatever came before. Nothing is observed where no answer could be
    /// scored.
    pub(crate) fn round<T: Element<Wide = f32>>(
        &mut self,
        step: u64,
        model: &CausalLm<T>,
        threads: usize,
        interrupt: &AtomicBool,
    ) -> Result<(Option<Observed>, CostReport)> {
        let seed = mixed(self.seed, step, 0);
        let places = draw(self.prompts.len(), self.plan.prompts_per_round, seed);
        let prompts: Vec<_> = places.iter().map(|&place| (place as u64, &self.prompts[place])).collect();
        let answers = Answers::new(model, &self.encoder, self.plan.completions, self.plan.sampling(mixed(seed, 0, 0)));
        let answers = answers.of_all(&prompts, threads, interrupt)?;
        let empty = answers.iter().flatten().filter(|answer| answer.is_none()).count();
        // Of each constraint: costs by prompt.
        let mut costs = vec![Vec::new(); self.heads.len()];
        let (mut left_out, mut reason) = (0, None);
        for answers in answers {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let rows: Vec<_> = answers.into_iter().flatten().map(|answer| (Origin::memory(1), answer.record)).collect();
            let mut of_prompt = vec![Vec::new(); self.heads.len()];
            for said in self.costs_of(&rows)? {
                match said {
                    Ok(said) => of_prompt.iter_mut().zip(said).for_each(|(of, cost)| of.push(cost)),
                    Err(why) => {
                        left_out += 1;
                        reason.get_or_insert(why);
                    }
                }
            }
            if !of_prompt[0].is_empty() {
                costs.iter_mut().zip(of_prompt).for_each(|(costs, of)| costs.push(of));
            }
        }
        let (prompts, answers) = (costs[0].len(), costs[0].iter().map(Vec::len).sum());
        let mut report = CostReport { step, answers, prompts, empty, left_out, reason, costs: Vec::new() };
        if answers == 0 {
            return Ok((None, report));
        }
        let figures = self.constraints.iter().zip(&costs).map(|(constraint, costs)| self.figures(constraint, costs));
        report.costs = figures.collect();
        let costs = costs.into_iter().map(|of| of.concat()).collect();
        Ok((Some(Observed { costs, rewards: Vec::new() }), report))
    }

    /// What answers cost by each constraint, `[answers][constraints]`, or why nobody can say.
    fn costs_of(&mut self, rows: &[(Origin, Record)]) -> Result<Vec<std::result::Result<Vec<f64>, String>>> {
        let mut said = vec![Vec::new(); self.scorers.len()];
        for (scorer, said) in self.scorers.iter_mut().zip(&mut said) {
            for rows in rows.chunks(SCORED_AT_ONCE) {
                said.extend(scorer.score(rows)?);
            }
        }
        let cost = |k: usize, row: usize| {
            let mut sum = 0.0;
            for &(scorer, head) in &self.heads[k] {
                match &said[scorer][row] {
                    Ok(values) => sum += values[0][head],
                    Err(rejection) => return Err(format!("{}: {}", rejection.reason, rejection.detail)),
                }
            }
            let cost = sum / self.heads[k].len() as f64;
            if cost.is_finite() {
                Ok(cost)
            } else {
                Err(format!("its cost by safety.costs[{k}] is {cost}; are the weights sound?"))
            }
        };
        Ok((0..rows.len()).map(|row| (0..self.heads.len()).map(|k| cost(k, row)).collect()).collect())
    }

    fn figures(&self, constraint: &Constraint, costs: &[Vec<f64>]) -> CostFigures {
        let settings = &constraint.settings;
        let measured: Vec<Vec<f64>> =
            costs.iter().map(|of| of.iter().map(|&cost| settings.measure.of(cost)).collect()).collect();
        let within: Vec<f64> = measured.iter().filter(|of| of.len() > 1).map(|of| variance(of)).collect();
        let variance = if within.is_empty() { variance(&measured.concat()) } else { mean(&within) };
        let is_unsafe: Vec<f64> = costs.concat().iter().map(|cost| f64::from(u8::from(*cost > 0.0))).collect();
        let least: Vec<f64> = measured.iter().map(|of| of.iter().copied().fold(f64::INFINITY, f64::min)).collect();
        let each = self.plan.prompts_per_round * self.plan.completions;
        CostFigures {
            limit: settings.limit,
            mean: mean(&measured.concat()),
            unsafe_share: mean(&is_unsafe),
            variance,
            least: mean(&least),
            rate: settings.ascent.rate(),
            largest_rate: settings.largest_rate_of_rounds(
                constraint.beta,
                variance,
                constraint.start,
                each,
                self.plan.every,
            ),
        }
    }
}

/// The tokenizer of the policy as answers are drawn with it.
pub(crate) fn encoder_of_answers(plan: &Plan) -> Result<Encoder> {
    let options =
        EncodeOptions { end_of_sequence: EndOfSequence::Keep, scored: ScoredTokens::All, ..plan.encode_options() };
    Ok(Encoder::from_dir(&plan.model.path, options)?)
}

/// `count` of the places below `length`, each once: the first of a shuffle.
fn draw(length: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut places: Vec<usize> = (0..length).collect();
    for i in 0..count.min(length) {
        let other = i + (mixed(seed, 1, i as u64) % (length - i) as u64) as usize;
        places.swap(i, other);
    }
    places.truncate(count);
    places
}

/// The first entry that names a model.
fn key_of(safety: &SafetyPlan, model: &Path) -> String {
    let names = |cost: &CostPlan| cost.models.iter().any(|path| path == model);
    format!("safety.costs[{}]", safety.costs.iter().position(names).unwrap_or(0))
}

/// A score model that reads texts by its own tokenizer.
fn scorer(directory: &Path, key: String, has_chats: bool, plan: &Plan, safety: &SafetyPlan) -> Result<RowScorer> {
    let refuse = |reason: String| Error::config(&key, format!("{}: {reason}", directory.display()));
    if !directory.join("config.json").exists() && directory.join("adapter_config.json").exists() {
        return Err(refuse("an adapter, and a whole score model is expected; merge it into its base".into()));
    }
    let wrong = |error: candlewick_model::Error| refuse(error.to_string());
    if Config::from_dir(directory).and_then(|config| config.score_heads()).map_err(wrong)?.is_none() {
        let reason =
            "no score model, which says what an answer costs; name the result of a run of cost_model or bradley_terry";
        return Err(refuse(reason.into()));
    }
    let date = plan.encode_options().date;
    let options =
        EncodeOptions { max_length: None, end_of_sequence: safety.end_of_sequence, date, ..EncodeOptions::default() };
    let encoder = Encoder::from_dir(directory, options).map_err(|error| refuse(error.to_string()))?;
    if has_chats && !encoder.has_chat_template() {
        let reason = "its tokenizer has no chat template, and prompts are conversations; give prompts in plain text";
        return Err(refuse(reason.into()));
    }
    let model = ScoreModel::load(directory).map_err(wrong)?;
    RowScorer::new(model, encoder, plan.train.threads.max(1)).map_err(|error| refuse(error.to_string()))
}

/// Which scorers and heads say what a constraint costs.
fn heads_of(k: usize, cost: &CostPlan, models: &[&Path], scorers: &[RowScorer]) -> Result<Vec<(usize, usize)>> {
    let head = |model: &PathBuf| {
        let scorer = models.iter().position(|path| path == model).unwrap_or(0);
        let names = scorers[scorer].heads();
        let found = match &cost.head {
            Some(name) => names.iter().position(|head| head == name),
            None => (names.len() == 1).then_some(0),
        };
        found.map(|head| (scorer, head)).ok_or_else(|| {
            let asked =
                cost.head.as_ref().map_or("none is named".to_owned(), |name| format!("{name:?} is none of them"));
            let reason = format!(
                "{} has the heads {}, and {asked}; give {{ model = …, head = \"{}\" }}",
                model.display(),
                names.join(", "),
                names[0]
            );
            Error::config(format!("safety.costs[{k}]"), reason)
        })
    };
    cost.models.iter().map(head).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Without bias; 0 of one value.
fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_drawn_once_each_and_otherwise_in_every_round() {
        let mut met = vec![0; 40];
        for round in 0..1000 {
            let mut places = draw(40, 8, mixed(7, round, 0));
            places.iter().for_each(|place| met[*place] += 1);
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 8);
        }
        // 200 each on average, with a deviation of √(1000·0.2·0.8) = 12.6.
        assert!(met.iter().all(|count| (137..=263).contains(count)), "{met:?}");
        assert_eq!(draw(3, 3, 1).len(), 3);
    }
}
