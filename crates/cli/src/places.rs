//! Names of models as a user may write them: a directory, or `hub:owner/name`, or `hub:owner/name@revision`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candlewick::train::Config;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A model with its tokenizer.
    Model,
    /// A PEFT adapter.
    Adapter,
}

/// Turns every name of a configuration into a directory.
pub(crate) fn resolve(config: &mut Config) -> Result<()> {
    let places = [
        (&mut config.model.path, Kind::Model),
        (&mut config.model.adapter, Kind::Adapter),
        (&mut config.reference.path, Kind::Model),
    ];
    for (place, kind) in places {
        if let Some(path) = place {
            *path = directory(path, kind)?;
        }
    }
    // The same file under two names is told apart no longer: rows to train on must not be measured on.
    let (data, evaluation) = (&config.data.path, &mut config.evaluation);
    if let (Some(data), Some(held_out)) = (data, evaluation.as_mut().and_then(|words| words.path.as_mut()))
        && let (Ok(one), Ok(other)) = (data.canonicalize(), held_out.canonicalize())
        && one == other
    {
        held_out.clone_from(data);
    }
    Ok(())
}

/// The directory that a name stands for; fetched where it is a name of the Hub.
pub(crate) fn directory(place: &Path, kind: Kind) -> Result<PathBuf> {
    match place.to_str().and_then(|text| text.strip_prefix("hub:")) {
        Some(name) => {
            let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
            fetch(name, revision, kind)
        }
        None => Ok(place.to_owned()),
    }
}

/// The file or files of rows that a name stands for. Subsets and splits are those of a data set of the Hub.
pub(crate) fn data(place: &Path, subset: Option<&str>, split: Option<&str>) -> Result<PathBuf> {
    if place.to_str().is_some_and(|text| text.starts_with("hub:")) {
        return data_of_hub(place, subset, split);
    }
    for (flag, value) in [("--subset", subset), ("--split", split)] {
        if let Some(value) = value {
            let place = place.display();
            anyhow::bail!(crate::failure::Failure::Usage(format!(
                "{flag} {value}: {place} is not a data set of the Hub (hub:owner/name); name the file or directory itself"
            )));
        }
    }
    Ok(place.to_owned())
}

fn data_of_hub(place: &Path, _: Option<&str>, _: Option<&str>) -> Result<PathBuf> {
    anyhow::bail!(crate::failure::Failure::Usage(format!(
        "{}: data sets of the Hub cannot be read yet; download the files and give their path",
        place.display()
    )))
}

#[cfg(feature = "hub")]
fn fetch(name: &str, revision: &str, kind: Kind) -> Result<PathBuf> {
    let fetched = hub().and_then(|hub| match kind {
        Kind::Model => hub.model(name, revision),
        Kind::Adapter => hub.adapter(name, revision),
    });
    Ok(fetched.map_err(|error| crate::failure::Failure::Model(error.to_string()))?)
}

/// The Hub as the variables of `huggingface_hub` say.
#[cfg(feature = "hub")]
fn hub() -> candlewick::hub::Result<candlewick::hub::Hub> {
    use candlewick::hub::{Hub, Options};
    let lookup = |name: &str| std::env::var(name).ok();
    Options::from_lookup(lookup).and_then(|options| options.with_stored_token(lookup)).and_then(Hub::new)
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str, _: &str, _: Kind) -> Result<PathBuf> {
    anyhow::bail!(crate::failure::Failure::Usage(format!(
        "hub:{name}: this wick was built without the feature hub; give a local directory, or build with it"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path() {
        assert_eq!(directory(Path::new("owner/name"), Kind::Model).expect("a path"), Path::new("owner/name"));
    }
}
