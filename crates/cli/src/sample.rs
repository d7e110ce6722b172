//! `wick sample`: a model answers the prompts of a file, several times each.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence, Existing, RawRows, Text};
use candlewick::kernels::Element;
use candlewick::model::{CausalLm, Sampling};
use candlewick::train::{self, Answer, Answers, PlacedLm, Prompt};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::arguments::Place;
use crate::data::words::{DataRows, TiesWord};
use crate::data::{Dropped, create, name, refuse_input, source};
use crate::failure::{EXIT_CODES, Failure};
use crate::interrupt::Interrupt;
use crate::places::{self, Kind};
use crate::{preference, words};

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
    /// Where the model answers.
    #[command(flatten)]
    pub(crate) place: Place,
    /// Replace the file if it is there already
    #[arg(long)]
    pub(crate) force: bool,
}

/// Writes the answers.
pub(crate) fn sample(arguments: &Sample) -> Result<()> {
    arguments.draws.check()?;
    let (hardware, dtype) = arguments.place.open()?;
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
    let all = match hardware.place(model, dtype, threads)?.0 {
        PlacedLm::F32(model) => answers(&prompts, &model, &encoder, &arguments.draws, threads, &interrupt)?,
        PlacedLm::Bf16(model) => answers(&prompts, &model, &encoder, &arguments.draws, threads, &interrupt)?,
    };
    let (mut empty, mut cut) = (0, 0);
    for answer in all.iter().flatten() {
        match answer {
            Some(answer) => {
                cut += usize::from(answer.is_cut);
                out.write(&answer.record)?;
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
            "{cut} answers were cut at --max-new-tokens {}: {} is \"length\"",
            arguments.draws.max_new_tokens,
            Answer::FINISH_REASON
        );
    }
    if empty > 0 {
        println!("{empty} answers were left out that were empty in {} draws", <Answers>::DRAWS);
    }
    Ok(())
}

impl Draws {
    /// That each is in its range, and that they make sense together.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { samples, temperature, top_k, top_p, .. } = *self;
        let refuse = |reason: String| -> Result<()> { bail!(Failure::Usage(reason)) };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return refuse(format!(
                "--temperature {temperature}: expected a positive number, or 0 for the likeliest token each time"
            ));
        }
        if top_k == Some(0) {
            return refuse("--top-k 0: expected 1 or more; leave it out to draw among all tokens".into());
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse(format!("--top-p {p}: expected a number above 0 and at most 1"));
        }
        if temperature <= 0.0 && samples > 1 {
            return refuse("--temperature 0: every answer to a prompt would be the same; leave --samples out".into());
        }
        Ok(())
    }
}

/// The answers to each prompt, on so many threads, which do not change them; nothing in the place of an empty one.
pub(crate) fn answers<T: Element<Wide = f32>>(
    prompts: &[Prompt],
    model: &CausalLm<T>,
    encoder: &Encoder,
    draws: &Draws,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Vec<Option<Answer>>>> {
    let sampling = Sampling {
        max_new_tokens: draws.max_new_tokens,
        temperature: draws.temperature,
        top_k: draws.top_k,
        top_p: draws.top_p,
        seed: draws.seed,
        stop: Vec::new(),
    };
    let places: Vec<(u64, &Prompt)> = (0..).zip(prompts).collect();
    match Answers::new(model, encoder, draws.samples, sampling).of_all(&places, threads, &interrupt.flag()) {
        Err(train::Error::Interrupted) => {
            bail!(Failure::Interrupted("interrupted; nothing was written".into()))
        }
        all => Ok(all?),
    }
}

/// The prompts of rows, each once: those of the rows' form, or the texts of a column. `out` is a file that is written.
pub(crate) fn prompts(rows: &DataRows, column: Option<&str>, out: Option<&PathBuf>) -> Result<Vec<Prompt>> {
    match column {
        Some(column) => prompts_of(column, rows, out),
        None => prompts_of_rows(rows, out),
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
        let prompt = Prompt::of(record);
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
        let Some(prompt) = object.get(column).and_then(Text::of_json) else {
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
