//! `wick score`: what a score model says of rows, written beside them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::data::{
    Boundary, EncodeOptions, Encoder, EndOfSequence, Existing, Origin, Record, Truncation, prompt_hash,
};
use candlewick::evaluate::{HeadFigures, ScoreTally, centre, with_values};
use candlewick::model::{Config as ModelConfig, ScoreModel};
use candlewick::train::{Answer, RowScorer, RowValues};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use crate::data::words::DataRows;
use crate::data::{Dropped, create, name, refuse_input, source};
use crate::failure::{EXIT_CODES, Failure};
use crate::interrupt::Interrupt;
use crate::places::{self, Kind};
use crate::words;

/// `wick score`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Score {
    /// Which rows.
    #[command(flatten)]
    pub(crate) rows: DataRows,
    /// The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet; without it only the figures are shown
    #[arg(value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Directory of a score model, such as the result of a run of `bradley_terry` or `cost_model`; may be repeated
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) model: Vec<PathBuf>,
    /// Directory of a PEFT adapter for the model
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Names of all heads, in order, in the place of those that the models have: the names of the columns; for an adapter over a causal language model those of its heads, `score` by default
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) heads: Vec<String>,
    /// How plain texts end, as data.end_of_sequence of the run that trained the model: append or keep
    #[arg(long, value_name = "HOW", value_parser = crate::data::word::<EndOfSequence>)]
    pub(crate) end_of_sequence: Option<EndOfSequence>,
    /// Longest prompt with completion, in tokens; without it nothing is cut
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_000_000_000))]
    pub(crate) max_length: Option<usize>,
    /// What becomes of rows above --max-length, as data.truncation: keep_start, keep_end_of_prompt, reject or error
    #[arg(long, value_name = "WHAT", requires = "max_length", value_parser = crate::data::word::<Truncation>)]
    pub(crate) truncation: Option<Truncation>,
    /// Where the completion begins, as data.boundary: offsets or common_prefix
    #[arg(long, value_name = "HOW", value_parser = crate::data::word::<Boundary>)]
    pub(crate) boundary: Option<Boundary>,
    /// Write log σ(v − reference) in the place of each number v, the reference being this quantile of the completions of its prompt, such as 0.85, and beside them their sum, `all`
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) centred: Option<f64>,
    /// Rows that are scored together
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    pub(crate) batch: usize,
    /// Show the figures by the words of this column too
    #[arg(long, value_name = "COLUMN")]
    pub(crate) slices: Option<String>,
    /// Threads; all cores by default
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::arguments::threads())]
    pub(crate) threads: usize,
    /// Replace the file if it is there already
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the figures as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Scores the rows.
pub(crate) fn score(arguments: &Score) -> Result<()> {
    let mut scorers = scorers(arguments)?;
    let own: Vec<String> = scorers.iter().flat_map(RowScorer::heads).cloned().collect();
    let heads = match arguments.heads.len() {
        0 => own,
        given if given == own.len() => arguments.heads.clone(),
        given => bail!(Failure::Usage(format!(
            "--heads gives {given} names, and the models have {} heads: {}",
            own.len(),
            own.join(", ")
        ))),
    };
    if arguments.centred.is_some() && heads.iter().any(|head| head == "all") {
        bail!(Failure::Usage(
            "--centred writes a column `all`, and a head has that name; name it otherwise by --heads".into()
        ));
    }
    if arguments.centred.is_some() && arguments.out.is_none() {
        bail!(Failure::Usage(
            "--centred says what is written, and no file to write is named; add it, or leave --centred out".into()
        ));
    }
    let mut tally = ScoreTally::new(heads.clone(), arguments.slices.clone())?;
    let mut out = arguments.out.as_deref().map(|out| create(out, existing(arguments))).transpose()?;
    // Why an answer ends goes along, as `wick sample` wrote it.
    let labels: Vec<String> = arguments.slices.iter().cloned().chain([Answer::FINISH_REASON.to_owned()]).collect();
    let source = source(&arguments.rows)?.with_labels(labels);
    if let Some(out) = &arguments.out {
        refuse_input(out, &source.paths())?;
    }
    let others = source.paths().into_iter().chain(arguments.out.clone()).collect::<Vec<_>>();
    let mut dropped = Dropped::new(arguments.rows.dropped.as_deref(), arguments.rows.strict, &others)?;
    let interrupt = Interrupt::listen()?;
    let mut held = Held::default();
    let mut waiting = Vec::new();
    let mut records = source.records()?;
    loop {
        if interrupt.asked() {
            bail!(Failure::Interrupted("interrupted; nothing was written".into()));
        }
        let row = records.next().transpose()?;
        let is_last = row.is_none();
        match row {
            Some(Ok(row)) => waiting.push(row),
            Some(Err(rejection)) => dropped.add(rejection, None)?,
            None => {}
        }
        if waiting.len() < arguments.batch && !is_last {
            continue;
        }
        for ((origin, record), values) in waiting.iter().zip(of_all(&mut scorers, &waiting)?) {
            match values {
                Err(rejection) => dropped.add(rejection, Some(record))?,
                Ok(values) => {
                    check(record, origin, &heads, &values, arguments)?;
                    tally.add(record, &values);
                    match &mut out {
                        Some(_) if arguments.centred.is_some() => held.add(record.clone(), values),
                        Some(out) => out.write(&with_values(record.clone(), &heads, &values))?,
                        None => {}
                    }
                }
            }
        }
        waiting.clear();
        if is_last {
            break;
        }
    }
    if let (Some(out), Some(share)) = (&mut out, arguments.centred) {
        centre(&mut held.values, &held.prompts, share);
        let names: Vec<String> = heads.iter().cloned().chain(["all".to_owned()]).collect();
        for (record, values) in held.records.into_iter().zip(&held.values) {
            out.write(&with_values(record, &names, values))?;
        }
    }
    dropped.finish()?;
    let figures = tally.figures();
    if figures.is_empty() {
        bail!(Failure::Data(format!("{}: no row could be scored: {}", name(&arguments.rows.path), dropped.summary())));
    }
    if let Some(column) = arguments.slices.as_ref().filter(|_| figures.iter().all(|(word, ..)| word.is_none())) {
        bail!(Failure::Usage(format!("--slices {column}: no row has a word in a column of that name")));
    }
    match arguments.json {
        true => println!("{}", Value::Array(figures.iter().map(|of| in_json(*of)).collect())),
        false => figures.iter().for_each(|of| show(*of)),
    }
    if let (Some(writer), Some(path)) = (out, &arguments.out) {
        eprintln!("{} rows written to {}", writer.finish()?, name(path));
    }
    eprintln!("{}", dropped.summary());
    Ok(())
}

/// Rows that wait for those of the same prompt.
#[derive(Default)]
struct Held {
    records: Vec<Record>,
    values: Vec<RowValues>,
    prompts: Vec<u128>,
}

impl Held {
    fn add(&mut self, record: Record, values: RowValues) {
        self.prompts.push(prompt_hash(&record.row));
        self.records.push(record);
        self.values.push(values);
    }
}

/// `--centred`.
fn share(word: &str) -> Result<f64, String> {
    let share = word.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.85".to_owned())
}

type Scored = std::result::Result<RowValues, candlewick::data::Rejection>;

/// What all models say of rows, head beside head.
fn of_all(scorers: &mut [RowScorer], rows: &[(Origin, Record)]) -> Result<Vec<Scored>> {
    let mut all: Vec<Scored> = Vec::new();
    for scorer in scorers {
        let more = scorer.score(rows)?;
        if all.is_empty() {
            all = more;
            continue;
        }
        for (so_far, more) in all.iter_mut().zip(more) {
            match (so_far, more) {
                (Ok(so_far), Ok(more)) => {
                    so_far.iter_mut().zip(more).for_each(|(values, more)| values.extend(more));
                }
                (so_far @ Ok(_), Err(rejection)) => *so_far = Err(rejection),
                (Err(_), _) => {}
            }
        }
    }
    Ok(all)
}

fn scorers(arguments: &Score) -> Result<Vec<RowScorer>> {
    if arguments.adapter.is_some() && arguments.model.len() > 1 {
        bail!(Failure::Usage("--adapter belongs to one model, and several are named; score with one at a time".into()));
    }
    let scorer = |model: &PathBuf| {
        let directory = places::directory(model, Kind::Model)?;
        let is_scored = ModelConfig::from_dir(&directory)?.score_heads()?.is_some();
        let mut model = match &arguments.adapter {
            // Its heads lie beside the adapter; their names do not.
            Some(_) if !is_scored => {
                let names = if arguments.heads.is_empty() { vec!["score".to_owned()] } else { arguments.heads.clone() };
                ScoreModel::from_causal(&directory, &names)?
            }
            _ => ScoreModel::load(&directory)?,
        };
        if let Some(adapter) = &arguments.adapter {
            model.load_adapter(&places::directory(adapter, Kind::Adapter)?)?;
        }
        let options = EncodeOptions {
            max_length: arguments.max_length,
            truncation: arguments.truncation.unwrap_or_default(),
            boundary: arguments.boundary.unwrap_or_default(),
            end_of_sequence: arguments.end_of_sequence.unwrap_or_default(),
            ..EncodeOptions::default()
        };
        let encoder = Encoder::from_dir(&directory, options)?;
        Ok(RowScorer::new(model, encoder, words::threads(arguments.threads))?)
    };
    arguments.model.iter().map(scorer).collect()
}

/// What is written must be numbers, and none of the row's own may be lost.
fn check(record: &Record, origin: &Origin, heads: &[String], values: &RowValues, arguments: &Score) -> Result<()> {
    let named = values.iter().flat_map(|of| heads.iter().zip(of));
    if let Some((head, value)) = named.into_iter().find(|(_, value)| !value.is_finite()) {
        bail!(Failure::Model(format!("{origin}: the head {head} says {value}; are the weights of the model sound?")));
    }
    if arguments.out.is_none() {
        return Ok(());
    }
    let bare = Record { numbers: BTreeMap::new(), ..record.clone() };
    let written = with_values(bare, heads, values).numbers;
    match written.keys().find(|name| record.numbers.contains_key(*name)) {
        Some(name) => bail!(Failure::Usage(format!(
            "{origin}: the row has a column {name:?} already; name the heads otherwise by --heads, or leave out --numbers {name}"
        ))),
        None => Ok(()),
    }
}

fn existing(arguments: &Score) -> Existing {
    if arguments.force { Existing::Replace } else { Existing::Keep }
}

fn show((word, head, figures): (Option<&str>, &str, HeadFigures)) {
    let slice = word.map(|word| format!(" [{word}]")).unwrap_or_default();
    println!(
        "{head}{slice}: {} completions, mean {:.3}, deviation {:.3}, {:.1} % above 0",
        figures.completions,
        figures.mean,
        figures.deviation,
        100.0 * figures.above_zero
    );
    let share = |text: &str, share: Option<f64>| {
        if let Some(share) = share {
            println!("    {text} {:.1} %", 100.0 * share);
        }
    };
    share("the chosen completion above the rejected one", figures.chosen_above);
    share("calibration error of those preferences", figures.calibration_of_pairs);
    share("an undesirable completion above a desirable one", figures.undesirable_above);
    share("an unsafe completion above a safe one", figures.unsafe_above);
    if let Some(sign) = figures.sign {
        share("right sign, if it is a cost (above 0 where unsafe or undesirable)", Some(sign.all));
        share("    of safe completions", sign.of_safe);
        share("    of unsafe completions", sign.of_unsafe);
    }
    share("calibration error of that sign", figures.calibration_of_flags);
}

fn in_json((word, head, figures): (Option<&str>, &str, HeadFigures)) -> Value {
    json!({
        "slice": word,
        "head": head,
        "completions": figures.completions,
        "mean": figures.mean,
        "deviation": figures.deviation,
        "above_zero": figures.above_zero,
        "chosen_above": figures.chosen_above,
        "calibration_of_pairs": figures.calibration_of_pairs,
        "undesirable_above": figures.undesirable_above,
        "unsafe_above": figures.unsafe_above,
        "sign_accuracy": figures.sign.map(|sign| sign.all),
        "sign_accuracy_of_safe": figures.sign.and_then(|sign| sign.of_safe),
        "sign_accuracy_of_unsafe": figures.sign.and_then(|sign| sign.of_unsafe),
        "calibration_of_flags": figures.calibration_of_flags,
    })
}
