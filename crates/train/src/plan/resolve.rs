//! The parts of a plan from their words, and which of them suit each other.
use std::path::{Path, PathBuf};

use candlewick_losses::{Needs, Objective, Recipe};

use super::{
    EmbeddingPlan, ModelPlan, OutputPlan, REFERENCE, ReferencePlan, TuningPlan, UdmPlan, at_least_one, required,
};
use crate::budget::TokenBudget;
use crate::config::{ModelWords, OutputWords, POLICY, ReferenceKind, ResultKind, UdmWords};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::optimizer::OptimizerOptions;
use crate::schedule::Schedule;
use crate::score_policy::check_head_count;
use crate::trainer::moves_reference;
use crate::udm;

pub(super) fn resolve_model(model: ModelWords, needs: &Needs) -> Result<ModelPlan> {
    let path = required("model.path", "the directory of a Hugging Face model", model.path)?;
    let tuning = match (model.lora, model.adapter) {
        (Some(_), Some(_)) => {
            return Err(Error::config(
                "model.lora",
                "given beside model.adapter; a fresh adapter or one to go on with, not both",
            ));
        }
        (Some(lora), None) if lora.rank == 0 => return Err(Error::config("model.lora.rank", "0; expected at least 1")),
        (Some(lora), None) => TuningPlan::Lora(lora),
        (None, Some(adapter)) => TuningPlan::Adapter(adapter),
        (None, None) => TuningPlan::Full,
    };
    if let Some(heads) = &model.heads {
        check_heads(heads, needs)?;
    }
    Ok(ModelPlan { path, tuning, heads: model.heads })
}

fn check_heads(heads: &[String], needs: &Needs) -> Result<()> {
    let refuse = |reason: String| Err(Error::config("model.heads", reason));
    if !needs.outputs.values {
        return refuse("given, and the objective of [objective] trains no score heads; leave it out".into());
    }
    let is_odd = |(i, name): (usize, &String)| name.trim().is_empty() || heads[..i].contains(name);
    match heads.iter().enumerate().find(|entry| is_odd(*entry)) {
        Some((_, name)) => refuse(format!("it holds {name:?}; expected names that differ and are not empty")),
        None if heads.is_empty() => refuse("an empty list; name at least one head, or leave it out".into()),
        None => check_head_count(heads, needs),
    }
}

pub(super) fn resolve_reference(
    kind: Option<ReferenceKind>,
    path: Option<PathBuf>,
    tuning: &TuningPlan,
    dir: &Path,
) -> Result<ReferencePlan> {
    let default = if matches!(tuning, TuningPlan::Lora(_)) { ReferenceKind::AdapterOff } else { ReferenceKind::Frozen };
    Ok(match (kind.unwrap_or(default), path) {
        (ReferenceKind::Frozen, None) => ReferencePlan::Frozen,
        (ReferenceKind::Frozen, Some(path)) => ReferencePlan::Model(path),
        (ReferenceKind::AdapterOff, Some(_)) => {
            return Err(Error::config(
                "reference.path",
                "given, and reference.kind = \"adapter_off\" reads no file; leave it out",
            ));
        }
        (ReferenceKind::AdapterOff, None) if *tuning == TuningPlan::Full => {
            return Err(Error::config(
                "reference.kind",
                "\"adapter_off\", and there is no adapter; give model.lora or model.adapter",
            ));
        }
        (ReferenceKind::AdapterOff, None) => ReferencePlan::AdapterOff,
        (ReferenceKind::Adapter, path) => {
            if *tuning == TuningPlan::Full {
                return Err(Error::config(
                    "reference.kind",
                    "\"adapter\", and there is none to change places with; give model.lora or model.adapter",
                ));
            }
            ReferencePlan::Adapter(required("reference.path", "the directory of an adapter", path)?)
        }
        (ReferenceKind::Precomputed, path) => ReferencePlan::Precomputed(path.unwrap_or_else(|| dir.join(REFERENCE))),
    })
}

/// A reference that moves starts somewhere, and cannot be known beforehand.
pub(super) fn check_may_move(objective: &Recipe, reference: &ReferencePlan, tuning: &TuningPlan) -> Result<()> {
    if !moves_reference(objective) {
        return Ok(());
    }
    match (reference, tuning) {
        (ReferencePlan::Precomputed(_), _) => Err(Error::config(
            "reference.kind",
            "\"precomputed\", and the objective moves its reference: what was computed before is void after the first update; leave \
             it out, or set objective.update to \"frozen\"",
        )),
        (ReferencePlan::Model(_), TuningPlan::Lora(_) | TuningPlan::Adapter(_)) => Err(Error::config(
            "reference.path",
            "given, and the objective moves its reference, which is a second adapter on the base of the policy; leave it out, name that \
             adapter with reference.kind = \"adapter\", or train all weights",
        )),
        _ => Ok(()),
    }
}

/// Whether objective and adapter speak of the same preferences, and the reference is one at each of them.
pub(crate) fn check_preferences(
    objective: &Recipe,
    of_adapter: usize,
    tuning: &TuningPlan,
    reference: &ReferencePlan,
) -> Result<()> {
    let wanted = objective.needs().preferences;
    let place = if matches!(tuning, TuningPlan::Adapter(_)) { "model.adapter" } else { "model.lora.preferences" };
    if wanted > 0 && !matches!(objective, Recipe::Panacea(_)) {
        return Err(Error::config(
            "objective",
            format!("{} is made of a panacea, which must be the outermost: put it around the parts", objective.name()),
        ));
    }
    if wanted != of_adapter {
        let reason = match (wanted, of_adapter) {
            (0, count) => format!(
                "a Panacea adapter of {count} preferences, and the objective {} weighs none; give [objective] of type \"panacea\" with {count} \
                 parts, or a plain LoRA adapter",
                objective.name()
            ),
            (count, 0) => format!(
                "no Panacea adapter, and the objective panacea has {count} parts to be told of; give model.lora.preferences = {count}"
            ),
            (count, other) => {
                format!("{other}, and the objective panacea has {count} parts; give one preference a part")
            }
        };
        return Err(Error::config(place, reason));
    }
    match reference {
        ReferencePlan::Adapter(_) if wanted > 0 => Err(Error::config(
            "reference.kind",
            "\"adapter\", and a Panacea adapter is trained, whose place no other adapter takes; choose adapter_off or frozen",
        )),
        ReferencePlan::Precomputed(_) if wanted > 0 && matches!(tuning, TuningPlan::Adapter(_)) => Err(Error::config(
            "reference.kind",
            "\"precomputed\", and the Panacea adapter of model.adapter says something else at every preference; choose adapter_off or frozen",
        )),
        _ => Ok(()),
    }
}

/// No budget for 0, and none that depends on the memory of a device where there is no device.
pub(super) fn resolve_tokens(budget: TokenBudget, device: DeviceKind) -> Result<Option<TokenBudget>> {
    match budget {
        TokenBudget::Tokens(0) => Ok(None),
        TokenBudget::Auto if device.is_cpu() => Err(Error::config(
            "train.tokens",
            "\"auto\", and it is found by the free memory of a device; give train.device = \"cuda\", or a number of tokens (`wick train \
             --print-plan` tells how much memory a number takes)",
        )),
        budget => Ok(Some(budget)),
    }
}

/// Refuses what no device does, by the key that asks for it.
pub(super) fn check_device(
    objective: &Recipe,
    optimizer: &OptimizerOptions,
    tuning: &TuningPlan,
    udm: Option<&UdmPlan>,
) -> Result<()> {
    const ONLY: &str = "only \"adamw\", \"lion\", \"rmsprop\" and \"schedule_free_adamw\" have kernels there";
    let needs = objective.needs();
    let asks = [
        (needs.preferences > 0, "objective.type", "the adapter is told preferences"),
        (!optimizer.has_kernel(), "optimizer.kind", ONLY),
        (
            matches!(tuning, TuningPlan::Lora(lora) if lora.targets.iter().any(|target| target == "lm_head")),
            "model.lora.targets",
            "an adapter of lm_head",
        ),
        (
            udm.is_some_and(|udm| udm.file().is_none()),
            "udm.embeddings",
            "prompts are embedded by a policy on the cpu, or their embeddings come from a file",
        ),
    ];
    match asks.into_iter().find(|(asked, ..)| *asked) {
        None => Ok(()),
        Some((_, key, why)) => Err(Error::config(
            "train.device",
            format!(
                "a device is given, and {key} asks for what no device does: {why}; set train.device = \"cpu\", or change {key}"
            ),
        )),
    }
}

pub(super) fn resolve_output(
    words: OutputWords,
    dir: PathBuf,
    has_held_out: bool,
    tuning: &TuningPlan,
) -> Result<OutputPlan> {
    let OutputWords { save_every, save_minutes, keep, keep_best, result, background, .. } = words;
    if let Some(minutes) = save_minutes.filter(|minutes| !(*minutes > 0.0 && minutes.is_finite())) {
        return Err(Error::config("output.save_minutes", format!("{minutes}; expected a positive number")));
    }
    let of_best = [("output.keep_best", keep_best), ("output.result", result == ResultKind::Best)];
    if let (Some((key, _)), false) = (of_best.into_iter().find(|(_, asked)| *asked), has_held_out) {
        let reason = "the best checkpoint is asked for, and nothing is evaluated; give [evaluation], or leave it out";
        return Err(Error::config(key, reason));
    }
    let keep_best = keep_best || result == ResultKind::Best;
    let background = background.unwrap_or(*tuning != TuningPlan::Full);
    Ok(OutputPlan { dir, save_every, save_minutes, keep, keep_best, result, background })
}

pub(super) fn resolve_udm(words: UdmWords, needs: &Needs, seed: u64) -> Result<UdmPlan> {
    if !udm::is_read(needs) {
        return Err(Error::config(
            "udm",
            "the objective of [objective] reads no desirable_prompt; leave the section out, or choose bco with density_ratio",
        ));
    }
    let embeddings = match words.embeddings.as_str() {
        "" => return Err(Error::config("udm.embeddings", "missing; name a file, or \"policy\"")),
        POLICY => EmbeddingPlan::Policy,
        path => EmbeddingPlan::File(path.into()),
    };
    let size = at_least_one("udm.prompt_sample_size", words.prompt_sample_size as u64)? as usize;
    Ok(UdmPlan { embeddings, prompt_sample_size: size, seed: words.seed.unwrap_or(seed) })
}

/// Whether an optimizer suits the schedule and what is trained.
pub(super) fn check_optimizer(options: &OptimizerOptions, schedule: &Schedule, tuning: &TuningPlan) -> Result<()> {
    match options {
        OptimizerOptions::ScheduleFreeAdamW(_) if !schedule.is_constant() => Err(Error::config(
            "schedule.kind",
            "optimizer.kind = \"schedule_free_adamw\" averages in the place of a falling rate; choose constant, which may \
             have warmup_steps",
        )),
        OptimizerOptions::Muon(_) if *tuning != TuningPlan::Full => Err(Error::config(
            "optimizer.kind",
            "\"muon\" updates the matrices of layers, and with model.lora or model.adapter none is trained; choose adamw",
        )),
        _ => Ok(()),
    }
}

/// Whether two paths are of one directory.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
