//! Names of models and data as a user may write them: a path, or `hub:owner/name`, or `hub:owner/name@revision`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candlewick::train::{Config, CostWords, ReferenceKind};

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
    let of_reference = match config.reference.kind {
        Some(ReferenceKind::Adapter) => Kind::Adapter,
        _ => Kind::Model,
    };
    let places = [
        (&mut config.model.path, Kind::Model),
        (&mut config.model.adapter, Kind::Adapter),
        (&mut config.reference.path, of_reference),
    ];
    for (place, kind) in places {
        if let Some(path) = place {
            *path = directory(path, kind)?;
        }
    }
    if let Some(safety) = &mut config.safety {
        for place in safety.costs.iter_mut().flat_map(CostWords::places) {
            *place = directory(place, Kind::Model)?;
        }
    }
    resolve_data(config)?;
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

/// Turns every name of rows into files.
fn resolve_data(config: &mut Config) -> Result<()> {
    let data = &mut config.data;
    // Held-out rows of another split or subset are those of the same name.
    if let Some(words) = &mut config.evaluation
        && words.path.is_none()
        && words.files.is_empty()
        && (words.split.is_some() || words.subset.is_some())
    {
        words.path.clone_from(&data.path);
        words.files.clone_from(&data.files);
        words.subset = words.subset.take().or_else(|| data.subset.clone());
        words.split = words.split.take().or_else(|| data.split.clone());
    }
    one(&data.path, &mut data.files, &mut data.subset, &mut data.split)?;
    for part in &mut data.mixture {
        one(&part.path, &mut part.files, &mut part.subset, &mut part.split)?;
    }
    match &mut config.evaluation {
        Some(words) => one(&words.path, &mut words.files, &mut words.subset, &mut words.split),
        None => Ok(()),
    }
}

fn one(
    path: &Option<PathBuf>,
    files: &mut Vec<PathBuf>,
    subset: &mut Option<String>,
    split: &mut Option<String>,
) -> Result<()> {
    if let Some(path) = path
        && files.is_empty()
        && let Some(found) = data(path, subset.as_deref(), split.as_deref())?
    {
        *files = found;
        (*subset, *split) = (None, None);
    }
    Ok(())
}

/// The files of a data set of the Hub; None where the name is a path, of which a split may be chosen and a subset not.
pub(crate) fn data(place: &Path, subset: Option<&str>, split: Option<&str>) -> Result<Option<Vec<PathBuf>>> {
    if let Some(name) = place.to_str().and_then(|text| text.strip_prefix("hub:")) {
        return fetch_data(name, subset, split).map(Some);
    }
    if let Some(subset) = subset {
        anyhow::bail!(crate::failure::Failure::Usage(format!(
            "subset {subset}: {} is not a data set of the Hub (hub:owner/name); name the directory of the subset",
            place.display()
        )));
    }
    Ok(None)
}

#[cfg(feature = "hub")]
fn fetch_data(name: &str, subset: Option<&str>, split: Option<&str>) -> Result<Vec<PathBuf>> {
    let (name, revision) = name.split_once('@').map_or((name, None), |(name, revision)| (name, Some(revision)));
    let request = candlewick::hub::DatasetRequest {
        name: name.to_owned(),
        revision: revision.map(str::to_owned),
        subset: subset.map(str::to_owned),
        split: split.map(str::to_owned),
    };
    let fetched = hub().and_then(|hub| hub.dataset(&request));
    Ok(fetched.map_err(|error| crate::failure::Failure::Data(error.to_string()))?.files)
}

#[cfg(not(feature = "hub"))]
fn fetch_data(name: &str, _: Option<&str>, _: Option<&str>) -> Result<Vec<PathBuf>> {
    anyhow::bail!(without_hub(name))
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
    anyhow::bail!(without_hub(name))
}

#[cfg(not(feature = "hub"))]
fn without_hub(name: &str) -> crate::failure::Failure {
    crate::failure::Failure::Usage(format!(
        "hub:{name}: this wick was built without the feature hub; give a local directory, or build with it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path() {
        assert_eq!(directory(Path::new("owner/name"), Kind::Model).expect("a path"), Path::new("owner/name"));
    }
}
