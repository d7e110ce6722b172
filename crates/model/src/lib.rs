//! Decoder-only language models whose backward pass is written out, layer by layer.
//!
//! The model knows contexts and their completions, and returns the log-probability of each scored token. What a score
//! means is somebody else's business: nothing here knows which completion a person liked.
//!
//! The flow of one step:
//!
//! ```text
//! ContextIds ─► Packed (ids, positions, segments, targets)
//!   CausalLm::forward ─► HeadScores + Saved        CausalLm::score ─► HeadScores, nothing kept
//!   HeadCotangents ─► CausalLm::backward ─► Gradients (flat, laid out as the trainable Parameters)
//!                     CausalLm::backward_with_sketches ─► Gradients + Sketches, one of each context's gradient
//!   ScoreModel::forward ─► numbers of each completion or token ─► ScoreModel::backward
//! ```
//!
//! Weights come from and go to Hugging Face directories (`config.json` and safetensors, sharded or not); adapters are
//! PEFT's (`adapter_config.json` and `adapter_model.safetensors`). [`merge`] makes models and adapters of others.
//!
//! ```
//! use candlewick_model::{CausalLm, CompletionIds, Config, ContextIds, Packed, Statistics};
//! # use candlewick_kernels::Workspace;
//! # fn main() -> candlewick_model::Result<()> {
//! let config = Config::llama(32, 16, 2); // vocabulary, hidden size, layers
//! let model = CausalLm::<f32>::random(config, 7)?;
//! let packed = Packed::new(&[ContextIds {
//!     prompt: &[1, 5, 9],
//!     prompt_scored: &[],
//!     completions: vec![CompletionIds::all_scored(&[4, 2]), CompletionIds::all_scored(&[8, 8, 2])],
//! }])?;
//! assert_eq!(packed.tokens(), 3 + 2 + 3); // the prompt is there once
//! let mut workspace = Workspace::new(1);
//! let scores = model.score(&packed, Statistics::default(), candlewick_model::Adapter::On, &mut workspace)?;
//! assert_eq!(scores.log_probs.len(), 5);
//! # Ok(()) }
//! ```
mod adapter;
mod causal_lm;
mod config;
mod decode;
mod error;
mod head;
mod heads;
mod layer;
mod layout;
mod linear;
mod memory;
pub mod merge;
mod packed;
mod panacea;
mod parameters;
mod rope;
mod score_head;
mod score_model;
mod sketch;
mod staged;
mod trained;
mod trunk;
mod weights;

pub use adapter::{AdapterWeights, LoraConfig};
pub use causal_lm::{CausalLm, HeadCotangents, HeadScores, Saved, Statistics};
pub use config::{Config, RopeScaling};
pub use decode::{Generation, Sampling};
pub use error::{Error, Result};
pub use head::QueuedScores;
pub use heads::Normaliser;
pub use memory::{BatchSize, ModelSize, Part, Pool};
pub use packed::{CompletionIds, ContextIds, Packed, Target};
pub use parameters::{Gradients, Parameters};
pub use score_head::ScoredAt;
pub use score_model::{ScoreModel, ScoreSaved};
pub use sketch::{Sketch, Sketches};
pub use trained::Trained;
pub use trunk::{Adapter, Recompute};
