//! `wick merge`: one model or adapter of several.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candlewick::model::merge::{Merge, MergeReport, Method, Stored, Vector};
use candlewick::train::{self, Checkpoint};
use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::{Merge as Words, MergeDtype, MergeMethod, MergeVector};
use crate::checkpoint::is_checkpoint;
use crate::failure::Failure;
use crate::places::{self, Kind};
use crate::progress::animated;

/// Merges, writes and says what was done.
pub(crate) fn merge(words: &Words) -> Result<()> {
    let output = &words.output;
    if output.exists() {
        bail!(Failure::Usage(format!(
            "--output {}: there is something already; name a directory that is not there",
            output.display()
        )));
    }
    let method = method(words)?;
    let models = directories(&words.models, Kind::Model)?;
    let adapters = directories(&words.adapters, Kind::Adapter)?;
    let base = words.base.as_deref().map(|base| directory(base, Kind::Model)).transpose()?;
    // Its tokenizer goes with the result.
    let Some(first) = base.clone().or_else(|| models.iter().chain(&adapters).next().cloned()) else {
        bail!(Failure::Usage("nothing to merge; give --model or --adapter".into()));
    };
    let others = other_tokenizers(&first, &models);
    let count = models.len().max(adapters.len());
    let preference = (!words.preference.is_empty()).then(|| words.preference.clone());
    let merge = match (adapters.is_empty(), base) {
        (true, base) => Merge::Models { models, base },
        (false, Some(base)) => Merge::IntoBase { adapters, base, preference },
        (false, None) => Merge::Adapters { adapters, rank: words.rank, preference },
    };
    let bar = bar();
    let report = written(&merge, &method, words.dtype.map(stored), &first, output, &bar);
    bar.finish_and_clear();
    let mut report = report?;
    report.notes.extend(others);
    say(&report, &merge, method.name(), count, output);
    Ok(())
}

fn written(
    merge: &Merge,
    method: &Method,
    stored: Option<Stored>,
    first: &Path,
    output: &Path,
    bar: &ProgressBar,
) -> Result<MergeReport> {
    let mut report = MergeReport::default();
    train::write_directory(output, |fresh| {
        report = merge.write(method, stored, fresh, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        train::copy_into(fresh, &train::tokenizer_files(first))
    })?;
    Ok(report)
}

fn directories(places: &[PathBuf], kind: Kind) -> Result<Vec<PathBuf>> {
    places.iter().map(|place| directory(place, kind)).collect()
}

/// The directory of a name; a checkpoint is checked against its sums first.
fn directory(place: &Path, kind: Kind) -> Result<PathBuf> {
    let directory = places::directory(place, kind)?;
    if is_checkpoint(&directory) {
        Checkpoint::open(&directory)?;
    }
    Ok(directory)
}

/// The method and its options; one that the method has no use for is a mistake.
fn method(words: &Words) -> Result<Method> {
    let name = words.method;
    let used: &[&str] = match name {
        MergeMethod::Linear => &["weight", "normalize"],
        MergeMethod::TaskArithmetic => &["weight", "normalize", "lambda"],
        MergeMethod::Slerp => &["t", "by", "lambda"],
        MergeMethod::Ties => &["weight", "normalize", "lambda", "density"],
        MergeMethod::DareLinear | MergeMethod::DareTies => {
            &["weight", "normalize", "lambda", "density", "rescale", "seed"]
        }
        MergeMethod::IsoC => &["lambda"],
        MergeMethod::IsoCts => &["lambda", "common-space-fraction"],
    };
    let given = [
        ("weight", !words.weight.is_empty()),
        ("normalize", words.normalize.is_some()),
        ("lambda", words.lambda.is_some()),
        ("t", words.t.is_some()),
        ("by", words.by.is_some()),
        ("density", !words.density.is_empty()),
        ("rescale", words.rescale.is_some()),
        ("seed", words.seed.is_some()),
        ("common-space-fraction", words.common_space_fraction.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(option, given)| *given && !used.contains(option)) {
        let used: Vec<String> = used.iter().map(|option| format!("--{option}")).collect();
        bail!(Failure::Usage(format!(
            "--{option} has no meaning for --method {}, which takes {}; leave it out, or name another method",
            snake(name),
            used.join(", ")
        )));
    }
    let count = words.models.len().max(words.adapters.len());
    let weights = if words.weight.is_empty() { vec![1.0; count] } else { words.weight.clone() };
    let lambda = words.lambda.unwrap_or(1.0);
    let normalize = |by_default: bool| words.normalize.unwrap_or(by_default);
    Ok(match name {
        MergeMethod::Linear => Method::Linear { weights, normalize: normalize(true) },
        MergeMethod::TaskArithmetic => Method::TaskArithmetic { weights, normalize: normalize(false), lambda },
        MergeMethod::Slerp => Method::Slerp {
            t: words.t.unwrap_or(0.5),
            vector: match words.by {
                Some(MergeVector::Layer) => Vector::Layer,
                Some(MergeVector::Tensor) | None => Vector::Tensor,
            },
            lambda,
        },
        MergeMethod::Ties => {
            Method::Ties { weights, densities: densities(words, count)?, normalize: normalize(true), lambda }
        }
        MergeMethod::DareLinear | MergeMethod::DareTies => {
            let elect = name == MergeMethod::DareTies;
            Method::Dare {
                weights,
                densities: densities(words, count)?,
                elect,
                normalize: normalize(elect),
                rescale: words.rescale.unwrap_or(true),
                seed: words.seed.unwrap_or(0),
                lambda,
            }
        }
        MergeMethod::IsoC => Method::IsoC { lambda },
        MergeMethod::IsoCts => Method::IsoCts { common: words.common_space_fraction.unwrap_or(0.8), lambda },
    })
}

/// One a model, or one for all.
fn densities(words: &Words, count: usize) -> Result<Vec<f64>> {
    match words.density[..] {
        [] => bail!(Failure::Usage(format!(
            "--method {} needs --density, the share of the elements that is kept, more than 0 to 1",
            snake(words.method)
        ))),
        [density] => Ok(vec![density; count]),
        _ => Ok(words.density.clone()),
    }
}

fn snake(method: MergeMethod) -> String {
    clap::ValueEnum::to_possible_value(&method).map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn stored(dtype: MergeDtype) -> Stored {
    match dtype {
        MergeDtype::Float64 => Stored::F64,
        MergeDtype::Float32 => Stored::F32,
        MergeDtype::Float16 => Stored::F16,
        MergeDtype::Bfloat16 => Stored::Bf16,
    }
}

/// Models whose tokenizer is not the one that is copied.
fn other_tokenizers(first: &Path, models: &[PathBuf]) -> Vec<String> {
    let tokenizer = |model: &Path| std::fs::read(model.join("tokenizer.json")).ok();
    let copied = tokenizer(first);
    let others = models.iter().filter(|model| tokenizer(model).is_some_and(|other| Some(other) != copied));
    others
        .map(|model| {
            format!(
                "{}: its tokenizer.json is not that of {}, which is the one that is copied",
                model.display(),
                first.display()
            )
        })
        .collect()
}

fn bar() -> ProgressBar {
    let bar = if animated() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    match ProgressStyle::with_template("merging {bar:28.cyan/dim} {pos}/{len} tensors") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn say(report: &MergeReport, merge: &Merge, method: &str, count: usize, output: &Path) {
    for note in &report.notes {
        eprintln!("wick: warning: {note}");
    }
    let inputs = match (merge, count) {
        (Merge::Models { .. }, 1) => "1 model",
        (Merge::Models { .. }, _) => &format!("{count} models"),
        (_, 1) => "1 adapter",
        (_, _) => &format!("{count} adapters"),
    };
    let tensors = report.tensors;
    match merge {
        Merge::Models { .. } => println!("{inputs} merged by {method}: {tensors} tensors"),
        Merge::IntoBase { .. } => println!("{inputs} merged by {method} into the base: {tensors} tensors"),
        Merge::Adapters { .. } => println!("{inputs} merged by {method}: {tensors} linears"),
    }
    if let Some(rank) = report.rank {
        match &report.least {
            Some((module, share)) if *share < 1.0 - 1e-9 => println!(
                "rank {rank}; of the square of each product's norm {:.2} % or more is held, least of {module}",
                share * 100.0
            ),
            _ => println!("rank {rank}; nothing is lost"),
        }
    }
    if !report.straight.is_empty() {
        const SHOWN: usize = 3;
        let straight = &report.straight;
        let more = if straight.len() > SHOWN { ", …" } else { "" };
        println!(
            "{} of {} vectors have next to no angle between them and were merged along the straight line: {}{more}",
            straight.len(),
            report.vectors,
            straight[..straight.len().min(SHOWN)].join(", ")
        );
    }
    println!("the result is in {}", output.display());
}
