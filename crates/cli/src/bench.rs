//! `wick bench step`: seconds of an optimizer step, on the rows and with the settings of the programs it is compared with.
//!
//! Those programs tokenize the prompt alone and with its completion, take the first length as the boundary, append one
//! end-of-sequence token and cut the end off. So does this module, so that every program computes the same tokens. Of rows with
//! a verdict the completion begins where the two tokenizations part, and a mismatched completion is that of the row before it
//! in the step, the first row's that of the last.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use candlewick::data::{
    Annotation, Batch, Completion, Context, EncodeOptions, Encoder, EndOfSequence, Example, Origin, Text,
};
use candlewick::kernels::{Cuda, Element, Workspace, bf16};
use candlewick::losses::{Builtin, Objective, StepWide};
use candlewick::model::{CausalLm, LoraConfig, Recompute};
use candlewick::train::{
    AdamWOptions, CausalPolicy, DevicePolicy, Dtype, FrozenPolicy, Policy, PrecomputedReference, Reference, Trainable,
    Trainer, TrainerOptions, reference_digest,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::arguments::{BenchRecompute, BenchStep};
use crate::failure::Failure;
use crate::{memory, words};

#[derive(Deserialize)]
struct Pair {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// A completion with its verdict; our ready files say `response`, as the set they come from does.
#[derive(Deserialize)]
struct Labelled {
    prompt: String,
    #[serde(alias = "response")]
    completion: String,
    label: bool,
}

/// Runs the steps and prints what they took.
pub(crate) fn step(arguments: &BenchStep) -> Result<()> {
    let BenchStep { batch, steps, warmup, .. } = *arguments;
    if arguments.lora == 0 && arguments.adapter.is_some() {
        bail!(Failure::Usage(
            "--adapter is given and --lora is 0; give the adapter's rank, or leave --adapter out".into()
        ));
    }
    if batch == 0 || steps == 0 || arguments.max_length < 2 {
        bail!(Failure::Usage("--batch and --steps must be at least 1, and --max-length at least 2".into()));
    }
    let objective = objective(arguments)?;
    let batches = batches(arguments, &objective)?;
    let (hardware, dtype) = arguments.place.open()?;
    let ran = match (hardware.device(), dtype) {
        (None, _) => run(trainer(arguments, objective, &batches)?, &batches, None)?,
        (Some(device), Dtype::F32) => {
            run(device_trainer::<f32>(arguments, objective, &batches, device)?, &batches, Some(device))?
        }
        (Some(device), Dtype::Bf16) => {
            run(device_trainer::<bf16>(arguments, objective, &batches, device)?, &batches, Some(device))?
        }
    };
    let Ran { seconds, losses, tokens, first_gradient_norm, peak, device_peak, first_reference_sums } = ran;
    let measured = &seconds[warmup..];
    let step_s = median(measured);
    let tokens = tokens[warmup..].iter().sum::<u64>();
    let tokens_per_s = tokens as f64 / measured.iter().sum::<f64>();
    let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    if arguments.json {
        let properties = hardware.device().map(Cuda::properties).transpose()?;
        let (name, cublas_lt) = properties.map(|found| (found.name, found.has_cublas_lt)).unzip();
        let line = json!({
            "peer": "candlewick", "device": arguments.place.device.to_string(), "device_name": name, "cublas_lt": cublas_lt, "batch": batch, "lora": arguments.lora, "precompute": arguments.precompute,
            "bf16": dtype == Dtype::Bf16, "amp": false, "compile": false, "objective": arguments.objective,
            "threads": words::threads(arguments.threads), "step_s": step_s, "pairs_per_s": batch as f64 / step_s,
            "tokens": tokens, "tokens_per_s": tokens_per_s, "peak_rss_mb": mib(peak),
            "peak_device_mb": mib(device_peak.map(|bytes| bytes as u64)), "losses": losses,
            "first_gradient_norm": first_gradient_norm, "first_reference_sums": first_reference_sums,
        });
        println!("{line}");
        return Ok(());
    }
    println!(
        "{step_s:.4} s a step (median of {steps}), {:.2} pairs/s, {tokens_per_s:.0} tokens/s",
        batch as f64 / step_s
    );
    if let Some(peak) = peak {
        println!("peak memory {}", memory::readable(peak));
    }
    if let Some(peak) = device_peak {
        println!("peak memory of the device {}", memory::readable(peak as u64));
    }
    Ok(())
}

/// What the steps took and found.
struct Ran {
    seconds: Vec<f64>,
    losses: Vec<f64>,
    tokens: Vec<u64>,
    first_gradient_norm: Option<f64>,
    /// The most bytes that the process had, and that buffers of the device had.
    peak: Option<u64>,
    device_peak: Option<usize>,
    /// Of pairs that are compared with a reference: its log-probabilities of the chosen completions of the first step, then of the
    /// rejected ones.
    first_reference_sums: Option<Vec<f64>>,
}

fn run<P: Trainable>(mut trainer: Trainer<P>, batches: &[Batch], device: Option<&Cuda>) -> Result<Ran> {
    let mut ran = Ran {
        seconds: Vec::new(),
        losses: Vec::new(),
        tokens: Vec::new(),
        first_gradient_norm: None,
        peak: None,
        device_peak: None,
        first_reference_sums: None,
    };
    for batch in batches {
        let start = Instant::now();
        let report = trainer.step(std::slice::from_ref(batch))?;
        ran.seconds.push(start.elapsed().as_secs_f64());
        ran.losses.push(report.loss);
        ran.tokens.push(report.tokens);
        ran.first_gradient_norm.get_or_insert(report.grad_norm);
    }
    ran.peak = memory::peak_bytes();
    ran.device_peak = device.map(Cuda::memory).transpose()?.map(|memory| memory.most_used);
    // After everything that is measured: the reference has not changed.
    let needs = trainer.needs();
    if let Some(first) = batches.first().filter(|_| needs.rows.pairs && needs.reference) {
        let mut sums = Vec::new();
        trainer.evaluate_each([Ok::<_, candlewick::train::Error>(first.clone())], |scored| {
            sums.extend(scored.reference.into_iter().flatten().map(|score| score.log_prob));
        })?;
        let of_side = |side: usize| sums.iter().skip(side).step_by(2).copied().collect::<Vec<f64>>();
        ran.first_reference_sums = Some([of_side(0), of_side(1)].concat());
    }
    Ok(ran)
}

/// The objective by its name, if it can be timed on rows of two or one completion.
fn objective(arguments: &BenchStep) -> Result<Builtin> {
    let name = &arguments.objective;
    let Some(objective) = Builtin::from_name(name) else {
        bail!(Failure::Usage(format!(
            "--objective: unknown objective {name:?}; expected one of {}",
            Builtin::NAMES.join(", ")
        )));
    };
    let needs = objective.needs();
    if !needs.rows.pairs && !needs.rows.labelled {
        bail!(Failure::Usage(format!("--objective {name}: it reads neither pairs nor completions with a verdict")));
    }
    if needs.outputs.values {
        bail!(Failure::Usage(format!(
            "--objective {name}: it trains score heads, and wick bench times causal language models; choose another"
        )));
    }
    if needs.step_wide == StepWide::Mismatched && arguments.batch < 2 {
        bail!(Failure::Usage(format!(
            "--objective {name}: a mismatched completion is another row's; give a --batch of at least 2"
        )));
    }
    Ok(objective)
}

/// A trainer of the model on the host.
fn trainer(arguments: &BenchStep, objective: Builtin, batches: &[Batch]) -> Result<Trainer<CausalPolicy>> {
    let threads = words::threads(arguments.threads);
    let mut model = model(arguments)?;
    let frozen = |model: &CausalLm| Ok(FrozenPolicy::new(model.frozen_copy(), threads));
    let reference = reference(arguments, &objective, batches, &model, frozen)?;
    let loaded = arguments.lora > 0 && put_adapter(&mut model, arguments)?;
    let policy = CausalPolicy::new(model, recompute(arguments), threads);
    Ok(Trainer::new(policy, reference, Box::new(objective), options(batches, loaded))?)
}

/// The same on a device, in `T`.
fn device_trainer<T: Element<Wide = f32>>(
    arguments: &BenchStep,
    objective: Builtin,
    batches: &[Batch],
    device: &Cuda,
) -> Result<Trainer<DevicePolicy<T>>> {
    let mut model = model(arguments)?;
    let frozen = |model: &CausalLm| {
        let copy = model.to_device::<T>(device, &mut Workspace::new(1).on(device))?;
        Ok(FrozenPolicy::new(copy, 1))
    };
    let reference = reference(arguments, &objective, batches, &model, frozen)?;
    let loaded = arguments.lora > 0 && put_adapter(&mut model, arguments)?;
    let policy = DevicePolicy::new(&model, device, recompute(arguments))?;
    Ok(Trainer::new(policy, reference, Box::new(objective), options(batches, loaded))?)
}

fn model(arguments: &BenchStep) -> Result<CausalLm> {
    let model = CausalLm::<f32>::load(&arguments.model)?;
    encoder(&arguments.model)?.check_vocabulary(model.config().vocab_size)?;
    Ok(model)
}

/// What the policy is compared with: a frozen copy of the model, the model without its adapter, or what it said before.
fn reference<P: Policy + 'static>(
    arguments: &BenchStep,
    objective: &Builtin,
    batches: &[Batch],
    model: &CausalLm,
    frozen: impl FnOnce(&CausalLm) -> Result<P>,
) -> Result<Reference> {
    let needs = objective.needs();
    if !needs.reference {
        return Ok(Reference::None);
    }
    if arguments.precompute {
        let path = arguments.model.join("precomputed");
        let mut table = PrecomputedReference::new(reference_digest(model), path);
        let mut frozen = frozen(model)?;
        batches.iter().try_for_each(|batch| table.add(&mut frozen, batch, &needs))?;
        return Ok(Reference::Precomputed(table));
    }
    if arguments.lora > 0 {
        return Ok(Reference::AdapterOff);
    }
    Ok(Reference::Frozen(Box::new(frozen(model)?)))
}

fn recompute(arguments: &BenchStep) -> Recompute {
    match arguments.recompute {
        BenchRecompute::Nothing => Recompute::Nothing,
        BenchRecompute::Layers => Recompute::Layers,
    }
}

fn options(batches: &[Batch], loaded: bool) -> TrainerOptions {
    TrainerOptions {
        optimizer: AdamWOptions { learning_rate: 1e-5, weight_decay: 0.0, ..AdamWOptions::default() }.into(),
        max_grad_norm: 1.0,
        total_steps: batches.len() as u64,
        // An adapter that was trained before has left the reference behind.
        starts_at_reference: !loaded,
        ..TrainerOptions::default()
    }
}

/// Puts the given or a fresh adapter over the model; whether it was given.
fn put_adapter(model: &mut CausalLm, arguments: &BenchStep) -> Result<bool> {
    if let Some(directory) = arguments.adapter.as_deref().filter(|directory| directory.exists()) {
        model.load_adapter(directory)?;
        if let Some((name, rank)) = ranks(model).find(|(_, rank)| *rank != arguments.lora) {
            bail!(Failure::Usage(format!(
                "--lora is {} and --adapter {} has rank {rank} ({name}); give --lora {rank}, or another directory",
                arguments.lora,
                directory.display()
            )));
        }
        return Ok(true);
    }
    let lora = LoraConfig { rank: arguments.lora, alpha: 2.0 * arguments.lora as f64, ..LoraConfig::default() };
    model.add_lora(&lora, 0)?;
    if let Some(directory) = &arguments.adapter {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        model.save_adapter(directory, &arguments.model.to_string_lossy())?;
    }
    Ok(false)
}

/// The rank of each low-rank pair: A is `[rank, in]`.
fn ranks(model: &CausalLm) -> impl Iterator<Item = (String, usize)> {
    model.adapter().into_iter().flat_map(|parameters| {
        (0..parameters.len())
            .filter(|i| parameters.name(*i).contains("lora_A"))
            .map(|i| (parameters.name(i).to_owned(), parameters.shape(i)[0]))
    })
}

fn encoder(directory: &Path) -> Result<Encoder> {
    let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, max_length: None, ..EncodeOptions::default() };
    Ok(Encoder::from_dir(directory, options)?)
}

/// One batch a step, rows in file order, from the start again when the file ends.
fn batches(arguments: &BenchStep, objective: &Builtin) -> Result<Vec<Batch>> {
    let needs = objective.needs();
    let encoder = encoder(&arguments.model)?;
    let Some(end) = encoder.eos_id() else {
        bail!(Failure::Model(format!("{}: the tokenizer names no end-of-sequence token", arguments.model.display())));
    };
    let need = arguments.steps.checked_add(arguments.warmup).and_then(|steps| steps.checked_mul(arguments.batch));
    let Some(need) = need.filter(|need| *need <= MOST_ROWS) else {
        bail!(Failure::Usage(format!(
            "--steps {} and --warmup {} of --batch {} need too many rows; at most {MOST_ROWS}",
            arguments.steps, arguments.warmup, arguments.batch
        )));
    };
    let texts = Texts { encoder: &encoder, end, max_length: arguments.max_length };
    let examples: Vec<Example> = if needs.rows.pairs {
        let rows = read::<Pair>(&arguments.data, need, "strings prompt, chosen and rejected")?;
        rows.iter().map(|(origin, row)| texts.pair(origin, row)).collect::<Result<_>>()?
    } else {
        let rows = read::<Labelled>(&arguments.data, need, "strings prompt and completion and a verdict label")?;
        rows.iter().map(|(origin, row)| texts.labelled(origin, row)).collect::<Result<_>>()?
    };
    let order: Vec<Example> = examples.iter().cycle().take(need).cloned().collect();
    let batch = |rows: &[Example]| {
        let mismatched = match needs.step_wide {
            StepWide::Mismatched => mismatched(rows, arguments.max_length),
            _ => Vec::new(),
        };
        Batch { examples: rows.to_vec(), mismatched }
    };
    Ok(order.chunks(arguments.batch).map(batch).collect())
}

/// Rows of a whole measurement; they are held in memory.
const MOST_ROWS: usize = 1_000_000;

/// At most `most` rows of the file; `what` names their fields for the message about one that is none.
fn read<T: DeserializeOwned>(path: &Path, most: usize, what: &str) -> Result<Vec<(Origin, T)>> {
    let place = path.display().to_string();
    let file = File::open(path)
        .map_err(|e| Failure::Data(format!("{place}: cannot open the data file: {e}; check the path")))?;
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate().take(most) {
        let line = line.with_context(|| format!("reading {place}"))?;
        let row = serde_json::from_str(&line)
            .map_err(|e| Failure::Data(format!("{place}:{}: not a row of {what}: {e}", number + 1)))?;
        rows.push((Origin::line(place.as_str().into(), number as u64 + 1), row));
    }
    if rows.is_empty() {
        bail!(Failure::Data(format!("{place}: no rows; expected one JSON object a line")));
    }
    Ok(rows)
}

/// From texts to token ids.
struct Texts<'a> {
    encoder: &'a Encoder,
    end: u32,
    max_length: usize,
}

impl Texts<'_> {
    fn pair(&self, origin: &Origin, row: &Pair) -> Result<Example> {
        let boundary = self.tokens(&row.prompt)?.len().min(self.max_length - 1);
        let (chosen, rejected) = (self.whole(&row.prompt, &row.chosen)?, self.whole(&row.prompt, &row.rejected)?);
        if boundary == 0 || chosen.len() <= boundary || rejected.len() <= boundary {
            bail!(Failure::Data(format!("{origin}: the prompt or a completion has no token")));
        }
        // Where a token lies across the boundary, the two sides share less than the prompt; the rest is there unscored.
        let shared = common(&chosen[..boundary], &rejected);
        let completion = |ids: &[u32]| Completion {
            ids: ids[shared..].to_vec(),
            scored: (shared..ids.len()).map(|position| position >= boundary).collect(),
            teacher: Vec::new(),
        };
        let context = Context {
            prompt: chosen[..shared].to_vec(),
            prompt_scored: vec![false; shared],
            completions: vec![completion(&chosen), completion(&rejected)],
        };
        Ok(Example::new(origin.clone(), vec![context], Annotation::Pair))
    }

    fn labelled(&self, origin: &Origin, row: &Labelled) -> Result<Example> {
        let whole = self.whole(&row.prompt, &row.completion)?;
        let boundary = common(&self.tokens(&row.prompt)?, &whole);
        if boundary == 0 || whole.len() <= boundary {
            bail!(Failure::Data(format!("{origin}: the prompt or the completion has no token")));
        }
        let context = scored_after(&whole[..boundary], &whole[boundary..]);
        Ok(Example::new(origin.clone(), vec![context], Annotation::Labelled { desirable: row.label }))
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoder.encode_prompt(&Text::Plain(text.to_owned()))?)
    }

    /// Prompt, answer and the end of the sequence, cut to the longest length.
    fn whole(&self, prompt: &str, answer: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokens(&format!("{prompt}{answer}"))?;
        if ids.last() != Some(&self.end) {
            ids.push(self.end);
        }
        ids.truncate(self.max_length);
        Ok(ids)
    }
}

/// The number of ids with which both begin.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

fn scored_after(prompt: &[u32], completion: &[u32]) -> Context {
    let scored = Completion { ids: completion.to_vec(), scored: vec![true; completion.len()], teacher: Vec::new() };
    Context { prompt: prompt.to_vec(), prompt_scored: vec![false; prompt.len()], completions: vec![scored] }
}

/// The prompt of each row with the completion of the row before it, cut to the longest length.
fn mismatched(rows: &[Example], max_length: usize) -> Vec<Context> {
    let before = rows.iter().cycle().skip(rows.len() - 1);
    rows.iter()
        .zip(before)
        .map(|(own, other)| {
            let (prompt, completion) = (&own.contexts[0].prompt, &other.contexts[0].completions[0].ids);
            scored_after(prompt, &completion[..completion.len().min(max_length - prompt.len())])
        })
        .collect()
}

/// The middle value; the mean of the two middle ones of an even number.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_statistics() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn every_prompt_meets_the_completion_of_the_row_before() {
        let row = |prompt: &[u32], completion: &[u32]| {
            let origin = Origin::line("rows".into(), 1);
            let context = scored_after(prompt, completion);
            Example::new(origin, vec![context], Annotation::Labelled { desirable: true })
        };
        let rows = [row(&[1], &[11, 12, 13]), row(&[2, 2], &[21]), row(&[3], &[31, 32])];
        let mixed = mismatched(&rows, 4);
        let ids: Vec<Vec<u32>> =
            mixed.iter().map(|context| [&context.prompt[..], &context.completions[0].ids].concat()).collect();
        assert_eq!(ids, [vec![1, 31, 32], vec![2, 2, 11, 12], vec![3, 21]], "the second is cut");
        assert!(mixed.iter().all(|context| context.completions[0].scored.iter().all(|scored| *scored)));
    }
}
