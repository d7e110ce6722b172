//! A position in the data that can be saved and returned to.

use serde::{Deserialize, Serialize};

use crate::place::Place;

/// Where the next step begins. Its first two fields alone are a whole position; the place makes going there fast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Passes finished.
    pub epoch: u64,
    /// Rows of the source drawn in this pass, rejected ones included; where pairs are unpaired, each half is a row.
    pub consumed: u64,
    /// Under [`BatchOptions::stratified`](crate::BatchOptions::stratified), for either label (undesirable, desirable) how many
    /// of the rows drawn last reach back to the oldest one that waits for its step; else 0, and then left out when written.
    #[serde(default, skip_serializing_if = "nothing_waits")]
    pub held: [u64; 2],
    /// Under [`BatchOptions::bucket`](crate::BatchOptions::bucket), how many steps were given of the window whose rows begin
    /// here; else 0, and then left out when written.
    #[serde(default, skip_serializing_if = "crate::pass::is_zero")]
    pub skip: u64,
    /// Where steps were given of a window: how many steps it has, and how many examples a step. They decide which step is
    /// which. Else 0, and then left out when written.
    #[serde(default, skip_serializing_if = "is_no_window")]
    pub bucket: [u64; 2],
    /// A snapshot of the pass shortly before; none at the start of an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

fn is_no_window(bucket: &[u64; 2]) -> bool {
    *bucket == [0; 2]
}

fn nothing_waits(held: &[u64; 2]) -> bool {
    *held == [0; 2]
}
