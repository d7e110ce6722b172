//! The preference-optimisation trainer: from words to a plan, from a plan to steps, from steps to checkpoints.
//!
//! A step reads as one line: pack → forward → group → prepare → evaluate → divide by the totals of the whole step →
//! cotangents → backward → clip → optimizer → report. Its caller drives it: there is no hidden loop or clock, no thread but
//! the one that writes a checkpoint where a plan's `output.background` says so and those that draw answers at once, and nothing
//! is printed.
//!
//! | to | see |
//! |---|---|
//! | run a configuration from end to end | [`Words`] → [`Config`] → [`Plan`] → [`Run`] |
//! | step on batches of your own | [`Trainer`], [`CausalPolicy`] or [`ScorePolicy`], [`Reference`] |
//! | train something that is not a [`CausalLm`](candlewick_model::CausalLm) | [`Policy`], [`Trainable`] |
//! | have the reference score rows before any run | [`Precomputation`] |
//! | know beforehand how much memory a run takes | [`MemoryPlan`] |
//! | train a fast and a slow adapter against each other | [`FastSlow`] |
//! | draw answers of a model, or score rows by a score model | [`Answers`], [`RowScorer`] |
//! | keep and find checkpoints | [`Trainer::save`], [`Checkpoint`] |

mod answers;
mod budget;
mod checkpoint;
mod combine;
mod config;
mod costs;
mod data_plan;
mod data_words;
mod device;
mod device_policy;
mod device_score_policy;
mod error;
mod fast_slow;
mod fingerprint;
mod held_out;
mod held_out_log;
mod kinds;
mod leaves;
mod log;
mod masters;
mod memory_plan;
mod metrics;
mod model_policy;
mod nearest;
mod optimizer;
mod pack;
mod peers;
mod plan;
mod policy;
mod precompute;
mod reference;
mod row_scorer;
mod rows;
mod run;
mod safety;
mod schedule;
mod score;
mod score_policy;
mod snapshot;
mod start;
mod tally;
mod tensor_file;
mod tensor_flags;
mod trainer;
mod udm;
mod watch;

pub use answers::{Answer, Answers, Prompt, stops};
pub use budget::TokenBudget;
pub use checkpoint::{Checkpoint, FORMAT_VERSION, FileRecord, Found, State, copy_into, replace_file, write_directory};
pub use combine::{Combination, combine_adapters};
pub use config::{
    Config, ModelWords, OptimizerKind, OptimizerWords, OrderKind, OutputWords, ReferenceKind, ReferenceWords,
    ResultKind, ScheduleKind, ScheduleWords, TrainWords, UdmWords, Words,
};
pub use costs::{CostFigures, CostReport};
pub use data_plan::{DataPlan, PartPlan};
pub use data_words::{DataWords, EvaluationWords, PartWords};
pub use device::{DeviceKind, Dtype, Hardware, PlacedLm};
pub use device_policy::DevicePolicy;
pub use device_score_policy::DeviceScorePolicy;
pub use error::{Error, Fault, Result};
pub use fast_slow::{FastSlow, FastSlowOptions, FastSlowReport, ModuleReport};
pub use held_out::{EvaluationPlan, HeldOut};
pub use held_out_log::{HeldOutCompletion, HeldOutLog, HeldOutRow, HeldOutScores};
pub use memory_plan::{Basis, DeviceMemory, MemoryPlan, TokenChoice};
pub use metrics::{Mean, Metrics};
pub use model_policy::{ModelPolicy, ModelSaved};
pub use optimizer::{
    AdafactorOptions, AdamW8bitOptions, AdamWOptions, AdjustLr, LionOptions, MuonOptions, OptimizerOptions,
    RmsPropOptions, ScheduleFreeAdamWOptions,
};
pub use plan::{EmbeddingPlan, Length, ModelPlan, OutputPlan, Plan, ReferencePlan, TrainPlan, TuningPlan, UdmPlan};
pub use policy::{CausalPolicy, Copied, Cotangents, FrozenPolicy, Policy, Queued, Trainable, Tuning, weights_digest};
pub use precompute::Precomputation;
pub use reference::{AdapterReference, MovingReference, PrecomputedReference, Reference, reference_digest};
pub use row_scorer::{RowScorer, RowValues};
pub use run::{Event, Place, Run, Skipped, Summary, checkpoints, tokenizer_files};
pub use safety::{CostPlan, CostWords, HeadWords, Places, SafetyPlan, SafetyWords};
pub use schedule::{Greedy, Plateau, Ramp, Schedule, ThresholdMode};
pub use score::{CompletionScore, score_completions};
pub use score_policy::{DEFAULT_HEAD, ScorePolicy};
pub use snapshot::Snapshot;
pub use tensor_file::{Element, Plain};
pub use trainer::{EvalReport, ExampleSketch, ScoredBatch, StepReport, Trainer, TrainerOptions};
pub use watch::{Alarm, Best, Goal, Stop, WatchPlan, WatchWords, Watched};
