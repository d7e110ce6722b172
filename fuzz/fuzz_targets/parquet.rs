//! Any bytes as a Parquet or Arrow file: an error or rejected rows, never a panic, in bounded memory.
//!
//! Without the marks of such a file the input is read as text, which is the business of `rows`; it is passed over here.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use candlewick_data::{Source, SourceOptions};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Such files are read from any place on, so they have to be files.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() { memory } else { std::env::temp_dir() };
    dir.join(format!("candlewick-fuzz-{}.parquet", std::process::id()))
});

fuzz_target!(init: candlewick_fuzz::contain_columnar_panics(), |input: &[u8]| -> Corpus {
    if ![&b"PAR1"[..], b"ARROW1", b"\xff\xff\xff\xff"].iter().any(|mark| input.starts_with(mark)) {
        return Corpus::Reject;
    }
    std::fs::write(&*FILE, input).expect("room for a small file");
    match Source::open(&SourceOptions::new(&*FILE)) {
        Ok(source) => candlewick_fuzz::read_all(source),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Corpus::Keep
});
