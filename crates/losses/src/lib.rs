//! Preference-optimisation objectives as pure functions of token log-probabilities.
//!
//! A loss takes a typed window on [`Scores`] and returns [`LossTerms`]: one value an item,
//! and what it is divided by. It knows no model, no file and no trainer. The tensors are
//! candle's, and candle's autograd gives the gradient with respect to every token.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use candlewick_losses::{Context, Dpo, Objective, Scores, TokenScores};
//!
//! // Two rows: a chosen completion of two tokens and a rejected one.
//! let log_probs = Var::new(&[[-1.0f64, -2.0], [-1.5, -2.5]], &Device::Cpu)?;
//! let policy = TokenScores::unmasked(log_probs.as_tensor().clone())?;
//! let reference = policy.detach();
//! let scores = Scores::of_pairs(policy, Some(reference));
//!
//! let terms = Dpo::default().evaluate(&scores, &Context::default())?;
//! let loss = terms.loss(&scores.totals())?;
//! assert_eq!(loss.to_scalar::<f64>()?, 2f64.ln());
//!
//! let gradient = loss.backward()?.remove(&log_probs).expect("the loss depends on them");
//! assert_eq!(gradient.to_vec2::<f64>()?, [[-0.05, -0.05], [0.05, 0.05]]);
//! # Ok::<(), candlewick_losses::Error>(())
//! ```
//!
//! | to | see |
//! |---|---|
//! | use a loss | [`Builtin`], [`Recipe`], [`Mix`], [`Wpo`], [`Humanline`], [`TrustRegion`], [`Tchebycheff`], [`Panacea`], [`Ordered`], [`Objective`] |
//! | write a loss | [`Loss`]; the views [`Pair`], [`AnchoredPair`], [`AnchoredLabels`], [`Demonstrations`], [`DemonstrationMeans`], [`EditedPair`], [`Ranked`], [`AnchoredRanked`], [`Judged`], [`TaughtPair`], [`AdvisedPair`], and any of them [`With`] a number |
//! | weight undesirable rows by their prompts | [`udm`] |
//! | bring settings of TRL | [`trl`] |
//! | learn with a fast and a slow module | [`FastSlowDpo`] |
//! | learn from rewards of samples | [`policy_gradient`] |
//! | keep costs below a limit | [`dual`], [`SafeRlhfLagrangian`] |

mod builtin;
mod collective;
mod divergence;
pub mod dual;
mod error;
mod fast_slow;
mod groups;
mod humanline;
mod loss;
pub mod math;
mod min_norm;
mod mix;
mod numbers;
mod ordered;
mod panacea;
pub mod policy_gradient;
pub mod preference;
mod recipe;
mod reduction;
mod reference_update;
mod scores;
mod tchebycheff;
mod terms;
mod transport;
pub mod trl;
mod trust_region;
pub mod udm;
mod valued;
mod view;
mod wpo;

pub use builtin::*;
pub use collective::{Collective, Solo, gather};
pub use divergence::Divergence;
pub use error::{Error, Result};
pub use fast_slow::{FastSlowDpo, Role};
pub use groups::{
    Groups, JudgedRows, LabelledRow, MismatchedScores, PairRows, RankedRows, Scores, TeacherScores, Totals,
};
pub use humanline::Humanline;
pub use loss::{Context, Loss, Objective, Phase, StepScores};
pub use min_norm::min_norm_weights;
pub use mix::{Mix, Part};
pub use numbers::{
    Annotator, CostGap, Margin, Number, Numbers, Origin, PerItem, Preference, RewardGap, SafeChosen, SafeRejected,
    Safer, Score, Similarity, Strength, Uncertainty, With,
};
pub use ordered::{Ordered, OrderedBy};
pub use panacea::{Panacea, PanaceaAggregate};
pub use recipe::Recipe;
pub use reduction::Reduction;
pub use reference_update::{Bema, ReferenceUpdate};
pub use scores::{Outputs, TokenScores};
pub use tchebycheff::Tchebycheff;
pub use terms::{LossTerms, Metric, Normaliser, Rewards, Term};
pub use trust_region::TrustRegion;
pub use valued::{PooledPair, ValuedDemonstrations, ValuedLabels, ValuedPair};
pub use view::{
    AdvisedPair, AnchoredLabels, AnchoredPair, AnchoredRanked, Comparisons, DemonstrationMeans, Demonstrations,
    EditedPair, Judged, Needs, Pair, Ranked, RankedValues, Rows, Scored, Sides, StepWide, TaughtPair, TaughtSide,
    Teacher, View,
};
pub use wpo::Wpo;
