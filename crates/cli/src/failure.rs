//! What went wrong, as one line and an exit code.

use std::fmt;
use std::io;

use candlewick::data::Error::{Exists, Option as OutOfRange, Tokenizer, Vocabulary, Write};
use candlewick::train::Fault;

/// Success.
pub(crate) const OK: u8 = 0;
/// A check failed, or this program is at fault.
pub(crate) const INTERNAL: u8 = 1;
/// Wrong arguments or configuration.
pub(crate) const USAGE: u8 = 2;
/// Data that cannot be used.
pub(crate) const DATA: u8 = 3;
/// A model, adapter or checkpoint that cannot be used.
pub(crate) const MODEL: u8 = 4;
/// Training stopped: the loss or a gradient was no longer finite.
pub(crate) const STOPPED: u8 = 5;
/// A file could not be read or written; the disk may be full.
pub(crate) const FILES: u8 = 6;
/// Interrupted; the message tells what is saved.
pub(crate) const INTERRUPTED: u8 = 130;

/// The list shown by `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  a check failed, or wick itself is at fault
    2  wrong arguments or configuration
    3  data that cannot be used
    4  a model, adapter or checkpoint that cannot be used
    5  training stopped: the loss or a gradient was not finite
    6  a file could not be read or written (a full disk, a missing permission)
  130  interrupted; the message tells what is saved";

/// A failure of the command line's own.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Arguments that do not go together.
    Usage(String),
    /// Data that does not suit.
    Data(String),
    /// A model that does not suit.
    Model(String),
    /// A check that was made and failed.
    Check(String),
    /// The user asked to stop; says how to go on.
    Interrupted(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Data(text) | Self::Model(text) | Self::Check(text) | Self::Interrupted(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error, by the most telling of its causes.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_about_space) {
        return FILES;
    }
    error.chain().find_map(code_of).unwrap_or(INTERNAL)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(own) = cause.downcast_ref::<Failure>() {
        return Some(match own {
            Failure::Usage(_) => USAGE,
            Failure::Data(_) => DATA,
            Failure::Model(_) => MODEL,
            Failure::Check(_) => INTERNAL,
            Failure::Interrupted(_) => INTERRUPTED,
        });
    }
    // A tokenizer belongs to its model.
    if let Some(Tokenizer { .. } | Vocabulary { .. }) = data_error(cause) {
        return Some(MODEL);
    }
    // What a configuration asks of a model that the model cannot do, as an unknown target of LoRA.
    if let Some(candlewick::train::Error::Model(candlewick::model::Error::Input(_))) = cause.downcast_ref() {
        return Some(USAGE);
    }
    if let Some(train) = cause.downcast_ref::<candlewick::train::Error>() {
        return Some(of_fault(train.fault()));
    }
    if let Some(evaluate) = cause.downcast_ref::<candlewick::evaluate::Error>() {
        return Some(of_fault(evaluate.fault()));
    }
    if let Some(data) = cause.downcast_ref::<candlewick::data::Error>() {
        return Some(match data {
            Write { .. } => FILES,
            Exists { .. } | OutOfRange { .. } => USAGE,
            _ => DATA,
        });
    }
    if let Some(model) = cause.downcast_ref::<candlewick::model::Error>() {
        return Some(if matches!(model, candlewick::model::Error::Input(_)) { USAGE } else { MODEL });
    }
    if cause.is::<candlewick::losses::Error>() {
        return Some(USAGE);
    }
    cause.is::<io::Error>().then_some(FILES)
}

fn of_fault(fault: Fault) -> u8 {
    match fault {
        Fault::Configuration => USAGE,
        Fault::Data => DATA,
        Fault::Model => MODEL,
        Fault::Stopped => STOPPED,
        Fault::Files => FILES,
        Fault::Interrupted => INTERRUPTED,
        _ => INTERNAL,
    }
}

/// The data crate's error, bare or as the trainer hands it on.
fn data_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a candlewick::data::Error> {
    match cause.downcast_ref::<candlewick::train::Error>() {
        Some(candlewick::train::Error::Data(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// Whether writing failed for want of room, wherever it happened.
fn is_about_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded)
}

/// The error and its causes on one line, each said once.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_bad_model_wherever_it_is_wrapped() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(exit_code(&anyhow::Error::new(full()).context("saving")), FILES);
        assert_eq!(exit_code(&anyhow::Error::new(Failure::Usage("no".into()))), USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("?")), INTERNAL);
    }

    #[test]
    fn a_cause_that_is_already_told_is_not_repeated() {
        let error = anyhow::Error::new(io::Error::other("disk on fire")).context("writing a: disk on fire");
        assert_eq!(one_line(&error), "writing a: disk on fire");
        let error = anyhow::Error::new(io::Error::other("disk on fire")).context("writing a");
        assert_eq!(one_line(&error), "writing a: disk on fire");
    }

    #[test]
    fn help_lists_every_code() {
        for code in [OK, INTERNAL, USAGE, DATA, MODEL, STOPPED, FILES, INTERRUPTED] {
            assert!(EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))), "{code}");
        }
    }
}
