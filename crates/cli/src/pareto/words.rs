//! The words of `wick pareto`.

use std::path::PathBuf;

use candlewick::data::EndOfSequence;
use clap::Args;

use crate::arguments::{Common, Course};
use crate::failure::EXIT_CODES;
use crate::sample::Draws;

/// `wick pareto`
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Pareto {
    /// Keys of the configuration that is swept.
    #[command(flatten)]
    pub(crate) common: Common,
    /// How far and what its runs train.
    #[command(flatten)]
    pub(crate) course: Course,
    /// Directory for the runs and what comes out; a sweep that stands there goes on
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// A key of the configuration and its values, a run each: objective.beta=0.1,0.5. Keys that go together: objective.weight,objective.beta=[0.5,0.2],[0.8,0.1]. Several --sweep give all combinations
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) sweep: Vec<String>,
    /// Policies that are there: directories of models, or of adapters, over --model or else the base that they name
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) policies: Vec<PathBuf>,
    /// Rows whose prompts every policy answers, each prompt once, best held out; their completions are not read
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Read nothing but this column of --prompts, a text or a list of messages: of rows without completions
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_column: Option<String>,
    /// A score model and what its number is called; of several heads the one of that name, or all with NAME,NAME=DIR; may be repeated
    #[arg(long, value_name = "NAME=DIR")]
    pub(crate) score: Vec<String>,
    /// Objectives of which more is better: names of --score, tokens, or with --reference kl
    #[arg(long, visible_alias = "maximize", value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) maximise: Vec<String>,
    /// Objectives of which less is better
    #[arg(long, visible_alias = "minimize", value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) minimise: Vec<String>,
    /// Directory of the model that policies are to stay near: measures kl, in nats an answer
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,
    /// What the hypervolume is measured from in one objective; by default a tenth of its range beyond the worst mean; may be repeated
    #[arg(long, value_name = "NAME=X", value_parser = named_number)]
    pub(crate) reference_point: Vec<(String, f64)>,
    /// How policies answer.
    #[command(flatten)]
    pub(crate) draws: Draws,
    /// How plain texts end for the score models, as data.end_of_sequence of the runs that trained them: append or keep
    #[arg(long, value_name = "HOW", value_parser = crate::data::word::<EndOfSequence>)]
    pub(crate) end_of_sequence: Option<EndOfSequence>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// `--reference-point`.
fn named_number(words: &str) -> Result<(String, f64), String> {
    let parsed = words
        .split_once('=')
        .and_then(|(name, value)| Some((name.trim().to_owned(), value.trim().parse::<f64>().ok()?)));
    let finite = parsed.filter(|(_, value)| value.is_finite());
    finite.ok_or_else(|| "expected the name of an objective, =, and a finite number, as cost=3.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use candlewick::evaluate::sweep::Axis;
    use clap::Parser;

    /// The words of a line as a shell hands them on: quotes hold them together.
    fn split(line: &str) -> Vec<String> {
        let mut quoted = false;
        let mut parts = vec![String::new()];
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => parts.push(String::new()),
                other => parts.last_mut().expect("one at least").push(other),
            }
        }
        parts.into_iter().filter(|part| !part.is_empty()).collect()
    }

    #[test]
    fn the_commands_in_the_docs_are_commands() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pareto.md");
        let page = std::fs::read_to_string(page).expect("the page is there").replace("\\\n", " ");
        let blocks = page.split("```console").skip(1).filter_map(|rest| rest.split("```").next());
        let mut swept = 0;
        let lines: Vec<&str> = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).collect();
        for line in &lines {
            let arguments = Arguments::try_parse_from(split(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
            if let Command::Pareto(arguments) = arguments.command {
                for words in &arguments.sweep {
                    swept += Axis::parse(words).unwrap_or_else(|error| panic!("{line}: {error}")).points.len();
                }
            }
        }
        assert!(lines.len() > 8 && swept >= 6, "{lines:?}");
        // So are the sweeps in the table.
        let table =
            page.split("| `--sweep` | runs |").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a table");
        let sweeps: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(sweeps.iter().map(|words| Axis::parse(words).expect(words).points.len()).sum::<usize>(), 13);
    }

    #[test]
    fn a_point_has_a_name_and_a_number() {
        assert_eq!(named_number("cost = -3.5"), Ok(("cost".to_owned(), -3.5)));
        for words in ["cost", "cost=low", "cost=inf", "cost=-inf", "cost=nan", "cost=1e999"] {
            assert!(named_number(words).is_err(), "{words}");
        }
    }
}
