//! `held_out/`: what every held-out completion scored, evaluation by evaluation.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_data::{Annotation, Batch, Context, Encoder, Example};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::log::MetricsLog;
use crate::score::CompletionScore;
use crate::trainer::{EvalReport, ScoredBatch};

/// Characters of a text that are kept of its beginning, and of its end.
const BEGINNING: usize = 700;
const END: usize = 300;

/// What the held-out completions of a run scored at each of its evaluations, as the run wrote it.
///
/// | file | a line |
/// |---|---|
/// | `held_out/rows.jsonl` | a [`HeldOutRow`], in the order of the rows |
/// | `held_out/scores.jsonl` | the [`HeldOutScores`] of an evaluation |
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOutLog {
    /// The rows.
    pub rows: Vec<HeldOutRow>,
    /// The evaluations, in their order.
    pub scores: Vec<HeldOutScores>,
}

/// A held-out row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutRow {
    /// The file it is from.
    pub file: String,
    /// Its line or row there, counted from 1.
    pub line: u64,
    /// What is known of its completions.
    pub annotation: Annotation,
    /// What tells it apart, such as a category, by name: the columns of `evaluation.slices`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The prompt, of a long one its beginning and its end.
    pub prompt: String,
    /// The completions, in the order of their scores.
    pub completions: Vec<HeldOutCompletion>,
    /// Of a pair, the share of the different tokens of both completions that only one of them has: 0 for the same words in
    /// another order, 1 where no word is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
}

/// A completion of a [`HeldOutRow`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutCompletion {
    /// Its text, of a long one the beginning and the end.
    pub text: String,
    /// Its scored tokens.
    pub tokens: usize,
}

/// Σ log-probability of every held-out completion in one evaluation, rounded to f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScores {
    /// Steps done.
    pub step: u64,
    /// Under the policy.
    pub log_probs: Vec<Option<f32>>,
    /// Under the reference, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Vec<Option<f32>>>,
}

impl HeldOutLog {
    /// Reads what a run left in its output directory; none where it was never evaluated.
    ///
    /// # Errors
    /// A file that cannot be read, or does not fit the other one.
    pub fn read(output: &Path) -> Result<Option<Self>> {
        let (rows_path, scores_path) = (output.join(ROWS), output.join(SCORES));
        if !rows_path.exists() || !scores_path.exists() {
            return Ok(None);
        }
        let rows: Vec<HeldOutRow> = lines(&rows_path, false)?;
        let scores: Vec<HeldOutScores> = lines(&scores_path, true)?;
        let completions: usize = rows.iter().map(|row| row.completions.len()).sum();
        let found = |one: &HeldOutScores| {
            [Some(one.log_probs.len()), one.reference.as_ref().map(Vec::len)]
                .into_iter()
                .flatten()
                .find(|n| *n != completions)
        };
        if let Some((step, count)) = scores.iter().find_map(|one| Some((one.step, found(one)?))) {
            return Err(Error::checkpoint(
                &scores_path,
                format!(
                    "step {step} has {count} scores, and the rows of {ROWS} have {completions} completions; did the held-out rows \
                     change during the run? Remove {} to go on without what was recorded",
                    scores_path.display()
                ),
            ));
        }
        Ok(Some(Self { rows, scores }))
    }
}

/// One JSON object a line. The last line may have been cut short by a crash.
fn lines<T: for<'a> Deserialize<'a>>(path: &Path, may_be_cut: bool) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
    let count = text.lines().count();
    let mut found = Vec::with_capacity(count);
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => found.push(value),
            Err(_) if may_be_cut && number + 1 == count && !text.ends_with('\n') => {}
            Err(error) => return Err(Error::checkpoint(path, format!("line {}: {error}", number + 1))),
        }
    }
    Ok(found)
}

/// Writes what [`HeldOutLog::read`] reads.
#[derive(Debug)]
pub(crate) struct HeldOutWriter {
    rows: PathBuf,
    scores: MetricsLog,
    /// Whether the rows were written by this process.
    knows_rows: bool,
}

/// The rows of an evaluation as lines, where they are to be written.
#[derive(Debug)]
pub(crate) struct Texts {
    lines: Option<String>,
    encoder: Arc<Encoder>,
}

impl Texts {
    /// Rows that are about to be scored.
    pub(crate) fn add(&mut self, batch: &Batch) {
        let Some(lines) = &mut self.lines else { return };
        for example in &batch.examples {
            lines.push_str(&json!(HeldOutRow::of(example, &self.encoder)).to_string());
            lines.push('\n');
        }
    }
}

impl HeldOutWriter {
    pub(crate) fn new(output: &Path) -> Self {
        Self { rows: output.join(ROWS), scores: MetricsLog::new(output.join(SCORES)), knows_rows: false }
    }

    /// Begins an evaluation.
    pub(crate) fn texts(&self, encoder: &Arc<Encoder>) -> Texts {
        Texts { lines: (!self.knows_rows).then(String::new), encoder: Arc::clone(encoder) }
    }

    pub(crate) fn write(&mut self, texts: Texts, scores: &[ScoredBatch], report: &EvalReport) -> Result<()> {
        if let Some(lines) = texts.lines {
            checkpoint::write_file(&self.rows, |path| fs::write(path, lines).map_err(Error::io("writing", path)))?;
            self.knows_rows = true;
        }
        let rounded = |scores: &[CompletionScore]| scores.iter().map(|score| score.log_prob as f32).collect::<Vec<_>>();
        let log_probs: Vec<f32> = scores.iter().flat_map(|batch| rounded(&batch.policy)).collect();
        let reference: Vec<f32> =
            scores.iter().filter_map(|batch| batch.reference.as_deref()).flat_map(rounded).collect();
        let mut line = json!({ "step": report.step, "log_probs": log_probs });
        if !reference.is_empty() {
            line["reference"] = json!(reference);
        }
        self.scores.append(&line)
    }

    /// Drops what was written after a checkpoint of `step` steps, whose last evaluation was after `evaluated` steps.
    pub(crate) fn truncate(&mut self, step: u64, evaluated: Option<u64>) -> Result<()> {
        self.scores.truncate(step, evaluated)
    }

    /// Leaves nothing: the run starts anew.
    pub(crate) fn clear(&mut self) -> Result<()> {
        checkpoint::remove_file(&self.rows)?;
        self.scores.clear()
    }

    /// The file of scores, to wait for its way to the disk elsewhere.
    pub(crate) fn file(&self) -> Result<Option<fs::File>> {
        self.scores.file()
    }

    /// Waits until what was written has reached the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.scores.sync()
    }
}

impl HeldOutRow {
    fn of(example: &Example, encoder: &Encoder) -> Self {
        let completions = example.contexts.iter().flat_map(|context| {
            context.completions.iter().map(|completion| HeldOutCompletion {
                text: shortened(&after(&context.prompt, &completion.ids, encoder)),
                tokens: completion.scored_tokens(),
            })
        });
        Self {
            file: example.origin.file.to_string(),
            line: example.origin.line,
            annotation: example.annotation.clone(),
            labels: example.labels.clone(),
            prompt: example
                .contexts
                .first()
                .map(|context| shortened(&encoder.decode(&context.prompt)))
                .unwrap_or_default(),
            completions: completions.collect(),
            difference: match (&example.annotation, &example.contexts[..]) {
                (Annotation::Pair, [context]) => difference(context),
                _ => None,
            },
        }
    }
}

/// A completion behind its prompt: alone, many decoders drop the space that it begins with.
fn after(prompt: &[u32], completion: &[u32], encoder: &Encoder) -> String {
    let whole = encoder.decode(&[prompt, completion].concat());
    whole.strip_prefix(&encoder.decode(prompt)).map_or_else(|| encoder.decode(completion), str::to_owned)
}

fn difference(context: &Context) -> Option<f64> {
    let [chosen, rejected] = &context.completions[..] else { return None };
    let [chosen, rejected] = [chosen, rejected].map(|one| one.ids.iter().collect::<BTreeSet<_>>());
    let all = chosen.union(&rejected).count();
    (all > 0).then(|| chosen.symmetric_difference(&rejected).count() as f64 / all as f64)
}

fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= BEGINNING + END {
        return text.to_owned();
    }
    let beginning = text.chars().take(BEGINNING);
    beginning.chain(" […] ".chars()).chain(text.chars().skip(count - END)).collect()
}

const ROWS: &str = "held_out/rows.jsonl";
const SCORES: &str = "held_out/scores.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_their_ends() {
        let long: String = "é".repeat(2000) + "end";
        let short = shortened(&long);
        assert!(short.starts_with("éé") && short.ends_with("éend") && short.contains(" […] "), "{short}");
        assert_eq!(short.chars().count(), BEGINNING + END + 5);
        assert_eq!(shortened("as it is"), "as it is");
    }

    #[test]
    fn a_line_cut_short_is_passed_over_and_a_damaged_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(HeldOutLog::read(directory.path()).unwrap(), None);
        fs::create_dir(directory.path().join("held_out")).unwrap();
        let row = r#"{"file":"a","line":1,"annotation":"pair","prompt":"p","completions":[{"text":"x","tokens":1},{"text":"y","tokens":2}]}"#;
        fs::write(directory.path().join(ROWS), format!("{row}\n")).unwrap();
        let scores = directory.path().join(SCORES);
        fs::write(&scores, "{\"step\":1,\"log_probs\":[-1.5,null]}\n{\"step\":2,\"log_pr").unwrap();
        let found = HeldOutLog::read(directory.path()).unwrap().unwrap();
        assert_eq!(found.scores, [HeldOutScores { step: 1, log_probs: vec![Some(-1.5), None], reference: None }]);
        assert_eq!(found.rows[0].completions[1].tokens, 2);
        fs::write(&scores, "{\"step\":1,\"log_probs\":[-1.5]}\n").unwrap();
        let said = HeldOutLog::read(directory.path()).unwrap_err().to_string();
        assert!(said.contains("step 1 has 1 scores") && said.contains("2 completions"), "{said}");
        fs::write(&scores, "{\"step\":1}\n{\"step\":2}\n").unwrap();
        let said = HeldOutLog::read(directory.path()).unwrap_err().to_string();
        assert!(said.contains("line 1"), "{said}");
    }
}
