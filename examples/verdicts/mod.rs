//! What the examples of single completions with a verdict share: their arguments, rows to do without any, the run.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candlewick::model::{CausalLm, Config};
use candlewick::train::{EvalReport, Event, Metrics, Plan, Run, Words};
use serde_json::json;

#[derive(clap::Args)]
pub(crate) struct Shared {
    /// Directory of a Hugging Face model
    #[arg(long, requires_all = ["data", "out"])]
    model: Option<PathBuf>,
    /// Rows of prompt, completion and label: JSON lines, plain or .gz
    #[arg(long, requires = "model")]
    data: Option<PathBuf>,
    /// Rows to measure on before and after
    #[arg(long, requires = "data")]
    held_out: Option<PathBuf>,
    /// Directory for the result; without --model a temporary one by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// Rows in a step
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Train an adapter of this rank instead of all weights
    #[arg(long)]
    lora: Option<usize>,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
}

/// Trains with the given settings beside those of the arguments, and prints what comes of it.
pub(crate) fn train(arguments: Shared, settings: &[(&str, &str)]) -> Result<()> {
    let home = tempfile::tempdir()?;
    // Of rows that it knows the example can say how they end.
    let known = arguments.model.is_none();
    let (model, data, held_out) = match (arguments.model, arguments.data) {
        (Some(model), Some(data)) => (model, data, arguments.held_out),
        _ => generate(home.path())?,
    };
    let out = arguments.out.unwrap_or_else(|| home.path().join("run"));
    let mut words = Words::default();
    let mut paths = vec![("model.path", &model), ("data.path", &data), ("output.dir", &out)];
    paths.extend(held_out.as_ref().map(|path| ("evaluation.path", path)));
    for (key, path) in paths {
        words.put(key, path.to_str().context("a path that is not text")?)?;
    }
    if held_out.is_some() {
        words.put("evaluation.at_start", "true")?;
    }
    words.put("train.steps", &arguments.steps.to_string())?;
    words.put("train.batch_size", &arguments.batch.to_string())?;
    words.put("optimizer.learning_rate", &format!("{:e}", arguments.lr))?;
    if let Some(rank) = arguments.lora {
        words.put("model.lora.rank", &rank.to_string())?;
    }
    settings.iter().try_for_each(|(key, value)| words.put(key, value))?;

    let mut run = Run::start(Plan::resolve(words.config()?)?)?;
    let mut evaluations = Vec::new();
    while let Some(event) = run.advance()? {
        match event {
            Event::Step(report) => {
                println!("step {:4}  loss {:.4}{}", report.step, report.loss, rewards(&report.metrics));
            }
            Event::Evaluated(report) => {
                println!("held out   loss {:.4}{}", report.loss, rewards(&report.metrics));
                evaluations.push(report);
            }
            Event::Finished(summary) => println!("the result is in {}", summary.result.display()),
            _ => {}
        }
    }
    if known {
        let margin = |report: Option<&EvalReport>| report.and_then(|report| report.metrics.value("rewards/margins"));
        let (before, after) = (margin(evaluations.first()), margin(evaluations.last()));
        ensure!(after > before, "on held-out rows the rewards of the two verdicts move apart: {before:?}, {after:?}");
    }
    Ok(())
}

/// The rewards, and what the objective compares them with.
fn rewards(metrics: &Metrics) -> String {
    ["rewards/chosen", "rewards/rejected", "rewards/margins", "kl", "delta"]
        .iter()
        .filter_map(|name| Some(format!("  {name} {:.4}", metrics.value(name)?)))
        .collect()
}

/// A random model of sixteen words, rows that like `yes`, and some to measure on. Questions about colours got the liked
/// answers more often, questions about the weather the others.
fn generate(home: &Path) -> Result<(PathBuf, PathBuf, Option<PathBuf>)> {
    const WORDS: [&str; 16] = [
        "<unk>", "</s>", "is", "it", "red", "green", "blue", "warm", "cold", "wet", "dry", "grey", "yes", "no",
        "perhaps", "?",
    ];
    let model = home.join("model");
    std::fs::create_dir_all(&model)?;
    CausalLm::<f32>::random(Config::llama(WORDS.len(), 32, 2), 1)?.save(&model)?;
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string())?;
    std::fs::write(model.join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#)?;

    let row = |word: &str, answer: &str| {
        json!({ "prompt": format!("is it {word} ?"), "completion": answer, "label": answer == " yes" }).to_string()
            + "\n"
    };
    let about = |words: &[&str], answers: &[&str]| -> String {
        words.iter().flat_map(|word| answers.iter().map(move |answer| row(word, answer))).collect()
    };
    let (data, held_out) = (home.join("rows.jsonl"), home.join("held-out.jsonl"));
    let (colours, weather) = (&WORDS[4..7], &WORDS[7..10]);
    let rows = about(colours, &[" yes", " yes", " no"]) + &about(weather, &[" yes", " no", " perhaps"]);
    std::fs::write(&data, rows)?;
    std::fs::write(&held_out, about(&WORDS[10..12], &[" yes", " no", " perhaps"]))?;
    Ok((model, data, Some(held_out)))
}
