//! What a checkpoint remembers of a run beside its trainer, and whether a run can go on from it.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candlewick_data::Report;
use serde::{Deserialize, Serialize};

use super::{Place, Run, tokenizer_files};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::plan::{Plan, UdmPlan};
use crate::reference::Reference;
use crate::rows;
use crate::safety::SafetyPlan;
use crate::udm::{Fit, Udm};

/// What a checkpoint remembers beside the trainer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bookmark {
    pub(super) plan: serde_json::Value,
    pub(super) place: Place,
    pub(super) total_steps: u64,
    /// The training file.
    pub(super) data: Fingerprint,
    /// The held-out file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_out: Option<Fingerprint>,
    /// The files that decide what the model computes beside its weights, and what its tokens are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<Files>,
    /// The files of a reference of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<Files>,
    /// Bytes of `rejected.jsonl`.
    pub(super) rejected: u64,
    /// What became of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rows: Option<Report>,
    /// What became of the held-out rows in the last evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_out_rows: Option<Report>,
    /// The classifier of prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) udm: Option<Fit>,
    /// The file of embeddings, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) embeddings: Option<Fingerprint>,
    /// The prompts that the policy answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prompts: Option<Fingerprint>,
    /// The files of the score models that say what answers cost, by directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) costs: Option<BTreeMap<String, Files>>,
}

impl Bookmark {
    /// Whether the file of embeddings is the one that the run began with.
    pub(super) fn check_embeddings(&self, plan: &Plan) -> Result<()> {
        let path = plan.udm.as_ref().and_then(UdmPlan::file);
        let (Some(path), Some(stored)) = (path, &self.embeddings) else { return Ok(()) };
        let found = Fingerprint::of(path)?;
        if found == *stored {
            return Ok(());
        }
        Err(Error::OtherPlan { differences: format!("udm.embeddings {} has {found}, had {stored}", path.display()) })
    }
}

impl Run {
    /// What the next checkpoint remembers.
    pub(super) fn bookmark(&self) -> Result<serde_json::Value> {
        let bookmark = Bookmark {
            plan: self.plan.to_json(),
            place: self.place.clone(),
            total_steps: self.total_steps,
            data: self.data.clone(),
            held_out: self.held_out_data.clone(),
            model: Some(self.model_files.clone()),
            reference: self.reference_files.clone(),
            rejected: self.rejected.length(),
            rows: Some(self.batches.report().clone()),
            held_out_rows: self.held_out.clone(),
            udm: self.udm.as_ref().map(|udm| udm.fit().clone()),
            embeddings: self.udm.as_ref().and_then(Udm::file).cloned(),
            prompts: self.costs.as_ref().map(|costs| costs.prompts_file().clone()),
            costs: self.cost_files.clone(),
        };
        serde_json::to_value(bookmark).map_err(|e| Error::checkpoint(&self.plan.output.dir, e.to_string()))
    }

    /// Whether this run, as built, can go on from `step` of the run that left the bookmark.
    pub(super) fn check_bookmark(&self, bookmark: &Bookmark, step: u64) -> Result<()> {
        let other = |differences: String| Err(Error::OtherPlan { differences });
        if bookmark.data != self.data {
            let name = self.plan.data.name();
            return other(format!("data.path {name} has {}, had {}", self.data, bookmark.data));
        }
        if let (Some(found), Some(stored)) = (&self.held_out_data, &bookmark.held_out)
            && found != stored
        {
            return other(format!(
                "the held-out rows have {found}, had {stored}; what was measured before would not fit what follows"
            ));
        }
        if let Some(stored) = &bookmark.model {
            check_files("model.path", &self.plan.model.path, &self.model_files, stored)?;
        }
        if let (Some(directory), Some(found), Some(stored)) =
            (self.plan.reference.directory(), &self.reference_files, &bookmark.reference)
        {
            check_files("reference.path", directory, found, stored)?;
        }
        if let (Some(costs), Some(safety), Some(stored)) = (&self.costs, &self.plan.safety, &bookmark.prompts)
            && costs.prompts_file() != stored
        {
            let (path, found) = (safety.prompts.display(), costs.prompts_file());
            return other(format!("safety.prompts {path} has {found}, had {stored}"));
        }
        if let (Some(found), Some(stored)) = (&self.cost_files, &bookmark.costs) {
            for (directory, found) in found {
                let none = Files::new();
                check_files("safety.costs", Path::new(directory), found, stored.get(directory).unwrap_or(&none))?;
            }
        }
        let length = |plan: &serde_json::Value| plan["train"]["length"].clone();
        let (ours, theirs) = (self.total_steps, bookmark.total_steps);
        if ours != theirs && length(&self.plan.to_json()) == length(&bookmark.plan) {
            return other(format!("the rows make {ours} steps, they made {theirs}; did the tokenizer change?"));
        }
        if step > ours {
            return other(format!("train.length makes {ours} steps, and {step} are done"));
        }
        match self.trainer.reference() {
            // A longer run needs rows that the table may lack, and only a policy at its start could add them.
            Reference::Precomputed(table) if step > 0 && self.precompute.is_none() && ours > theirs => {
                rows::check_training(&self.plan, &self.source, &self.encoder, &self.trainer.needs(), ours, table)
            }
            _ => Ok(()),
        }
    }
}

/// Files of a directory by their names.
pub(super) type Files = BTreeMap<String, Fingerprint>;

/// Whether the files are those that the run began with.
fn check_files(key: &str, directory: &Path, found: &Files, stored: &Files) -> Result<()> {
    let differs = |name: &&String| found.get(*name) != stored.get(*name);
    let Some(name) = found.keys().chain(stored.keys()).find(differs) else { return Ok(()) };
    let show = |file: Option<&Fingerprint>| file.map_or_else(|| "no such file".to_owned(), Fingerprint::to_string);
    let (path, found, had) = (directory.join(name), show(found.get(name)), show(stored.get(name)));
    Err(Error::OtherPlan { differences: format!("{key} {} has {found}, had {had}", path.display()) })
}

/// What decides, beside weights, what a model computes and what its tokens are.
pub(super) fn deciding_files(model: &Path) -> Result<Files> {
    let tokenizer = tokenizer_files(model).into_iter().filter(|path| !path.ends_with("generation_config.json"));
    fingerprints(tokenizer.chain(Some(model.join("config.json"))))
}

/// What decides what answers cost, of each score model: its weights, its configuration and its tokenizer.
pub(super) fn files_of_costs(safety: &SafetyPlan) -> Result<BTreeMap<String, Files>> {
    let of = |directory: &Path| -> Result<Files> {
        let mut files = deciding_files(directory)?;
        files.extend(files_of_weights(directory)?);
        Ok(files)
    };
    safety.models().into_iter().map(|model| Ok((model.display().to_string(), of(model)?))).collect()
}

/// Weights and their configuration, of a model or an adapter.
pub(super) fn files_of_weights(directory: &Path) -> Result<Files> {
    let is_one = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name == "config.json"
            || name == "adapter_config.json"
            || path.extension().is_some_and(|ext| ext == "safetensors")
    };
    let entries = std::fs::read_dir(directory).map_err(Error::io("reading", directory))?;
    fingerprints(entries.flatten().map(|entry| entry.path()).filter(|path| is_one(path)))
}

fn fingerprints(files: impl Iterator<Item = PathBuf>) -> Result<Files> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.map(|path| Ok((name(&path), Fingerprint::of(&path)?))).collect()
}
