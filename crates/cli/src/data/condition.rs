//! `wick data condition`: prompts that say what their completions are like, or are to be like.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candlewick::data::{
    Aspect, Control, Error, Existing, Level, Origin, Record, Rejection, Row, ScoreMeter, ScoreScale, Source, SplitMix,
    Writer, ask_for_scores, score_columns, score_words, scores_in_context,
};
use candlewick::train::replace_file;
use serde::{Deserialize, Serialize};

use super::dropped::Dropped;
use super::words::{DataCondition, DataRows};
use super::{name, options, source, source_with};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// What [`Scales`] are written as.
const FORMAT: u32 = 1;

/// The scores of a data set, as they stand in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scales {
    format: u32,
    scores: Vec<ScoreScale>,
}

/// Writes the rows.
pub(super) fn condition(arguments: &DataCondition) -> Result<()> {
    let rows = &arguments.rows;
    if rows.path.as_os_str() == "-" {
        bail!(Failure::Usage(
            "rows are read more than once, and standard input can be read once; write it to a file first".into()
        ));
    }
    if !arguments.scores.is_empty() {
        return scores(arguments);
    }
    if !arguments.preference.is_empty() {
        return preference(arguments);
    }
    if !arguments.control.is_empty() {
        return control_rows(arguments);
    }
    bail!(Failure::Usage(
        "nothing to condition on: give --scores reward,cost, or --preference 0.5,0.5 with --scales, or --control helpfulness=5".into()
    ));
}

/// Completions under their own scores.
fn scores(arguments: &DataCondition) -> Result<()> {
    let names = &arguments.scores;
    let mut meter = ScoreMeter::new(names)?;
    let columns = |of_pairs| names.iter().flat_map(|name| score_columns(name, of_pairs)).collect::<Vec<_>>();
    let source = source_with(&arguments.rows, &columns(has_pairs(&arguments.rows, columns)?))?;
    let scales = match &arguments.scales {
        Some(path) => {
            let scales = read_scales(path)?;
            let known: Vec<&str> = scales.iter().map(|scale| scale.name.as_str()).collect();
            if known != names.iter().map(String::as_str).collect::<Vec<_>>() {
                bail!(Failure::Usage(format!("--scores {}: {} has {}", names.join(","), name(path), known.join(","))));
            }
            scales
        }
        None => {
            // What cannot be used is told by the pass that writes, unless it is all there is.
            let (mut measured, mut refused) = (0u64, None);
            for row in source.records()? {
                let met = row?.and_then(|(origin, record)| {
                    record.check(&origin)?;
                    meter.add(&record, &origin)
                });
                match met {
                    Ok(()) => measured += 1,
                    Err(rejection) => refused = refused.or(Some(rejection)),
                }
            }
            if let Some(rejection) = refused.filter(|_| measured == 0) {
                bail!(Failure::Data(format!("no row has the scores {}: {rejection}", names.join(","))));
            }
            meter.scales()?
        }
    };
    write(arguments, &source, |_, origin, record| scores_in_context(record, origin, &scales))?;
    let beside = scales_name(&arguments.out);
    let text = serde_json::to_string_pretty(&Scales { format: FORMAT, scores: scales })?;
    replace_file(&beside, format!("{text}\n").as_bytes())?;
    println!("means and spreads of the scores are in {}", name(&beside));
    Ok(())
}

/// Prompts that ask for the scores of a preference.
fn preference(arguments: &DataCondition) -> Result<()> {
    let path = arguments.scales.as_deref().unwrap_or(Path::new(""));
    let desired = arguments.rule.unwrap_or_default().of(&arguments.preference, &read_scales(path)?)?;
    write(arguments, &source(&arguments.rows)?, |_, origin, record| {
        Ok(vec![ask_for_scores(record, origin, &desired)?])
    })?;
    println!("asked for: {}", score_words(&desired));
    Ok(())
}

/// Rows under a control of their ratings.
fn control_rows(arguments: &DataCondition) -> Result<()> {
    let named = |name: &String| arguments.control.iter().any(|(aspect, _)| aspect == name);
    if let Some((name, _)) = arguments.weight.iter().find(|(name, _)| !named(name)) {
        bail!(Failure::Usage(format!("--weight {name}: no --control is of this aspect")));
    }
    let aspect = |(name, level): &(String, Level)| {
        let weight = arguments.weight.iter().rev().find(|(other, _)| other == name).map_or(1.0, |(_, weight)| *weight);
        Aspect { name: name.clone(), level: *level, weight }
    };
    let control = Control {
        aspects: arguments.control.iter().map(aspect).collect(),
        distance: arguments.distance.unwrap_or(1.0),
    };
    control.check()?;
    let source = source_with(
        &arguments.rows,
        &control.columns(has_pairs(&arguments.rows, |of_pairs| control.columns(of_pairs))?),
    )?;
    let seed = arguments.seed.unwrap_or_default();
    write(arguments, &source, |row, origin, record| {
        Ok(vec![control.apply(record, origin, SplitMix::new(seed, row).next_u64())?])
    })
}

/// Whether the first row that can be read is a pair, so that its numbers are of two sides. Where those stand is of no matter yet.
fn has_pairs(rows: &DataRows, columns: impl Fn(bool) -> Vec<String>) -> Result<bool> {
    let mut options = options(rows, &[])?;
    let numbers = [columns(true), columns(false)].concat();
    options.columns.retain(|name, _| !numbers.contains(name));
    for row in Source::open(&options)?.records()? {
        if let Ok((_, record)) = row? {
            return Ok(matches!(record.row, Row::Pair { .. }));
        }
    }
    bail!(Failure::Data(format!("{}: no row can be read; wick data inspect shows why", name(&rows.path))))
}

fn read_scales(path: &Path) -> Result<Vec<ScoreScale>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--scales: reading {}", name(path)))?;
    let wrong = |found: String| {
        Failure::Data(format!(
            "{}: {found}; expected what wick data condition --scores wrote beside its rows",
            name(path)
        ))
    };
    let scales: Scales = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if scales.format != FORMAT {
        bail!(wrong(format!("format {}, this program knows {FORMAT}", scales.format)));
    }
    let is_good = |scale: &ScoreScale| {
        let numbers = [scale.mean, scale.deviation, scale.low, scale.high];
        numbers.iter().all(|number| number.is_finite()) && scale.deviation > 0.0 && scale.low <= scale.high
    };
    if scales.scores.is_empty() || !scales.scores.iter().all(is_good) {
        bail!(wrong("no scores, or one whose numbers are not finite or out of order".to_owned()));
    }
    Ok(scales.scores)
}

/// Writes what becomes of each row, and tells how many.
fn write(
    arguments: &DataCondition,
    source: &Source,
    made: impl Fn(u64, &Origin, Record) -> Result<Vec<Record>, Rejection>,
) -> Result<()> {
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let mut writer = match Writer::create(&arguments.out, existing) {
        Err(Error::Exists { path }) => {
            bail!(Failure::Usage(format!("{}: the file is there already; add --force to replace it", name(&path))))
        }
        writer => writer?,
    };
    let others = [source.paths(), vec![arguments.out.clone(), scales_name(&arguments.out)]].concat();
    let mut dropped = Dropped::new(arguments.rows.dropped.as_deref(), arguments.rows.strict, &others)?;
    let interrupt = Interrupt::listen()?;
    for (number, row) in source.records()?.enumerate() {
        if interrupt.asked() {
            bail!(Failure::Interrupted("interrupted; nothing was written".into()));
        }
        let row = row?.and_then(|(origin, record)| record.check(&origin).map(|()| (origin, record)));
        match row {
            Ok((origin, record)) => match made(number as u64, &origin, record.clone()) {
                Ok(records) => records.iter().try_for_each(|record| writer.write(record))?,
                Err(rejection) => dropped.add(rejection, Some(&record))?,
            },
            Err(rejection) => dropped.add(rejection, None)?,
        }
    }
    dropped.finish()?;
    let summary = dropped.summary();
    if writer.rows() == 0 {
        bail!(Failure::Data(format!("{}: no row could be written: {summary}", name(&arguments.rows.path))));
    }
    println!("{} rows written to {}", writer.finish()?, name(&arguments.out));
    println!("{summary}");
    Ok(())
}

/// `rows.scales.json` of `rows.jsonl.gz`.
fn scales_name(out: &Path) -> PathBuf {
    let file = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = [".gz", ".zst"].iter().find_map(|ending| file.strip_suffix(ending)).unwrap_or(&file);
    let stem = [".jsonl", ".ndjson", ".parquet"].iter().find_map(|ending| stem.strip_suffix(ending)).unwrap_or(stem);
    out.with_file_name(format!("{stem}.scales.json"))
}

/// `--control`.
pub(super) fn control(words: &str) -> Result<(String, Level), String> {
    let expected = || "expected an aspect and what is asked of it, as helpfulness=5, =row or =free".to_owned();
    let (name, level) = words.split_once('=').ok_or_else(expected)?;
    let level = match level.trim() {
        "free" => Level::Free,
        "row" => Level::OfRow,
        level => Level::At(level.parse().map_err(|_| expected())?),
    };
    Ok((name.trim().to_owned(), level))
}

/// `--weight`.
pub(super) fn weight(words: &str) -> Result<(String, f64), String> {
    let expected = || "expected an aspect and how much it counts, as helpfulness=0.5".to_owned();
    let (name, weight) = words.split_once('=').ok_or_else(expected)?;
    Ok((name.trim().to_owned(), weight.trim().parse().map_err(|_| expected())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        assert_eq!(control("helpfulness=5"), Ok(("helpfulness".to_owned(), Level::At(5.0))));
        assert_eq!(control("honesty = row"), Ok(("honesty".to_owned(), Level::OfRow)));
        assert_eq!(control("honesty=free"), Ok(("honesty".to_owned(), Level::Free)));
        assert_eq!(weight("honesty=0.5"), Ok(("honesty".to_owned(), 0.5)));
        assert!(control("honesty").is_err() && control("honesty=high").is_err() && weight("x=y").is_err());
        assert_eq!(scales_name(Path::new("a/rows.jsonl.gz")), Path::new("a/rows.scales.json"));
    }
}
