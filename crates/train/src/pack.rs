//! From examples to rows: what the model computes, and which row is what to the objective.
use candlewick_data::{Annotation, Batch, Completion, Context, Example, TeacherToken};
use candlewick_kernels::Float;
use candlewick_losses::udm::DESIRABLE_PROMPT;
use candlewick_losses::{
    Groups, JudgedRows, LabelledRow, Needs, Numbers, PairRows, RankedRows, Rows, Scores, Teacher, TeacherScores,
    TokenScores,
};
use candlewick_model::{CompletionIds, ContextIds, Packed};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::policy::cube;
use crate::tensor_file::Element;

/// One micro-batch, laid out.
#[derive(Debug)]
pub(crate) struct Micro {
    pub(crate) rows: PackedRows,
    pub(crate) groups: Groups,
    pub(crate) mismatched: Option<PackedRows>,
    /// What teachers say of the rows, where the objective reads it.
    teacher: Option<TeacherRows>,
    /// Tokens of all rows with their prompts, unpadded and unshared.
    pub(crate) tokens: u64,
}

/// What teachers say of the tokens that [`Packed::given`] names, `[targets, K]` each; −∞ where a target has fewer.
#[derive(Debug)]
struct TeacherRows {
    log_probs: Vec<f32>,
    /// Of the teachers' own references, where all rows have it.
    reference: Option<Vec<f32>>,
    each: usize,
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
    /// Lays out a batch for an objective that needs `needs`.
    pub(crate) fn new(batch: &Batch, needs: &Needs) -> Result<Self> {
        if batch.examples.is_empty() {
            return Err(Error::Mismatch("a batch without examples; leave it out".into()));
        }
        let rows = PackedRows::of_examples(&batch.examples)?;
        let (rows, teacher) = match needs.teacher {
            Teacher::None => (rows, None),
            wanted => rows.with_teachers(batch, wanted).map(|(rows, teacher)| (rows, Some(teacher)))?,
        };
        let mut groups = Groups::default();
        let mut next = 0;
        for example in &batch.examples {
            let count: usize = example.contexts.iter().map(|context| context.completions.len()).sum();
            group(example, next, count, needs.rows, &mut groups)?;
            number(example, needs.numbers, &mut groups)?;
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
        Ok(Self { rows, groups, mismatched, teacher, tokens })
    }

    /// All that the objective may look at, from the scores of these rows.
    pub(crate) fn scores<T: Element>(&self, policy: TokenScores, reference: Option<TokenScores>) -> Result<Scores> {
        let teacher = self.teacher.as_ref().map(|teacher| teacher.scores::<T>(&self.rows.packed)).transpose()?;
        Ok(Scores { teacher, ..Scores::new(policy, reference, self.groups.clone()) })
    }
}

impl PackedRows {
    pub(crate) fn of_examples(examples: &[Example]) -> Result<Self> {
        Self::new(examples.iter().flat_map(|example| example.contexts.iter().map(|context| (context, place(example)))))
    }

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

    /// Names to the model the tokens that the teachers speak of, and gathers what they say.
    fn with_teachers(self, batch: &Batch, wanted: Teacher) -> Result<(Self, TeacherRows)> {
        let mut tokens = Vec::with_capacity(self.packed.targets().len());
        let completions = batch.examples.iter().flat_map(|example| {
            example.contexts.iter().flat_map(move |context| context.completions.iter().map(move |c| (example, c)))
        });
        for ((example, completion), &targets) in completions.zip(&self.lengths) {
            check_teacher(completion, targets, wanted)
                .map_err(|reason| Error::Rows { place: place(example), reason })?;
            tokens.extend(&completion.teacher);
        }
        let each = tokens.iter().map(|token| token.ids.len()).max().unwrap_or(0).max(1);
        let targets = self.packed.targets();
        let ids = targets.iter().zip(&tokens).flat_map(|(target, token)| fill(&token.ids, target.id, each)).collect();
        let of = |values: fn(&TeacherToken) -> &[f32]| {
            tokens.iter().flat_map(|token| fill(values(token), f32::NEG_INFINITY, each)).collect::<Vec<f32>>()
        };
        let log_probs = of(|token| &token.log_probs);
        let all_have_reference = tokens.iter().all(|token| token.reference_log_probs.len() == token.ids.len());
        let reference = all_have_reference.then(|| of(|token| &token.reference_log_probs));
        let packed = self.packed.with_given(ids, each)?;
        Ok((Self { packed, ..self }, TeacherRows { log_probs, reference, each }))
    }
}

impl TeacherRows {
    fn scores<T: Element>(&self, packed: &Packed) -> Result<TeacherScores> {
        let tensor = |values: &[f32]| {
            let values: Vec<T> = values.iter().map(|x| <T as Float>::from_f64(f64::from(*x))).collect();
            cube(packed, &values, self.each, <T as Float>::from_f64(f64::NEG_INFINITY))
        };
        let reference = self.reference.as_deref().map(tensor).transpose()?;
        Ok(TeacherScores { log_probs: tensor(&self.log_probs)?, reference })
    }
}

/// The values, and `filler` up to `each` of them.
fn fill<T: Copy>(values: &[T], filler: T, each: usize) -> impl Iterator<Item = T> {
    values.iter().copied().chain(std::iter::repeat(filler)).take(each)
}

/// Whether a teacher spoke of each of the `targets` scored tokens of a row, and of its own reference where that is wanted.
fn check_teacher(completion: &Completion, targets: usize, wanted: Teacher) -> Result<(), String> {
    if completion.teacher.is_empty() {
        return Err(
            "the row has no log-probabilities of a teacher, which the objective reads; have a teacher score the rows, \
                    or choose another objective"
                .into(),
        );
    }
    if completion.teacher.len() != targets {
        let found = completion.teacher.len();
        return Err(format!(
            "the row has {targets} scored tokens and a teacher's log-probabilities of {found}; was it scored by another \
             tokenizer or mask?"
        ));
    }
    for (i, token) in completion.teacher.iter().enumerate() {
        let TeacherToken { ids, log_probs, reference_log_probs } = token;
        if log_probs.len() != ids.len() || ![0, ids.len()].contains(&reference_log_probs.len()) {
            let (log_probs, reference) = (log_probs.len(), reference_log_probs.len());
            return Err(format!(
                "at scored token {} the teacher names {} tokens with {log_probs} log-probabilities and {reference} of its \
                 reference; expected equally many",
                i + 1,
                ids.len()
            ));
        }
        if wanted == Teacher::WithReference && reference_log_probs.len() != ids.len() {
            return Err(
                "the row has no log-probabilities of the teacher's reference, which the objective reads; have both \
                        score the rows, or choose another objective"
                    .into(),
            );
        }
    }
    Ok(())
}

/// What a reference needs of rows to score them: neither numbers nor teachers.
pub(crate) fn to_be_scored(needs: &Needs) -> Needs {
    Needs { numbers: Numbers::NONE, teacher: Teacher::None, ..*needs }
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
        let hint = match (&example.annotation, usable.labelled) {
            (Annotation::Pair, true) => ", or set data.unpair = true to make two verdicts of a pair",
            _ => "",
        };
        return refuse(format!(
            "the row is {kind}, and the objective uses {}; choose another objective or other data{hint}",
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

/// Hands over the numbers that the objective reads.
fn number(example: &Example, numbers: Numbers, groups: &mut Groups) -> Result<()> {
    for number in numbers.iter() {
        let refuse = |reason: String| Err(Error::Rows { place: place(example), reason });
        let (name, meaning) = (number.name, number.meaning);
        match example.numbers.get(name) {
            None => {
                let computed = if *number == DESIRABLE_PROMPT { ", have it computed with [udm]" } else { "" };
                return refuse(format!(
                    "the row has no number `{name}` ({meaning}), which the objective reads; add it as a column, name the \
                     column in data.columns{computed}, or choose another objective"
                ));
            }
            Some(value) if !number.admits(*value) => {
                return refuse(format!("`{name}` ({meaning}) is {value}; expected {}", number.range()));
            }
            Some(value) => groups.numbers.entry(name.to_owned()).or_default().push(*value),
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
    example.origin.to_string()
}
