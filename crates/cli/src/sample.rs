//! `wick sample`: a model answers the prompts of a file, several times each.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, bail};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence, Existing, Message, RawRows, Record, Row, Text};
use candlewick::kernels::Workspace;
use candlewick::model::{CausalLm, Sampling};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::{Map, Value};

use crate::data::words::{DataRows, TiesWord};
use crate::data::{Dropped, create, name, refuse_input, source};
use crate::failure::{EXIT_CODES, Failure};
use crate::generate::stops;
use crate::interrupt::Interrupt;
use crate::places::{self, Kind};
use crate::{preference, words};

/// How often an empty answer is drawn anew.
const DRAWS: usize = 8;
/// The column that says why an answer ends, in the words of OpenAI's and vLLM's interfaces.
pub(crate) const FINISH_REASON: &str = "finish_reason";
/// The model ended its answer.
const STOP: &str = "stop";
/// It was cut at --max-new-tokens.
pub(crate) const LENGTH: &str = "length";

/// How answers are drawn.
#[derive(Debug, Clone, Args)]
pub(crate) struct Draws {
    /// Answers to each prompt; 64 or more where a multiplier is solved for
    #[arg(long, short = 'k', value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) samples: usize,
    /// Randomness; 1 draws from the model as it is, 0 takes the likeliest token each time
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw among the likeliest tokens that hold this share of the probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) max_new_tokens: usize,
}

/// `wick sample`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Sample {
    /// Rows whose prompts are answered, each prompt once; their completions are not read
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The file to write, a row for each answer: .jsonl, .jsonl.gz, .jsonl.zst or .parquet
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Read nothing but this column of each row, a text or a list of messages: of rows without completions
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_column: Option<String>,
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Directory of a PEFT adapter for it
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// The preference that a Panacea adapter is told, a number for each of its objectives, of sum 1: 0.3,0.7. Equal ones by default
    #[arg(long, value_name = "X,X", value_delimiter = ',')]
    pub(crate) preference: Vec<f64>,
    /// How they are drawn.
    #[command(flatten)]
    pub(crate) draws: Draws,
    /// Threads, each with prompts of its own; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::arguments::threads())]
    pub(crate) threads: usize,
    /// Replace the file if it is there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// Writes the answers.
pub(crate) fn sample(arguments: &Sample) -> Result<()> {
    arguments.draws.check()?;
    let directory = places::directory(&arguments.model, Kind::Model)?;
    let mut model = CausalLm::<f32>::load(&directory)?;
    preference::load_adapter(&mut model, arguments.adapter.as_deref(), &arguments.preference)?;
    let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
    let encoder = Encoder::from_dir(&directory, options)?;
    encoder.check_vocabulary(model.config().vocab_size)?;
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let mut out = create(&arguments.out, existing)?;
    let prompts = prompts(&arguments.rows, arguments.prompt_column.as_deref(), Some(&arguments.out))?;
    let interrupt = Interrupt::listen()?;
    let threads = words::threads(arguments.threads);
    let all = answers(&prompts, &model, &encoder, &arguments.draws, threads, &interrupt)?;
    let (mut empty, mut cut) = (0, 0);
    for answer in all.iter().flatten() {
        match answer {
            Some(Answer { record, .. }) => {
                cut += usize::from(record.labels[FINISH_REASON] == LENGTH);
                out.write(record)?;
            }
            None => empty += 1,
        }
    }
    if out.rows() == 0 {
        bail!(Failure::Data(
            "every answer was empty, and nothing was written; is the model trained on such prompts?".into()
        ));
    }
    println!("{} answers to {} prompts written to {}", out.finish()?, prompts.len(), name(&arguments.out));
    if cut > 0 {
        println!(
            "{cut} answers were cut at --max-new-tokens {}: {FINISH_REASON} is {LENGTH:?}",
            arguments.draws.max_new_tokens
        );
    }
    if empty > 0 {
        println!("{empty} answers were left out that were empty in {DRAWS} draws");
    }
    Ok(())
}

impl Draws {
    /// That they make sense together.
    pub(crate) fn check(&self) -> Result<()> {
        if self.temperature <= 0.0 && self.samples > 1 {
            bail!(Failure::Usage(
                "--temperature 0: every answer to a prompt would be the same; leave --samples out".into()
            ));
        }
        Ok(())
    }
}

/// An answer to a prompt.
pub(crate) struct Answer {
    /// Prompt and answer.
    pub(crate) record: Record,
    /// The answer's tokens, with the one that ended it, if one did.
    pub(crate) ids: Vec<u32>,
}

/// The answers to each prompt, on so many threads, which do not change them; nothing in the place of an empty one.
pub(crate) fn answers(
    prompts: &[Prompt],
    model: &CausalLm,
    encoder: &Encoder,
    draws: &Draws,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Vec<Option<Answer>>>> {
    let answers = Answers { draws, model, encoder };
    let threads = threads.min(prompts.len());
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<Vec<(usize, Vec<Option<Answer>>)>> {
        let mut workspace = Workspace::new(1);
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if interrupt.asked() || stop.load(Ordering::Relaxed) {
                bail!(Failure::Interrupted("interrupted; nothing was written".into()));
            }
            let Some(prompt) = prompts.get(place) else { return Ok(done) };
            match answers.of(place, prompt, &mut workspace) {
                Ok(rows) => done.push((place, rows)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut results: Vec<Result<_>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    // The thread that failed says why; those that it stopped only that they were.
    let cause = |result: &Result<_>| matches!(result, Err(error) if !matches!(error.downcast_ref::<Failure>(), Some(Failure::Interrupted(_))));
    if let Some(place) = results.iter().position(cause) {
        results.swap(0, place);
    }
    let mut all: Vec<_> = results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    all.sort_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, answers)| answers).collect())
}

/// The prompts of rows, each once: those of the rows' form, or the texts of a column. `out` is a file that is written.
pub(crate) fn prompts(rows: &DataRows, column: Option<&str>, out: Option<&PathBuf>) -> Result<Vec<Prompt>> {
    match column {
        Some(column) => prompts_of(column, rows, out),
        None => prompts_of_rows(rows, out),
    }
}

/// A prompt, and what its row tells the chat template.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    pub(crate) text: Text,
    tools: Vec<Value>,
    template_arguments: Map<String, Value>,
}

impl Prompt {
    /// Its tokens, up to where the answer begins.
    pub(crate) fn ids(&self, encoder: &Encoder) -> Result<Vec<u32>> {
        Ok(encoder.encode_prompt_told(&self.text, &self.tools, &self.template_arguments)?)
    }
}

impl From<Text> for Prompt {
    fn from(text: Text) -> Self {
        Self { text, tools: Vec::new(), template_arguments: Map::new() }
    }
}

/// The prompts of the rows, each once.
fn prompts_of_rows(rows: &DataRows, out: Option<&PathBuf>) -> Result<Vec<Prompt>> {
    let source = source(rows)?;
    if let Some(out) = out {
        refuse_input(out, &source.paths())?;
    }
    let others = source.paths().into_iter().chain(out.cloned()).collect::<Vec<_>>();
    let mut dropped = Dropped::new(rows.dropped.as_deref(), rows.strict, &others)?;
    let (mut seen, mut prompts) = (HashSet::new(), Vec::new());
    for row in source.records()? {
        let (_, record) = match row? {
            Ok(row) => row,
            Err(rejection) => {
                dropped.add(rejection, None)?;
                continue;
            }
        };
        let Record { row, tools, template_arguments, .. } = record;
        let text = match row {
            Row::Pair { prompt, .. }
            | Row::Labelled { prompt, .. }
            | Row::Demonstration { prompt, .. }
            | Row::Ranked { prompt, .. }
            | Row::Judged { prompt, .. } => prompt,
        };
        let prompt = Prompt { text, tools, template_arguments };
        if seen.insert(format!("{prompt:?}")) {
            prompts.push(prompt);
        }
    }
    dropped.finish()?;
    if dropped.any() {
        eprintln!("{}", dropped.summary());
    }
    if prompts.is_empty() {
        bail!(Failure::Data(format!("{}: no prompt could be read: {}", name(&rows.path), dropped.summary())));
    }
    Ok(prompts)
}

/// The texts of one column, each once.
fn prompts_of(column: &str, rows: &DataRows, out: Option<&PathBuf>) -> Result<Vec<Prompt>> {
    let DataRows { path, form, columns, criterion, ties, numbers, subset, split, rows, strict, dropped, safety_order } =
        rows;
    let others = [
        ("--form", form.is_some()),
        ("--columns", !columns.is_empty()),
        ("--criterion", criterion.is_some()),
        ("--ties", *ties != TiesWord::Drop),
        ("--numbers", !numbers.is_empty()),
        ("--subset", subset.is_some()),
        ("--split", split.is_some()),
        ("--rows", rows.is_some()),
        ("--safety-order", safety_order.is_some()),
    ];
    if let Some((flag, _)) = others.iter().find(|(_, given)| *given) {
        bail!(Failure::Usage(format!(
            "{flag}: --prompt-column reads one column of every row as it is; leave one of them out"
        )));
    }
    if let Some(out) = out {
        refuse_input(out, std::slice::from_ref(path))?;
    }
    let others = out.into_iter().chain([path]).cloned().collect::<Vec<_>>();
    let mut dropped = Dropped::new(dropped.as_deref(), *strict, &others)?;
    let (mut seen, mut prompts) = (HashSet::new(), Vec::new());
    for row in RawRows::open(path, None)? {
        let (origin, object) = match row? {
            Ok(row) => row,
            Err(rejection) => {
                dropped.add(rejection, None)?;
                continue;
            }
        };
        let Some(prompt) = object.get(column).and_then(text_of) else {
            bail!(Failure::Data(format!(
                "{origin}: column {column:?} holds {}; expected a text, or a list of messages with role and content",
                object.get(column).map_or("nothing".to_owned(), |value| crate::rows::shortened(&value.to_string()))
            )));
        };
        if seen.insert(format!("{prompt:?}")) {
            prompts.push(prompt.into());
        }
    }
    dropped.finish()?;
    if prompts.is_empty() {
        bail!(Failure::Data(format!("{}: no prompt could be read: {}", name(path), dropped.summary())));
    }
    Ok(prompts)
}

/// A text that is not empty, or messages.
fn text_of(value: &Value) -> Option<Text> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| Text::Plain(text.clone())),
        Value::Array(messages) => {
            let message = |message: &Value| {
                let word = |key: &str| message.get(key).and_then(Value::as_str);
                Some(Message::new(word("role")?, word("content")?))
            };
            let messages = messages.iter().map(message).collect::<Option<Vec<_>>>()?;
            (!messages.is_empty()).then_some(Text::Chat(messages))
        }
        _ => None,
    }
}

struct Answers<'a> {
    draws: &'a Draws,
    model: &'a CausalLm,
    encoder: &'a Encoder,
}

impl Answers<'_> {
    /// The answers to a prompt; nothing in the place of an empty one.
    fn of(&self, place: usize, prompt: &Prompt, workspace: &mut Workspace) -> Result<Vec<Option<Answer>>> {
        let ids = prompt.ids(self.encoder)?;
        if ids.is_empty() {
            bail!(Failure::Data(format!("prompt {place}, counted from 0: no token to go on from; leave its row out")));
        }
        let before = self.encoder.decode_text(&ids);
        let mut rows = Vec::new();
        let samples = self.draws.samples;
        // An answer that is empty is drawn anew, with a seed that no other answer has.
        let draws = |sample: usize| (0..DRAWS).map(move |draw| sample + draw * samples);
        for sample in 0..samples {
            let mut drawn = draws(sample).map(|draw| self.one(place, draw, prompt, &ids, &before, workspace));
            rows.push(drawn.find_map(Result::transpose).transpose()?);
        }
        Ok(rows)
    }

    /// One answer; nothing in the place of an empty one.
    fn one(
        &self,
        place: usize,
        draw: usize,
        prompt: &Prompt,
        ids: &[u32],
        before: &str,
        workspace: &mut Workspace,
    ) -> Result<Option<Answer>> {
        let sampling = Sampling {
            max_new_tokens: self.draws.max_new_tokens,
            temperature: self.draws.temperature,
            top_k: self.draws.top_k,
            top_p: self.draws.top_p,
            // Every answer has a seed of its own, whatever thread draws it.
            seed: mixed(self.draws.seed, place as u64, draw as u64),
            stop: stops(self.model, self.encoder),
        };
        let drawn = self.model.generate(ids, &sampling, workspace)?;
        let ended = drawn.last().is_some_and(|id| sampling.stop.contains(id));
        let answer: Vec<u32> = drawn.iter().copied().filter(|id| !sampling.stop.contains(id)).collect();
        // What the answer adds to the prompt: alone, some tokenizers take away the space it begins with.
        let whole = self.encoder.decode_text(&[ids, &answer].concat());
        let text = whole.strip_prefix(before).map_or_else(|| self.encoder.decode_text(&answer), str::to_owned);
        if text.trim().is_empty() {
            return Ok(None);
        }
        let completion = match prompt.text {
            Text::Plain(_) => Text::Plain(text),
            Text::Chat(_) => Text::Chat(vec![Message::new("assistant", text.trim())]),
        };
        let Prompt { text: prompt, tools, template_arguments } = prompt.to_owned();
        let labels = [(FINISH_REASON.to_owned(), if ended { STOP } else { LENGTH }.to_owned())].into();
        let row = Row::Demonstration { prompt, completion };
        Ok(Some(Answer { record: Record { labels, tools, template_arguments, ..row.into() }, ids: drawn }))
    }
}

/// One seed of three numbers, by the steps of splitmix64.
fn mixed(seed: u64, place: u64, sample: u64) -> u64 {
    [place, sample].into_iter().fold(seed, |state, number| {
        let mut z = state.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
