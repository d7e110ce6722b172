//! Statistics as they are shown and written; the keys are stable.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Histogram, LengthSummary, NumberSummary, Stats, VoteSummary};
use crate::error::Reason;
use crate::form::Form;
use crate::report::Counts;
use crate::shape::SafetyCounts;

/// What [`Stats`] gathered. Serialized, every field is a key of the JSON object; what the rows have none of is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Where the rows came from.
    pub sources: Vec<SourceSummary>,
    /// What became of them.
    pub rows: RowCounts,
    /// Rows kept, by what they are.
    pub kinds: BTreeMap<RowKind, u64>,
    /// Rows kept whose texts are conversations.
    pub conversational: u64,
    /// Rows kept that bring tools.
    pub with_tools: u64,
    /// Lengths in characters; of a conversation those of its messages' contents.
    pub characters: BTreeMap<RowPart, LengthSummary>,
    /// Lengths in tokens and what tokenization did; only with an encoder.
    pub tokens: Option<TokenSummary>,
    /// Verdicts of labelled rows.
    pub labels: Option<LabelBalance>,
    /// Verdicts of judged rows.
    pub judgments: Option<LabelBalance>,
    /// Pairs with an even verdict.
    pub ties: Option<TieShare>,
    /// What flags of safety say, of rows that were dropped too.
    pub safety: Option<SafetySummary>,
    /// What computing each prompt once saves.
    pub prompts: SharedPrompts,
    /// Rows that are there twice.
    pub duplicates: Duplicates,
    /// Whether the chosen completions are the longer ones.
    pub length_bias: Option<LengthBias>,
    /// Votes of several annotators, and how far they agree.
    pub votes: Option<VoteSummary>,
    /// Columns of numbers by name; at most the first 1,000.
    pub numbers: BTreeMap<String, NumberSummary>,
}

/// A source of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceSummary {
    /// The file as it was named.
    pub name: String,
    /// The form its rows were read in.
    pub form: Form,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// Rows read: those kept and those dropped.
    pub read: u64,
    /// Rows that can be used; all other figures are about these.
    pub kept: u64,
    /// Rows that were set aside.
    pub dropped: u64,
    /// The same by reason.
    pub reasons: BTreeMap<Reason, u64>,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Two completions, one preferred.
    Pair,
    /// A completion with a verdict.
    Labelled,
    /// A completion to imitate.
    Demonstration,
    /// Completions with ratings.
    Ranked,
    /// A completion with a judgment in words.
    Judged,
}

/// A part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowPart {
    /// The prompt.
    Prompt,
    /// The preferred completion of a pair.
    Chosen,
    /// The other one.
    Rejected,
    /// A completion of other rows.
    Completion,
    /// A prompt with one of its completions: what a length limit is about.
    Total,
}

/// What lengths are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Characters, where there is no encoder.
    Characters,
    /// Tokens.
    Tokens,
}

/// Rows in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenSummary {
    /// Lengths after truncation.
    pub lengths: BTreeMap<RowPart, LengthSummary>,
    /// What tokenization did.
    #[serde(serialize_with = "counts")]
    pub counts: Counts,
}

/// How often each verdict was given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelBalance {
    /// Wanted, or judged well.
    pub desirable: u64,
    /// Not wanted, or judged badly.
    pub undesirable: u64,
    /// Share of the former.
    pub desirable_share: f64,
}

/// Pairs with an even verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TieShare {
    /// Pairs kept whose `preference` is 0.5 or whose votes are even.
    pub kept: u64,
    /// Rows dropped as ties.
    pub dropped: u64,
    /// Both, as a share of the pairs kept and the rows dropped as ties.
    pub share: f64,
}

/// What flags of safety say, before any row is dropped for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SafetySummary {
    /// How many of each.
    #[serde(flatten)]
    pub counts: SafetyCounts,
    /// Pairs of two safe completions, as a share of the pairs with flags.
    pub both_safe_share: f64,
    /// Pairs of a safe and an unsafe one.
    pub mixed_share: f64,
    /// Pairs of two unsafe ones.
    pub both_unsafe_share: f64,
    /// The only class that the flags are of: true for safe. Nothing tells safe from unsafe then.
    pub one_class: Option<bool>,
}

/// What computing each prompt once saves. The whole is every prompt computed again for each of its completions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SharedPrompts {
    /// Different prompts, with the tools and the arguments of the template.
    pub distinct: u64,
    /// What the figures below count.
    pub unit: LengthUnit,
    /// Prompts and completions, each prompt counted once for each of its completions.
    pub total: u64,
    /// Saved by computing the prompt once for all completions of a row.
    pub saved_within_rows: u64,
    /// Saved beyond that by computing the prompt once for all rows that share it.
    pub saved_across_rows: u64,
    /// The first as a share of the total.
    pub share_within_rows: f64,
    /// The second as a share of the total.
    pub share_across_rows: f64,
}

/// Rows that are there twice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Duplicates {
    /// Rows equal to an earlier one in all texts and verdicts.
    pub rows: u64,
    /// As a share of the rows kept.
    pub share: f64,
    /// Rows that say the opposite of an earlier one: the same pair the other way round, the same completion with the other
    /// label.
    pub contradictions: u64,
    /// As a share of the rows kept.
    pub contradiction_share: f64,
}

/// Whether the chosen completions are the longer ones: a model may learn length instead of quality.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthBias {
    /// What lengths are counted in.
    pub unit: LengthUnit,
    /// Pairs whose chosen completion is longer.
    pub chosen_longer: u64,
    /// Pairs whose rejected completion is longer.
    pub rejected_longer: u64,
    /// Pairs of one length.
    pub equal: u64,
    /// The first as a share of all pairs.
    pub chosen_longer_share: f64,
    /// Mean length of chosen less mean length of rejected.
    pub mean_difference: f64,
}

impl Serialize for Stats {
    /// As its [`Summary`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.summary().serialize(serializer)
    }
}

fn counts<S: Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
    let Counts { sequences, truncated, straddles, doubled_bos, added_bos, added_eos, tokens, scored_tokens, .. } =
        *counts;
    BTreeMap::from([
        ("sequences", sequences),
        ("truncated", truncated),
        ("straddles", straddles),
        ("doubled_bos", doubled_bos),
        ("added_bos", added_bos),
        ("added_eos", added_eos),
        ("tokens", tokens),
        ("scored_tokens", scored_tokens),
    ])
    .serialize(serializer)
}

pub(super) fn of(stats: &Stats) -> Summary {
    let dropped = stats.reasons.values().sum();
    let unit = if stats.counts.is_some() { LengthUnit::Tokens } else { LengthUnit::Characters };
    let pairs = stats.kinds.get(&RowKind::Pair).copied().unwrap_or(0);
    Summary {
        sources: stats.sources.clone(),
        rows: RowCounts { read: stats.kept + dropped, kept: stats.kept, dropped, reasons: stats.reasons.clone() },
        kinds: stats.kinds.clone(),
        conversational: stats.conversational,
        with_tools: stats.with_tools,
        characters: lengths(&stats.characters),
        tokens: stats.counts.map(|counts| TokenSummary { lengths: lengths(&stats.tokens), counts }),
        labels: balance(stats.labels),
        judgments: balance(stats.judgments),
        ties: ties(stats, pairs),
        safety: safety(&stats.safety),
        prompts: prompts(stats, unit),
        duplicates: Duplicates {
            rows: stats.seen.duplicates,
            share: share(stats.seen.duplicates, stats.kept),
            contradictions: stats.seen.contradictions,
            contradiction_share: share(stats.seen.contradictions, stats.kept),
        },
        length_bias: (pairs > 0).then(|| LengthBias {
            unit,
            chosen_longer: stats.bias.chosen_longer,
            rejected_longer: stats.bias.rejected_longer,
            equal: stats.bias.equal,
            chosen_longer_share: share(stats.bias.chosen_longer, pairs),
            mean_difference: stats.bias.difference as f64 / pairs as f64,
        }),
        votes: stats.votes.summary(),
        numbers: stats.numbers.iter().map(|(name, numbers)| (name.clone(), numbers.summary())).collect(),
    }
}

fn lengths(histograms: &BTreeMap<RowPart, Histogram>) -> BTreeMap<RowPart, LengthSummary> {
    histograms.iter().filter_map(|(part, histogram)| Some((*part, histogram.summary()?))).collect()
}

fn balance([undesirable, desirable]: [u64; 2]) -> Option<LabelBalance> {
    let all = desirable + undesirable;
    (all > 0).then(|| LabelBalance { desirable, undesirable, desirable_share: share(desirable, all) })
}

fn ties(stats: &Stats, pairs: u64) -> Option<TieShare> {
    let dropped = stats.reasons.get(&Reason::Tied).copied().unwrap_or(0);
    let of = pairs + dropped;
    (of > 0).then(|| TieShare { kept: stats.tied, dropped, share: share(stats.tied + dropped, of) })
}

fn safety(counts: &SafetyCounts) -> Option<SafetySummary> {
    (!counts.is_empty()).then(|| SafetySummary {
        counts: *counts,
        both_safe_share: share(counts.both_safe, counts.pairs()),
        mixed_share: share(counts.mixed, counts.pairs()),
        both_unsafe_share: share(counts.both_unsafe, counts.pairs()),
        one_class: counts.one_class(),
    })
}

fn prompts(stats: &Stats, unit: LengthUnit) -> SharedPrompts {
    let sharing = &stats.sharing;
    SharedPrompts {
        distinct: sharing.prompts.len() as u64,
        unit,
        total: sharing.total,
        saved_within_rows: sharing.within_rows,
        saved_across_rows: sharing.across_rows,
        share_within_rows: share(sharing.within_rows, sharing.total),
        share_across_rows: share(sharing.across_rows, sharing.total),
    }
}

/// 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
