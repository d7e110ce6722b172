//! What is done to rows as wholes, before any token is made: which are left out, on which side of a split they stand, and
//! how a row of one kind becomes rows of another.
//!
//! Everything here is a function of records and their order alone: no thread, no clock, no random source without a seed.

mod asked;
mod balance;
mod content;
mod control;
mod exact;
mod joined;
mod near;
mod pair_up;
mod pairing;
mod places;
mod prompts;
pub(crate) mod safety;
mod scores_in_context;
mod selection;
mod shingles;
mod unpair;

pub use balance::{Balance, LabelCounts, label_weights};
pub use content::prompt_hash;
pub use control::{Aspect, Control, Level};
pub use pair_up::{PairBy, PairUp, pair_up};
pub use pairing::{Pairing, RankedPairs, ranked_pairs};
pub use prompts::{PromptRange, prompt_place};
pub use safety::{SafetyCounts, SafetyOrder, order_by_safety};
pub use scores_in_context::{
    DesiredScores, ScoreMeter, ScoreScale, ask_for_scores, score_columns, score_words, scores_in_context,
};
pub use selection::{Contradiction, Deduplicate, LeftOut, Selection, SelectionOptions, Selector};
pub use unpair::{Threshold, unpair, unpair_ranked};
