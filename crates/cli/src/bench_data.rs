//! `wick bench data`: how fast a file of rows becomes token ids.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use candlewick::data::{Boundary, EncodeOptions, Encoder, Example, Order, Source, SourceOptions, Stream};
use serde_json::json;

use crate::arguments::{BenchBoundary, BenchData};
use crate::memory;

/// Reads every row once, in file order and without a limit of length, and prints what it took.
pub(crate) fn data(arguments: &BenchData) -> Result<()> {
    let boundary = match arguments.boundary {
        BenchBoundary::Offsets => Boundary::Offsets,
        BenchBoundary::CommonPrefix => Boundary::CommonPrefix,
    };
    let options = EncodeOptions { max_length: None, boundary, ..EncodeOptions::default() };
    let encoder = Arc::new(Encoder::from_dir(&arguments.model, options)?);

    let start = Instant::now();
    let source = Source::open(&SourceOptions::new(&arguments.data))?;
    let mut stream = Stream::new(source, encoder, Order::File)?.with_workers(arguments.workers)?;
    let mut tokens = 0;
    while let Some(example) = stream.next_example()? {
        tokens += sequence_tokens(&example);
    }
    let seconds = start.elapsed().as_secs_f64();

    let report = stream.report();
    let rows = report.rows;
    let rows_per_s = rows as f64 / seconds;
    let peak = memory::peak_bytes();
    if arguments.json {
        let line = json!({
            "peer": "candlewick", "workers": arguments.workers, "boundary": format!("{boundary:?}"), "rows": rows, "kept": report.kept, "tokens": tokens,
            "seconds": seconds, "rows_per_s": rows_per_s, "tokens_per_s": tokens as f64 / seconds,
            "rejected": report.rejected.iter().map(|rejection| rejection.origin.line).collect::<Vec<_>>(),
            "peak_rss_mb": peak.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        });
        println!("{line}");
        return Ok(());
    }
    println!("{report}");
    println!("{rows} rows, {tokens} tokens in {seconds:.2} s: {rows_per_s:.0} rows/s");
    if let Some(peak) = peak {
        println!("peak memory {}", memory::readable(peak));
    }
    Ok(())
}

/// Tokens of the sequences of an example, a shared prompt counted once for each.
fn sequence_tokens(example: &Example) -> usize {
    let of_context = |context: &candlewick::data::Context| {
        context.completions.iter().map(|completion| context.prompt.len() + completion.ids.len()).sum::<usize>()
    };
    example.contexts.iter().map(of_context).sum()
}
