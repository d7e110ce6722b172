//! Underlying-distribution matching in a run: how likely a row's prompt is one of the desirable rows.
//!
//! Before the first step, prompts of both verdicts are drawn from the training rows, embedded, and told apart by a logistic
//! regression ([`candlewick_losses::udm`]). From then on every row gets its prompt's probability as the number
//! `desirable_prompt`, which [`Bco`](candlewick_losses::Bco) reads with `density_ratio`.
//!
//! # Embeddings
//! - Of the policy: the mean over the prompt's tokens of the hidden states after the final norm, of the weights that training
//!   started from, without an adapter. Each prompt is computed alone, so that its number does not depend on its batch, and
//!   once. Where all weights are trained, a copy of the starting ones is held for it.
//! - From a file of JSON lines, `{"line": 3, "embedding": [0.5, …]}`: `line` is that of the row in `data.path`, counted from
//!   one, or in the file that an optional `"file"` names as the configuration does, such as `evaluation.path`. Blank lines
//!   are skipped. Only probabilities are held in memory. A run that goes on needs the file as it was.
//!
//! # State
//! `udm.json` in the output directory, and the same in every checkpoint, from which a resumed run takes it: `format` 1,
//! `classifier` and the number of `desirable` and `undesirable` prompts it was fitted on.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_data::{Annotation, Batch, Encoder, Example, Order, Origin, Source, Stream};
use candlewick_kernels::Workspace;
use candlewick_losses::udm::{DESIRABLE_PROMPT, LogisticRegression, sample_prompts};
use candlewick_losses::{Needs, Numbers};
use candlewick_model::{Adapter, CausalLm, ContextIds, Packed};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::model_policy::ModelPolicy;
use crate::plan::{EmbeddingPlan, UdmPlan};

/// A fitted classifier with what embeds prompts for it.
#[derive(Debug)]
pub(crate) struct Udm {
    fit: Fit,
    embeddings: Embeddings,
    /// The file of embeddings, where there is one.
    file: Option<Fingerprint>,
}

/// What a checkpoint holds of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fit {
    format: u64,
    classifier: LogisticRegression,
    /// Prompts it was fitted on.
    desirable: usize,
    undesirable: usize,
}

#[derive(Debug)]
enum Embeddings {
    /// The starting weights where the policy's own change, and the probabilities of prompts met so far.
    Policy { start: Option<Box<CausalLm<f32>>>, known: BTreeMap<u128, f64> },
    /// Probabilities by file and line of a row, and the file of embeddings they were made of.
    File { lines: Lines, path: PathBuf },
}

type Lines = BTreeMap<(String, u64), f64>;

/// Where the training rows of a run come from.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) source: Source,
    pub(crate) encoder: &'a Arc<Encoder>,
    /// The file as the plan names it.
    pub(crate) file: &'a Path,
}

/// A prompt that was drawn, with its verdict.
struct Drawn {
    origin: Origin,
    prompt: Vec<u32>,
    desirable: bool,
}

/// One line of a file of embeddings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    file: Option<String>,
    line: u64,
    embedding: Vec<f64>,
}

impl Udm {
    /// Draws prompts of `rows`, embeds them and fits; or takes up a `saved` fit. `model` is the policy as it starts.
    ///
    /// # Errors
    /// Rows without a verdict or of one verdict only; a file of embeddings that cannot be used.
    pub(crate) fn new(
        plan: &UdmPlan,
        rows: &Rows<'_>,
        saved: Option<Fit>,
        model: &CausalLm<f32>,
        threads: usize,
    ) -> Result<Self> {
        let file = plan.file().map(Fingerprint::of).transpose()?;
        let fit = match saved {
            Some(fit) => fit.checked()?,
            None => Fit::of(plan, rows, model, threads)?,
        };
        let embeddings = match &plan.embeddings {
            EmbeddingPlan::Policy => {
                let start = (!model.has_adapter()).then(|| Box::new(model.frozen_copy()));
                Embeddings::Policy { start, known: BTreeMap::new() }
            }
            EmbeddingPlan::File(path) => {
                Embeddings::File { lines: probabilities(path, rows.file, &fit.classifier)?, path: path.clone() }
            }
        };
        Ok(Self { fit, embeddings, file })
    }

    pub(crate) fn fit(&self) -> &Fit {
        &self.fit
    }

    /// What tells its file of embeddings from another.
    pub(crate) fn file(&self) -> Option<&Fingerprint> {
        self.file.as_ref()
    }

    /// Writes the fit, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(&self.fit).map_err(|e| Error::Mismatch(format!("{}: {e}", path.display())))?;
        checkpoint::write_file(path, |path| std::fs::write(path, text).map_err(Error::io("writing", path)))
    }

    /// Gives every example its number. `policy` embeds the prompts that no file does.
    ///
    /// # Errors
    /// A row that the file of embeddings does not know, by its place; no file, and a policy on a device.
    pub(crate) fn fill(&mut self, batches: &mut [Batch], policy: &mut ModelPolicy) -> Result<()> {
        for example in batches.iter_mut().flat_map(|batch| &mut batch.examples) {
            let probability = self.probability(example, policy)?;
            example.numbers.insert(DESIRABLE_PROMPT.name.to_owned(), probability);
        }
        Ok(())
    }

    /// Whether a row can be given its number.
    pub(crate) fn check(&self, example: &Example) -> Result<()> {
        match &self.embeddings {
            Embeddings::Policy { .. } => Ok(()),
            Embeddings::File { lines, path } => known(lines, path, &example.origin).map(drop),
        }
    }

    /// Whether any row can turn out to be one that cannot be given its number.
    pub(crate) fn may_lack_rows(&self) -> bool {
        matches!(self.embeddings, Embeddings::File { .. })
    }

    fn probability(&mut self, example: &Example, policy: &mut ModelPolicy) -> Result<f64> {
        let (start, known_prompts) = match &mut self.embeddings {
            Embeddings::File { lines, path } => return known(lines, path, &example.origin),
            Embeddings::Policy { start, known } => (start, known),
        };
        let prompt = prompt(example)?;
        let key = hash(prompt);
        if let Some(probability) = known_prompts.get(&key) {
            return Ok(*probability);
        }
        let (model, workspace) = policy.causal_mut()?.model_and_workspace();
        let embedding = embed(start.as_deref().unwrap_or(model), prompt, workspace)?;
        let probability = self.fit.classifier.probability(&embedding)?;
        known_prompts.insert(key, probability);
        Ok(probability)
    }
}

impl Fit {
    fn of(plan: &UdmPlan, rows: &Rows<'_>, model: &CausalLm<f32>, threads: usize) -> Result<Self> {
        let (drawn, of) = draw(plan, rows)?;
        let embeddings = match &plan.embeddings {
            EmbeddingPlan::Policy => {
                let mut workspace = Workspace::new(threads);
                drawn.iter().map(|drawn| embed(model, &drawn.prompt, &mut workspace)).collect::<Result<Vec<_>>>()?
            }
            EmbeddingPlan::File(path) => chosen_lines(path, rows.file, &drawn)?,
        };
        // A row that was drawn twice counts twice.
        let vectors: Vec<&[f64]> = of.iter().map(|index| embeddings[*index].as_slice()).collect();
        let verdicts: Vec<bool> = of.iter().map(|index| drawn[*index].desirable).collect();
        let classifier = LogisticRegression::fit(&vectors, &verdicts).map_err(|e| match plan.file() {
            Some(path) => Error::Rows { place: path.display().to_string(), reason: e.to_string() },
            None => Error::Loss(e),
        })?;
        let desirable = verdicts.iter().filter(|desirable| **desirable).count();
        Ok(Self { format: FORMAT, classifier, desirable, undesirable: verdicts.len() - desirable })
    }

    fn checked(self) -> Result<Self> {
        if self.format == FORMAT {
            return Ok(self);
        }
        Err(Error::Mismatch(format!(
            "the checkpoint's classifier of prompts has format {}, and this program reads {FORMAT}; start anew",
            self.format
        )))
    }
}

/// What the training source need not bring, since it is computed here.
pub(crate) fn without_probability(needs: &Needs) -> Needs {
    let others = needs.numbers.iter().filter(|number| number.name != DESIRABLE_PROMPT.name);
    let numbers = others.fold(Numbers::NONE, |all, number| all.union(Numbers::of(*number)).unwrap_or(all));
    Needs { numbers, ..*needs }
}

/// Whether an objective reads the number that is computed here.
pub(crate) fn is_read(needs: &Needs) -> bool {
    needs.numbers.iter().any(|number| number.name == DESIRABLE_PROMPT.name)
}

/// The distinct rows that were drawn, and which of them was drawn at each draw.
fn draw(plan: &UdmPlan, rows: &Rows<'_>) -> Result<(Vec<Drawn>, Vec<usize>)> {
    let stream = || Stream::new(rows.source.clone(), rows.encoder.clone(), Order::File);
    let mut verdicts = Vec::new();
    let mut pass = stream()?;
    while let Some(example) = pass.next_example()? {
        verdicts.push(verdict(&example)?);
    }
    let draws = sample_prompts(&verdicts, plan.prompt_sample_size, plan.seed)
        .map_err(|e| Error::Rows { place: rows.file.display().to_string(), reason: e.to_string() })?;
    let mut places: BTreeMap<usize, usize> = draws.iter().map(|row| (*row, 0)).collect();
    let mut drawn = Vec::with_capacity(places.len());
    let mut pass = stream()?;
    let mut row = 0;
    while let Some(example) = pass.next_example()? {
        if let Some(place) = places.get_mut(&row) {
            *place = drawn.len();
            let (origin, prompt) = (example.origin.clone(), prompt(&example)?.to_vec());
            drawn.push(Drawn { origin, prompt, desirable: verdict(&example)? });
        }
        row += 1;
    }
    if drawn.len() != places.len() {
        let reason = "it has fewer rows than a moment ago; leave it alone while a run begins".to_owned();
        return Err(Error::Rows { place: rows.file.display().to_string(), reason });
    }
    let of = draws.iter().filter_map(|row| places.get(row).copied()).collect();
    Ok((drawn, of))
}

fn verdict(example: &Example) -> Result<bool> {
    match example.annotation {
        Annotation::Labelled { desirable } => Ok(desirable),
        _ => Err(Error::Rows {
            place: example.origin.to_string(),
            reason: "the row has no verdict, and [udm] tells prompts of desirable completions from those of others; \
                     use labelled rows"
                .into(),
        }),
    }
}

fn prompt(example: &Example) -> Result<&[u32]> {
    let context = example.contexts.first();
    context
        .map(|context| context.prompt.as_slice())
        .ok_or_else(|| Error::Rows { place: example.origin.to_string(), reason: "the row has no prompt".into() })
}

fn embed(model: &CausalLm<f32>, prompt: &[u32], workspace: &mut Workspace) -> Result<Vec<f64>> {
    let packed = Packed::new(&[ContextIds { prompt, prompt_scored: &[], completions: Vec::new() }])?;
    let means = model.prompt_means(&packed, Adapter::Off, workspace)?;
    Ok(means.into_iter().flatten().map(f64::from).collect())
}

fn hash(prompt: &[u32]) -> u128 {
    let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    xxh3_128(&bytes)
}

fn known(lines: &Lines, path: &Path, origin: &Origin) -> Result<f64> {
    lines.get(&(origin.file.to_string(), origin.line)).copied().ok_or_else(|| Error::Rows {
        place: origin.to_string(),
        reason: format!(
            "udm.embeddings, {}, has no embedding of its prompt; add a line {{\"file\": {:?}, \"line\": {}, \
             \"embedding\": […]}} there",
            path.display(),
            origin.file,
            origin.line
        ),
    })
}

/// The embeddings of the rows that were drawn, in their order.
fn chosen_lines(path: &Path, data: &Path, drawn: &[Drawn]) -> Result<Vec<Vec<f64>>> {
    let mut found: BTreeMap<(String, u64), Option<Vec<f64>>> =
        drawn.iter().map(|drawn| (place(&drawn.origin), None)).collect();
    read(path, data, |at, embedding| {
        if let Some(wanted) = found.get_mut(&at) {
            *wanted = Some(embedding);
        }
        Ok(())
    })?;
    drawn
        .iter()
        .map(|drawn| match found.get(&place(&drawn.origin)) {
            Some(Some(embedding)) => Ok(embedding.clone()),
            _ => known(&Lines::new(), path, &drawn.origin).map(|_| Vec::new()),
        })
        .collect()
}

fn place(origin: &Origin) -> (String, u64) {
    (origin.file.to_string(), origin.line)
}

/// The probability of every row that the file of embeddings knows.
fn probabilities(path: &Path, data: &Path, classifier: &LogisticRegression) -> Result<Lines> {
    let mut lines = Lines::new();
    read(path, data, |at, embedding| {
        let probability = classifier.probability(&embedding).map_err(|e| e.to_string())?;
        let (file, line) = at.clone();
        match lines.insert(at, probability) {
            None => Ok(()),
            Some(_) => Err(format!("a second embedding of {file}:{line}; remove one")),
        }
    })?;
    Ok(lines)
}

/// Hands over each line of a file of embeddings; rows are those of `data` where a line names no file.
fn read(
    path: &Path,
    data: &Path,
    mut each: impl FnMut((String, u64), Vec<f64>) -> std::result::Result<(), String>,
) -> Result<()> {
    let data = data.to_string_lossy();
    let file = File::open(path).map_err(Error::io("reading", path))?;
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let refuse = |reason: String| Error::Rows { place: format!("{}:{}", path.display(), number + 1), reason };
        let text = text.map_err(Error::io("reading", path))?;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text).map_err(|e| {
            refuse(format!("{e}; expected {{\"line\": N, \"embedding\": [x, …]}} with the line of a row"))
        })?;
        let file = line.file.unwrap_or_else(|| data.clone().into_owned());
        each((file, line.line), line.embedding).map_err(refuse)?;
    }
    Ok(())
}

/// The version written, and the one read.
const FORMAT: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_computed_here_is_left_out() {
        let margin = candlewick_losses::Number::any("margin", "how much better");
        let numbers = Numbers::of(DESIRABLE_PROMPT).union(Numbers::of(margin)).unwrap();
        let needs = Needs { numbers, ..Needs::of(candlewick_losses::Rows::LABELLED) };
        assert!(is_read(&needs));
        let rest = without_probability(&needs);
        assert!(!is_read(&rest));
        assert_eq!(rest.numbers.iter().map(|number| number.name).collect::<Vec<_>>(), ["margin"]);
    }

    #[test]
    fn lines_of_embeddings_are_read_by_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vectors.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut all = Vec::new();
            read(&path, Path::new("rows.jsonl"), |at, embedding| {
                all.push((at, embedding));
                Ok(())
            })
            .map(|()| all)
        };
        let all =
            read("{\"line\": 2, \"embedding\": [0.5]}\n\n  \n{\"file\": \"held\", \"line\": 1, \"embedding\": [1]}\n");
        let at = |file: &str, line, x| ((file.to_owned(), line), vec![x]);
        assert_eq!(all.unwrap(), [at("rows.jsonl", 2, 0.5), at("held", 1, 1.0)]);
        for text in ["{\"line\": 2, \"embedding\": [0.5]}\n{\"line\": 2}\n", "{\"line\": 1, \"embedding\": []}\nno\n"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("vectors.jsonl:2: ") && error.contains("with the line of a row"), "{error}");
        }
    }
}
