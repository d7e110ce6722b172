//! What policies are measured by: score models with names, and which way each number is better.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candlewick::data::{EncodeOptions, Encoder, Origin, Record};
use candlewick::evaluate::pareto::{Aim, Direction, MOST_OBJECTIVES};
use candlewick::model::{Config as ModelConfig, Normaliser, ScoreModel};
use candlewick::train::{Prompt, RowScorer, RowValues};

use super::check;
use super::policies::{AdapterFile, is_adapter, refused};
use super::words::Pareto;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::places::{self, Kind};

/// Tokens of an answer, its end included.
pub(super) const TOKENS: &str = "tokens";
/// Share of the answers that were cut at `--max-new-tokens`.
pub(super) const CUT: &str = "cut";
/// Divergence from the reference, in nats an answer.
pub(super) const KL: &str = "kl";

/// Rows that are scored together.
const BATCH: usize = 16;

/// Score models, and the names of the numbers that they give.
pub(super) struct Scores {
    models: Vec<Scorer>,
}

struct Scorer {
    /// As it was named.
    words: String,
    scorer: RowScorer,
    /// The directory of its tokenizer.
    tokenizer: PathBuf,
    columns: Vec<Column>,
}

/// A number that is measured.
struct Column {
    name: String,
    /// The head, counted from 0, its name in the files, and how it is normalised.
    head: usize,
    own: String,
    normaliser: Option<Normaliser>,
}

impl Scores {
    /// Loads what `--score` names.
    pub(super) fn load(arguments: &Pareto, threads: usize) -> Result<Self> {
        let mut models: Vec<Scorer> = Vec::new();
        let mut taken: Vec<String> = [TOKENS, CUT, KL].map(str::to_owned).to_vec();
        for words in &arguments.score {
            let scorer = Scorer::load(words, arguments, threads)?;
            for column in &scorer.columns {
                if taken.contains(&column.name) {
                    bail!(Failure::Usage(format!(
                        "--score {words}: {:?} is there already, or one of {TOKENS}, {CUT} and {KL}; name it otherwise",
                        column.name
                    )));
                }
                taken.push(column.name.clone());
            }
            models.push(scorer);
        }
        Ok(Self { models })
    }

    /// The names of the numbers, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.columns().map(|column| column.name.clone()).collect()
    }

    fn columns(&self) -> impl Iterator<Item = &Column> {
        self.models.iter().flat_map(|scorer| &scorer.columns)
    }

    /// That every score model can read every prompt.
    pub(super) fn check_prompts(&self, prompts: &[Prompt], arguments: &Pareto) -> Result<()> {
        for Scorer { words, tokenizer, .. } in &self.models {
            check::prompts(prompts, &encoder(tokenizer, arguments)?, &format!("--score {words}"), arguments)?;
        }
        Ok(())
    }

    /// The numbers of single completions, `[rows][1][names]`.
    pub(super) fn score(&mut self, rows: &[(Origin, Record)], interrupt: &Interrupt) -> Result<Vec<RowValues>> {
        let mut all = vec![vec![Vec::new()]; rows.len()];
        for scorer in &mut self.models {
            let mut place = 0;
            for batch in rows.chunks(BATCH) {
                if interrupt.asked() {
                    bail!(Failure::Interrupted("interrupted; nothing was written".into()));
                }
                for values in scorer.scorer.score(batch)? {
                    let values = values.map_err(candlewick::data::Error::Rejected)?;
                    let Some(of_heads) = values.first() else { bail!("a row without a completion was scored") };
                    let own = scorer.columns.iter().map(|column| of_heads[column.head]);
                    all[place][0].extend(own);
                    place += 1;
                }
            }
        }
        Ok(all)
    }

    /// The objectives: every score, in order, and what else is named; each with its direction and what says so.
    pub(super) fn aims(&self, arguments: &Pareto) -> Result<Vec<Aim>> {
        let Pareto { maximise, minimise, reference, reference_point, .. } = arguments;
        if let Some(name) = maximise.iter().find(|name| minimise.contains(name)) {
            bail!(Failure::Usage(format!("{name}: given to --maximise and to --minimise; leave one of them out")));
        }
        let mut names = self.names();
        for name in maximise.iter().chain(minimise) {
            if name == KL && reference.is_none() {
                bail!(Failure::Usage(format!("{KL}: it is measured from a reference; name one by --reference DIR")));
            }
            let is_measured = [TOKENS, CUT, KL].contains(&name.as_str());
            if !is_measured && !names.contains(name) {
                bail!(Failure::Usage(format!(
                    "--maximise or --minimise {name}: nothing of that name is measured; there are {}, {TOKENS}, {CUT} and, with \
                     --reference, {KL}",
                    names.join(", ")
                )));
            }
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let aims = names.iter().map(|name| self.aim(name, arguments)).collect::<Result<Vec<_>>>()?;
        if aims.len() < 2 {
            bail!(Failure::Usage(format!(
                "one objective only ({}); a front is of two or more: add --score NAME=DIR, or --minimise {TOKENS}",
                aims.first().map_or("none", |aim| aim.name.as_str())
            )));
        }
        if aims.len() > MOST_OBJECTIVES {
            bail!(Failure::Usage(format!(
                "{} objectives ({}); the hypervolume is exact, and is of {MOST_OBJECTIVES} at most: name the heads that matter, as \
                 --score NAME,NAME=DIR",
                aims.len(),
                names.join(", ")
            )));
        }
        if let Some((name, _)) = reference_point.iter().find(|(name, _)| !names.contains(name)) {
            let names = names.join(", ");
            bail!(Failure::Usage(format!("--reference-point {name}: no objective has that name; there are {names}")));
        }
        Ok(aims)
    }

    fn aim(&self, name: &str, arguments: &Pareto) -> Result<Aim> {
        let aim = |direction, because: &str| Ok(Aim { name: name.to_owned(), direction, because: because.to_owned() });
        if arguments.maximise.iter().any(|other| other == name) {
            return aim(Direction::Maximise, "--maximise");
        }
        if arguments.minimise.iter().any(|other| other == name) {
            return aim(Direction::Minimise, "--minimise");
        }
        let column = self.columns().find(|column| column.name == name);
        match column.and_then(|column| column.normaliser) {
            Some(Normaliser::Affine { .. }) => return aim(Direction::Maximise, "its head is normalised as a reward"),
            Some(Normaliser::Scale { .. }) => return aim(Direction::Minimise, "its head is normalised as a cost"),
            None => {}
        }
        let own = column.map_or(name, |column| column.own.as_str());
        match (by_name(name), by_name(own)) {
            (Some(one), Some(other)) if one != other => bail!(Failure::Usage(format!(
                "--score {name}=…: the head of that model is called {own:?}, which is better the other way; is it the model that is \
                 meant? If so, say --maximise {name} or --minimise {name}"
            ))),
            (Some(direction), _) => aim(direction, "its name"),
            (None, Some(direction)) => aim(direction, &format!("the name of its head, {own}")),
            (None, None) => bail!(Failure::Usage(format!(
                "{name}: nothing says which way it is better; add --maximise {name} or --minimise {name}"
            ))),
        }
    }
}

/// Which way a number is better that is called so.
fn by_name(name: &str) -> Option<Direction> {
    let is = |word: &str| name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '-']));
    match (is("reward"), is("cost")) {
        (true, _) => Some(Direction::Maximise),
        (_, true) => Some(Direction::Minimise),
        _ => None,
    }
}

impl Scorer {
    fn load(words: &str, arguments: &Pareto, threads: usize) -> Result<Self> {
        let (names, place) = match words.split_once('=') {
            // A path may hold the sign too, as those of the points of a sweep do.
            Some((names, place)) if !Path::new(words).is_dir() => {
                (names.split(',').map(|name| name.trim().to_owned()).collect(), PathBuf::from(place))
            }
            _ => (Vec::new(), PathBuf::from(words)),
        };
        if names.iter().any(String::is_empty) || place.as_os_str().is_empty() {
            bail!(Failure::Usage(format!(
                "--score {words}: expected a name, =, and a directory, as reward=reward/final"
            )));
        }
        let directory = places::directory(&place, Kind::Model)?;
        let (model, tokenizer) = if is_adapter(&directory) {
            let written = AdapterFile::read(&directory)?;
            if !written.of_scores {
                bail!(refused(
                    &place,
                    "is the adapter of a language model, with no score heads; name it by --policies"
                ));
            }
            let base = written.base(&place, None, "moving it there")?;
            let mut model = match ModelConfig::from_dir(&base)?.is_score_model() {
                true => ScoreModel::load(&base)?,
                // Its heads lie beside the adapter; their names do not.
                false if names.is_empty() => bail!(Failure::Usage(format!(
                    "--score {words}: an adapter does not say what its heads are called; expected NAME=DIR, or NAME,NAME=DIR of several"
                ))),
                false => ScoreModel::from_causal(&base, &names)?,
            };
            model.load_adapter(&directory)?;
            (model, base)
        } else {
            if !ModelConfig::from_dir(&directory)?.is_score_model() {
                bail!(refused(&place, "is a language model, with no score heads; name it by --policies"));
            }
            (ScoreModel::load(&directory)?, directory)
        };
        let columns = columns(words, &names, &model)?;
        let scorer = RowScorer::new(model, encoder(&tokenizer, arguments)?, threads)?;
        Ok(Self { words: words.to_owned(), scorer, tokenizer, columns })
    }
}

/// How a score model reads rows.
fn encoder(tokenizer: &Path, arguments: &Pareto) -> Result<Encoder> {
    let end_of_sequence = arguments.end_of_sequence.unwrap_or_default();
    Ok(Encoder::from_dir(tokenizer, EncodeOptions { end_of_sequence, ..EncodeOptions::default() })?)
}

/// The heads that are meant: all without names, those of the names, or the only one under another name.
fn columns(words: &str, names: &[String], model: &ScoreModel) -> Result<Vec<Column>> {
    let heads = model.heads();
    let column = |head: usize, name: &str| Column {
        name: name.to_owned(),
        head,
        own: heads[head].clone(),
        normaliser: model.normaliser(head),
    };
    match (names, heads) {
        ([], _) => Ok(heads.iter().enumerate().map(|(head, name)| column(head, name)).collect()),
        ([name], [_]) => Ok(vec![column(0, name)]),
        _ => names
            .iter()
            .map(|name| match heads.iter().position(|head| head == name) {
                Some(head) => Ok(column(head, name)),
                None => bail!(Failure::Usage(format!(
                    "--score {words}: the model has no head {name:?}; its heads are {}",
                    heads.join(", ")
                ))),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_names_say_which_way_is_better() {
        assert_eq!(by_name("reward"), Some(Direction::Maximise));
        assert_eq!(by_name("cost_2"), Some(Direction::Minimise));
        assert_eq!((by_name("costly"), by_name("score")), (None, None));
    }
}
