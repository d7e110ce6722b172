//! A file of any bytes in every form: an error or a rejected row, never a panic.
//!
//! The first byte chooses the form, the rest is the file; without a first byte that does, the form is told from the rows.
#![no_main]

use std::io::Cursor;

use candlewick_data::{Form, Source, SourceOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: candlewick_fuzz::contain_columnar_panics(), |input: &[u8]| {
    let (form, file) = match input.split_first() {
        Some((first, rest)) if usize::from(*first) < Form::ALL.len() => (Form::ALL[usize::from(*first)].0, rest),
        _ => (Form::Auto, input),
    };
    let options = SourceOptions { form, ..SourceOptions::new("rows") };
    match Source::from_reader(Cursor::new(file.to_vec()), &options) {
        Ok(source) => candlewick_fuzz::read_all(source),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
