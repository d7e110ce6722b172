//! Everything that a run needs, loaded and put together.
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candlewick_data::{Encoder, Source};
use candlewick_losses::{Objective, Outputs};
use candlewick_model::CausalLm;

use super::bookmark::{deciding_files, files_of_costs, files_of_weights};
use super::{METRICS, Place, Precompute, REJECTED, Run, tokenizer_files};
use crate::checkpoint::Checkpoint;
use crate::costs::Costs;
use crate::device::{Dtype, Hardware};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::held_out_log::HeldOutWriter;
use crate::log::{MetricsLog, RejectedLog};
use crate::model_policy::ModelPolicy;
use crate::plan::{Plan, REFERENCE_FILE, ReferencePlan, TuningPlan, check_preferences};
use crate::policy::CausalPolicy;
use crate::reference::{AdapterReference, IN_BF16, MovingReference, PrecomputedReference, Reference, reference_digest};
use crate::rows;
use crate::score_policy::{ScorePolicy, score_heads};
use crate::trainer::{Trainer, TrainerOptions, moves_reference};
use crate::udm::{self, Fit, Udm};

impl Run {
    /// Puts everything together; `fit` is the classifier of prompts of a run that goes on after so many steps.
    pub(super) fn build(plan: Plan, hardware: &Hardware, fit: Option<Fit>, step: u64) -> Result<Self> {
        hardware.check(&plan.train)?;
        let encoder = Arc::new(Encoder::from_dir(&plan.model.path, plan.encode_options())?);
        let needs = plan.objective.needs();
        let heads = score_heads(&plan)?;
        // What is wrong with the rows shows before a large model is loaded.
        let (source, held_out_source) = plan.open_for_run()?;
        let data = Fingerprint::of_all(&source.paths())?;
        let held_out_data = held_out_source.as_ref().map(|rows| Fingerprint::of_all(&rows.paths())).transpose()?;
        let model_files = deciding_files(&plan.model.path)?;
        let reference_files = plan.reference.directory().map(files_of_weights).transpose()?;
        let costs = Costs::of_plan(&plan)?;
        let cost_files = plan.safety.as_ref().map(files_of_costs).transpose()?;
        let mut batches = rows::training_batches(&plan, &source, &encoder, &needs)?;
        batches.hold_rejections();
        rows::check_first(&plan, &source, &encoder, &needs)?;
        let total_steps = rows::total_steps(&plan, &source, &encoder, &needs)?;
        let rows = Rows { source: &source, held_out: held_out_source.as_ref(), encoder: &encoder, total_steps };
        let Parts { policy, reference, udm, precompute } = match heads {
            Some(_) => Parts::of_scores(&plan, hardware, &encoder)?,
            None => Parts::causal(&plan, hardware, &rows, fit, step)?,
        };
        let companions = tokenizer_files(&plan.model.path);
        if let Some(held_out) = &held_out_source {
            let table = match &reference {
                Reference::Precomputed(table) if precompute.is_none() => Some(table),
                _ => None,
            };
            rows::check_evaluation(&plan, held_out, &encoder, &needs, table, udm.as_ref())?;
        }
        let options = TrainerOptions {
            optimizer: plan.optimizer,
            lora_plus_ratio: plan.lora_plus_ratio,
            max_grad_norm: plan.max_grad_norm,
            schedule: plan.schedule,
            total_steps,
            starts_at_reference: match &policy {
                ModelPolicy::Causal(_) | ModelPolicy::Bf16(_) | ModelPolicy::F32(_) => plan.starts_at_reference(),
                // Fresh heads say 0 of every text, and no margin is another than 0.
                ModelPolicy::Score(policy) => policy.starts_at_zero(),
                ModelPolicy::ScoreBf16(policy) => policy.starts_at_zero()?,
                ModelPolicy::ScoreF32(policy) => policy.starts_at_zero()?,
            },
            monitor: match &policy {
                ModelPolicy::Score(_) | ModelPolicy::ScoreBf16(_) | ModelPolicy::ScoreF32(_) => Outputs::NONE,
                _ => Outputs { entropy: true, is_top1: true, ..Outputs::NONE },
            },
            seed: plan.train.seed,
        };
        let trainer = Trainer::new(policy, reference, Box::new(plan.objective.clone()), options)?;
        let log = MetricsLog::new(plan.output.dir.join(METRICS));
        let rejected = RejectedLog::new(plan.output.dir.join(REJECTED));
        let held_out_log = HeldOutWriter::new(&plan.output.dir);
        let place = Place::default();
        Ok(Self {
            plan,
            encoder,
            source,
            held_out_source,
            batches,
            trainer,
            precompute,
            log,
            rejected,
            held_out_log,
            data,
            held_out_data,
            model_files,
            reference_files,
            cost_files,
            total_steps,
            place,
            saved: None,
            writing: None,
            held: None,
            time: None,
            saved_at: Duration::ZERO,
            alarms: VecDeque::new(),
            result_written: false,
            metric_is_checked: false,
            held_out: None,
            finished: false,
            companions,
            udm,
            costs,
            interrupt: Arc::default(),
        })
    }
}

/// The rows of a run, as far as its models depend on them.
struct Rows<'a> {
    source: &'a Source,
    held_out: Option<&'a Source>,
    encoder: &'a Arc<Encoder>,
    total_steps: u64,
}

/// What of a run has weights, and what is to be scored by them before the first step.
struct Parts {
    policy: ModelPolicy,
    reference: Reference<f32>,
    udm: Option<Udm>,
    precompute: Option<Precompute>,
}

impl Parts {
    /// A score model, which is compared with nothing.
    fn of_scores(plan: &Plan, hardware: &Hardware, encoder: &Encoder) -> Result<Self> {
        if plan.udm.is_some() {
            let reason = "given, and the objective trains score heads: prompts are told apart by a causal language model; leave it out";
            return Err(Error::config("udm", reason));
        }
        let policy = ScorePolicy::of_plan(plan, plan.train.threads.max(1))?;
        encoder.check_vocabulary(policy.model().config().vocab_size)?;
        let policy = hardware.score_policy(policy, &plan.train)?;
        Ok(Self { policy, reference: Reference::None, udm: None, precompute: None })
    }

    /// A causal language model, and what its objective compares it with.
    fn causal(plan: &Plan, hardware: &Hardware, rows: &Rows<'_>, fit: Option<Fit>, step: u64) -> Result<Self> {
        let Rows { source, held_out, encoder, total_steps } = *rows;
        let needs = plan.objective.needs();
        let mut model = CausalLm::<f32>::load(&plan.model.path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        let threads = plan.train.threads.max(1);
        // The digest a table of reference log-probabilities belongs to; a fresh adapter changes no output.
        let mut digest = String::new();
        match &plan.model.tuning {
            TuningPlan::Full => {}
            TuningPlan::Lora(lora) => {
                digest = reference_digest(&model);
                model.add_lora(lora, plan.train.seed)?;
            }
            TuningPlan::Adapter(directory) => model.load_adapter(directory)?,
        }
        check_preferences(&plan.objective, model.preference().len(), &plan.model.tuning, &plan.reference)?;
        if digest.is_empty() && matches!(plan.reference, ReferencePlan::Precomputed(_)) {
            digest = reference_digest(&model);
        }
        // What bf16 says is another number than what f32 says.
        if plan.train.dtype == Dtype::Bf16 {
            digest.push_str(IN_BF16);
        }
        let udm = match &plan.udm {
            None => None,
            Some(words) => {
                let rows = udm::Rows { source: source.clone(), encoder, file: &plan.data.parts[0].path };
                let udm = Udm::new(words, &rows, fit, &model, threads)?;
                rows::check_embeddings(source, encoder, &udm)?;
                Some(udm)
            }
        };
        if let ReferencePlan::Model(directory) | ReferencePlan::Adapter(directory) = &plan.reference {
            Checkpoint::check_if_one(directory)?;
        }
        let mut precompute = None;
        let moves = moves_reference(&plan.objective);
        let policy =
            CausalPolicy::new(model, plan.train.recompute, threads).with_base_name(plan.model.path.to_string_lossy());
        let reference = match &plan.reference {
            ReferencePlan::None => Reference::None,
            ReferencePlan::Frozen if moves => Reference::Moving(MovingReference::of(&policy)?),
            ReferencePlan::AdapterOff if moves => Reference::Moving(MovingReference::of_base(&policy)?),
            ReferencePlan::Model(directory) if moves => {
                let other = CausalLm::<f32>::load(directory)?;
                check_same_tokens(&plan.model.path, directory)?;
                if let Some(name) = other.config().computes_otherwise(policy.model().config()) {
                    let reason = format!(
                        "{}: its {name} is another one than that of the policy, whose place the reference takes to be scored; name a model \
                         of the same configuration",
                        directory.display()
                    );
                    return Err(Error::config("reference.path", reason));
                }
                Reference::Moving(MovingReference::from_parameters(&policy, other.into_parameters())?)
            }
            ReferencePlan::Adapter(directory) if moves => {
                let adapter = AdapterReference::load(&policy, directory)?;
                Reference::Moving(MovingReference::from_parameters(&policy, adapter.into_parameters())?)
            }
            ReferencePlan::Adapter(directory) => Reference::Adapter(AdapterReference::load(&policy, directory)?),
            // Of an adapter the base stands still, and one is enough.
            ReferencePlan::Frozen if policy.model().has_adapter() => Reference::Adapter(AdapterReference::of(&policy)?),
            ReferencePlan::Frozen => Reference::Frozen(hardware.frozen_copy(policy.model(), &plan.train)?),
            ReferencePlan::Model(directory) => {
                let other = CausalLm::<f32>::load(directory)?;
                encoder.check_vocabulary(other.config().vocab_size)?;
                check_same_tokens(&plan.model.path, directory)?;
                Reference::Frozen(hardware.frozen(other, &plan.train)?)
            }
            ReferencePlan::AdapterOff => Reference::AdapterOff,
            ReferencePlan::Precomputed(path) => {
                let table =
                    PrecomputedReference::open(&place_of_reference(path, step), &digest, plan.shares_reference)?;
                // Of a run that has begun, what is missing is an error: its policy is no longer the reference.
                if table.is_empty()
                    || (step == 0 && !rows::are_known(plan, source, held_out, encoder, total_steps, &table)?)
                {
                    if table.is_file() && step == 0 {
                        let reason = "it lacks rows of this run, and a file of format version 1 is not added to; remove it, and leave \
                                      reference.path out or name a directory"
                            .to_owned();
                        return Err(Error::Reference { path: path.clone(), reason });
                    }
                    let evaluation =
                        held_out.map(|rows| rows::evaluation_batches(plan, Some(rows), encoder, &needs)).transpose()?;
                    let batches = rows::training_batches(plan, source, encoder, &needs)?;
                    precompute = Some(Precompute { batches, steps: 0, evaluation, left: None });
                }
                Reference::Precomputed(table)
            }
        };
        let reference = match reference {
            Reference::Adapter(adapter) => Reference::Adapter(hardware.adapter(adapter)?),
            Reference::Moving(moving) => Reference::Moving(hardware.moving(moving)?),
            reference => reference,
        };
        let base = policy.base_name().to_owned();
        let policy = hardware.policy(policy.into_model(), &plan.train, &base)?;
        Ok(Self { policy, reference, udm, precompute })
    }
}

/// Whether the tokenizer that lies beside a reference, if there is one, gives tokens the ids that the policy's gives them.
fn check_same_tokens(policy: &Path, reference: &Path) -> Result<()> {
    let texts = [policy, reference].map(|directory| std::fs::read(directory.join("tokenizer.json")));
    let [Ok(ours), Ok(theirs)] = texts else { return Ok(()) };
    let ids = |text: &[u8]| -> Option<(serde_json::Value, BTreeMap<u64, String>)> {
        let mut tokenizer: serde_json::Value = serde_json::from_slice(text).ok()?;
        let added = tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let added = added.filter_map(|token| Some((token["id"].as_u64()?, token["content"].as_str()?.to_owned())));
        let added = added.collect();
        Some((tokenizer["model"]["vocab"].take(), added))
    };
    if ours == theirs || ids(&ours) == ids(&theirs) {
        return Ok(());
    }
    let reason = format!(
        "{}: its tokenizer gives tokens other ids than that of {}, so that it would score other texts; name a model of the same tokenizer",
        reference.display(),
        policy.display()
    );
    Err(Error::config("reference.path", reason))
}

/// Where a run's reference log-probabilities lie: of one that began under an earlier version perhaps in a file beside.
fn place_of_reference(path: &Path, step: u64) -> PathBuf {
    let file = path.with_file_name(REFERENCE_FILE);
    if step > 0 && !path.exists() && file.is_file() { file } else { path.to_owned() }
}
