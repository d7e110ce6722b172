//! Policies that are named by their directories: models, and adapters over a base.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence, Moment};
use candlewick::evaluate::sweep::SweepPoint;
use candlewick::model::{CausalLm, Config as ModelConfig};
use serde_json::Value;

use crate::data::name;
use crate::failure::Failure;
use crate::places::{self, Kind};

/// A policy that is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// What it is called.
    pub(super) name: String,
    /// Its directory, as it was named.
    pub(super) place: PathBuf,
    /// The directory of a model with its tokens: of a run that is not over, that with which it begins.
    base: PathBuf,
    /// How its prompts become tokens.
    options: EncodeOptions,
    /// The directory of the model.
    model: PathBuf,
    /// The directory of the adapter over it.
    adapter: Option<PathBuf>,
}

impl Named {
    /// The policy that a run of a sweep ends with.
    pub(super) fn of_point(point: &SweepPoint) -> Result<Self> {
        let place = point.policy();
        let (model, adapter) = match is_adapter(&place) {
            true => (point.plan.model.path.clone(), Some(place.clone())),
            false => (place.clone(), None),
        };
        let is_there = model.join("config.json").is_file();
        let base = if is_there { model.clone() } else { point.plan.model.path.clone() };
        let date = point.plan.encode_options().date;
        Ok(Self { name: point.name.clone(), place, base, options: options(date), model, adapter })
    }

    /// The policy in a directory, of an adapter over `base` or else the base that it names.
    fn find(place: &Path, base: Option<&Path>) -> Result<Self> {
        let directory = places::directory(place, Kind::Model)?;
        let named = |model: PathBuf, adapter| Self {
            name: called(place),
            place: place.to_owned(),
            base: model.clone(),
            options: options(None),
            model,
            adapter,
        };
        if is_adapter(&directory) {
            let written = AdapterFile::read(&directory)?;
            if written.of_scores {
                bail!(refused(place, "is the adapter of a score model, which answers nothing; name it by --score"));
            }
            if written.is_panacea {
                bail!(is_panacea(place));
            }
            let base = base.map(|base| places::directory(base, Kind::Model)).transpose()?;
            return Ok(named(written.base(place, base, "--model DIR")?, Some(directory)));
        }
        if directory.join("final").is_dir() && !directory.join("config.json").is_file() {
            let result = name(&place.join("final"));
            bail!(refused(place, &format!("is the directory of a run; name what it trained, {result}")));
        }
        if ModelConfig::from_dir(&directory)?.is_score_model() {
            bail!(refused(place, "is a score model, which answers nothing; name it by --score NAME=DIR"));
        }
        Ok(named(directory, None))
    }

    /// The policy and its tokenizer.
    pub(super) fn load(&self) -> Result<(CausalLm, Encoder)> {
        let mut model = CausalLm::<f32>::load(&self.model)?;
        if let Some(adapter) = &self.adapter {
            model.load_adapter(adapter)?;
        }
        if !model.preference().is_empty() {
            bail!(is_panacea(&self.place));
        }
        let encoder = Encoder::from_dir(&self.model, self.options)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok((model, encoder))
    }

    /// The tokenizer that it is going to have, and the number of its model's tokens: both are there before a run is.
    pub(super) fn tokens(&self) -> Result<(Encoder, usize)> {
        let encoder = Encoder::from_dir(&self.base, self.options)?;
        let tokens = ModelConfig::from_dir(&self.base)?.vocab_size;
        encoder.check_vocabulary(tokens)?;
        Ok((encoder, tokens))
    }

    /// What [`Self::tokens`] is made of.
    pub(super) fn tokens_of(&self) -> (&Path, &EncodeOptions) {
        (&self.base, &self.options)
    }
}

/// How prompts become tokens, as those of `wick sample` do.
fn options(date: Option<Moment>) -> EncodeOptions {
    EncodeOptions { end_of_sequence: EndOfSequence::Keep, date, ..EncodeOptions::default() }
}

fn is_panacea(place: &Path) -> Failure {
    let reason = "is a Panacea adapter, which is another policy at every preference; write it out at each that is to be compared by \
                  wick merge --preference, and name those";
    refused(place, reason)
}

/// The policies in directories, each with a name of its own: that of its directory, or its path where another one has that name.
pub(super) fn of_places(places: &[PathBuf], base: Option<&Path>, taken: &[Named]) -> Result<Vec<Named>> {
    let mut found: Vec<Named> = Vec::new();
    for place in places {
        let policy = Named::find(place, base)?;
        let whole = |named: &Named| named.place.canonicalize().unwrap_or_else(|_| named.place.clone());
        if found.iter().chain(taken).any(|other| whole(other) == whole(&policy)) {
            bail!(Failure::Usage(format!("{}: the policy is there twice; name it once", name(place))));
        }
        found.push(policy);
    }
    let names: Vec<String> = taken.iter().chain(&found).map(|policy| policy.name.clone()).collect();
    for policy in &mut found {
        if names.iter().filter(|other| **other == policy.name).count() > 1 {
            policy.name = name(&policy.place);
        }
    }
    Ok(found)
}

/// Names of files for what is written of each policy: theirs as far as a file may have them, with a number where two are the same.
pub(super) fn files(policies: &[Named]) -> Vec<String> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '=' | '-' | '_') { c } else { '_' };
    let plain: Vec<String> = policies.iter().map(|policy| policy.name.chars().map(safe).collect()).collect();
    let numbered = |(number, file): (usize, &String)| match plain.iter().filter(|other| *other == file).count() {
        1 => format!("{file}.jsonl"),
        _ => format!("{file}-{}.jsonl", number + 1),
    };
    plain.iter().enumerate().map(numbered).collect()
}

/// What `adapter_config.json` says of an adapter.
pub(super) struct AdapterFile {
    /// Whether it has score heads beside it.
    pub(super) of_scores: bool,
    /// Whether it is told a preference.
    is_panacea: bool,
    base: Option<String>,
}

impl AdapterFile {
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(ADAPTER);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let words: Value = serde_json::from_str(&text).map_err(|error| {
            Failure::Model(format!("{}: not JSON: {error}; write the adapter anew", path.display()))
        })?;
        let word = |key: &str| words.get(key).and_then(Value::as_str);
        Ok(Self {
            of_scores: word("task_type") == Some("SEQ_CLS"),
            is_panacea: word("peft_type") == Some("PANACEA"),
            base: word("base_model_name_or_path").map(str::to_owned),
        })
    }

    /// The directory of the base: the one that is given, or else what the adapter names. `instead` says how to name another.
    pub(super) fn base(&self, place: &Path, given: Option<PathBuf>, instead: &str) -> Result<PathBuf> {
        let named = given.or_else(|| self.base.as_ref().map(PathBuf::from));
        match named.filter(|base| base.join("config.json").is_file()) {
            Some(base) => Ok(base),
            None => bail!(refused(
                place,
                &format!(
                    "is an adapter over {}, where no model is; name the base by {instead}",
                    self.base.as_deref().map_or("a base that it does not name".to_owned(), |base| format!("{base:?}"))
                )
            )),
        }
    }
}

const ADAPTER: &str = "adapter_config.json";

pub(super) fn is_adapter(directory: &Path) -> bool {
    directory.join(ADAPTER).is_file()
}

pub(super) fn refused(place: &Path, reason: &str) -> Failure {
    Failure::Model(format!("{} {reason}", name(place)))
}

/// What a directory is called: its own name, or that of the run whose result it is.
fn called(place: &Path) -> String {
    let own = |place: &Path| place.file_name().map(|name| name.to_string_lossy().into_owned());
    match own(place) {
        Some(last) if last == "final" => place.parent().and_then(own).unwrap_or(last),
        Some(last) => last,
        None => name(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_called_as_their_runs() {
        for (place, expected) in
            [("out/points/lambda=0.5/final", "lambda=0.5"), ("soup/", "soup"), ("final", "final"), ("..", "..")]
        {
            assert_eq!(called(Path::new(place)), expected);
        }
    }
}
