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

/// The means of a policy by prompt; nothing in the place of a prompt without an answer. `[columns][prompts]`
pub(super) struct ByPrompt {
    pub(super) columns: BTreeMap<String, Vec<Option<f64>>>,
    /// Answers that were empty in all draws.
    pub(super) empty: usize,
}

impl Measuring<'_> {
    /// Lets a policy answer, scores the answers, and writes them with their scores to `out`.
    pub(super) fn measure(&mut self, policy: &Named, out: &Path) -> Result<ByPrompt> {
        let (model, encoder) = policy.load()?;
        if let Some(reference) = &self.reference
            && reference.config().vocab_size != model.config().vocab_size
        {
            bail!(Failure::Usage(format!(
                "--reference: it has {} tokens, and {} has {}; name the model that the policies were trained from",
                reference.config().vocab_size,
                policy.place.display(),
                model.config().vocab_size
            )));
        }
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
        if drawn.is_empty() {
            bail!(Failure::Data(format!(
                "{}: every answer was empty; is the policy trained on such prompts?",
                policy.place.display()
            )));
        }
        writer.finish().with_context(|| format!("writing {}", out.display()))?;
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let columns = sums.into_iter().map(|(name, sums)| (name, sums.into_iter().map(mean).collect())).collect();
        Ok(ByPrompt { columns, empty })
    }
}

/// The policies by the prompts that all of them answered, and how many prompts those are not.
pub(super) fn shared(policies: &[Named], found: Vec<ByPrompt>) -> (Vec<Measured>, usize) {
    let prompts = found.first().and_then(|of| of.columns.values().next()).map_or(0, Vec::len);
    let is_shared = |prompt: &usize| found.iter().all(|of| of.columns.values().all(|means| means[*prompt].is_some()));
    let kept: Vec<usize> = (0..prompts).filter(is_shared).collect();
    let measured = policies.iter().zip(&found).map(|(policy, of)| Measured {
        name: policy.name.clone(),
        place: policy.place.display().to_string(),
        columns: of
            .columns
            .iter()
            .map(|(name, means)| (name.clone(), kept.iter().filter_map(|prompt| means[*prompt]).collect()))
            .collect(),
    });
    (measured.collect(), prompts - kept.len())
}
