//! Multipliers of constraints: how many costs are worth a reward.
//!
//! The problem is "the highest `E[r] − β·KL(π ‖ π_ref)` with `E[c_k] ≤ d_k` for every cost `c_k`". For fixed
//! multipliers `λ` its answer is `π_λ ∝ π_ref·exp((r − Σ_k λ_k·c_k)/β)`, and the right multipliers minimise the convex
//! dual function `g(λ) = β·E_x[log E_{y∼π_ref} exp((r − λ·c)/β)] + λ·d`, whose slope is `d − E_{π_λ}[c]` and whose
//! curvature is `Cov_{π_λ}(c)/β`. There are two ways to them:
//!
//! | to | see |
//! |---|---|
//! | solve for them once, over a table of scored completions | [`ScoreTable::solve`] |
//! | follow the costs of the policy while it is trained | [`DualVariable`], [`Duals`] |
//! | choose the limit `d` for a rate of unsafe completions | [`threshold_for_target_rate`] |
//! | mix rewards and costs, however large a multiplier is | [`Weights`] |
//!
//! Everything here is a number on the host in double precision. Nothing of it depends on a policy, a file or a trainer.

mod ascent;
mod newton;
mod several;
mod solve;
mod table;
mod threshold;
mod variable;
mod weights;
mod window;

pub use ascent::Ascent;
pub use several::{Duals, Observed, scalar_name};
pub use solve::{Infeasible, Optimum, Solution};
pub use table::{CostMeasure, Moments, PromptScores, ScoreTable, SmallSample};
pub use threshold::{TargetThreshold, threshold_for_target_rate};
pub use variable::{Constraint, DualSettings, DualVariable, Order, Readings};
pub use weights::Weights;
pub use window::Window;
