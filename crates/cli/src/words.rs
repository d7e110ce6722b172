//! From the command line's words to the configuration's.

use std::collections::BTreeMap;

use anyhow::Result;
use candlewick::losses::Recipe;
use candlewick::train::{Config, Words};
use serde_json::Value;

use crate::arguments::{Common, Course, Train};

/// The configuration file with the flags and then the assignments of `--set` written over it.
pub(crate) fn of_common(common: &Common) -> Result<Words> {
    let mut words = match &common.config {
        Some(path) => Words::read(path)?,
        None => Words::default(),
    };
    let number = |value: Option<usize>| value.map(|value| value.to_string());
    let flags = [
        ("model.path", common.model.clone()),
        ("model.adapter", common.adapter.clone()),
        ("data.path", common.data.clone()),
        ("data.subset", common.subset.clone()),
        ("data.split", common.split.clone()),
        ("objective.type", common.objective.clone()),
        ("train.batch_size", number(common.batch)),
        ("data.max_length", number(common.max_length)),
        ("train.threads", number(common.threads)),
        ("train.device", common.device.map(|device| device.to_string())),
        ("train.dtype", common.dtype.map(|dtype| dtype.to_string())),
    ];
    if let Some(name) = &common.objective {
        leave_out_settings_of_another(&mut words, name)?;
    }
    put(&mut words, flags)?;
    Ok(words)
}

/// Settings of the file's objective are none of the one that is named in its place, though they may have the same names.
fn leave_out_settings_of_another(words: &mut Words, name: &str) -> Result<()> {
    let Some(settings) = words.take::<BTreeMap<String, Value>>("objective")? else { return Ok(()) };
    let of_file = settings.get("type").and_then(Value::as_str).unwrap_or("dpo");
    let are_same = |a: &str, b: &str| {
        a == b || Recipe::from_name(a).is_ok_and(|one| Recipe::from_name(b).is_ok_and(|other| one == other))
    };
    if are_same(of_file, name) {
        words.put_value("objective", &settings)?;
        return Ok(());
    }
    let left_out: Vec<&str> = settings.keys().map(String::as_str).filter(|key| *key != "type").collect();
    if !left_out.is_empty() {
        eprintln!(
            "wick: warning: --objective {name} in place of the file's {of_file}, whose settings are left out: {}; give those of {name} by --set",
            left_out.join(", ")
        );
    }
    Ok(())
}

/// The configuration of `wick train`.
pub(crate) fn of_train(arguments: &Train) -> Result<Config> {
    let mut words = of_common(&arguments.common)?;
    put_course(&mut words, &arguments.course)?;
    let seed = arguments.seed.map(|seed| seed.to_string());
    put(&mut words, [("output.dir", arguments.output.clone()), ("train.seed", seed)])?;
    assign(&mut words, &arguments.common.set)?;
    let mut config = words.config()?;
    put_flags_first(&mut config, &arguments.common, &arguments.course);
    Ok(config)
}

/// Writes the flags of a single run over the configuration.
pub(crate) fn put_course(words: &mut Words, course: &Course) -> Result<()> {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let flags = [
        ("train.steps", number(course.steps)),
        ("train.epochs", number(course.epochs)),
        ("optimizer.learning_rate", course.lr.clone()),
        ("model.lora.rank", course.lora.map(|rank| rank.to_string())),
    ];
    put(words, flags)
}

/// Takes away what the configuration file says in a flag's stead.
pub(crate) fn put_flags_first(config: &mut Config, common: &Common, course: &Course) {
    put_data_first(config, common);
    let by_hand = |key: &str| is_assigned(&common.set, key);
    if course.steps.is_some() && !by_hand("train.epochs") {
        config.train.epochs = None;
    }
    if course.epochs.is_some() && !by_hand("train.steps") {
        config.train.steps = None;
    }
    if common.adapter.is_some() && !by_hand("model.lora") {
        config.model.lora = None;
    }
    if course.lora.is_some() && !by_hand("model.adapter") {
        config.model.adapter = None;
    }
}

/// With `--data`, what the configuration file says of the place of other rows goes.
pub(crate) fn put_data_first(config: &mut Config, common: &Common) {
    if common.data.is_none() {
        return;
    }
    let by_hand = |key: &str| is_assigned(&common.set, key);
    let data = &mut config.data;
    if !by_hand("data.mixture") {
        data.mixture.clear();
    }
    if !by_hand("data.mixture_end") {
        data.mixture_end = None;
    }
    if !by_hand("data.files") {
        data.files.clear();
    }
    if common.subset.is_none() && !by_hand("data.subset") {
        data.subset = None;
    }
    if common.split.is_none() && !by_hand("data.split") {
        data.split = None;
    }
}

/// Whether `--set` gives this key, or a key below it.
pub(crate) fn is_assigned(assignments: &[String], key: &str) -> bool {
    assignments
        .iter()
        .filter_map(|assignment| assignment.split_once('='))
        .any(|(name, _)| name.trim().strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Writes given values over the configuration.
pub(crate) fn put<const N: usize>(words: &mut Words, flags: [(&str, Option<String>); N]) -> Result<()> {
    for (key, value) in flags {
        if let Some(value) = value {
            words.put(key, &value)?;
        }
    }
    Ok(())
}

/// Applies the assignments of `--set`, in order.
pub(crate) fn assign(words: &mut Words, assignments: &[String]) -> Result<()> {
    for assignment in assignments {
        words.set(assignment)?;
    }
    Ok(())
}

/// The number of threads to use: the one given, or as many as the machine offers.
pub(crate) fn threads(given: usize) -> usize {
    match given {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_found_by_its_key_or_a_key_below() {
        let given = ["train.steps=3".to_owned(), "model.lora.rank = 4".into()];
        for (key, found) in
            [("train.steps", true), ("model.lora", true), ("train.step", false), ("model.adapter", false)]
        {
            assert_eq!(is_assigned(&given, key), found, "{key}");
        }
    }
}
