//! The step, the evaluation, and what is kept between steps.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candlewick_data::Batch;
use candlewick_kernels::{Float, Workspace, survey};
use candlewick_losses::dual::Observed;
use candlewick_losses::{
    Collective, Context, MismatchedScores, Needs, Objective, Outputs, Phase, ReferenceUpdate, Scores, Solo, StepScores,
    StepWide, TokenScores, Totals,
};
use candlewick_model::Sketch;
use serde::Serialize;

use crate::checkpoint::{self, Checkpoint, MOVING_REFERENCE, OPTIMIZER, State};
use crate::error::{Error, Result};
use crate::leaves::Leaves;
use crate::metrics::Metrics;
use crate::optimizer::{Clip, Optimizer, OptimizerOptions, check_max_grad_norm};
use crate::pack::{Micro, PackedRows};
use crate::policy::{CausalPolicy, Queued, Trainable, Tuning, grid};
use crate::reference::{PrecomputedReference, Reference};
use crate::schedule::{Follower, Schedule};
use crate::score::CompletionScore;
use crate::snapshot::Snapshot;
use crate::tally::{Tally, TermSums, scalar, sum_totals, summary};
use crate::tensor_file::{Element, TensorFile};
use crate::tensor_flags::{ends, flags};

/// How a [`Trainer`] updates its policy.
#[derive(Debug, Clone)]
pub struct TrainerOptions {
    /// The optimizer.
    pub optimizer: OptimizerOptions,
    /// LoRA's B learns so many times as fast as its A; None for as fast.
    pub lora_plus_ratio: Option<f64>,
    /// Gradients are scaled down to this norm; 0 for never.
    pub max_grad_norm: f64,
    /// The course of the learning rate.
    pub schedule: Schedule,
    /// The step at which a falling learning rate reaches 0.
    pub total_steps: u64,
    /// Whether the policy starts equal to its reference. Before the first update every scored token's |log π − log π_ref| must then be
    /// below 1e-4 (in f64: 1e-9), and the loss the objective's value at zero margin.
    pub starts_at_reference: bool,
    /// Statistics to compute for the metrics of evaluations, beside what the objective needs.
    pub monitor: Outputs,
    /// What draws of the objective follow from, with the number of the step: preference vectors.
    pub seed: u64,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            optimizer: OptimizerOptions::default(),
            lora_plus_ratio: None,
            max_grad_norm: 1.0,
            schedule: Schedule::default(),
            total_steps: 0,
            starts_at_reference: true,
            monitor: Outputs::default(),
            seed: 0,
        }
    }
}

/// What one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// The step, counted from one.
    pub step: u64,
    /// The loss, normalised by the totals of the whole step.
    pub loss: f64,
    /// The loss of each micro-batch of this rank, normalised by its own totals.
    pub micro_losses: Vec<f64>,
    /// Euclidean norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// What was measured.
    pub metrics: Metrics,
    /// Tokens of all rows with their prompts, as if nothing were shared or padded.
    pub tokens: u64,
    /// Tokens the policy computed: each prompt once.
    pub computed_tokens: u64,
    /// Completions scored.
    pub rows: u64,
}

/// What an evaluation measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// Optimizer steps done before.
    pub step: u64,
    /// The loss, normalised by the totals of all rows.
    pub loss: f64,
    /// What was measured.
    pub metrics: Metrics,
    /// Tokens of all rows with their prompts, as if nothing were shared or padded.
    pub tokens: u64,
    /// Completions scored.
    pub rows: u64,
}

/// What the completions of a batch scored, in the order of its examples, their contexts and completions.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredBatch {
    /// Under the policy.
    pub policy: Vec<CompletionScore>,
    /// Under the reference, where there is one.
    pub reference: Option<Vec<CompletionScore>>,
}

/// A policy in training. Its caller decides when to step, evaluate and save; nothing runs by itself.
///
/// # Passes of a step
/// Every row takes a forward and a backward of the policy, and a forward of the reference where there is one. An objective
/// with a statistic over the step ([`StepWide`]) takes more, without a gradient, before the first micro-batch:
/// [`AllRows`](StepWide::AllRows) a second forward of policy and reference on every row (of a sort over the step, a running
/// mean of rewards) unless the step is one micro-batch, [`Mismatched`](StepWide::Mismatched) one on every mismatched row.
///
/// # Preferences
/// An objective with a preference vector ([`Objective::begin`]) tells the policy that of the step before anything is scored; all
/// micro-batches of a step have one. Between steps the policy stands at that of evaluations.
#[derive(Debug)]
pub struct Trainer<P: Trainable> {
    policy: P,
    reference: Reference<P::Element>,
    objective: Box<dyn Objective>,
    options: TrainerOptions,
    collective: Box<dyn Collective>,
    optimizer: Optimizer<P::Element>,
    /// The rate of a schedule that follows evaluations.
    follower: Option<Follower>,
    /// Set by somebody who wants the step under way to end.
    interrupt: Arc<AtomicBool>,
    steps_done: u64,
    starting_weights: String,
    /// Parameters that have not received a gradient yet.
    ungraded: Vec<usize>,
}

impl<P: Trainable> Trainer<P> {
    /// A trainer before its first step.
    ///
    /// # Errors
    /// Hyperparameters out of range; an optimizer that has nothing to do here; a reference that the objective needs and lacks, or has and
    /// ignores; one that is to move under an objective that leaves it where it is; an objective with preferences and a policy
    /// that is told none, or other ones.
    pub fn new(
        mut policy: P,
        mut reference: Reference<P::Element>,
        mut objective: Box<dyn Objective>,
        options: TrainerOptions,
    ) -> Result<Self> {
        objective.validate()?;
        check_max_grad_norm(options.max_grad_norm)?;
        if matches!(reference, Reference::Moving(_)) && !moves_reference(&*objective) {
            return Err(Error::Mismatch(
                "the reference is to move, and the objective leaves it where it is; give Reference::Frozen or Reference::AdapterOff".into(),
            ));
        }
        match (objective.needs().reference, matches!(reference, Reference::None)) {
            (true, true) => {
                return Err(Error::Mismatch("the objective compares with a reference, and there is none".into()));
            }
            (false, false) => {
                return Err(Error::Mismatch(
                    "the objective has no use for a reference, and there is one; leave it out".into(),
                ));
            }
            _ => {}
        }
        let preference = objective.begin(options.seed, None);
        match (&preference, objective.needs().preferences) {
            (Some(preference), _) => policy.set_preference(preference)?,
            (None, 0) => {}
            (None, _) => {
                let outer = objective.name();
                return Err(Error::Mismatch(format!(
                    "{outer} is made of an objective that tells the policy its preference, which must be the outermost: put {outer} around \
                     its parts"
                )));
            }
        }
        let second = match &reference {
            Reference::Adapter(adapter) => Some(adapter.parameters()),
            Reference::Moving(moving) => Some(moving.parameters()),
            _ => None,
        };
        if second.is_some_and(|second| second.device().is_some() != policy.parameters().device().is_some()) {
            return Err(Error::Mismatch(
                "of the policy and the reference that changes places with it one is on a device and the other is not; make the reference \
                 of the policy, or take it there with to_device"
                    .into(),
            ));
        }
        let optimizer = Optimizer::new(policy.parameters(), &options.optimizer, options.lora_plus_ratio)?;
        options.schedule.check(options.optimizer.learning_rate())?;
        let follower = Follower::new(&options.schedule, options.optimizer.learning_rate());
        if let Reference::Moving(moving) = &mut reference {
            moving.prepare(&mut policy, objective.reference_update())?;
        }
        let starting_weights = policy.digest()?;
        let ungraded = (0..policy.parameters().len()).collect();
        let collective = Box::new(Solo);
        Ok(Self {
            policy,
            reference,
            objective,
            options,
            collective,
            optimizer,
            follower,
            interrupt: Arc::default(),
            steps_done: 0,
            starting_weights,
            ungraded,
        })
    }

    /// Sums totals, losses, metrics and gradients over ranks, each of which steps through its own batches.
    #[must_use]
    pub fn with_collective(mut self, collective: Box<dyn Collective>) -> Self {
        self.collective = collective;
        self
    }

    /// Looks at `interrupt` before each micro-batch of a step or an evaluation, and gives up with [`Error::Interrupted`] once it is
    /// set. No parameter has changed then, and the trainer can be saved.
    pub fn set_interrupt(&mut self, interrupt: Arc<AtomicBool>) {
        self.interrupt = interrupt;
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// The policy. Between steps it holds the weights that are evaluated and saved, whatever the optimizer.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The policy, as for sampling from it between steps.
    pub fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// The policy, giving up optimizer and reference.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// What the objective needs of data and model.
    pub fn needs(&self) -> Needs {
        self.objective.needs()
    }

    /// Hands costs of fresh completions of the policy to an objective whose multipliers follow them
    /// ([`Objective::observes`]): those of all ranks, to every rank, between two steps. The next step acts on them, once.
    ///
    /// # Errors
    /// If the objective reads none, or they are not those it expects.
    pub fn observe(&mut self, observed: &Observed) -> Result<()> {
        Ok(self.objective.observe(observed)?)
    }

    /// Optimizer steps done.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// Digest of the weights that training started from.
    pub fn starting_weights(&self) -> &str {
        &self.starting_weights
    }

    /// What the objective compares with.
    pub fn reference(&self) -> &Reference<P::Element> {
        &self.reference
    }

    /// The policy, and the table that it fills as the reference.
    pub(crate) fn policy_and_table(&mut self) -> Result<(&mut P, &mut PrecomputedReference)> {
        match &mut self.reference {
            Reference::Precomputed(table) => Ok((&mut self.policy, table)),
            _ => Err(Error::Mismatch("the reference is none that is computed before".into())),
        }
    }

    /// One optimizer step over micro-batches. On an error no parameter has changed, unless it is one of the driver of a device, after which
    /// the device is of no further use.
    ///
    /// # Errors
    /// Rows that the objective cannot use; a loss or gradient that is not finite; on the first step, a loss that is not the
    /// objective's at zero margin, or a parameter that no gradient reaches; an objective that moves its reference, with one that
    /// stands still.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport> {
        if moves_reference(&*self.objective) && !matches!(self.reference, Reference::Moving(_)) {
            return Err(Error::Mismatch(
                "the objective moves its reference, and the one that is given stands still; give Reference::Moving, or set the \
                 objective's update to \"frozen\""
                    .into(),
            ));
        }
        if self.policy.preferences() != self.objective.needs().preferences {
            return Err(Error::Mismatch(format!(
                "the policy has a Panacea adapter of {} preferences, and the objective {} weighs none; train it with panacea, or a plain \
                 LoRA adapter with this one",
                self.policy.preferences(),
                self.objective.name()
            )));
        }
        if self.collective.ranks() > 1 && self.policy.parameters().device().is_some() {
            return Err(Error::Mismatch(
                "there are several ranks, and what is trained is on a device, whose gradients are of one; train on the cpu".into(),
            ));
        }
        let mark = self.objective.mark();
        let Tuning { parameters, workspace, .. } = self.policy.tuning();
        self.optimizer.begin(parameters, workspace)?;
        let stepped = self.tell_preference(Some(self.steps_done + 1)).and_then(|()| self.try_step(batches));
        if stepped.is_err() {
            // Both, though one of them fails; what is told is why the step failed.
            _ = self.optimizer.give_up(self.policy.tuning().parameters);
            _ = mark.map(|mark| self.objective.undo(&mark));
        }
        let told = self.tell_preference(None);
        let report = stepped?;
        told?;
        Ok(report)
    }

    /// Lets objective and policy be at the preference vector of a step, or of evaluations, where there is one.
    fn tell_preference(&mut self, step: Option<u64>) -> Result<()> {
        match self.objective.begin(self.options.seed, step) {
            Some(preference) => self.policy.set_preference(&preference),
            None => Ok(()),
        }
    }

    fn try_step(&mut self, batches: &[Batch]) -> Result<StepReport> {
        let needs = self.objective.needs();
        let micros = pack(batches, &needs)?;
        let totals = self.totals(&micros)?;
        // The scores of a micro-batch that is the whole step serve the statistic too.
        let alone = micros.len() == 1 && needs.step_wide == StepWide::AllRows;
        let mut context = if alone { Context::default() } else { self.prepare(&micros, Phase::Train)? };
        let mut tally = Tally::new(&context);
        self.policy.tuning().gradients.clear()?;
        for (index, micro) in micros.iter().enumerate() {
            self.check_interrupt()?;
            // The reference first: its activations are gone when the policy's are kept. A device is waited for once, by the policy.
            let reference = self.reference.queue(&mut self.policy, &micro.rows)?;
            let (policy, saved) = self.policy.forward(&micro.rows.packed, needs.outputs)?;
            let leaves = Leaves::new(&policy)?;
            let scores = micro.scores::<P::Element>(leaves.scores.clone(), reference.map(Queued::read).transpose()?)?;
            if alone {
                let detached = Scores { policy: scores.policy.detach(), ..scores.clone() };
                let step = StepScores { micro: &[detached], collective: &*self.collective };
                context = self.objective.prepare(&step, Phase::Train)?;
                tally = Tally::new(&context);
            }
            let terms = self.objective.evaluate(&scores, &context.micro(index))?;
            let loss = terms.loss(&totals)?;
            let cotangents = leaves.cotangents(&loss)?;
            self.policy.backward(&micro.rows.packed, saved, &cotangents)?;
            tally.flat &= cotangents.are_zero()?;
            tally.add(micro, &scores, &terms, scalar(&loss)?)?;
            if self.starts_at_reference() {
                tally.compare(index, micro, &scores)?;
            }
        }
        tally.sum_over_ranks(&*self.collective)?;
        self.sum_gradients()?;
        if let Some(penalty) = self.policy.add_penalty() {
            tally.metrics.record_scalars(&[("orthogonality".to_owned(), penalty)].into());
        }
        let clip = self.clip()?;
        self.check(&micros, &tally, &clip)?;
        let factor = self.rate_factor();
        if let Reference::Moving(moving) = &mut self.reference {
            moving.keep_back(&self.policy, self.objective.reference_update(), self.steps_done + 1)?;
        }
        let Tuning { parameters, gradients, workspace } = self.policy.tuning();
        self.optimizer.step(parameters, gradients, &clip, factor, workspace)?;
        let grad_norm = clip.norm()?;
        self.check_number("gradient norm", grad_norm, &micros, &tally).inspect_err(|_| self.optimizer.take_back())?;
        self.count_step()?;
        Ok(tally.report(self.steps_done, grad_norm, self.options.optimizer.learning_rate() * factor))
    }

    /// Counts a step as done that [`step`](Self::step) refused with [`Error::NotFinite`]: no parameter changes, the schedule goes on,
    /// and so does a reference that moves; one that lags, which is copied before a step changes the policy, stays.
    ///
    /// # Errors
    /// None that a trainer which stepped before could have.
    pub fn skip(&mut self) -> Result<()> {
        self.count_step()
    }

    fn count_step(&mut self) -> Result<()> {
        self.steps_done += 1;
        if let Reference::Moving(moving) = &mut self.reference {
            moving.follow(&mut self.policy, self.objective.reference_update(), self.steps_done)?;
        }
        Ok(())
    }

    /// What the peak learning rate is multiplied by in the next step.
    fn rate_factor(&self) -> f64 {
        let peak = self.options.optimizer.learning_rate();
        match &self.follower {
            Some(follower) => follower.learning_rate() / peak,
            None => self.options.schedule.factor(self.steps_done, self.options.total_steps, peak),
        }
    }

    /// Tells a schedule that follows evaluations what one has found; others do not listen.
    pub fn follow(&mut self, report: &EvalReport) {
        if let Some(follower) = &mut self.follower {
            follower.follow(report.loss);
        }
    }

    /// Scores held-out batches and changes nothing.
    ///
    /// Batches are taken one at a time, unless the objective has a statistic over all rows (KTO's z): then their token ids
    /// are held, and while the statistic is made the scores it is made of, but no activations; it spans all rows, so that
    /// the result does not depend on how they are batched. Such an objective pays a second forward here too, even one that
    /// then takes a value from training instead, as `bco` its running mean of rewards.
    ///
    /// # Errors
    /// As [`step`](Self::step), and the errors of the iterator.
    pub fn evaluate<E>(&mut self, batches: impl IntoIterator<Item = Result<Batch, E>>) -> Result<EvalReport>
    where
        Error: From<E>,
    {
        self.evaluate_each(batches, |_| ())
    }

    /// As [`evaluate`](Self::evaluate), and tells what every completion scored, batch by batch in their order.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_each<E>(
        &mut self,
        batches: impl IntoIterator<Item = Result<Batch, E>>,
        mut seen: impl FnMut(ScoredBatch),
    ) -> Result<EvalReport>
    where
        Error: From<E>,
    {
        self.tell_preference(None)?;
        let needs = self.objective.needs();
        let mut sums = TermSums::default();
        if needs.step_wide == StepWide::Nothing {
            let context = self.prepare(&[], Phase::Evaluate)?;
            let mut tally = Tally::new(&context);
            for batch in batches {
                let micro = Micro::new(&batch?, &needs)?;
                seen(self.evaluate_micro(&micro, &context, &mut tally, &mut sums)?);
            }
            return self.evaluated(tally, sums);
        }
        let micros = batches.into_iter().map(|batch| Micro::new(&batch?, &needs)).collect::<Result<Vec<Micro>>>()?;
        let context = self.prepare(&micros, Phase::Evaluate)?;
        let mut tally = Tally::new(&context);
        for (index, micro) in micros.iter().enumerate() {
            seen(self.evaluate_micro(micro, &context.micro(index), &mut tally, &mut sums)?);
        }
        self.evaluated(tally, sums)
    }

    fn evaluate_micro(
        &mut self,
        micro: &Micro,
        context: &Context,
        tally: &mut Tally,
        sums: &mut TermSums,
    ) -> Result<ScoredBatch> {
        self.check_interrupt()?;
        let needed = self.objective.needs().outputs;
        let want = Outputs { given: needed.given, ..needed.union(self.options.monitor) };
        let reference = self.reference.queue(&mut self.policy, &micro.rows)?;
        let policy = self.policy.score(&micro.rows.packed, want)?.detach();
        let scores = micro.scores::<P::Element>(policy, reference.map(Queued::read).transpose()?)?;
        let terms = self.objective.evaluate(&scores, context)?;
        sums.add(&terms, micro)?;
        tally.add(micro, &scores, &terms, 0.0)?;
        let reference = scores.reference.as_ref().map(|scores| CompletionScore::of(scores, &micro.rows)).transpose()?;
        Ok(ScoredBatch { policy: CompletionScore::of(&scores.policy, &micro.rows)?, reference })
    }

    fn evaluated(&self, mut tally: Tally, mut sums: TermSums) -> Result<EvalReport> {
        if tally.rows == 0 {
            return Err(Error::Mismatch("there are no rows to evaluate; look at evaluation.rows".into()));
        }
        tally.sum_over_ranks(&*self.collective)?;
        let loss = sums.loss(&*self.collective)?;
        Ok(EvalReport { step: self.steps_done, loss, metrics: tally.metrics, tokens: tally.tokens, rows: tally.rows })
    }

    /// What the loss is divided by: totals of all micro-batches of all ranks.
    fn totals(&self, micros: &[Micro]) -> Result<Totals> {
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals += micro.groups.totals(&micro.rows.lengths));
        sum_totals(totals, &*self.collective)
    }

    /// Scores without a gradient what the objective's step-wide statistic needs, and lets it compute that.
    fn prepare(&mut self, micros: &[Micro], phase: Phase) -> Result<Context> {
        let Needs { step_wide, outputs, .. } = self.objective.needs();
        // Teachers speak of the rows themselves only.
        let mismatched_outputs = Outputs { given: false, ..outputs };
        let mut all = Vec::new();
        for micro in micros.iter().filter(|_| step_wide != StepWide::Nothing) {
            self.check_interrupt()?;
            let (policy, reference) = match step_wide {
                StepWide::AllRows => self.score_both(&micro.rows, outputs)?,
                _ => (unscored::<P::Element>(&micro.rows)?, None),
            };
            let mismatched = match (step_wide, &micro.mismatched) {
                (StepWide::Mismatched, Some(rows)) => {
                    let (policy, reference) = self.score_both(rows, mismatched_outputs)?;
                    let reference =
                        reference.ok_or_else(|| Error::Mismatch("a mismatched completion needs a reference".into()))?;
                    Some(MismatchedScores { policy, reference })
                }
                (StepWide::Mismatched, None) => {
                    return Err(Error::Mismatch(
                        "the objective compares with mismatched completions; make the batches with them".into(),
                    ));
                }
                _ => None,
            };
            all.push(Scores { mismatched, ..micro.scores::<P::Element>(policy, reference)? });
        }
        Ok(self.objective.prepare(&StepScores { micro: &all, collective: &*self.collective }, phase)?)
    }

    fn score_both(&mut self, rows: &PackedRows, want: Outputs) -> Result<(TokenScores, Option<TokenScores>)> {
        let reference = self.reference.queue(&mut self.policy, rows)?;
        let policy = self.policy.score(&rows.packed, want)?.detach();
        Ok((policy, reference.map(Queued::read).transpose()?))
    }

    /// Adds up the gradients of all ranks.
    fn sum_gradients(&mut self) -> Result<()> {
        let gradients = self.policy.tuning().gradients;
        if self.collective.ranks() > 1 {
            for chunk in gradients.data_mut().chunks_mut(1 << 16) {
                let mut sums: Vec<f64> = chunk.iter().map(|x| Float::to_f64(*x)).collect();
                self.collective.sum(&mut sums)?;
                chunk.iter_mut().zip(sums).for_each(|(x, sum)| *x = Float::from_f64(sum));
            }
        }
        Ok(())
    }

    fn clip(&mut self) -> Result<Clip> {
        let Tuning { gradients, workspace, .. } = self.policy.tuning();
        Clip::of(gradients, self.options.max_grad_norm, workspace)
    }

    /// Refuses a number of the step that is not finite.
    fn check_number(&self, what: &'static str, value: f64, micros: &[Micro], tally: &Tally) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let rows = match tally.suspects.as_slice() {
            // A loss of this rank that is not finite has suspects.
            [] if self.collective.ranks() > 1 => summary::<&str>([]),
            [] => summary(micros.iter().flat_map(|micro| &micro.rows.places)),
            suspects => summary(suspects),
        };
        Err(Error::NotFinite { step: self.steps_done + 1, what, value, rows })
    }

    /// Everything that must hold before a parameter may change.
    fn check(&mut self, micros: &[Micro], tally: &Tally, clip: &Clip) -> Result<()> {
        let step = self.steps_done + 1;
        self.check_number("loss", tally.loss, micros, tally)?;
        let copies =
            matches!(self.reference, Reference::Moving(_)) && self.objective.reference_update().copies_before(step);
        // An update that heeds the norm by itself is queued before the norm is read, so that a device has work while the host waits.
        if !self.optimizer.heeds_norm() || self.starts_at_reference() || !self.ungraded.is_empty() || copies {
            self.check_number("gradient norm", clip.norm()?, micros, tally)?;
        }
        if self.starts_at_reference() {
            if tally.apart {
                return Err(tally.start.error(&mut self.policy, &mut self.reference, micros)?);
            }
            tally.check_start(self.objective.loss_at_zero_margin())?;
        }
        if self.ungraded.is_empty() || tally.flat {
            return Ok(());
        }
        let ends = ends(self.policy.parameters());
        let Tuning { gradients, workspace, .. } = self.policy.tuning();
        let flags = flags(gradients.all(), &ends, workspace)?;
        self.ungraded.retain(|i| flags[*i] & survey::NOT_ZERO == 0);
        if self.ungraded.is_empty() {
            return Ok(());
        }
        let may_be_zero = self.policy.gradients_may_be_zero(&self.ungraded)?;
        let stuck = self.ungraded.iter().zip(may_be_zero).filter(|(_, may_be)| !may_be);
        let stuck: Vec<_> = stuck.map(|(i, _)| self.policy.parameters().name(*i)).collect();
        if stuck.is_empty() {
            return Ok(());
        }
        Err(Error::NoGradient { step, parameters: summary(stuck) })
    }

    /// Whether policy and reference must be the same now.
    fn starts_at_reference(&self) -> bool {
        self.optimizer.steps() == 0 && self.options.starts_at_reference
    }

    /// Refuses a model that no run can go on from.
    pub(crate) fn check_finite(&self) -> Result<()> {
        let parameters = self.policy.parameters();
        let mut workspace = Workspace::new(1);
        if let Some(device) = parameters.device() {
            workspace = workspace.on(device);
        }
        let flags = flags(parameters.all(), &ends(parameters), &mut workspace)?;
        match flags.iter().position(|flags| flags & survey::NOT_FINITE != 0) {
            Some(i) => Err(Error::Diverged { step: self.steps_done, parameter: parameters.name(i).to_owned() }),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint at `directory`, whole or not at all: what is trained, the optimizer, the objective's state, and
    /// `bookmark`, which [`Checkpoint::open`] gives back. `companions` are copied beside, such as the tokenizer.
    ///
    /// # Errors
    /// A parameter is not finite, or the files cannot be written; what was there before stays whole.
    pub fn save(&self, directory: &Path, bookmark: &serde_json::Value, companions: &[PathBuf]) -> Result<()> {
        self.check_finite()?;
        checkpoint::write_checkpoint(directory, self.state(bookmark), companions, |fresh| {
            self.policy.save(fresh)?;
            self.files()?.into_iter().try_for_each(|(name, file)| file.write(&fresh.join(name)))
        })
    }

    /// A copy of what [`save`](Self::save) writes, to be written while the trainer goes on.
    ///
    /// # Errors
    /// A parameter is not finite.
    pub fn snapshot(&self, bookmark: &serde_json::Value) -> Result<Snapshot> {
        self.check_finite()?;
        let files = self.files()?.into_iter().map(|(name, file)| (name, file.bytes())).collect();
        Ok(Snapshot { policy: self.policy.copied()?, files, state: self.state(bookmark) })
    }

    /// What a checkpoint holds beside the policy and `state.json`.
    fn files(&self) -> Result<Vec<(&'static str, TensorFile<'_>)>> {
        let mut files = vec![(OPTIMIZER, self.optimizer.file()?)];
        if let Reference::Moving(moving) = &self.reference {
            files.push((MOVING_REFERENCE, moving.file()?));
        }
        Ok(files)
    }

    fn state(&self, bookmark: &serde_json::Value) -> State {
        State {
            step: self.steps_done,
            starting_weights: self.starting_weights.clone(),
            objective: self.objective.state(),
            schedule: self.follower.as_ref().map(Follower::to_json),
            bookmark: bookmark.clone(),
            files: Vec::new(),
        }
    }

    /// Goes back, or on, to a checkpoint. The trainer must have been built from the weights that its run started from.
    ///
    /// # Errors
    /// The checkpoint started from other weights, or its files do not fit. The trainer is then of no further use.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let state = &checkpoint.state;
        if state.starting_weights != self.starting_weights {
            let (theirs, ours) = (&state.starting_weights, &self.starting_weights);
            return Err(Error::checkpoint(
                &checkpoint.path,
                format!(
                    "its run started from the weights {theirs}, this one from {ours}; give the model (and adapter) it started from"
                ),
            ));
        }
        self.policy.restore(&checkpoint.path)?;
        self.tell_preference(None)?;
        self.optimizer.load(&checkpoint.path.join(OPTIMIZER))?;
        if let Reference::Moving(moving) = &mut self.reference {
            moving.load(&checkpoint.path.join(MOVING_REFERENCE))?;
        }
        match (&state.objective, self.objective.state()) {
            (Some(state), Some(_)) => self.objective.restore(state)?,
            (None, None) => {}
            _ => {
                return Err(Error::checkpoint(
                    &checkpoint.path,
                    "it was written with another objective; give the same one",
                ));
            }
        }
        match (&state.schedule, &mut self.follower) {
            (Some(stored), Some(follower)) => {
                follower.restore(stored).map_err(|reason| Error::checkpoint(&checkpoint.path, reason))?;
            }
            (None, None) => {}
            _ => {
                let reason = "it was written with another schedule; give the same one";
                return Err(Error::checkpoint(&checkpoint.path, reason));
            }
        }
        self.steps_done = state.step;
        let met = self.optimizer.met_gradients(&ends(self.policy.parameters()))?;
        self.ungraded = (0..met.len()).filter(|&i| !met[i]).collect();
        Ok(())
    }
}

impl<T: Element> Trainer<CausalPolicy<T>> {
    /// A sketch of the gradient of each example's loss with respect to the adapter, as it counts in the mean over all of the
    /// given ones. No parameter changes, nor what the objective keeps between steps; the gradients held are those of the batches
    /// afterwards.
    ///
    /// The inner product of two sketches, times the learning rate, is how much a step on the one would lower the loss of the
    /// other, to first order (Pruthi et al. 2020, *Estimating Training Data Influence by Tracing Gradient Descent*, eq. 1,
    /// [arXiv 2002.08484](https://arxiv.org/abs/2002.08484)).
    ///
    /// # Errors
    /// As [`step`](Self::step); a policy without an adapter, or with one of the head.
    pub fn sketch_examples(&mut self, batches: &[Batch], sketch: Sketch) -> Result<Vec<ExampleSketch>> {
        let needs = self.objective.needs();
        let micros = pack(batches, &needs)?;
        let totals = self.totals(&micros)?;
        let mark = self.objective.mark();
        let context = self.prepare(&micros, Phase::Evaluate)?;
        if let Some(mark) = mark {
            self.objective.undo(&mark)?;
        }
        self.policy.tuning().gradients.clear()?;
        let mut sketched = Vec::new();
        for (index, (micro, batch)) in micros.iter().zip(batches).enumerate() {
            let reference = self.reference.queue(&mut self.policy, &micro.rows)?.map(Queued::read).transpose()?;
            let (policy, saved) = self.policy.forward(&micro.rows.packed, needs.outputs)?;
            let leaves = Leaves::new(&policy)?;
            let scores = micro.scores::<T>(leaves.scores.clone(), reference)?;
            let loss = self.objective.evaluate(&scores, &context.micro(index))?.loss(&totals)?;
            let cotangents = leaves.cotangents(&loss)?;
            let sketches = self.policy.backward_with_sketches(&micro.rows.packed, saved, &cotangents, sketch)?;
            let mut contexts = sketches.items();
            for example in &batch.examples {
                // A judged row has two contexts.
                let mut values = vec![0.0; sketch.dimensions];
                for context in contexts.by_ref().take(example.contexts.len()) {
                    values.iter_mut().zip(context).for_each(|(sum, value)| *sum += value);
                }
                sketched.push(ExampleSketch { place: example.origin.to_string(), values });
            }
        }
        Ok(sketched)
    }
}

/// The sketch of the gradient of one example's loss.
#[derive(Debug, Clone, PartialEq)]
pub struct ExampleSketch {
    /// `file:line`.
    pub place: String,
    /// As long as the sketch has dimensions.
    pub values: Vec<f64>,
}

/// Whether the reference follows the policy.
pub(crate) fn moves_reference(objective: &dyn Objective) -> bool {
    objective.reference_update() != ReferenceUpdate::Frozen
}

fn pack(batches: &[Batch], needs: &Needs) -> Result<Vec<Micro>> {
    batches.iter().map(|batch| Micro::new(batch, needs)).collect()
}

/// Scores of rows that were not computed: nothing is scored.
fn unscored<T: Element>(rows: &PackedRows) -> Result<TokenScores> {
    let zeros = grid::<T>(&rows.packed, &[])?;
    Ok(TokenScores::new(zeros.clone(), zeros)?)
}
