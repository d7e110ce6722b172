//! Two adapters on one base, one learning fast and one slowly.
use std::path::Path;

use candlewick_data::Batch;
use candlewick_losses::{FastSlowDpo, Role, Scores, TokenScores, Totals};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint, OPTIMIZER, SLOW, SLOW_OPTIMIZER, State};
use crate::error::{Error, Result};
use crate::leaves::Leaves;
use crate::optimizer::{AdamWOptions, Clip, Optimizer, OptimizerOptions, check_max_grad_norm};
use crate::pack::Micro;
use crate::policy::{CausalPolicy, Trainable, Tuning};
use crate::reference::MovingReference;
use crate::tally::{scalar, summary};
use crate::tensor_file::Element;

/// How a [`FastSlow`] updates its modules.
#[derive(Debug, Clone, PartialEq)]
pub struct FastSlowOptions {
    /// AdamW of both; its learning rate is that of the fast module.
    pub optimizer: AdamWOptions,
    /// Learning rate of the slow module, positive and at most that of the fast one.
    pub slow_learning_rate: f64,
    /// Gradients of a module are scaled down to this norm; 0 for never.
    pub max_grad_norm: f64,
    /// Steps after which the roles are given anew.
    pub interval: u64,
}

/// What a step did to one module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ModuleReport {
    /// Its loss.
    pub loss: f64,
    /// The part of it that is DPO's, by which roles are given.
    pub dpo: f64,
    /// Euclidean norm of its gradient before clipping.
    pub grad_norm: f64,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FastSlowReport {
    /// The step, counted from one.
    pub step: u64,
    /// The module that was the fast one.
    pub fast: ModuleReport,
    /// The module that was the slow one.
    pub slow: ModuleReport,
    /// Whether they changed roles after it.
    pub swapped: bool,
}

/// Online fast-slow DPO: two LoRA modules on one base, each driven by its own loss against the other ([`FastSlowDpo`]).
///
/// After every `interval` steps the module with the lower mean of DPO's loss over them is the fast one; a module keeps its weights and
/// its moments, and with the role takes the learning rate. The reference is the base. The fast module lies in the policy, and is what is
/// sampled, evaluated and used; the slow one changes places with it for its own passes.
///
/// A step takes a forward and a backward of each module, another forward of the slow one, and a forward of the base.
///
/// A checkpoint holds the fast module as any adapter, the slow one in `slow.safetensors` (the format of
/// [`MovingReference`]), their optimizers in `optimizer.safetensors` and `slow_optimizer.safetensors`, and what was summed since roles
/// were given. A run that goes on from it has the same bits as one that was not stopped.
///
/// Source: that of [`FastSlowDpo`], confidence C. That roles go by the mean over the interval is this library's reading of "the module
/// with the lower loss"; the paper's intervals and rates are not known.
#[derive(Debug)]
pub struct FastSlow<T: Element = f32> {
    policy: CausalPolicy<T>,
    slow: MovingReference<T>,
    /// Gradients of the module that is not in the policy.
    aside: Gradients<T>,
    objective: FastSlowDpo,
    options: FastSlowOptions,
    optimizer: Optimizer<T>,
    slow_optimizer: Optimizer<T>,
    starting_weights: String,
    counts: Counts,
}

/// What goes into a checkpoint beside tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    steps: u64,
    /// Sums of DPO's loss since roles were given.
    fast: f64,
    slow: f64,
}

/// Losses of one module in one step.
#[derive(Debug, Default)]
struct Pass {
    loss: f64,
    dpo: f64,
    scores: Vec<TokenScores>,
}

impl<T: Element> FastSlow<T> {
    /// Modules before their first step: the adapter of the policy, and `slow`, another of the same shapes, such as
    /// [`CausalLm::adapter`](candlewick_model::CausalLm::adapter) of a model with another seed.
    ///
    /// # Errors
    /// A policy without an adapter; another layout of `slow`; options or hyperparameters out of range.
    pub fn new(
        policy: CausalPolicy<T>,
        slow: Parameters<T>,
        objective: FastSlowDpo,
        options: FastSlowOptions,
    ) -> Result<Self> {
        objective.validate()?;
        if !policy.model().has_adapter() {
            return Err(Error::Mismatch("the fast and the slow module are adapters, and the policy has none".into()));
        }
        let (fast, rate) = (options.optimizer.learning_rate, options.slow_learning_rate);
        if !(rate > 0.0 && rate <= fast) {
            let reason = format!("{rate}; expected a positive number of at most the fast one's {fast}");
            return Err(Error::config("slow_learning_rate", reason));
        }
        if options.interval == 0 {
            return Err(Error::config("interval", "0; expected at least 1"));
        }
        check_max_grad_norm(options.max_grad_norm)?;
        let slow = MovingReference::from_parameters(&policy, slow)?;
        let rule: OptimizerOptions = options.optimizer.into();
        let optimizer = Optimizer::new(policy.parameters(), &rule, None)?;
        let slow_optimizer = Optimizer::new(policy.parameters(), &rule, None)?;
        let aside = Gradients::zeros(policy.parameters());
        let starting_weights = policy.digest()?;
        let counts = Counts::default();
        Ok(Self { policy, slow, aside, objective, options, optimizer, slow_optimizer, starting_weights, counts })
    }

    /// The policy, with the fast module.
    pub fn policy(&self) -> &CausalPolicy<T> {
        &self.policy
    }

    /// The slow module.
    pub fn slow(&self) -> &Parameters<T> {
        self.slow.parameters()
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.counts.steps
    }

    /// One step of both modules over micro-batches of pairs. On an error neither has changed.
    ///
    /// # Errors
    /// Rows that are no pairs; a loss or gradient that is not finite.
    pub fn step(&mut self, batches: &[Batch]) -> Result<FastSlowReport> {
        let needs = self.objective.needs();
        let micros = batches.iter().map(|batch| Micro::new(batch, &needs)).collect::<Result<Vec<Micro>>>()?;
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals += micro.groups.totals(&micro.rows.lengths));
        let outputs = needs.outputs;
        let (mut base, mut slow) = (Vec::new(), Vec::new());
        for micro in &micros {
            base.push(self.policy.queue_without_adapter(&micro.rows.packed, outputs)?.read()?.detach());
            let scores = self.policy.queue_with(self.slow.parameters_mut(), &micro.rows.packed, outputs)?;
            slow.push(scores.read()?.detach());
        }
        let fast = self.pass(Role::Fast, &micros, &base, &slow, &totals)?;
        let fast_clip = self.clip()?;
        let fast_norm = fast_clip.norm()?;
        self.change_places();
        let stepped = self.finish(&micros, &base, &totals, &fast, fast_norm);
        self.change_places();
        let (slow, slow_norm) = stepped?;
        let Tuning { parameters, gradients, workspace } = self.policy.tuning();
        self.optimizer.step(parameters, gradients, &fast_clip, 1.0, workspace)?;
        self.counts.steps += 1;
        self.counts.fast += fast.dpo;
        self.counts.slow += slow.dpo;
        let swapped = self.give_roles();
        let module = |pass: &Pass, grad_norm| ModuleReport { loss: pass.loss, dpo: pass.dpo, grad_norm };
        let (fast, slow) = (module(&fast, fast_norm), module(&slow, slow_norm));
        Ok(FastSlowReport { step: self.counts.steps, fast, slow, swapped })
    }

    /// The slow module's pass and update, while it lies in the policy.
    fn finish(
        &mut self,
        micros: &[Micro],
        base: &[TokenScores],
        totals: &Totals,
        fast: &Pass,
        fast_norm: f64,
    ) -> Result<(Pass, f64)> {
        let slow = self.pass(Role::Slow, micros, base, &fast.scores, totals)?;
        let clip = self.clip()?;
        let norm = clip.norm()?;
        for (what, value) in [("loss", fast.loss + slow.loss), ("gradient norm", fast_norm + norm)] {
            if !value.is_finite() {
                let rows = summary(micros.iter().flat_map(|micro| &micro.rows.places));
                return Err(Error::NotFinite { step: self.counts.steps + 1, what, value, rows });
            }
        }
        let Tuning { parameters, gradients, workspace } = self.policy.tuning();
        let factor = self.options.slow_learning_rate / self.options.optimizer.learning_rate;
        self.slow_optimizer.step(parameters, gradients, &clip, factor, workspace)?;
        Ok((slow, norm))
    }

    /// Gradients of the module that lies in the policy, of its loss against the other's scores.
    fn pass(
        &mut self,
        role: Role,
        micros: &[Micro],
        base: &[TokenScores],
        others: &[TokenScores],
        totals: &Totals,
    ) -> Result<Pass> {
        let outputs = self.objective.needs().outputs;
        let mut pass = Pass::default();
        self.policy.tuning().gradients.clear()?;
        for (micro, (base, other)) in micros.iter().zip(base.iter().zip(others)) {
            let (policy, saved) = self.policy.forward(&micro.rows.packed, outputs)?;
            let leaves = Leaves::new(&policy)?;
            let scores: Scores = micro.scores::<T>(leaves.scores.clone(), Some(base.clone()))?;
            let mut terms = self.objective.terms(role, &scores, other)?;
            let loss = terms.loss(totals)?;
            self.policy.backward(&micro.rows.packed, saved, &leaves.cotangents(&loss)?)?;
            terms.terms.truncate(1);
            pass.loss += scalar(&loss)?;
            pass.dpo += scalar(&terms.loss(totals)?)?;
            pass.scores.push(policy.detach());
        }
        Ok(pass)
    }

    fn clip(&mut self) -> Result<Clip> {
        let Tuning { gradients, workspace, .. } = self.policy.tuning();
        Clip::of(gradients, self.options.max_grad_norm, workspace)
    }

    /// Puts the other module, with its gradients, into the policy.
    fn change_places(&mut self) {
        let Tuning { parameters, gradients, .. } = self.policy.tuning();
        std::mem::swap(parameters, self.slow.parameters_mut());
        std::mem::swap(gradients, &mut self.aside);
    }

    /// At the end of an interval the module that did better is the fast one; whether they changed.
    fn give_roles(&mut self) -> bool {
        if !self.counts.steps.is_multiple_of(self.options.interval) {
            return false;
        }
        let swapped = self.counts.slow < self.counts.fast;
        (self.counts.fast, self.counts.slow) = (0.0, 0.0);
        if swapped {
            self.change_places();
            std::mem::swap(&mut self.optimizer, &mut self.slow_optimizer);
        }
        swapped
    }

    /// Writes a checkpoint at `directory`, whole or not at all.
    ///
    /// # Errors
    /// The files cannot be written; what was there before stays whole.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let state = State {
            step: self.counts.steps,
            starting_weights: self.starting_weights.clone(),
            objective: Some(self.counts.to_json()),
            schedule: None,
            bookmark: serde_json::Value::Null,
            files: Vec::new(),
        };
        let files = [
            (SLOW, self.slow.file()?),
            (OPTIMIZER, self.optimizer.file()?),
            (SLOW_OPTIMIZER, self.slow_optimizer.file()?),
        ];
        checkpoint::write_checkpoint(directory, state, &[], |fresh| {
            self.policy.save(fresh)?;
            files.iter().try_for_each(|(name, file)| file.write(&fresh.join(name)))
        })
    }

    /// Goes back, or on, to a checkpoint. It must have been built from the weights that its run started from.
    ///
    /// # Errors
    /// The checkpoint started from other weights, or its files do not fit. The modules are then of no further use.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let (path, state) = (&checkpoint.path, &checkpoint.state);
        if state.starting_weights != self.starting_weights {
            let (theirs, ours) = (&state.starting_weights, &self.starting_weights);
            let reason =
                format!("its run started from the weights {theirs}, this one from {ours}; give those it started from");
            return Err(Error::checkpoint(path, reason));
        }
        let counts = state.objective.as_ref().and_then(|json| Counts::from_json(state.step, json));
        self.counts = counts.ok_or_else(|| Error::checkpoint(path, "not one of a fast and a slow module"))?;
        self.policy.restore(path)?;
        self.slow.load(&path.join(SLOW))?;
        self.optimizer.load(&path.join(OPTIMIZER))?;
        self.slow_optimizer.load(&path.join(SLOW_OPTIMIZER))
    }
}

/// The sums as text, which reads back to the same bits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    fast: String,
    slow: String,
}

impl Counts {
    fn to_json(self) -> serde_json::Value {
        serde_json::json!({ "fast": self.fast.to_string(), "slow": self.slow.to_string() })
    }

    fn from_json(steps: u64, json: &serde_json::Value) -> Option<Self> {
        let Written { fast, slow } = Written::deserialize(json).ok()?;
        Some(Self { steps, fast: fast.parse().ok()?, slow: slow.parse().ok()? })
    }
}
