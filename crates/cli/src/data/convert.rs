//! `wick data convert`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candlewick::data::{
    Balance, Error, Existing, Layout, Origin, PairBy, Pairing, PromptRange, Record, Rejection, Row, Selection,
    SelectionOptions, Selector, Source, Writer, pair_up,
};

use super::dropped::Dropped;
use super::words::{DataConvert, PairingWord, To};
use super::{name, source};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

type Item = Result<(Origin, Record), Rejection>;

/// Writes the rows.
pub(crate) fn convert(arguments: &DataConvert) -> Result<()> {
    if arguments.pairing.is_some() && arguments.to != To::Pairs {
        bail!(Failure::Usage(
            "--pairing says how --to pairs pairs completions; add --to pairs, or leave it out".into()
        ));
    }
    let mut out = Out::create(arguments)?;
    let source = source(&arguments.rows)?;
    let others = [source.paths(), out.paths()].concat();
    let mut dropped = Dropped::new(arguments.rows.dropped.as_deref(), arguments.rows.strict, &others)?;
    let interrupt = Interrupt::listen()?;
    let selection = select(&source, arguments)?;
    let mut failure = None;
    let rows = source.records()?.map_while(|row| row.map_err(|error| failure = Some(error)).ok());
    let rows = rows.enumerate().map(|(row, item)| keep(row as u64, item, selection.as_ref()));
    let mut rows = rows.peekable();
    // What the rows are is told by the first that can be read.
    while let Some(row) = rows.next_if(Result::is_err) {
        stop_if_asked(&interrupt)?;
        if let Err(rejection) = row {
            dropped.add(rejection, None)?;
        }
    }
    let labelled = matches!(rows.peek(), Some(Ok((_, Record { row: Row::Labelled { .. }, .. }))));
    // Two labelled rows make a pair; everything else is a matter of one row.
    let rows: Box<dyn Iterator<Item = Item> + '_> = match labelled && arguments.to == To::Pairs {
        true => Box::new(pair_up(rows, PairBy::Label)),
        false => Box::new(rows),
    };
    let layout = layout(arguments);
    for row in rows {
        stop_if_asked(&interrupt)?;
        match row {
            Ok((origin, record)) => match layout.of(&origin, record.clone()) {
                Ok(records) => records.iter().try_for_each(|record| out.write(record))?,
                Err(rejection) => dropped.add(rejection, Some(&record))?,
            },
            Err(rejection) => dropped.add(rejection, None)?,
        }
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    dropped.finish()?;
    let summary = dropped.summary();
    if out.rows() == 0 {
        bail!(Failure::Data(format!("{}: no row could be written: {summary}", name(&arguments.rows.path))));
    }
    for line in out.finish()? {
        println!("{line}");
    }
    println!("{summary}");
    Ok(())
}

fn stop_if_asked(interrupt: &Interrupt) -> Result<()> {
    if interrupt.asked() {
        bail!(Failure::Interrupted("interrupted; nothing was written".into()));
    }
    Ok(())
}

/// What the rows are written as.
fn layout(arguments: &DataConvert) -> Layout {
    let pairing = match arguments.pairing {
        None | Some(PairingWord::BestWorst) => Pairing::BestWorst,
        Some(PairingWord::Adjacent) => Pairing::Adjacent,
        Some(PairingWord::All) => Pairing::All,
    };
    match arguments.to {
        To::Auto => Layout::Auto,
        To::Pairs => Layout::Pairs(pairing),
        To::Unpaired => Layout::Unpaired,
        To::Ranked => Layout::Ranked,
        To::Demonstrations => Layout::Demonstrations,
    }
}

/// A row that can be used and is not left out.
fn keep(row: u64, item: Item, selection: Option<&Selection>) -> Item {
    let (origin, record) = item?;
    record.check(&origin)?;
    match selection.and_then(|selection| selection.rejection(row, &origin)) {
        Some(rejection) => Err(rejection),
        None => Ok((origin, record)),
    }
}

/// A first pass, where rows are to be left out for what other rows say.
fn select(source: &Source, arguments: &DataConvert) -> Result<Option<Selection>> {
    let balance = arguments.balance.map(|ratio| Balance { ratio, seed: arguments.seed.unwrap_or_default() });
    let options = SelectionOptions { deduplicate: arguments.deduplicate, balance };
    if options == SelectionOptions::default() {
        return Ok(None);
    }
    if arguments.rows.path.as_os_str() == "-" {
        bail!(Failure::Usage(
            "--deduplicate and --balance read all rows twice, and standard input can be read once; write it to a file first"
                .into()
        ));
    }
    let mut selector = Selector::new(&options)?;
    for row in source.records()? {
        match row? {
            Ok((origin, record)) if record.check(&origin).is_ok() => selector.add(&origin, &record),
            _ => selector.skip(),
        }
    }
    Ok(Some(selector.finish()?))
}

/// A file of rows.
pub(crate) fn create(path: &Path, existing: Existing) -> Result<Writer> {
    match Writer::create(path, existing) {
        Ok(writer) => Ok(writer),
        Err(Error::Exists { path }) => {
            bail!(Failure::Usage(format!("{}: the file is there already; add --force to replace it", name(&path))))
        }
        Err(error) => Err(error.into()),
    }
}

/// The file, and the one of the rows held out.
struct Out {
    files: Vec<(PathBuf, PromptRange, Writer)>,
}

impl Out {
    fn create(arguments: &DataConvert) -> Result<Self> {
        let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
        let all = vec![(arguments.out.clone(), PromptRange::default())];
        let parts = match arguments.held_out {
            None => all,
            Some(share) => {
                let (train, held_out) = PromptRange::split(share)?;
                vec![(arguments.out.clone(), train), (held_out_name(&arguments.out), held_out)]
            }
        };
        let file = |(path, range): (PathBuf, PromptRange)| {
            let writer = create(&path, existing)?;
            Ok((path, range, writer))
        };
        Ok(Self { files: parts.into_iter().map(file).collect::<Result<_>>()? })
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let split = self.files.len() > 1;
        for (_, range, writer) in &mut self.files {
            if !split || range.contains(&record.row) {
                writer.write(record)?;
            }
        }
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|(path, ..)| path.clone()).collect()
    }

    fn rows(&self) -> u64 {
        self.files.iter().map(|(_, _, writer)| writer.rows()).sum()
    }

    /// What was written where.
    fn finish(self) -> Result<Vec<String>> {
        let finish = |(path, _, writer): (PathBuf, PromptRange, Writer)| {
            let rows = writer.finish()?;
            Ok(format!("{rows} rows written to {}", name(&path)))
        };
        self.files.into_iter().map(finish).collect()
    }
}

/// `pairs-held-out.jsonl.gz` of `pairs.jsonl.gz`.
fn held_out_name(path: &Path) -> PathBuf {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let endings = [".jsonl", ".ndjson", ".parquet"];
    let end = endings.iter().filter_map(|ending| file.to_lowercase().rfind(ending)).max();
    let (stem, ending) = file.split_at(end.filter(|end| file.is_char_boundary(*end)).unwrap_or(file.len()));
    path.with_file_name(format!("{stem}-held-out{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_held_out_have_a_file_of_their_own() {
        for (name, expected) in [
            ("a/pairs.jsonl.gz", "a/pairs-held-out.jsonl.gz"),
            ("pairs.parquet", "pairs-held-out.parquet"),
            ("a.jsonl.jsonl", "a.jsonl-held-out.jsonl"),
        ] {
            assert_eq!(held_out_name(Path::new(name)), Path::new(expected));
        }
    }
}
