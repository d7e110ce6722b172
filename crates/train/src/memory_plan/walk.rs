//! The micro-batches of a run, and its passes over them in sizes.
use std::sync::Arc;

use candlewick_data::{Batch, Context, Encoder};
use candlewick_kernels::bf16;
use candlewick_losses::{Objective, StepWide};
use candlewick_model::{Adapter, BatchSize, ModelSize, Part, Pool, Statistics};

use super::{Basis, is_adapter};
use crate::budget::TokenBudget;
use crate::costs::encoder_of_answers;
use crate::device::Dtype;
use crate::error::{Error, Result};
use crate::plan::{Length, Plan, ReferencePlan};
use crate::policy::statistics;
use crate::rows;
use crate::trainer::moves_reference;

/// Rows that are looked at for the largest micro-batch.
const MOST_ROWS: usize = 1 << 16;
/// Steps after which the pool no longer grows if batches stay the same.
const SETTLED: usize = 3;
/// Micro-batches, and held-out ones, of which the buffers are walked through in the order of the run.
const MOST_WALKED: usize = 512;

/// What the micro-batches of a run come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) training: BatchSize,
    pub(super) mismatched: BatchSize,
    pub(super) held_out: BatchSize,
    /// The first ones of the run, with those of completions that belong to other prompts, and of the held-out rows.
    in_order: Vec<[BatchSize; 2]>,
    held_out_in_order: Vec<BatchSize>,
    pub(super) completions: u64,
    /// The largest single examples, and all of the largest step together.
    pub(super) one: BatchSize,
    pub(super) held_out_one: BatchSize,
    pub(super) step: BatchSize,
    /// The most scored tokens of an example, for each of its tokens.
    share: f64,
    /// Tokens of the longest prompt of `[safety]` with its answer; 0 without.
    pub(super) longest_answer: usize,
}

impl Seen {
    /// From the rows, or where they do not tell from the limits of the configuration.
    pub(super) fn of(plan: &Plan) -> Result<(Self, Basis)> {
        match Self::in_rows(plan) {
            Ok(found) => Ok(found),
            Err(error) => Ok((Self::within_limits(plan)?, Basis::Limits { reason: error.to_string() })),
        }
    }

    /// Meets the rows of the run, up to [`MOST_ROWS`].
    pub(super) fn in_rows(plan: &Plan) -> Result<(Self, Basis)> {
        let needs = plan.objective.needs();
        let encoder = Arc::new(Encoder::from_dir(&plan.model.path, plan.encode_options())?);
        let (source, held_out) = plan.open_for_run()?;
        let mut batches = rows::training_batches(plan, &source, &encoder, &needs)?;
        let total = match plan.train.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => u64::MAX,
        };
        let longest_answer = longest_answer(plan)?;
        let (mut seen, mut steps, mut met) = (Self { longest_answer, ..Self::default() }, 0, 0);
        let mut all = true;
        while rows::is_new(&needs, steps, total, &batches)
            && let Some(step) = batches.next_step()?
        {
            seen.add(&step);
            steps += 1;
            met += step.iter().map(|batch| batch.examples.len()).sum::<usize>();
            if met >= MOST_ROWS {
                all = !rows::is_new(&needs, steps, total, &batches);
                break;
            }
        }
        if held_out.is_some() {
            let mut batches = rows::evaluation_batches(plan, held_out.as_ref(), &encoder, &needs)?;
            let mut met = 0;
            for batch in rows::flatten(&mut batches) {
                let batch = batch?;
                met += batch.examples.len();
                let contexts = batch.examples.iter().flat_map(|example| &example.contexts);
                for example in &batch.examples {
                    seen.held_out_one = seen.held_out_one.or(size(&example.contexts));
                }
                for size in [size(contexts), size(&batch.mismatched)] {
                    seen.held_out = seen.held_out.or(size);
                    if size.tokens > 0 && seen.held_out_in_order.len() < MOST_WALKED {
                        seen.held_out_in_order.push(size);
                    }
                }
                if met >= MOST_ROWS {
                    break;
                }
            }
        }
        Ok((seen, Basis::Rows { steps, all }))
    }

    /// Meets a step.
    fn add(&mut self, step: &[Batch]) {
        let mut whole = BatchSize::default();
        for batch in step {
            let contexts = || batch.examples.iter().flat_map(|example| &example.contexts);
            let size_of_batch = size(contexts());
            self.training = self.training.or(size_of_batch);
            let mismatched = size(&batch.mismatched);
            self.mismatched = self.mismatched.or(mismatched);
            if self.in_order.len() < MOST_WALKED {
                self.in_order.push([size_of_batch, mismatched]);
            }
            self.completions += contexts().map(|context| context.completions.len() as u64).sum::<u64>();
            for example in &batch.examples {
                let one = size(&example.contexts);
                self.one = self.one.or(one);
                self.share = self.share.max(one.targets as f64 / one.tokens.max(1) as f64);
            }
            whole.tokens += size_of_batch.tokens;
            whole.targets += size_of_batch.targets;
            whole.completions += size_of_batch.completions;
            whole.longest = whole.longest.max(size_of_batch.longest);
        }
        self.step = self.step.or(whole);
    }

    /// The same where rows that were not looked at may be as long as the limits allow; without limits they are taken to be no longer
    /// than those of the first steps, whose number is given beside.
    pub(super) fn or_limits(self, plan: &Plan, basis: &Basis) -> (Self, Option<u64>) {
        let Basis::Rows { all: false, steps } = basis else { return (self, None) };
        let Ok(limits) = Self::within_limits(plan) else { return (self, Some(*steps)) };
        let (one, step) = (self.one.or(limits.one), self.step.or(limits.step));
        (Self { one, step, share: limits.share, ..self }, None)
    }

    /// The largest micro-batches that a budget of tokens can make of these rows, in whatever order they come.
    pub(super) fn with_budget(&self, tokens: usize) -> Self {
        let targets = (tokens as f64 * self.share).ceil() as usize;
        let within = BatchSize {
            tokens: tokens.min(self.step.tokens),
            targets: targets.min(tokens).min(self.step.targets),
            completions: self.step.completions.min(tokens),
            longest: self.one.longest,
        };
        let mut seen = Self { training: within.or(self.one), in_order: Vec::new(), ..self.clone() };
        // What packs worse than the rest.
        seen.in_order.push([self.one, BatchSize::default()]);
        seen
    }

    /// Micro-batches of so many rows, each with as many completions of other prompts.
    pub(super) fn with_rows(&self, rows: usize) -> Self {
        let training = times(self.one, rows);
        let mismatched = if self.mismatched.tokens > 0 { training } else { BatchSize::default() };
        Self { training, mismatched, in_order: Vec::new(), ..self.clone() }
    }

    /// The largest held-out micro-batch of so many rows.
    pub(super) fn with_held_out_rows(&self, rows: usize) -> Self {
        Self { held_out: times(self.held_out_one, rows), held_out_in_order: Vec::new(), ..self.clone() }
    }

    /// The largest batch of pairs, or of single completions, that the limits allow.
    fn within_limits(plan: &Plan) -> Result<Self> {
        let longest_answer = longest_answer(plan)?;
        let data = &plan.data;
        let least = |limits: [Option<usize>; 2]| limits.into_iter().flatten().min();
        let no_limit =
            || Error::config("data.max_length", "0, and the rows cannot be read: nothing limits a micro-batch");
        let completion = least([data.max_length, data.max_completion_length]).ok_or_else(no_limit)?;
        let prompt = match (data.max_length, data.max_prompt_length) {
            (None, None) => return Err(no_limit()),
            (None, Some(prompt)) => prompt,
            (Some(whole), prompt) => (whole - completion).min(prompt.unwrap_or(usize::MAX)),
        };
        let rows = plan.objective.needs().rows;
        let completions = if rows.pairs || rows.ranked || rows.judged { 2 } else { 1 };
        let examples = plan.train.batch_size;
        let of_one = prompt.saturating_add(completions * completion);
        let longest = prompt + completion;
        let one = BatchSize { tokens: of_one, targets: completions.saturating_mul(completion), completions, longest };
        let tokens = match plan.train.tokens {
            Some(TokenBudget::Tokens(budget)) => budget.max(of_one),
            Some(TokenBudget::Auto) => of_one,
            None => examples.saturating_mul(of_one),
        };
        let completions = examples * completions;
        let targets = completions.saturating_mul(completion).min(tokens);
        let training = BatchSize { tokens, targets, completions, longest };
        let mismatched = match plan.objective.needs().step_wide {
            StepWide::Mismatched => training,
            _ => BatchSize::default(),
        };
        let (held_out, held_out_one) = match &plan.evaluation {
            Some(evaluation) => (times(one, evaluation.batch_size), one),
            None => Default::default(),
        };
        let step = times(one, examples.saturating_mul(plan.train.micro_batches));
        let found = Self { training, mismatched, held_out, one, held_out_one, step, ..Self::default() };
        Ok(Self { share: 1.0, longest_answer, ..found })
    }

    /// The pool of policy and reference after some steps and evaluations of the largest sizes.
    pub(super) fn settled(&self, passes: Passes<'_>) -> Pool {
        let settled = |training: BatchSize| {
            let mut pool = pool_of(passes.plan);
            for _ in 0..SETTLED {
                passes.train([training, self.mismatched], &mut pool);
                passes.evaluate(self.held_out, &mut pool);
            }
            pool
        };
        let largest = settled(self.training);
        let kept = passes.policy.most_targets_kept(&largest);
        if self.training.targets <= kept {
            return largest;
        }
        // Of so many targets the head keeps no logits, and a batch with fewer of them may take more.
        let fewer = settled(BatchSize { targets: kept, ..self.training });
        if with_head(&fewer) > with_head(&largest) { fewer } else { largest }
    }

    /// The same pool when micro-batches come in the order of the run, the largest last.
    pub(super) fn walked(&self, passes: Passes<'_>) -> Pool {
        let mut pool = pool_of(passes.plan);
        let evaluate_all = |pool: &mut Pool| {
            self.held_out_in_order.iter().for_each(|size| passes.evaluate(*size, pool));
        };
        evaluate_all(&mut pool);
        for sizes in &self.in_order {
            passes.train(*sizes, &mut pool);
        }
        evaluate_all(&mut pool);
        passes.train([self.training, self.mismatched], &mut pool);
        pool
    }
}

/// The most that was there at once, with what the head makes beside on the host.
fn with_head(pool: &Pool) -> usize {
    pool.most_elements() + pool.elements(Part::HeadAlone)
}

/// A pool where a run computes, of what it computes in.
pub(super) fn pool_of(plan: &Plan) -> Pool {
    match (plan.train.device.is_cpu(), plan.train.dtype) {
        (true, _) => Pool::default(),
        (false, Dtype::F32) => Pool::on_device::<f32>(),
        (false, Dtype::Bf16) => Pool::on_device::<bf16>(),
    }
}

/// The passes of a run.
#[derive(Clone, Copy)]
pub(super) struct Passes<'a> {
    pub(super) plan: &'a Plan,
    pub(super) policy: &'a ModelSize,
    pub(super) reference: Option<&'a ModelSize>,
}

impl Passes<'_> {
    fn want(&self) -> Statistics {
        statistics(self.plan.objective.needs().outputs)
    }

    fn threads(&self) -> usize {
        self.plan.train.threads.max(1)
    }

    /// A micro-batch, and the completions of it that belong to other prompts.
    fn train(&self, [batch, mismatched]: [BatchSize; 2], pool: &mut Pool) {
        let train = &self.plan.train;
        // A micro-batch that is a step by itself is scored once.
        let alone = train.micro_batches == 1 && train.tokens.is_none();
        let scored_before = self.plan.objective.needs().step_wide == StepWide::AllRows && !alone;
        let makes_table = matches!(&self.plan.reference, ReferencePlan::Precomputed(path) if !path.exists());
        if makes_table {
            self.policy.score(batch, Statistics::default(), Adapter::On, self.threads(), pool);
        }
        if scored_before {
            self.score(batch, self.want(), pool);
        }
        self.score(mismatched, self.want(), pool);
        self.behind_reference(batch, pool, |pool| {
            self.policy.train(batch, self.want(), train.recompute, self.threads(), pool);
        });
    }

    /// A held-out batch, of which metrics are made too.
    fn evaluate(&self, batch: BatchSize, pool: &mut Pool) {
        let want = match self.plan.train.device.is_cpu() {
            true => self.want(),
            false => Statistics { entropy: true, is_top1: true, ..self.want() },
        };
        self.score(batch, want, pool);
    }

    /// A batch that nothing is learned from.
    fn score(&self, batch: BatchSize, want: Statistics, pool: &mut Pool) {
        if batch.tokens > 0 {
            self.behind_reference(batch, pool, |pool| {
                self.policy.score(batch, want, Adapter::On, self.threads(), pool);
            });
        }
    }

    /// A pass of the policy, queued behind one of the reference, whose scores are read after it.
    fn behind_reference(&self, batch: BatchSize, pool: &mut Pool, pass: impl FnOnce(&mut Pool)) {
        let want = Statistics::default();
        let score = |size: &ModelSize, adapter, pool: &mut Pool| size.score(batch, want, adapter, self.threads(), pool);
        match (self.reference, &self.plan.reference) {
            _ if moves_reference(&self.plan.objective) || is_adapter(self.plan) => {
                score(self.policy, Adapter::On, pool)
            }
            (Some(reference), _) => pool.by_other(|pool| score(reference, Adapter::On, pool)),
            (None, ReferencePlan::AdapterOff) => score(self.policy, Adapter::Off, pool),
            _ => return pass(pool),
        }
        pool.beside_scores(batch, want, pass);
    }
}

/// Tokens of the longest prompt of `[safety]` with the longest answer that is drawn to it; 0 of a plan without.
fn longest_answer(plan: &Plan) -> Result<usize> {
    let Some(safety) = &plan.safety else { return Ok(0) };
    let encoder = encoder_of_answers(plan)?;
    let prompts = safety.read_prompts()?.1;
    let longest =
        prompts.iter().try_fold(0, |most: usize, prompt| Ok::<_, Error>(most.max(prompt.ids(&encoder)?.len())));
    Ok(longest? + safety.max_new_tokens)
}

/// What so many batches of a size come to.
fn times(size: BatchSize, count: usize) -> BatchSize {
    let BatchSize { tokens, targets, completions, longest } = size;
    let times = |number: usize| number.saturating_mul(count);
    BatchSize { tokens: times(tokens), targets: times(targets), completions: times(completions), longest }
}

/// What contexts come to when they are packed.
fn size<'a>(contexts: impl IntoIterator<Item = &'a Context>) -> BatchSize {
    let mut size = BatchSize::default();
    for context in contexts {
        let longest = context.completions.iter().map(|completion| completion.ids.len()).max().unwrap_or(0);
        size.tokens += context.prompt.len() + context.completions.iter().map(|one| one.ids.len()).sum::<usize>();
        let of_prompt = context.prompt_scored.iter().filter(|scored| **scored).count();
        size.targets += context.completions.iter().map(|one| of_prompt + one.scored_tokens()).sum::<usize>();
        size.completions += context.completions.len();
        size.longest = size.longest.max(context.prompt.len() + longest);
    }
    size
}
