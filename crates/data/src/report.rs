//! What became of the rows: exact counts, and the first rejections in full.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Reason, Rejection};
use crate::row::Context;
use crate::shape::SafetyCounts;
use crate::truncate::Cut;

/// How many rejections a report holds in full; counts are exact beyond it.
pub const LISTED_REJECTIONS: usize = 100;

/// What became of the rows read so far. A row that is read in two epochs counts twice and is listed once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Rows drawn from the source.
    pub rows: u64,
    /// Rows that became examples.
    pub kept: u64,
    /// Rows set aside, by reason; exact.
    pub reasons: BTreeMap<Reason, u64>,
    /// The first [`LISTED_REJECTIONS`] rejections.
    pub rejected: Vec<Rejection>,
    /// What the encoder counted over the rows kept.
    pub counts: Counts,
    /// Rows that were not among those wanted of the source ([`Source::only`](crate::Source::only)): neither kept nor rejected.
    pub elsewhere: u64,
    /// Of a mixture, what became of the rows of each part, by its name (parts of one name together); else empty.
    pub parts: BTreeMap<String, PartCounts>,
    /// Examples longer than the token budget of a micro-batch, each a micro-batch of its own
    /// ([`BatchOptions::tokens`](crate::BatchOptions::tokens)).
    pub over_budget: u64,
    /// Steps of two rows or more that all have one label, since the data held no other within reach; counted under
    /// [`BatchOptions::stratified`](crate::BatchOptions::stratified).
    pub one_label_steps: u64,
    /// What the flags of safety say, of rows that were set aside afterwards too.
    #[serde(skip_serializing_if = "SafetyCounts::is_empty")]
    pub safety: SafetyCounts,
}

/// What became of the rows of one part of a mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartCounts {
    /// Rows drawn from it.
    pub rows: u64,
    /// Rows that became examples.
    pub kept: u64,
}

/// What tokenization did to the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Prompt-and-completion sequences tokenized: two of a pair and of a judged row, one of each ranked completion, one of
    /// other rows.
    pub sequences: u64,
    /// Sequences that lost tokens to the length limit.
    pub truncated: u64,
    /// Prompts that lost their start; the prompt of a pair is one.
    pub cut_prompts: u64,
    /// Completions that lost their end.
    pub cut_completions: u64,
    /// Sequences with a token that lies on both sides of the boundary (it was given to the completion).
    pub straddles: u64,
    /// Sequences in which a second beginning-of-sequence token was removed.
    pub doubled_bos: u64,
    /// Sequences that begin with no token of the prompt and were given the beginning-of-sequence token to start from.
    pub added_bos: u64,
    /// Sequences to which the end-of-sequence token was appended.
    pub added_eos: u64,
    /// Tokens of all sequences, prompts counted once for each completion.
    pub tokens: u64,
    /// Tokens that are scored.
    pub scored_tokens: u64,
}

impl Counts {
    pub(crate) fn add_cut(&mut self, cut: Cut) {
        self.truncated += cut.sequences;
        self.cut_prompts += cut.prompts;
        self.cut_completions += cut.completions;
    }

    pub(crate) fn add_context(&mut self, context: &Context) {
        for completion in &context.completions {
            self.sequences += 1;
            self.tokens += (context.prompt.len() + completion.ids.len()) as u64;
            self.scored_tokens += completion.scored_tokens() as u64;
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.truncated += other.truncated;
        self.cut_prompts += other.cut_prompts;
        self.cut_completions += other.cut_completions;
        self.straddles += other.straddles;
        self.doubled_bos += other.doubled_bos;
        self.added_bos += other.added_bos;
        self.added_eos += other.added_eos;
        self.tokens += other.tokens;
        self.scored_tokens += other.scored_tokens;
    }
}

impl Report {
    /// How many rows were set aside.
    #[must_use]
    pub fn rejected_rows(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// The counts in one line: `2312 rows, 2303 kept, 9 rejected (empty completion 4, prompts differ 5)`, and
    /// `; 3 of 4606 sequences truncated` and `; 2 steps with one label only` where there was any, and what the flags of safety say.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut line = format!("{} rows, {} kept, {} rejected", self.rows, self.kept, self.rejected_rows());
        if !self.reasons.is_empty() {
            let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            line.push_str(&format!(" ({})", reasons.join(", ")));
        }
        if self.elsewhere > 0 {
            line.push_str(&format!(", {} not among those wanted", self.elsewhere));
        }
        let Counts { sequences, truncated, .. } = self.counts;
        if truncated > 0 {
            line.push_str(&format!("; {truncated} of {sequences} sequences truncated"));
        }
        if self.one_label_steps > 0 {
            let plural = if self.one_label_steps == 1 { "" } else { "s" };
            line.push_str(&format!("; {} step{plural} with one label only", self.one_label_steps));
        }
        if self.over_budget > 0 {
            let plural = if self.over_budget == 1 { "" } else { "s" };
            line.push_str(&format!("; {} example{plural} longer than the token budget", self.over_budget));
        }
        if !self.safety.is_empty() {
            line.push_str(&format!("; {}", self.safety));
        }
        line
    }

    pub(crate) fn count_elsewhere(&mut self) {
        self.rows += 1;
        self.elsewhere += 1;
    }

    pub(crate) fn count_of_part(&mut self, name: &str, is_kept: bool) {
        let counts = match self.parts.get_mut(name) {
            Some(counts) => counts,
            None => self.parts.entry(name.to_owned()).or_default(),
        };
        counts.rows += 1;
        counts.kept += u64::from(is_kept);
    }

    pub(crate) fn keep(&mut self, counts: Counts) {
        self.rows += 1;
        self.kept += 1;
        self.counts += counts;
    }

    pub(crate) fn reject(&mut self, rejection: Rejection) {
        self.rows += 1;
        *self.reasons.entry(rejection.reason).or_default() += 1;
        if self.rejected.len() < LISTED_REJECTIONS && self.rejected.iter().all(|seen| seen.origin != rejection.origin) {
            self.rejected.push(rejection);
        }
    }
}

impl fmt::Display for Report {
    /// The summary, what tokenization did, then one line for each listed rejection.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        let Counts { sequences, truncated, cut_prompts, cut_completions, straddles, .. } = self.counts;
        let Counts { doubled_bos, added_bos, added_eos, tokens, scored_tokens, .. } = self.counts;
        write!(f, "{sequences} sequences of {tokens} tokens, {scored_tokens} scored; {truncated} truncated")?;
        if truncated > 0 {
            write!(f, " ({cut_prompts} prompts and {cut_completions} completions cut)")?;
        }
        write!(f, ", {straddles} straddling")?;
        write!(f, "; BOS added {added_bos}, removed {doubled_bos}; EOS added {added_eos}")?;
        for (name, PartCounts { rows, kept }) in &self.parts {
            write!(f, "\nof {name}: {rows} rows, {kept} kept")?;
        }
        for rejection in &self.rejected {
            write!(f, "\n{rejection}")?;
        }
        Ok(())
    }
}
