//! From words to the cells of a comparison: an arm with settings and a seed each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candlewick_losses::{Builtin, Objective, Recipe};
use candlewick_train::{Config, EvaluationPlan, HeldOut, Plan, Words};
use serde_json::Value;

use super::words::{ArmWords, CompareWords, flat};
use crate::again::{self, slug};
use crate::drift::DriftOptions;
use crate::error::{Error, Result};

/// The matrix of a comparison, every word resolved.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// The objectives compared, in order.
    pub arms: Vec<Arm>,
    /// Seeds of the runs.
    pub seeds: Vec<u64>,
    /// Those of them on which settings are tried.
    pub tuning_seeds: Vec<u64>,
    /// The arm that the others are compared with.
    pub baseline: usize,
    /// Steps between measurements; 0 for a tenth of a run.
    pub every: u64,
    /// The held-out accuracy whose first reaching is reported.
    pub accuracy: Option<f64>,
    /// How drift is measured; no prompts for not at all.
    pub drift: DriftOptions,
    /// Whether the trained models and their checkpoints stay.
    pub keep_models: bool,
    directory: PathBuf,
}

/// One objective, with the settings that are tried.
#[derive(Debug, Clone)]
pub struct Arm {
    /// What it is called.
    pub name: String,
    /// The objective's name in configurations.
    pub objective: &'static str,
    /// Its settings: one or several.
    pub variants: Vec<Variant>,
}

/// Settings of an arm.
#[derive(Debug, Clone)]
pub struct Variant {
    /// What it is called within its arm, such as `beta=0.1 learning_rate=0.001`; empty where nothing is set.
    pub name: String,
    config: Config,
}

/// One run: an arm, settings, a seed.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The number of the arm.
    pub arm: usize,
    /// The number of its settings.
    pub variant: usize,
    /// The seed.
    pub seed: u64,
    /// What it is called, as `dpo beta=0.1, seed 3`.
    pub name: String,
    /// The run.
    pub plan: Plan,
}

/// Keys of a run that a comparison gives itself, and what to write in their place.
const OVERRULED: &[(&str, &str)] = &[
    ("output.dir", "each run has a directory of its own in that of the comparison, which is given to it by --output"),
    ("train.seed", "seeds stand in compare.seeds"),
    ("evaluation.every", "how often all runs are measured stands in compare.every"),
    ("evaluation.at_start", "every run is measured before its first step"),
    ("output.save_minutes", "runs are saved by output.save_every"),
    ("output.background", "several runs go at once, and each writes its own checkpoints"),
    ("output.keep_best", "every run goes to its end, and what it was on the way stands in its points"),
    ("output.result", "every run goes to its end, and what it was on the way stands in its points"),
    ("watch", "every run goes to its end, and one whose loss or gradient is not finite is a result"),
];

/// Sections and keys that are the same for all cells, and why.
const SHARED: &[(&str, &str)] = &[
    ("output", "the comparison has one directory, and each run one in it"),
    ("train.seed", "seeds stand in compare.seeds"),
    ("train.threads", "threads are shared out among runs"),
    ("model.path", "one model is compared"),
    ("model.adapter", "one model is compared"),
    ("evaluation", "all are measured on the same rows"),
];

impl Matrix {
    /// Reads the words of a configuration with a section `[compare]`; `directory` is where everything goes.
    ///
    /// # Errors
    /// No such section; words that are unknown, of the wrong type or that do not go together.
    pub fn resolve(mut words: Words, directory: &Path) -> Result<Self> {
        let compare: CompareWords = words.take("compare")?.ok_or_else(|| {
            Error::config("compare", "missing; name what is compared, as in [compare] objectives = [\"dpo\", \"ipo\"]")
        })?;
        if words.has("objective") {
            return Err(Error::config(
                "objective",
                "given beside [compare], which names the objectives; move its settings to compare.arms",
            ));
        }
        if !words.has("evaluation") {
            return Err(Error::config(
                "evaluation",
                "missing; objectives are compared on held-out rows, such as [evaluation] held_out = 0.1",
            ));
        }
        if let Some((key, instead)) = OVERRULED.iter().find(|(key, _)| words.has(key)) {
            return Err(Error::config(*key, format!("given beside [compare]: {instead}; leave it out")));
        }
        let seeds = compare.seeds.list();
        let distinct: BTreeSet<_> = seeds.iter().collect();
        if seeds.is_empty() || distinct.len() < seeds.len() {
            return Err(Error::config("compare.seeds", "expected one seed or more, each once, or how many"));
        }
        let tuning = compare.tuning_seeds.unwrap_or(seeds.len());
        if tuning == 0 || tuning > seeds.len() {
            let reason = format!("{tuning}; expected 1 to {}, the number of compare.seeds", seeds.len());
            return Err(Error::config("compare.tuning_seeds", reason));
        }
        if let Some(accuracy) = compare.accuracy.filter(|accuracy| !(0.0..=1.0).contains(accuracy)) {
            return Err(Error::config("compare.accuracy", format!("{accuracy}; expected a share between 0 and 1")));
        }
        if compare.every == Some(0) {
            return Err(Error::config("compare.every", "0; expected at least 1, or no such key for a tenth of a run"));
        }
        let arms = arms(&compare, &words)?;
        let baseline = match &compare.baseline {
            None => 0,
            Some(name) => arms.iter().position(|arm| arm.name == *name).ok_or_else(|| {
                let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
                Error::config("compare.baseline", format!("{name:?} is no arm; expected one of {}", names.join(", ")))
            })?,
        };
        Ok(Self {
            tuning_seeds: seeds[..tuning].to_vec(),
            seeds,
            baseline,
            every: compare.every.unwrap_or(0),
            accuracy: compare.accuracy,
            drift: DriftOptions { prompts: compare.drift_prompts, tokens: compare.drift_tokens.max(1), seed: 0 },
            keep_models: compare.keep_models,
            directory: directory.to_owned(),
            arms,
        })
    }

    /// The configurations of all arms and settings, for names in them that are still to be turned into paths.
    pub fn configs_mut(&mut self) -> impl Iterator<Item = &mut Config> {
        self.arms.iter_mut().flat_map(|arm| &mut arm.variants).map(|variant| &mut variant.config)
    }

    /// Whether every run can be resolved, and trains on no held-out row: what is wrong shows before the first one.
    ///
    /// # Errors
    /// As [`cell`](Self::cell); rows that cannot be opened, or that are on both sides.
    pub fn check(&self) -> Result<()> {
        let mut met = BTreeSet::new();
        for (number, arm) in self.arms.iter().enumerate() {
            for variant in 0..arm.variants.len() {
                let plan = self.whole_plan(number, variant, self.seeds[0])?;
                if met.insert(plan.to_json()["data"].to_string()) {
                    plan.check_held_out()?;
                }
            }
        }
        Ok(())
    }

    /// The run of an arm with settings and a seed. It has no held-out rows of a place of their own, which may be of another kind
    /// than those it trains on: all arms are measured on them alike, from outside.
    ///
    /// # Errors
    /// The words of the run do not go together.
    pub fn cell(&self, arm: usize, variant: usize, seed: u64) -> Result<Cell> {
        let mut plan = self.whole_plan(arm, variant, seed)?;
        let elsewhere = matches!(&plan.evaluation, Some(EvaluationPlan { rows: HeldOut::Rows(part), .. })
            if plan.data.parts.iter().all(|other| other.path != part.path));
        if elsewhere {
            plan.evaluation = None;
        }
        Ok(Cell { arm, variant, seed, name: self.name(arm, variant, seed), plan })
    }

    fn name(&self, arm: usize, variant: usize, seed: u64) -> String {
        let Arm { name, variants, .. } = &self.arms[arm];
        let title = [name.as_str(), &variants[variant].name].join(" ");
        format!("{}, seed {seed}", title.trim_end())
    }

    /// The plan of a run with the held-out rows of the comparison.
    pub(super) fn whole_plan(&self, arm: usize, variant: usize, seed: u64) -> Result<Plan> {
        let name = self.name(arm, variant, seed);
        let mut config = self.arms[arm].variants[variant].config.clone();
        config.train.seed = seed;
        config.watch.not_finite_in_a_row = 1;
        config.output.background = Some(false);
        config.output.dir = Some(self.directory.join("cells").join(slug(&name)));
        if config.objective.needs().outputs.values {
            let reason = format!(
                "it trains score heads, and arms are compared by the log-probabilities of a language model; leave the arm out, and \
                 measure a score model with wick eval (of {name})"
            );
            return Err(Error::config("objective", reason));
        }
        again::share_reference(&mut config, self.reference_path());
        // The section speaks of the arms whose multipliers move.
        if !config.objective.observes() {
            config.safety = None;
        }
        Plan::resolve(config).map_err(|error| match error {
            candlewick_train::Error::Config { key, reason } => Error::config(key, format!("{reason} (of {name})")),
            other => other.into(),
        })
    }

    /// The cache of reference log-probabilities that all runs share; of a comparison that began under an earlier version a file.
    pub fn reference_path(&self) -> PathBuf {
        let file = self.directory.join("reference.safetensors");
        if file.is_file() { file } else { self.directory.join("reference-cache") }
    }

    /// Where everything goes.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether settings are chosen for any arm, so that half of the held-out rows is spent on it.
    pub fn chooses(&self) -> bool {
        self.arms.iter().any(|arm| arm.variants.len() > 1)
    }
}

fn arms(compare: &CompareWords, words: &Words) -> Result<Vec<Arm>> {
    let short =
        compare.objectives.iter().map(|objective| ArmWords { objective: objective.clone(), ..ArmWords::default() });
    let grid = lists("compare.grid", &compare.grid)?;
    let mut unused: BTreeSet<&String> = grid.keys().collect();
    let mut arms: Vec<Arm> = Vec::new();
    for (number, arm) in short.chain(compare.arms.iter().cloned()).enumerate() {
        let place = match number.checked_sub(compare.objectives.len()) {
            None => format!("compare.objectives[{number}]"),
            Some(number) => format!("compare.arms[{number}]"),
        };
        let (arm, used) = resolve_arm(&place, &arm, &grid, words)?;
        unused.retain(|key| !used.contains(*key));
        if arms.iter().any(|other| other.name == arm.name) {
            let reason = format!("{:?} is there already; give compare.arms names of their own", arm.name);
            return Err(Error::config(format!("{place}.name"), reason));
        }
        arms.push(arm);
    }
    if arms.is_empty() {
        return Err(Error::config(
            "compare.objectives",
            "empty; name what is compared, as in objectives = [\"dpo\", \"ipo\"], or [[compare.arms]]",
        ));
    }
    if let Some(key) = unused.first() {
        let reason = "no arm's objective has such a setting; `wick objectives NAME` shows those it has";
        return Err(Error::config(format!("compare.grid.{key}"), reason));
    }
    Ok(arms)
}

/// The arm, and the keys of the common grid that it has.
fn resolve_arm(
    place: &str,
    arm: &ArmWords,
    common: &BTreeMap<String, Vec<Value>>,
    words: &Words,
) -> Result<(Arm, BTreeSet<String>)> {
    let objective = match &arm.objective {
        Value::String(name) => serde_json::json!({ "type": name }),
        Value::Object(table) if table.contains_key("type") => arm.objective.clone(),
        _ => {
            let key = if place.starts_with("compare.arms") { format!("{place}.objective") } else { place.to_owned() };
            return Err(Error::config(key, "expected the name of an objective, or a table with its type and settings"));
        }
    };
    let mut words = words.clone();
    words.put_value("objective", &objective)?;
    for (key, value) in flat(&arm.set) {
        refuse_shared(&format!("{place}.set"), &key)?;
        words.put_value(&key, &value)?;
    }
    let recipe = words.config().map_err(|error| of_place(place, error))?.objective;
    let own = lists(&format!("{place}.grid"), &arm.grid)?;
    let mut grid = own.clone();
    let mut used = BTreeSet::new();
    for (key, values) in common {
        let is_set = flat(&arm.set).contains_key(key);
        if own.contains_key(key) || is_set || has_setting(&recipe, &objective, key) {
            used.insert(key.clone());
        }
        // What the arm says itself goes first.
        if !is_set && has_setting(&recipe, &objective, key) && !given(&objective, key) {
            grid.entry(key.clone()).or_insert_with(|| values.clone());
        }
    }
    let variants = combinations(&grid).into_iter().map(|settings| {
        let mut words = words.clone();
        for (key, value) in &settings {
            words.put_value(key, value)?;
        }
        let config = words.config().map_err(|error| of_place(place, error))?;
        let shown = settings.iter().map(|(key, value)| format!("{}={}", last(key), plain(value)));
        let name = shown.collect::<Vec<_>>().join(" ");
        Ok(Variant { name, config })
    });
    let variants = variants.collect::<Result<Vec<_>>>()?;
    // A preset is the loss of another name with settings of its own.
    let preset = objective["type"].as_str().filter(|name| Builtin::presets().any(|(_, preset)| preset.name == *name));
    let name = arm.name.clone().unwrap_or_else(|| preset.unwrap_or(recipe.name()).to_owned());
    Ok((Arm { name, objective: recipe.name(), variants }, used))
}

/// Whether a key is one of the run, or a setting that this objective has.
fn has_setting(recipe: &Recipe, objective: &Value, key: &str) -> bool {
    let Some(setting) = key.strip_prefix("objective.") else { return true };
    let first = setting.split('.').next().unwrap_or(setting);
    given(objective, key) || serde_json::to_value(recipe).is_ok_and(|all| all.get(first).is_some())
}

/// Whether an arm's objective gives this setting itself.
fn given(objective: &Value, key: &str) -> bool {
    let Some(setting) = key.strip_prefix("objective.") else { return false };
    setting.split('.').try_fold(objective, |at, name| at.get(name)).is_some()
}

fn of_place(place: &str, error: candlewick_train::Error) -> Error {
    match error {
        candlewick_train::Error::Config { key, reason } => Error::config(format!("{place}: {key}"), reason),
        other => other.into(),
    }
}

fn refuse_shared(place: &str, key: &str) -> Result<()> {
    let is_below = |shared: &str| key.strip_prefix(shared).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    match SHARED.iter().find(|(shared, _)| is_below(shared)) {
        Some((_, why)) => {
            Err(Error::config(format!("{place}.{key}"), format!("the same for all arms: {why}; leave it out")))
        }
        None => Ok(()),
    }
}

/// Keys with the values that are tried.
fn lists(place: &str, words: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Vec<Value>>> {
    let list = |(key, value): (String, Value)| {
        refuse_shared(place, &key)?;
        match value {
            Value::Array(values) if !values.is_empty() => Ok((key, values)),
            other => {
                Err(Error::config(format!("{place}.{key}"), format!("{other}; expected a list of the values to try")))
            }
        }
    };
    flat(words).into_iter().map(list).collect()
}

/// All combinations, the last key changing fastest; one without settings where there is no key. A single value is no choice, but
/// is set.
fn combinations(grid: &BTreeMap<String, Vec<Value>>) -> Vec<Vec<(String, Value)>> {
    grid.iter().fold(vec![Vec::new()], |all, (key, values)| {
        let with = |settings: &Vec<(String, Value)>, value: &Value| {
            settings.iter().cloned().chain([(key.clone(), value.clone())]).collect()
        };
        all.iter().flat_map(|settings| values.iter().map(move |value| with(settings, value))).collect()
    })
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
