//! What policies answer to the same prompts, and what that comes to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use candlewick::data::{Existing, Origin};
use candlewick::evaluate::pareto::Measured;
use candlewick::evaluate::{Drift, with_values};
use candlewick::kernels::Workspace;
use candlewick::model::CausalLm;
use candlewick::train::{Answer, Prompt, stops};

use super::policies::Named;
use super::scores::{CUT, KL, Scores, TOKENS};
use crate::data::create;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::sample::{Draws, answers};

/// What all policies are measured with.
pub(super) struct Measuring<'a> {
    pub(super) prompts: &'a [Prompt],
    pub(super) draws: &'a Draws,
    pub(super) scores: Scores,
    pub(super) reference: Option<CausalLm>,
    pub(super) threads: usize,
    pub(super) interrupt: &'a Interrupt,
}

/// What a policy comes to.
pub(super) struct Policy {
    pub(super) name: String,
    place: String,
    /// Means by prompt; nothing in the place of a prompt without an answer. `[columns][prompts]`
    columns: BTreeMap<String, Vec<Option<f64>>>,
    /// Answers that were empty in all draws.
    pub(super) empty: usize,
}

impl Measuring<'_> {
    /// Lets a policy answer, scores the answers, and writes them with their scores to `out`; nothing of a policy whose answers are all
    /// empty.
    pub(super) fn measure(&mut self, policy: &Named, out: &Path) -> Result<Option<Policy>> {
        let (model, encoder) = policy.load()?;
        let stop = stops(&model, &encoder);
        let drawn = answers(self.prompts, &model, &encoder, self.draws, self.threads, self.interrupt)?;
        let empty = drawn.iter().flatten().filter(|answer| answer.is_none()).count();
        // Each answer with the number of its prompt.
        let kept =
            |(prompt, answers): (usize, Vec<Option<Answer>>)| answers.into_iter().flatten().map(move |a| (prompt, a));
        let drawn: Vec<(usize, Answer)> = drawn.into_iter().enumerate().flat_map(kept).collect();
        let from: Arc<str> = Arc::from(policy.name.as_str());
        let rows: Vec<_> = drawn
            .iter()
            .enumerate()
            .map(|(number, (_, answer))| (Origin::line(Arc::clone(&from), number as u64 + 1), answer.record.clone()))
            .collect();
        let values = self.scores.score(&rows, self.interrupt)?;
        let names = self.scores.names();
        let mut sums: BTreeMap<String, Vec<(f64, usize)>> = BTreeMap::new();
        let mut add = |column: &str, prompt: usize, value: f64| {
            let sums = sums.entry(column.to_owned()).or_insert_with(|| vec![(0.0, 0); self.prompts.len()]);
            sums[prompt].0 += value;
            sums[prompt].1 += 1;
        };
        let mut workspace = Workspace::new(self.threads);
        let mut writer = create(out, Existing::Replace)?;
        for (((prompt, answer), (origin, record)), values) in drawn.iter().zip(&rows).zip(&values) {
            for (name, value) in names.iter().zip(&values[0]) {
                if !value.is_finite() {
                    bail!(Failure::Model(format!("{origin}: {name} is {value}; are the weights of its model sound?")));
                }
                add(name, *prompt, *value);
            }
            add(TOKENS, *prompt, answer.ids.len() as f64);
            add(CUT, *prompt, f64::from(u8::from(answer.ids.last().is_none_or(|id| !stop.contains(id)))));
            if let Some(reference) = &self.reference {
                if self.interrupt.asked() {
                    bail!(Failure::Interrupted("interrupted; nothing was written".into()));
                }
                let ids = self.prompts[*prompt].ids(&encoder)?;
                add(KL, *prompt, Drift::of_answer(&model, reference, &ids, &answer.ids, &mut workspace)?);
            }
            writer.write(&with_values(record.clone(), &names, values))?;
        }
        writer.finish().with_context(|| format!("writing {}", out.display()))?;
        if drawn.is_empty() {
            return Ok(None);
        }
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let columns = sums.into_iter().map(|(name, sums)| (name, sums.into_iter().map(mean).collect())).collect();
        Ok(Some(Policy { name: policy.name.clone(), place: policy.place.display().to_string(), columns, empty }))
    }
}

impl Policy {
    /// Prompts to which it has no answer.
    pub(super) fn missing(&self) -> usize {
        self.columns.get(TOKENS).map_or(0, |means| means.iter().filter(|mean| mean.is_none()).count())
    }
}

/// The policies by the prompts that all of them answered, and how many prompts those are not.
pub(super) fn shared(policies: &[Policy]) -> Result<(Vec<Measured>, usize)> {
    let prompts = policies.first().and_then(|of| of.columns.values().next()).map_or(0, Vec::len);
    let is_shared =
        |prompt: &usize| policies.iter().all(|of| of.columns.values().all(|means| means[*prompt].is_some()));
    let kept: Vec<usize> = (0..prompts).filter(is_shared).collect();
    if let Some(worst) = policies.iter().max_by_key(|policy| policy.missing()).filter(|_| kept.len() < 2) {
        bail!(Failure::Data(format!(
            "{} of {prompts} prompts have an answer of every policy, and an error of a mean wants two or more; {} has none to {}: leave \
             that policy out, or draw more answers (-k)",
            kept.len(),
            worst.name,
            worst.missing()
        )));
    }
    let measured = policies.iter().map(|policy| Measured {
        name: policy.name.clone(),
        place: policy.place.clone(),
        columns: policy
            .columns
            .iter()
            .map(|(name, means)| (name.clone(), kept.iter().filter_map(|prompt| means[*prompt]).collect()))
            .collect(),
    });
    Ok((measured.collect(), prompts - kept.len()))
}
