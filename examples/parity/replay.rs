//! One recorded run, fed to our trainer batch by batch.
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick::data::{Annotation, Batch, Completion, Context, Example, Origin};
use candlewick::kernels::{Cuda, Float, Workspace};
use candlewick::losses::{Objective, Recipe, ReferenceUpdate, trl};
use candlewick::model::{CausalLm, Parameters, Recompute};
use candlewick::train::{
    AdamWOptions, CausalPolicy, DevicePolicy, FrozenPolicy, MovingReference, Reference, Schedule, Trainable, Trainer,
    TrainerOptions,
};
use candlewick_testkit::{Batch as Recorded, Fixture};

/// The model (and adapter) that the recorded runs started from.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Directory of the model.
    pub(crate) model: PathBuf,
    /// Directory of the adapter that an adapter run started from.
    pub(crate) adapter: Option<PathBuf>,
}

/// How far a replay strays from its recording, relatively, at worst.
#[derive(Debug)]
pub(crate) struct Deviations {
    name: String,
    adapter: bool,
    /// Whether the loss has an exponential that is not bounded, which magnifies the rounding of f32.
    exponential: bool,
    /// Of the loss of any micro-batch; absolute below a tenth.
    pub(crate) loss: f64,
    /// Of the gradient norm of any step.
    pub(crate) grad_norm: f64,
    /// Of the sum of squares of any trained parameter.
    pub(crate) params: f64,
}

/// Why a recording was not replayed.
#[derive(Debug)]
pub(crate) enum ReplayError {
    /// It uses what is not built yet.
    NotBuilt(String),
    /// It, or the model, cannot be used.
    Unusable(String),
}

impl Replay {
    /// Replays one fixture in f32, as it was recorded, and gives the trained policy too.
    pub(crate) fn run(&self, path: &Path) -> Result<(Deviations, CausalPolicy), ReplayError> {
        let fixture = Fixture::load(path).map_err(unusable)?;
        let (model, objective, options) = self.parts(&fixture)?;
        let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
        let moves = objective.reference_update() != ReferenceUpdate::Frozen;
        // TRL keeps a frozen copy of an adapter that it is handed.
        let reference = match objective.needs().reference {
            true if moves => Reference::Moving(MovingReference::of(&policy).map_err(unusable)?),
            true => Reference::Frozen(Box::new(FrozenPolicy::new(policy.model().frozen_copy(), 1))),
            false => Reference::None,
        };
        let trainer = Trainer::new(policy, reference, Box::new(objective), options).map_err(unusable)?;
        replay(fixture, trainer)
    }

    /// As [`run`](Self::run), on a device.
    #[cfg_attr(not(test), expect(dead_code, reason = "the example replays on the host"))]
    pub(crate) fn run_on(&self, device: &Cuda, path: &Path) -> Result<Deviations, ReplayError> {
        let fixture = Fixture::load(path).map_err(unusable)?;
        let (model, objective, options) = self.parts(&fixture)?;
        let policy = DevicePolicy::<f32>::new(&model, device, Recompute::Nothing).map_err(unusable)?;
        let moves = objective.reference_update() != ReferenceUpdate::Frozen;
        let reference = match objective.needs().reference {
            true if moves => Reference::Moving(MovingReference::of(&policy).map_err(unusable)?),
            true => {
                let mut workspace = Workspace::new(1).on(device);
                let frozen = model.to_device::<f32>(device, &mut workspace).map_err(unusable)?;
                Reference::Frozen(Box::new(FrozenPolicy::new(frozen, 1)))
            }
            false => Reference::None,
        };
        let trainer = Trainer::new(policy, reference, Box::new(objective), options).map_err(unusable)?;
        Ok(replay(fixture, trainer)?.0)
    }

    /// What a run was made of.
    fn parts(&self, fixture: &Fixture) -> Result<(CausalLm, Recipe, TrainerOptions), ReplayError> {
        check_lengths(fixture)?;
        let mut options = fixture.options.clone();
        // What was recorded are the rows as they were cut.
        for cut in ["max_length", "truncation_mode"] {
            options.remove(cut);
        }
        if fixture.trainer == "kto" {
            options.insert("trainer".into(), "kto".into());
        }
        let options: trl::Options = serde_json::to_value(options).and_then(serde_json::from_value).map_err(unusable)?;
        let objective = options.recipe().map_err(|e| match e {
            candlewick::losses::Error::NotBuilt(_) => ReplayError::NotBuilt(e.to_string()),
            other => unusable(other),
        })?;
        let adapter_run = fixture.final_params_sum_sumsq.keys().any(|name| name.contains("lora_"));
        let mut model = CausalLm::<f32>::load(&self.model).map_err(unusable)?;
        match (adapter_run, &self.adapter) {
            (true, Some(directory)) => model.load_adapter(directory).map_err(unusable)?,
            (true, None) => {
                return Err(unusable("an adapter was trained; name the one it started from with --adapter"));
            }
            (false, _) => {}
        }
        if fixture.optimizer.name != "adamw" || fixture.optimizer.schedule != "constant" {
            let (name, schedule) = (&fixture.optimizer.name, &fixture.optimizer.schedule);
            return Err(ReplayError::NotBuilt(format!("the optimizer {name} with a {schedule} schedule is not built")));
        }
        let options = TrainerOptions {
            optimizer: AdamWOptions {
                learning_rate: fixture.lr,
                beta1: fixture.optimizer.betas[0],
                beta2: fixture.optimizer.betas[1],
                eps: fixture.optimizer.eps,
                weight_decay: fixture.optimizer.weight_decay,
            }
            .into(),
            max_grad_norm: fixture.optimizer.max_grad_norm,
            schedule: Schedule::default(),
            total_steps: fixture.steps as u64,
            ..TrainerOptions::default()
        };
        Ok((model, objective, options))
    }
}

/// Feeds a recorded run to a trainer, and gives its policy back.
fn replay<P: Trainable<Element = f32>>(
    fixture: Fixture,
    mut trainer: Trainer<P>,
) -> Result<(Deviations, P), ReplayError> {
    let (mut loss, mut grad_norm) = (0f64, 0f64);
    let micro = fixture.gradient_accumulation_steps.max(1);
    let steps = fixture.batches.chunks(micro).zip(fixture.micro_losses.chunks(micro)).zip(&fixture.logs);
    for (step, ((recorded, losses), logs)) in steps.enumerate() {
        let batches: Result<Vec<Batch>, ReplayError> =
            recorded.iter().map(|batch| examples(batch, &fixture.name, step)).collect();
        let report = trainer.step(&batches?).map_err(unusable)?;
        if report.micro_losses.len() != losses.len() {
            let (ours, theirs) = (report.micro_losses.len(), losses.len());
            return Err(unusable(format!("step {}: {ours} micro-batches, and {theirs} were recorded", step + 1)));
        }
        for (ours, theirs) in report.micro_losses.iter().zip(losses) {
            loss = loss.max(relative_above(0.1, *ours, *theirs));
        }
        let theirs = logs.get("grad_norm").ok_or_else(|| unusable("a step without grad_norm"))?;
        grad_norm = grad_norm.max(relative(report.grad_norm, *theirs));
    }
    let parameters = trainer.policy().parameters().to_host().map_err(unusable)?;
    let params = compare_parameters(&parameters, &fixture.final_params_sum_sumsq)?;
    let adapter = trainer.policy().parameters().names().any(|name| name.contains("lora_"));
    let exponential = fixture.options.get("loss_type").is_some_and(|loss| loss.to_string().contains("discopop"));
    let deviations = Deviations { name: fixture.name, adapter, exponential, loss, grad_norm, params };
    Ok((deviations, trainer.into_policy()))
}

impl Deviations {
    /// Whether all are within what f32 arithmetic explains.
    pub(crate) fn are_small(&self) -> bool {
        let grad_norm = if self.exponential { 3e-3 } else { 1e-3 };
        self.loss <= 1e-4 && self.grad_norm <= grad_norm && self.params <= if self.adapter { 1e-3 } else { 1e-4 }
    }
}

impl fmt::Display for Deviations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, loss, grad_norm, params, .. } = self;
        write!(f, "{name} loss={loss:.2e} grad_norm={grad_norm:.2e} params={params:.2e}")
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt(what) | Self::Unusable(what) => f.write_str(what),
        }
    }
}

/// Whether everything that is compared was recorded in full: what is paired up below ends with the shorter side.
fn check_lengths(fixture: &Fixture) -> Result<(), ReplayError> {
    let micro_batches = fixture.steps * fixture.gradient_accumulation_steps.max(1);
    let expected = [
        ("batches", fixture.batches.len(), micro_batches),
        ("losses of micro-batches", fixture.micro_losses.len(), micro_batches),
        ("logs", fixture.logs.len(), fixture.steps),
    ];
    for (what, found, expected) in expected {
        if found != expected {
            return Err(unusable(format!("{found} {what}, expected {expected} for {} steps", fixture.steps)));
        }
    }
    for (index, batch) in fixture.batches.iter().enumerate() {
        let rows = batch.input_ids.len();
        let verdicts = batch.label.as_ref().map_or(rows, Vec::len);
        if rows == 0 || verdicts != rows || (batch.label.is_none() && rows % 2 != 0) {
            return Err(unusable(format!("batch {index}: {rows} rows do not make pairs, or have {verdicts} verdicts")));
        }
    }
    Ok(())
}

/// A recorded batch as ours: rows become contexts, which share their prompt where the recorded ids agree.
fn examples(recorded: &Recorded, name: &str, step: usize) -> Result<Batch, ReplayError> {
    let rows = rows(&recorded.input_ids, &recorded.attention_mask, &recorded.completion_mask)?;
    let file: Arc<str> = name.into();
    let origin = |row: usize| Origin::line(file.clone(), (step * rows.len() + row + 1) as u64);
    let Some(labels) = &recorded.label else {
        let (chosen, rejected) = rows.split_at(rows.len() / 2);
        let pairs = chosen.iter().zip(rejected).enumerate();
        let examples = pairs.map(|(i, (chosen, rejected))| {
            let contexts = if chosen.prompt == rejected.prompt {
                vec![context(&chosen.prompt, [&chosen.completion, &rejected.completion])]
            } else {
                vec![context(&chosen.prompt, [&chosen.completion]), context(&rejected.prompt, [&rejected.completion])]
            };
            Example::new(origin(i), contexts, Annotation::Pair)
        });
        return Ok(Batch { examples: examples.collect(), mismatched: Vec::new() });
    };
    let examples = rows.iter().zip(labels).enumerate().map(|(i, (row, desirable))| {
        let contexts = vec![context(&row.prompt, [&row.completion])];
        Example::new(origin(i), contexts, Annotation::Labelled { desirable: *desirable })
    });
    // Of KTO only: other losses of single completions do without.
    let mismatched = match (&recorded.kl_input_ids, &recorded.kl_attention_mask, &recorded.kl_completion_mask) {
        (Some(ids), Some(attention), Some(mask)) => {
            self::rows(ids, attention, mask)?.iter().map(|row| context(&row.prompt, [&row.completion])).collect()
        }
        (None, None, None) => Vec::new(),
        _ => return Err(unusable("a batch with a part of what makes mismatched completions")),
    };
    Ok(Batch { examples: examples.collect(), mismatched })
}

/// A recorded row without its padding.
struct Row {
    prompt: Vec<u32>,
    completion: Vec<u32>,
}

/// Prompt and completion of each row, without padding.
fn rows(ids: &[Vec<u32>], attention: &[Vec<u8>], completion: &[Vec<u8>]) -> Result<Vec<Row>, ReplayError> {
    if ids.len() != attention.len() || ids.len() != completion.len() {
        return Err(unusable("a batch whose ids and masks have different numbers of rows"));
    }
    ids.iter()
        .zip(attention)
        .zip(completion)
        .map(|((ids, attention), completion)| {
            let length = attention.iter().take_while(|present| **present == 1).count();
            let start = completion.iter().position(|scored| *scored == 1).unwrap_or(length);
            let whole = ids.len() == attention.len() && ids.len() == completion.len();
            let contiguous = whole && completion[start..length].iter().all(|scored| *scored == 1);
            if !contiguous || attention[length..].contains(&1) {
                return Err(unusable("a row whose masks are not prompt, completion, padding on the right"));
            }
            Ok(Row { prompt: ids[..start].to_vec(), completion: ids[start..length].to_vec() })
        })
        .collect()
}

fn context<const N: usize>(prompt: &[u32], completions: [&Vec<u32>; N]) -> Context {
    let completion = |ids: &Vec<u32>| Completion::all_scored(ids.clone());
    Context {
        prompt: prompt.to_vec(),
        prompt_scored: vec![false; prompt.len()],
        completions: completions.map(completion).into(),
    }
}

/// The worst relative deviation of a sum of squares. Every recorded parameter must be ours, and every one of ours recorded.
fn compare_parameters(parameters: &Parameters<f32>, recorded: &BTreeMap<String, [f64; 2]>) -> Result<f64, ReplayError> {
    if parameters.len() != recorded.len() {
        let (ours, theirs) = (parameters.len(), recorded.len());
        return Err(unusable(format!(
            "{theirs} parameters were recorded, and {ours} were trained; is it the same model?"
        )));
    }
    let mut worst = 0f64;
    for (name, [_, theirs]) in recorded {
        // torch names the adapter within the module; the file does not.
        let ours = parameters
            .get(&name.replace(".default.", "."))
            .ok_or_else(|| unusable(format!("the model has no {name}")))?;
        let sum: f64 = ours.iter().map(|x| Float::to_f64(*x).powi(2)).sum();
        worst = worst.max(relative(sum, *theirs));
    }
    Ok(worst)
}

fn relative(ours: f64, theirs: f64) -> f64 {
    relative_above(f64::MIN_POSITIVE, ours, theirs)
}

fn relative_above(floor: f64, ours: f64, theirs: f64) -> f64 {
    let deviation = (ours - theirs).abs() / theirs.abs().max(floor);
    // A NaN must not pass for a small number in a maximum.
    if deviation.is_nan() { f64::INFINITY } else { deviation }
}

fn unusable(reason: impl fmt::Display) -> ReplayError {
    ReplayError::Unusable(reason.to_string())
}
