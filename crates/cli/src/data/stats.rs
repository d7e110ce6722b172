//! `wick data stats`.

use std::io::{self, Write};

use anyhow::Result;
use candlewick::data::Stats;

use super::dropped::Dropped;
use super::words::DataStats;
use super::{encoder, shown, source};

/// Lines are no longer than this where the terminal's width is not known.
const USUAL_WIDTH: usize = 100;

/// Measures and prints.
pub(crate) fn stats(arguments: &DataStats) -> Result<()> {
    let rows = &arguments.rows;
    let encoder = encoder(&arguments.tokens)?;
    let source = source(rows)?;
    let mut dropped = Dropped::new(rows.dropped.as_deref(), rows.strict, &source.paths())?;
    let mut stats = Stats::default();
    stats.source(source.name(), source.form());
    let mut records = source.records()?;
    for row in &mut records {
        match row? {
            Ok((origin, record)) => {
                if let Err(rejection) = stats.row(&origin, &record, encoder.as_ref()) {
                    dropped.add(rejection, Some(&record))?;
                }
            }
            Err(rejection) => {
                stats.dropped(&rejection);
                dropped.add(rejection, None)?;
            }
        }
    }
    stats.safety(records.safety());
    dropped.finish()?;
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string(&stats)?),
        false => stats.summary().to_text(width()),
    };
    shown(io::stdout().lock().write_all(text.as_bytes()))
}

/// The terminal's columns.
fn width() -> usize {
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    given.or_else(terminal).unwrap_or(USUAL_WIDTH)
}
