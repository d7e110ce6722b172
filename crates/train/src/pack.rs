//! From examples to rows: what the model computes, and which row is what to the objective.
use candlewick_data::{Annotation, Batch, Context, Example};
use candlewick_losses::{Groups, JudgedRows, LabelledRow, PairRows, RankedRows, Rows};
use candlewick_model::{CompletionIds, ContextIds, Packed};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// One micro-batch, laid out.
#[derive(Debug)]
pub(crate) struct Micro {
    pub(crate) rows: PackedRows,
    pub(crate) groups: Groups,
    pub(crate) mismatched: Option<PackedRows>,
    /// Tokens of all rows with their prompts, unpadded and unshared.
    pub(crate) tokens: u64,
}

/// Packed contexts, and what tells their rows apart.
#[derive(Debug)]
pub(crate) struct PackedRows {
    pub(crate) packed: Packed,
    /// Hash of the ids and masks of prompt and completion, by row.
    pub(crate) keys: Vec<u128>,
    /// Scored tokens, by row.
    pub(crate) lengths: Vec<usize>,
    /// `file:line`, by row.
    pub(crate) places: Vec<String>,
}

impl Micro {
    /// Lays out a batch for an objective that can use `usable` kinds of rows.
    pub(crate) fn new(batch: &Batch, usable: Rows) -> Result<Self> {
        if batch.examples.is_empty() {
            return Err(Error::Mismatch("a batch without examples; leave it out".into()));
        }
        let contexts =
            batch.examples.iter().flat_map(|example| example.contexts.iter().map(|context| (context, place(example))));
        let rows = PackedRows::new(contexts)?;
        let mut groups = Groups::default();
        let mut next = 0;
        for example in &batch.examples {
            let count: usize = example.contexts.iter().map(|context| context.completions.len()).sum();
            group(example, next, count, usable, &mut groups)?;
            next += count;
        }
        let mismatched = match batch.mismatched.as_slice() {
            [] => None,
            contexts => {
                let places = batch.examples.iter().map(place).chain(std::iter::repeat("a mismatched row".to_owned()));
                Some(PackedRows::new(contexts.iter().zip(places))?)
            }
        };
        let tokens = batch.examples.iter().flat_map(|example| &example.contexts).map(unshared_tokens).sum();
        Ok(Self { rows, groups, mismatched, tokens })
    }
}

impl PackedRows {
    fn new<'a>(contexts: impl Iterator<Item = (&'a Context, String)>) -> Result<Self> {
        let (contexts, context_places): (Vec<&Context>, Vec<String>) = contexts.unzip();
        let ids: Vec<ContextIds<'_>> = contexts.iter().map(|context| borrow(context)).collect();
        let packed = Packed::new(&ids)?;
        let mut keys = Vec::with_capacity(packed.completions());
        let mut places = Vec::with_capacity(packed.completions());
        for (context, place) in ids.iter().zip(context_places) {
            for completion in &context.completions {
                keys.push(key(context, completion));
                places.push(place.clone());
            }
        }
        let mut lengths = vec![0; packed.completions()];
        packed.targets().iter().for_each(|target| lengths[target.completion as usize] += 1);
        if let Some(row) = lengths.iter().position(|length| *length == 0) {
            return Err(Error::Rows {
                place: places.swap_remove(row),
                reason: "the completion has no scored token; leave the row out".into(),
            });
        }
        Ok(Self { packed, keys, lengths, places })
    }
}

/// Tells the objective which rows belong together.
fn group(example: &Example, first: usize, count: usize, usable: Rows, groups: &mut Groups) -> Result<()> {
    let refuse = |reason: String| Err(Error::Rows { place: place(example), reason });
    let (kind, expected, fits) = match &example.annotation {
        Annotation::Pair => ("a pair", 2, usable.pairs),
        Annotation::Labelled { .. } => ("a labelled completion", 1, usable.labelled),
        Annotation::Demonstration => ("a demonstration", 1, usable.demonstrations),
        Annotation::Ranked { ratings } => ("ranked completions", ratings.len(), usable.ranked),
        Annotation::Judged { .. } => ("a judged completion", 2, usable.judged),
    };
    if !fits {
        let uses = [
            (usable.pairs, "pairs"),
            (usable.labelled, "labelled completions"),
            (usable.demonstrations, "demonstrations"),
            (usable.ranked, "ranked completions"),
            (usable.judged, "judged completions"),
        ];
        let uses: Vec<&str> = uses.into_iter().filter_map(|(yes, name)| yes.then_some(name)).collect();
        return refuse(format!(
            "the row is {kind}, and the objective uses {}; choose another objective or other data",
            uses.join(", ")
        ));
    }
    if count != expected {
        return refuse(format!("the row is {kind} with {count} completions; expected {expected}"));
    }
    match &example.annotation {
        Annotation::Pair => groups.pairs.push(PairRows { chosen: first, rejected: first + 1 }),
        Annotation::Labelled { desirable } => {
            groups.labelled.push(LabelledRow { row: first, desirable: *desirable });
        }
        Annotation::Demonstration => groups.demonstrations.push(first),
        Annotation::Ranked { ratings } => {
            groups.ranked.push(RankedRows { rows: (first..first + count).collect(), ratings: ratings.clone() });
        }
        Annotation::Judged { positive } => {
            groups.judged.push(JudgedRows { plain: first, judged: first + 1, positive: *positive });
        }
    }
    Ok(())
}

fn borrow(context: &Context) -> ContextIds<'_> {
    ContextIds {
        prompt: &context.prompt,
        prompt_scored: &context.prompt_scored,
        completions: context.completions.iter().map(|c| CompletionIds { ids: &c.ids, scored: &c.scored }).collect(),
    }
}

/// A hash of everything a log-probability of this row depends on, but the weights.
fn key(context: &ContextIds<'_>, completion: &CompletionIds<'_>) -> u128 {
    let mut hasher = Xxh3::new();
    let mut add = |ids: &[u32], scored: &[bool], otherwise: bool| {
        hasher.update(&(ids.len() as u64).to_le_bytes());
        for (i, id) in ids.iter().enumerate() {
            hasher.update(&id.to_le_bytes());
            hasher.update(&[u8::from(scored.get(i).copied().unwrap_or(otherwise))]);
        }
    };
    add(context.prompt, context.prompt_scored, false);
    add(completion.ids, completion.scored, true);
    hasher.digest128()
}

fn unshared_tokens(context: &Context) -> u64 {
    context.completions.iter().map(|completion| (context.prompt.len() + completion.ids.len()) as u64).sum()
}

fn place(example: &Example) -> String {
    format!("{}:{}", example.origin.file, example.origin.line)
}
