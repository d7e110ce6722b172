//! One configuration at several settings of some of its keys: a run each, begun, gone on with or kept.
//!
//! # Directory
//! - `reference-cache/`: reference log-probabilities, shared by all runs.
//! - `points/NAME/`: the output directory of a run. When it is over, `point.json` says so ([`PointResult`]), its checkpoints are
//!   removed, and `final/` stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candlewick_losses::Objective;
use candlewick_train::{Config, Hardware, Plan, Run, Words, checkpoints, replace_file};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::again::{self, slug};
use crate::error::{Error, Result};

/// Keys, and the values that they have at each point.
///
/// ```
/// use candlewick_evaluate::sweep::Axis;
/// let one = Axis::parse("objective.lambda=[0],[0.5]")?;
/// assert_eq!((one.keys.len(), one.points.len()), (1, 2));
/// // Several keys go together, with a list of one value a key for each point.
/// let two = Axis::parse("objective.weight,objective.beta=[0.5,0.2],[0.75,0.1]")?;
/// assert_eq!((two.keys.len(), two.points.len()), (2, 2));
/// # Ok::<(), candlewick_evaluate::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Keys of the configuration, as `section.key`; a number names an element of a list.
    pub keys: Vec<String>,
    /// `[points][keys]`
    pub points: Vec<Vec<Value>>,
}

impl Axis {
    /// Reads `KEY=VALUE,VALUE,…`, or `KEY,KEY=[VALUE,VALUE],[VALUE,VALUE],…`. Values are TOML; words may be without quotes.
    ///
    /// # Errors
    /// No `=`, no key or no value; text that is not TOML; a point with another number of values than there are keys.
    pub fn parse(words: &str) -> Result<Self> {
        let refuse = |reason: String| Error::config("sweep", format!("{words:?}: {reason}"));
        let Some((keys, values)) = words.split_once('=') else {
            return Err(refuse("not a sweep; expected section.key=value,value,…".to_owned()));
        };
        let keys: Vec<String> = keys.split(',').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(refuse("a key is empty; expected section.key=value,value,…".to_owned()));
        }
        let values = listed(values.trim()).map_err(refuse)?;
        if values.is_empty() {
            return Err(refuse("no value to try; give one or more, with commas between them".to_owned()));
        }
        let point = |value: Value| match (keys.len(), value) {
            (1, value) => Ok(vec![value]),
            (count, Value::Array(values)) if values.len() == count => Ok(values),
            (count, other) => {
                Err(refuse(format!("{other} at a point of {count} keys; expected a list of {count} values, one a key")))
            }
        };
        let points = values.into_iter().map(point).collect::<Result<_>>()?;
        Ok(Self { keys, points })
    }
}

/// What stands between commas.
fn listed(values: &str) -> Result<Vec<Value>, String> {
    match format!("values = [{values}]").parse::<toml::Table>() {
        Ok(mut table) => {
            let values = table.remove("values").and_then(|values| serde_json::to_value(values).ok());
            Ok(values.and_then(|values| values.as_array().cloned()).unwrap_or_default())
        }
        // Words without quotes.
        Err(_) if !values.contains(['[', ']', '{', '}', '"', '\'', '\n']) => {
            Ok(values.split(',').map(|word| Value::String(word.trim().to_owned())).collect())
        }
        Err(error) => Err(format!("not TOML: {}", error.message())),
    }
}

/// Keys that are no setting of a point, and why.
const FIXED: &[(&str, &str)] = &[
    ("output", "each run has a directory of its own"),
    ("watch", "alarms change no policy"),
    ("train.threads", "threads change no policy"),
    ("data.workers", "threads change no policy"),
];

/// Runs of one configuration at several settings, every word resolved.
#[derive(Debug, Clone)]
pub struct Sweep {
    settings: Vec<(String, Config)>,
    directory: PathBuf,
}

/// One run of a sweep.
#[derive(Debug, Clone)]
pub struct SweepPoint {
    /// Its settings, such as `lambda=0.5`.
    pub name: String,
    /// The run.
    pub plan: Plan,
}

impl Sweep {
    /// All combinations of the points of `axes`, the last axis changing fastest, over the words of a configuration. `directory` is
    /// where everything goes.
    ///
    /// # Errors
    /// No axis; a key that is swept twice, is unknown or no setting; words that do not go together.
    pub fn resolve(words: &Words, axes: &[Axis], directory: &Path) -> Result<Self> {
        if axes.is_empty() {
            return Err(Error::config("sweep", "nothing is swept; give a key and its values"));
        }
        if words.has("output.dir") {
            let reason = "given beside a sweep: each run has a directory of its own in that of the sweep; leave it out";
            return Err(Error::config("output.dir", reason));
        }
        let keys: Vec<&str> = axes.iter().flat_map(|axis| &axis.keys).map(String::as_str).collect();
        for (number, key) in keys.iter().enumerate() {
            if keys[..number].contains(key) {
                return Err(Error::config(*key, "swept twice; give all its values at once"));
            }
            let is_below =
                |fixed: &str| key.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if let Some((_, why)) = FIXED.iter().find(|(fixed, _)| is_below(fixed)) {
                return Err(Error::config(*key, format!("no setting to sweep: {why}; leave it out")));
            }
        }
        let setting = |values: Vec<&Value>| {
            let mut words = words.clone();
            for (key, value) in keys.iter().zip(&values) {
                words.put_value(key, value)?;
            }
            let shown = keys.iter().zip(&values).map(|(key, value)| format!("{}={}", short(key, &keys), plain(value)));
            Ok((shown.collect::<Vec<_>>().join(" "), words.config()?))
        };
        let settings = combinations(axes).into_iter().map(setting).collect::<Result<_>>()?;
        Ok(Self { settings, directory: directory.to_owned() })
    }

    /// The configurations of all points, for names in them that are still to be turned into paths.
    pub fn configs_mut(&mut self) -> impl Iterator<Item = &mut Config> {
        self.settings.iter_mut().map(|(_, config)| config)
    }

    /// The runs, in order.
    ///
    /// # Errors
    /// Words of a run that do not go together; objectives that train score heads or one adapter for all preferences; two points that are one run.
    pub fn points(&self) -> Result<Vec<SweepPoint>> {
        let (mut points, mut directories): (Vec<SweepPoint>, _) = (Vec::new(), BTreeSet::new());
        for (name, config) in &self.settings {
            let plan = self.plan(name, config.clone())?;
            let run = |plan: &Plan| {
                let mut run = plan.to_json();
                run["output"] = Value::Null;
                run
            };
            if let Some(other) = points.iter().find(|other| run(&other.plan) == run(&plan)) {
                let reason = format!("the points {:?} and {name:?} are the same run; give each once", other.name);
                return Err(Error::config("sweep", reason));
            }
            if !directories.insert(slug(name)) {
                let reason = format!("{name:?}: another point has the same directory, {}", plan.output.dir.display());
                return Err(Error::config("sweep", reason));
            }
            points.push(SweepPoint { name: name.clone(), plan });
        }
        Ok(points)
    }

    fn plan(&self, name: &str, mut config: Config) -> Result<Plan> {
        config.output.dir = Some(self.directory.join("points").join(slug(name)));
        if config.objective.needs().outputs.values {
            let reason = format!(
                "{} trains score heads, and the policies of a sweep are language models; train it with wick train (of {name})",
                config.objective.name()
            );
            return Err(Error::config("objective", reason));
        }
        if config.objective.needs().preferences > 0 {
            let reason = format!(
                "{} trains one adapter that is another policy at every preference, and a point of a sweep is one policy; train it with \
                 wick train, write policies out by wick merge --preference, and name those by --policies (of {name})",
                config.objective.name()
            );
            return Err(Error::config("objective", reason));
        }
        // The section speaks of the points whose multipliers move; where none does, it is refused.
        if !config.objective.observes() && self.settings.iter().any(|(_, other)| other.objective.observes()) {
            config.safety = None;
        }
        again::share_reference(&mut config, self.directory.join("reference-cache"));
        Plan::resolve(config).map_err(|error| match error {
            candlewick_train::Error::Config { key, reason } => Error::config(key, format!("{reason} (of {name})")),
            other => other.into(),
        })
    }
}

impl SweepPoint {
    /// Where the trained policy lies.
    pub fn policy(&self) -> PathBuf {
        self.plan.output.dir.join("final")
    }

    /// How the run ended; nothing where it has not, or where its policy is gone.
    ///
    /// # Errors
    /// A `point.json` that cannot be read, is damaged or of another version, or belongs to another run.
    pub fn result(&self) -> Result<Option<PointResult>> {
        let path = self.file();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        let again = "remove the directory it lies in to have the run made again";
        let result: PointResult = serde_json::from_slice(&text)
            .map_err(|error| Error::results(&path, format!("damaged ({error}); {again}")))?;
        if (result.format.as_str(), result.version) != (FORMAT, VERSION) {
            let (format, version) = (&result.format, result.version);
            let found = format!("format {format:?}, version {version}; this program reads version {VERSION}; {again}");
            return Err(Error::results(&path, found));
        }
        if let Some(difference) = again::difference(&self.plan, &result.plan) {
            let reason =
                format!("the run of another sweep ({difference}); name another output directory, or remove this run's");
            return Err(Error::results(&path, reason));
        }
        Ok(Some(result).filter(|result| result.failure.is_some() || self.policy().is_dir()))
    }

    /// Goes on with the run from its newest checkpoint, or begins it.
    ///
    /// # Errors
    /// Those of [`Run::start`] and [`Run::resume`].
    pub fn open(&self) -> Result<Run> {
        again::open(&self.plan, &Hardware::open(self.plan.train.device).map_err(Error::from)?)
    }

    /// Writes down that the run is over, and removes its checkpoints. `failure` is why it stopped before its end.
    ///
    /// # Errors
    /// Files that cannot be written or removed.
    pub fn finish(&self, steps: u64, failure: Option<String>) -> Result<PointResult> {
        let result =
            PointResult { format: FORMAT.to_owned(), version: VERSION, plan: self.plan.to_json(), steps, failure };
        let path = self.file();
        let text = serde_json::to_vec_pretty(&result).map_err(|error| Error::results(&path, error.to_string()))?;
        replace_file(&path, &text)?;
        again::remove(&checkpoints(&self.plan.output.dir))?;
        Ok(result)
    }

    fn file(&self) -> PathBuf {
        self.plan.output.dir.join("point.json")
    }
}

/// How a run of a sweep ended: the file `point.json`, format version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointResult {
    format: String,
    version: u32,
    /// The run's plan.
    pub plan: Value,
    /// Optimizer steps done.
    pub steps: u64,
    /// Why it stopped before its end: losses or gradients that were not finite.
    pub failure: Option<String>,
}

const FORMAT: &str = "candlewick-point";
const VERSION: u32 = 1;

/// The values of all keys at each point.
fn combinations(axes: &[Axis]) -> Vec<Vec<&Value>> {
    axes.iter().fold(vec![Vec::new()], |all, axis| {
        let with = |values: &Vec<_>, point| values.iter().copied().chain(point).collect();
        all.iter().flat_map(|values| axis.points.iter().map(move |point| with(values, point))).collect()
    })
}

/// The shortest end of a key that no other one has.
fn short<'a>(key: &'a str, keys: &[&str]) -> &'a str {
    let starts = key.char_indices().rev().filter(|(_, c)| *c == '.').map(|(at, _)| &key[at + 1..]);
    let is_own =
        |end: &&str| keys.iter().filter(|other| **other == *end || other.ends_with(&format!(".{end}"))).count() < 2;
    starts.into_iter().find(is_own).unwrap_or(key)
}

/// A value as a name has it: a list of one as what is in it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.len() == 1 => plain(&values[0]),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn axis(words: &str) -> Axis {
        Axis::parse(words).expect(words)
    }

    fn names(base: &str, axes: &[&str]) -> Vec<String> {
        let words = Words::parse(base, "test").expect("TOML");
        let axes: Vec<Axis> = axes.iter().map(|words| axis(words)).collect();
        let sweep = Sweep::resolve(&words, &axes, Path::new("out")).expect("a sweep");
        sweep.settings.into_iter().map(|(name, _)| name).collect()
    }

    fn refused(base: &str, axes: &[&str], said: &str) {
        let words = Words::parse(base, "test").expect("TOML");
        let axes: Result<Vec<Axis>> = axes.iter().map(|words| Axis::parse(words)).collect();
        let sweep = axes.and_then(|axes| Sweep::resolve(&words, &axes, Path::new("out")));
        let error = sweep.and_then(|sweep| sweep.points()).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn values_are_toml_or_words() {
        assert_eq!(axis("a.b = [0], [0.5, 2]").points, [vec![json!([0])], vec![json!([0.5, 2])]]);
        assert_eq!(axis("objective.type=dpo, ipo").points, [vec![json!("dpo")], vec![json!("ipo")]]);
        assert_eq!(axis("a.b,a.c=[1,\"x\"],[2,\"y\"]").points, [[json!(1), json!("x")], [json!(2), json!("y")]]);
        assert_eq!(axis("o.p=[{weight=1}],[{weight=2}]").points[1], [json!([{ "weight": 2 }])]);
    }

    #[test]
    fn points_are_named_by_what_tells_them_apart() {
        let lagrangian = "[objective]\ntype = \"safe_rlhf_lagrangian\"";
        assert_eq!(
            names(lagrangian, &["objective.lambda=[0],[0.5],[1,2]"]),
            ["lambda=0", "lambda=0.5", "lambda=[1,2]"]
        );
        assert_eq!(
            names("", &["objective.beta=0.1,0.2", "optimizer.learning_rate=1e-3,1e-4"]),
            [
                "beta=0.1 learning_rate=0.001",
                "beta=0.1 learning_rate=0.0001",
                "beta=0.2 learning_rate=0.001",
                "beta=0.2 learning_rate=0.0001"
            ]
        );
        let mix = "[objective]\ntype = \"mix\"\nparts = [{ loss = { type = \"dpo\" } }, { loss = { type = \"sft\" } }]";
        assert_eq!(
            names(mix, &["objective.parts.0.weight,objective.parts.1.weight=[1,0],[0.5,0.5]"]),
            ["0.weight=1 1.weight=0", "0.weight=0.5 1.weight=0.5"]
        );
    }

    #[test]
    fn what_is_no_sweep_is_said() {
        refused("", &[], "nothing is swept");
        refused("", &["objective.beta"], "not a sweep");
        refused("", &["objective.beta="], "no value to try");
        refused("", &["=1"], "a key is empty");
        refused("", &["objective.beta=[1"], "not TOML");
        refused("", &["objective.beta,train.seed=1,2"], "expected a list of 2 values");
        refused("", &["objective.beta=1", "objective.beta=2"], "objective.beta: swept twice");
        refused("", &["objective.betta=1,2"], "did you mean objective.beta?");
        refused("", &["train.sed=1,2"], "did you mean train.seed?");
        refused("", &["beta=1,2"], "beta");
        refused("", &["output.keep=1,2"], "output.keep: no setting to sweep");
        refused("", &["train.threads=1,2"], "threads change no policy");
        refused("[output]\ndir = \"x\"", &["objective.beta=1"], "output.dir: given beside a sweep");
        let run = "[model]\npath = \"m\"\n[data]\npath = \"d.jsonl\"";
        refused(run, &["objective.beta=0.1,0.10"], "are the same run");
        refused(run, &["objective.type=bradley_terry"], "trains score heads");
        let panacea = format!(
            "{run}\n[objective]\ntype = \"panacea\"\nmix.parts = [{{ loss = {{ type = \"dpo\" }} }}, {{ loss = {{ type = \"sft\" }} }}]"
        );
        refused(&panacea, &["train.seed=0,1"], "wick merge --preference");
        refused("", &["objective.beta=1"], "(of beta=1)");
    }

    #[test]
    fn the_section_of_costs_is_for_points_whose_multipliers_move() {
        let run = "[model]\npath = \"m\"\n[data]\npath = \"d.jsonl\"\n[objective]\ntype = \"safe_rlhf_lagrangian\"\n\
            [safety]\nprompts = \"p.jsonl\"\ncosts = [\"c\"]";
        let words = Words::parse(run, "test").expect("TOML");
        let axes = [axis("objective.dual=[],[{limit=0.5}]")];
        let points = Sweep::resolve(&words, &axes, Path::new("out")).and_then(|sweep| sweep.points()).expect("points");
        assert_eq!(points.iter().map(|point| point.plan.safety.is_some()).collect::<Vec<_>>(), [false, true]);
        // Of a sweep in which nothing moves it is an error, as of one run.
        refused(run, &["objective.lambda=[0],[1]"], "no multipliers that move");
    }
}
