//! What a data set is like: counts, lengths, balance, duplicates, agreement, and the work that shared prompts save.

mod agreement;
mod histogram;
mod summary;
mod text;

use std::collections::{BTreeMap, HashSet};

use xxhash_rust::xxh3::Xxh3;

use crate::encode::Encoder;
use crate::error::{Reason, Rejection};
use crate::form::Form;
use crate::report::Counts;
use crate::row::{Annotation, Example, Message, Origin, Record, Row, Text};
use crate::shape::SafetyCounts;
use agreement::Agreement;
use histogram::{Histogram, Numbers};

pub use agreement::VoteSummary;
pub use histogram::{LengthBin, LengthSummary, NumberSummary};
pub use summary::{
    Duplicates, LabelBalance, LengthBias, LengthUnit, RowCounts, RowKind, RowPart, SafetySummary, SharedPrompts,
    SourceSummary, Summary, TieShare, TokenSummary,
};

/// Columns of numbers that are followed; further ones are left out, so that memory stays bounded.
const MOST_NUMBERS: usize = 1000;

/// Gathers what rows are like, one at a time.
///
/// Memory holds histograms of a fixed size and two hashes of 8 bytes for each different row: of its prompt, and of all of it
/// (about 40 bytes a row with the slack of hash tables). Two rows are taken for duplicates when these 64 bits agree; among a
/// billion different rows one such mistake is expected in 37 data sets.
///
/// ```
/// use candlewick_data::{Origin, Record, Row, Stats, Text};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let row = Row::Pair { prompt: text("p"), chosen: text(" a"), rejected: text(" b") };
/// let mut stats = Stats::default();
/// for line in 1..=2 {
///     stats.row(&Origin::memory(line), &Record::from(row.clone()), None)?;
/// }
/// let summary = stats.summary();
/// assert_eq!((summary.rows.kept, summary.duplicates.rows), (2, 1));
/// # Ok::<(), candlewick_data::Rejection>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stats {
    sources: Vec<SourceSummary>,
    kept: u64,
    reasons: BTreeMap<Reason, u64>,
    kinds: BTreeMap<RowKind, u64>,
    conversational: u64,
    with_tools: u64,
    characters: BTreeMap<RowPart, Histogram>,
    tokens: BTreeMap<RowPart, Histogram>,
    counts: Option<Counts>,
    labels: [u64; 2],
    judgments: [u64; 2],
    tied: u64,
    sharing: Sharing,
    seen: Seen,
    bias: Bias,
    safety: SafetyCounts,
    votes: Agreement,
    numbers: BTreeMap<String, Numbers>,
}

impl Stats {
    /// Names a source that rows come from.
    pub fn source(&mut self, name: &str, form: Form) {
        self.sources.push(SourceSummary { name: name.to_owned(), form });
    }

    /// Adds a row; with an encoder in tokens too, under its length limit. A row that cannot be used is counted as dropped.
    ///
    /// # Errors
    /// The reason why the row cannot be used: the encoder's, or that of [`Record::check`] without one.
    pub fn row(&mut self, origin: &Origin, record: &Record, encoder: Option<&Encoder>) -> Result<(), Rejection> {
        let encoded = match encoder {
            Some(encoder) => encoder.encode_counted(record, origin).map(Some),
            None => record.check(origin).map(|()| None),
        };
        match encoded {
            Ok(encoded) => {
                self.keep(record, encoded.as_ref());
                Ok(())
            }
            Err(rejection) => {
                self.dropped(&rejection);
                Err(rejection)
            }
        }
    }

    /// Adds a row that was set aside before.
    pub fn dropped(&mut self, rejection: &Rejection) {
        *self.reasons.entry(rejection.reason).or_default() += 1;
    }

    /// Adds what flags of safety say: of the rows added and of those that were set aside, as
    /// [`Records::safety`](crate::Records::safety) counts them.
    pub fn safety(&mut self, counts: SafetyCounts) {
        self.safety += counts;
    }

    /// Everything gathered so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        summary::of(self)
    }

    fn keep(&mut self, record: &Record, encoded: Option<&(Example, Counts)>) {
        self.kept += 1;
        let texts = Texts::of(&record.row);
        *self.kinds.entry(texts.kind).or_default() += 1;
        self.conversational += u64::from(matches!(texts.prompt, Text::Chat(_)));
        self.with_tools += u64::from(!record.tools.is_empty());
        let characters = Lengths::of_texts(&texts);
        characters.add_to(&texts, &mut self.characters);
        let measured = match encoded {
            Some((example, counts)) => {
                let tokens = Lengths::of_example(example);
                tokens.add_to(&texts, &mut self.tokens);
                *self.counts.get_or_insert_default() += *counts;
                tokens
            }
            None => characters,
        };
        let prompt = prompt_hash(texts.prompt, record);
        self.sharing.add(prompt, &measured);
        if texts.kind == RowKind::Pair {
            self.bias.add(&measured);
            self.tied += u64::from(is_tied(&record.numbers));
        }
        match &record.row {
            Row::Labelled { desirable, .. } => self.labels[usize::from(*desirable)] += 1,
            Row::Judged { positive, .. } => self.judgments[usize::from(*positive)] += 1,
            _ => {}
        }
        self.seen.add(prompt, &texts, &record.row);
        self.votes.add(&record.numbers);
        self.add_numbers(&record.numbers);
    }

    fn add_numbers(&mut self, numbers: &BTreeMap<String, f64>) {
        for (name, value) in numbers.iter().filter(|(_, value)| value.is_finite()) {
            if let Some(column) = self.numbers.get_mut(name) {
                column.add(*value);
            } else if self.numbers.len() < MOST_NUMBERS {
                self.numbers.entry(name.clone()).or_default().add(*value);
            }
        }
    }
}

/// The texts of a row by their parts.
struct Texts<'a> {
    kind: RowKind,
    prompt: &'a Text,
    completions: Vec<(RowPart, &'a Text)>,
}

impl<'a> Texts<'a> {
    fn of(row: &'a Row) -> Self {
        let (kind, prompt, completions) = match row {
            Row::Pair { prompt, chosen, rejected } => {
                (RowKind::Pair, prompt, vec![(RowPart::Chosen, chosen), (RowPart::Rejected, rejected)])
            }
            Row::Labelled { prompt, completion, .. } => {
                (RowKind::Labelled, prompt, vec![(RowPart::Completion, completion)])
            }
            Row::Demonstration { prompt, completion } => {
                (RowKind::Demonstration, prompt, vec![(RowPart::Completion, completion)])
            }
            Row::Ranked { prompt, completions } => {
                (RowKind::Ranked, prompt, completions.iter().map(|(text, _)| (RowPart::Completion, text)).collect())
            }
            Row::Judged { prompt, completion, .. } => {
                (RowKind::Judged, prompt, vec![(RowPart::Completion, completion)])
            }
        };
        Self { kind, prompt, completions }
    }
}

/// Lengths of a row: of a prompt and each of its completions, for every context of the row.
struct Lengths(Vec<(u64, Vec<u64>)>);

impl Lengths {
    fn of_texts(texts: &Texts<'_>) -> Self {
        let completions = texts.completions.iter().map(|(_, text)| characters(text)).collect();
        Self(vec![(characters(texts.prompt), completions)])
    }

    fn of_example(example: &Example) -> Self {
        let prompt_tokens = |context: &crate::row::Context| context.prompt.len() as u64;
        let completions = |context: &crate::row::Context| {
            context.completions.iter().map(|completion| completion.ids.len() as u64).collect()
        };
        // A judged row has two contexts of one completion.
        let contexts = match example.annotation {
            Annotation::Judged { .. } => &example.contexts[..],
            _ => example.contexts.get(..1).unwrap_or_default(),
        };
        Self(contexts.iter().map(|context| (prompt_tokens(context), completions(context))).collect())
    }

    fn add_to(&self, texts: &Texts<'_>, histograms: &mut BTreeMap<RowPart, Histogram>) {
        let mut add = |part, length| histograms.entry(part).or_default().add(length);
        let Some((prompt, completions)) = self.0.first() else { return };
        add(RowPart::Prompt, *prompt);
        for ((part, _), length) in texts.completions.iter().zip(completions) {
            add(*part, *length);
        }
        for (prompt, completions) in &self.0 {
            for length in completions {
                add(RowPart::Total, prompt + length);
            }
        }
    }
}

fn characters(text: &Text) -> u64 {
    match text {
        Text::Plain(text) => text.chars().count() as u64,
        Text::Chat(messages) => messages.iter().map(|message| message.content.chars().count() as u64).sum(),
    }
}

/// Whether the verdict of a pair is even.
pub(crate) fn is_tied(numbers: &BTreeMap<String, f64>) -> bool {
    let number = |name: &str| numbers.get(name).copied();
    let even = |left: Option<f64>, right: Option<f64>| {
        left.zip(right).is_some_and(|(left, right)| (left - right).abs() < f64::EPSILON)
    };
    match number("preference") {
        Some(preference) => even(Some(preference), Some(0.5)),
        None => even(number("votes_chosen"), number("votes_rejected")),
    }
}

/// What computing each prompt once would save.
#[derive(Clone, Debug, Default)]
struct Sharing {
    prompts: HashSet<u64>,
    total: u64,
    within_rows: u64,
    across_rows: u64,
}

impl Sharing {
    fn add(&mut self, prompt_hash: u64, lengths: &Lengths) {
        let is_new = self.prompts.insert(prompt_hash);
        for (place, (prompt, completions)) in lengths.0.iter().enumerate() {
            self.total += completions.iter().map(|length| prompt + length).sum::<u64>();
            self.within_rows += prompt * (completions.len() as u64).saturating_sub(1);
            // The second prompt of a judged row holds its judgment, which no other row has.
            if !is_new && place == 0 {
                self.across_rows += prompt;
            }
        }
    }
}

/// Rows met, by hashes.
#[derive(Clone, Debug, Default)]
struct Seen {
    rows: HashSet<u64>,
    duplicates: u64,
    contradictions: u64,
}

impl Seen {
    fn add(&mut self, prompt: u64, texts: &Texts<'_>, row: &Row) {
        let mut parts: Vec<u64> = texts.completions.iter().map(|(_, text)| text_hash(text)).collect();
        // The side a row takes: a contradiction is the same row on the other side.
        let side = match row {
            Row::Pair { .. } => Some(parts[0] > parts[1]),
            Row::Labelled { desirable, .. } => Some(*desirable),
            _ => None,
        };
        match row {
            Row::Pair { .. } => parts.sort_unstable(),
            Row::Ranked { completions, .. } => parts.extend(completions.iter().map(|(_, rating)| rating.to_bits())),
            Row::Judged { judgment, positive, .. } => {
                parts.push(hash(|hash| hash.update(judgment.as_bytes())));
                parts.push(u64::from(*positive));
            }
            _ => {}
        }
        let whole = hash(|hash| {
            hash.update(&[texts.kind as u8]);
            std::iter::once(&prompt).chain(&parts).for_each(|part| hash.update(&part.to_le_bytes()));
        });
        // The lowest bit tells the sides apart.
        let here = (whole & !1) | u64::from(side.unwrap_or(false));
        self.contradictions += u64::from(side.is_some() && self.rows.contains(&(here ^ 1)));
        self.duplicates += u64::from(!self.rows.insert(here));
    }
}

/// Which completion of a pair is longer.
#[derive(Clone, Debug, Default)]
struct Bias {
    chosen_longer: u64,
    rejected_longer: u64,
    equal: u64,
    difference: i128,
}

impl Bias {
    fn add(&mut self, lengths: &Lengths) {
        let Some((_, completions)) = lengths.0.first() else { return };
        let &[chosen, rejected] = completions.as_slice() else { return };
        match chosen.cmp(&rejected) {
            std::cmp::Ordering::Greater => self.chosen_longer += 1,
            std::cmp::Ordering::Less => self.rejected_longer += 1,
            std::cmp::Ordering::Equal => self.equal += 1,
        }
        self.difference += i128::from(chosen) - i128::from(rejected);
    }
}

fn hash(feed: impl FnOnce(&mut Xxh3)) -> u64 {
    let mut hash = Xxh3::new();
    feed(&mut hash);
    hash.digest()
}

fn text_hash(text: &Text) -> u64 {
    hash(|hash| feed_text(hash, text))
}

/// Of a prompt with all that a chat template is told beside it.
fn prompt_hash(prompt: &Text, record: &Record) -> u64 {
    hash(|hash| {
        feed_text(hash, prompt);
        record.tools.iter().for_each(|tool| feed(hash, &tool.to_string()));
        record.template_arguments.iter().for_each(|(name, value)| {
            feed(hash, name);
            feed(hash, &value.to_string());
        });
    })
}

fn feed_text(hash: &mut Xxh3, text: &Text) {
    match text {
        Text::Plain(text) => feed(hash, text),
        Text::Chat(messages) => messages.iter().for_each(|Message { role, content, extra }| {
            hash.update(&[1]);
            feed(hash, role);
            feed(hash, content);
            extra.iter().for_each(|(key, value)| {
                feed(hash, key);
                feed(hash, &value.to_string());
            });
        }),
    }
}

/// A string with its length, so that two of them are not taken for other two.
fn feed(hash: &mut Xxh3, text: &str) {
    hash.update(&(text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests;
