//! What the quickstart found, for a screen, for the report, and for programs.

use serde_json::{Value, json};

use super::Findings;
use super::baseline::Share;
use crate::memory::readable;
use crate::report::{Chart, Level, Section, Series, page};
use crate::screen::{columns, percent, side_by_side, wrap};

/// The command that does the same with the reader's own model and rows.
fn own(found: &Findings) -> String {
    format!(
        "{} train --model YOUR_MODEL_DIRECTORY --data YOUR_PAIRS.jsonl --lora 16 --lr 1e-5 --output aligned",
        found.program
    )
}

/// What the estimates are.
const GUESS: &str = "The times are guesses from the speed of this run's small model; measure yours with wick bench step. Memory for the rows of a batch \
     comes on top: wick train --print-plan says how much all of it is.";

/// The findings as lines of at most 100 characters.
pub(super) fn screen(found: &Findings) -> Vec<String> {
    let mut lines = vec![String::new(), "Three held-out prompts, before and after (the likeliest answer)".into()];
    for ((prompt, before), after) in found.prompts.iter().zip(&found.before).zip(&found.after) {
        lines.push(String::new());
        lines.extend(wrap(prompt, 96).into_iter().map(|line| format!("  {line}")));
        lines.extend(side_by_side(before, after));
    }
    let mut part = |title: String, rows: Vec<Vec<String>>| {
        lines.extend([String::new(), title]);
        lines.extend(columns(&rows));
    };
    let pairs = found.held_out_accuracy().trials;
    part(
        format!("Which of two answers is preferred: {pairs} pairs about combinations that training never showed"),
        accuracies(found).into_iter().map(|row| row.to_vec()).collect(),
    );
    part("Drift from the model before".into(), drift(found));
    part(
        "Checked just now".into(),
        found
            .checks
            .iter()
            .map(|check| {
                vec![if check.holds { "ok" } else { "FAILED" }.into(), format!("{}: {}", check.claim, check.seen)]
            })
            .collect(),
    );
    part("Cost".into(), cost(found));
    part("Where everything is".into(), places(found));
    lines.extend([
        String::new(),
        "The same on your own model and rows (JSON lines with prompt, chosen, rejected)".into(),
        format!("    {}", own(found)),
    ]);
    lines.extend(columns(&estimates(found)));
    lines.extend(wrap(GUESS, 94).into_iter().map(|line| format!("    {line}")));
    lines
}

/// The findings as a page of its own.
pub(super) fn html(found: &Findings) -> String {
    let mut samples = vec![vec!["prompt".to_owned(), "before".into(), "after".into()]];
    for ((prompt, before), after) in found.prompts.iter().zip(&found.before).zip(&found.after) {
        samples.push(vec![prompt.clone(), before.clone(), after.clone()]);
    }
    let mut held_out = vec![["which answer is preferred".to_owned(), "share".into(), "95 % interval".into()].to_vec()];
    held_out.extend(accuracies(found).into_iter().map(|row| row.to_vec()));
    let mut checks = vec![["checked".to_owned(), "seen".into(), "holds".into()].to_vec()];
    checks.extend(
        found
            .checks
            .iter()
            .map(|check| vec![check.claim.clone(), check.seen.clone(), if check.holds { "yes" } else { "no" }.into()]),
    );
    let headed = |rows: Vec<Vec<String>>, head: &[&str]| {
        let head = head.iter().map(|cell| (*cell).to_owned()).collect();
        [vec![head], rows].concat()
    };
    page(
        "wick quickstart",
        &[
            Section::Text(
                "A small language model, trained on the words of careful and of careless writers, was aligned by direct \
                 preference optimisation (DPO) on pairs that a seeded grammar invents. The preferred answer is the one that \
                 answers the question in agreement with the prompt; neither its length nor its words give it away. Held-out \
                 pairs are about combinations that training never showed."
                    .into(),
            ),
            Section::Heading("Before and after".into()),
            Section::Table(samples),
            Section::Heading("Held-out preference accuracy".into()),
            Section::Table(held_out),
            Section::Charts(charts(found)),
            Section::Heading("Drift from the model before".into()),
            Section::Table(headed(drift(found), &["", "before", "after"])),
            Section::Heading("Checks".into()),
            Section::Table(checks),
            Section::Heading("Cost".into()),
            Section::Table(headed(cost(found), &["", ""])),
            Section::Heading("The same on your own model and rows".into()),
            Section::Verbatim(own(found)),
            Section::Table(estimates(found)),
            Section::Text(GUESS.into()),
            Section::Heading("Where everything is".into()),
            Section::Table(headed(places(found), &["", ""])),
            Section::Heading("Plan".into()),
            Section::Verbatim(found.plan.to_string()),
        ],
    )
}

/// The findings for programs.
pub(super) fn json(found: &Findings) -> Value {
    let share = |share: &Share| {
        let interval = share.interval();
        json!({ "share": share.value(), "low": interval.start, "high": interval.end, "trials": share.trials })
    };
    let baselines: serde_json::Map<String, Value> =
        found.baselines.iter().filter_map(|(name, rule)| Some(((*name).to_owned(), share(rule.as_ref()?)))).collect();
    json!({
        "format_version": 1,
        "held_out_accuracy": share(&found.held_out_accuracy()),
        "baselines": baselines,
        "answers_right_before": share(&found.right_before),
        "answers_right_after": share(&found.right_after),
        "checks": found.checks.iter().map(|c| json!({ "claim": c.claim, "seen": c.seen, "holds": c.holds })).collect::<Vec<_>>(),
        "first_loss": found.steps.first().map(|report| report.loss),
        "steps": found.steps.len(),
        "parameters": found.parameters,
        "pairs_per_s": found.pairs_per_s,
        "tokens_per_s": found.tokens_per_s,
        "first_change_s": found.first_change_s,
        "seconds": found.seconds,
        "peak_memory_bytes": found.peak,
    })
}

impl Findings {
    /// How often the aligned model prefers the preferred answer of a held-out pair.
    fn held_out_accuracy(&self) -> Share {
        let mean =
            self.evaluations.last().and_then(|report| report.metrics.mean("rewards/accuracies")).unwrap_or_default();
        Share { hits: mean.sum, trials: mean.count as usize }
    }

    fn of_evaluations(&self, name: &str) -> Vec<(f64, f64)> {
        self.evaluations.iter().filter_map(|report| Some((report.step as f64, report.metrics.value(name)?))).collect()
    }

    fn of_steps(&self, name: &str) -> Vec<(f64, f64)> {
        self.steps.iter().filter_map(|report| Some((report.step as f64, report.metrics.value(name)?))).collect()
    }
}

fn accuracies(found: &Findings) -> Vec<[String; 3]> {
    let row = |name: &str, share: &Share| {
        let interval = share.interval();
        [name.to_owned(), percent(share.value()), format!("{} to {}", percent(interval.start), percent(interval.end))]
    };
    let mut rows: Vec<[String; 3]> = found
        .baselines
        .iter()
        .map(|(name, share)| match share {
            Some(share) => row(name, share),
            None => [(*name).to_owned(), percent(0.5), String::new()],
        })
        .collect();
    rows.push(row("the aligned model", &found.held_out_accuracy()));
    rows.push(row("answers that are right, before", &found.right_before));
    rows.push(row("answers that are right, after", &found.right_after));
    rows
}

fn drift(found: &Findings) -> Vec<Vec<String>> {
    let row = |title: &str, name: &str| {
        let points = found.of_evaluations(name);
        let at = |point: Option<&(f64, f64)>| point.map_or("-".to_owned(), |(_, value)| format!("{value:.3}"));
        vec![title.to_owned(), at(points.first()), at(points.last())]
    };
    vec![
        row("margin of the implicit rewards", "rewards/margins"),
        row("log-probability of the chosen answers", "logps/chosen"),
        row("log-probability of the rejected answers", "logps/rejected"),
    ]
}

fn cost(found: &Findings) -> Vec<Vec<String>> {
    let pair = |name: &str, value: String| vec![name.to_owned(), value];
    vec![
        pair(
            "speed",
            format!(
                "{:.0} pairs/s, {:.0} tokens/s, {} parameters",
                found.pairs_per_s, found.tokens_per_s, found.parameters
            ),
        ),
        pair(
            "time",
            format!(
                "{:.0} s in all, {}",
                found.seconds,
                match found.first_change_s {
                    Some(seconds) => format!("the first change after {seconds:.1} s"),
                    None => "no shown answer changed on the way".into(),
                }
            ),
        ),
        pair("peak memory", found.peak.map_or("the system does not tell".into(), readable)),
    ]
}

fn places(found: &Findings) -> Vec<Vec<String>> {
    let place = |what: &str, name: &str| vec![what.to_owned(), found.home.join(name).display().to_string()];
    vec![
        place("report with curves", "report.html"),
        place("pairs to train on", "train.jsonl"),
        place("held-out pairs", "held_out.jsonl"),
        place("model before", "model"),
        place("model after", "run/final"),
        place("metrics of every step", "run/metrics.jsonl"),
        place("configuration", "quickstart.toml"),
    ]
}

/// Time and weights of larger models, roughly, from the speed found here. What a batch takes beside weights depends on its rows.
///
/// A token of a trained and a reference pass costs about 8 operations a parameter. This run's share of the machine's speed is not
/// that of a larger model, whose matrices suit the processor better and its caches worse; the times say the order of magnitude.
fn estimates(found: &Findings) -> Vec<Vec<String>> {
    const PAIR_TOKENS: f64 = 600.0;
    let speed = 8.0 * found.parameters as f64 * found.tokens_per_s;
    let mut rows = vec![vec![
        "parameters".into(),
        "1,000 pairs of 600 tokens, roughly".into(),
        "weights with --lora".into(),
        "weights, reference, gradients, optimizer without".into(),
    ]];
    for (name, parameters) in [("30 M", 3e7), ("135 M", 1.35e8), ("1.1 B", 1.1e9)] {
        let hours = 8.0 * parameters * PAIR_TOKENS * 1000.0 / speed.max(1.0) / 3600.0;
        let time = if hours < 1.0 {
            format!("about {:.0} min", (hours * 60.0).max(1.0))
        } else {
            format!("about {hours:.1} h")
        };
        let gib = |bytes: f64| format!("{:.1} GiB", bytes / f64::from(1 << 30));
        // f32: the weights once; or weights, reference, gradients and two moments.
        rows.push(vec![name.into(), time, gib(4.0 * parameters), gib(20.0 * parameters)]);
    }
    rows
}

fn charts(found: &Findings) -> Vec<Chart> {
    let line = |name: &str, points, noisy| Series { name: name.into(), points, noisy };
    let level = |name: &str, value| Level { name: name.into(), value };
    let mut levels = vec![level("chance", 0.5)];
    levels.extend(found.baselines.iter().filter_map(|(name, share)| Some(level(name, share.as_ref()?.value()))));
    let losses = found.steps.iter().map(|report| (report.step as f64, report.loss)).collect();
    let held_out = found.evaluations.iter().map(|report| (report.step as f64, report.loss)).collect();
    let both = |name: &str| {
        vec![line("training", found.of_steps(name), true), line("held out", found.of_evaluations(name), false)]
    };
    vec![
        Chart {
            title: "Loss".into(),
            series: vec![line("training", losses, true), line("held out", held_out, false)],
            levels: vec![level("ln 2", std::f64::consts::LN_2)],
        },
        Chart { title: "Accuracy".into(), series: both("rewards/accuracies"), levels },
        Chart { title: "Margin of the implicit rewards".into(), series: both("rewards/margins"), levels: vec![] },
        Chart {
            title: "Log-probability of held-out answers".into(),
            series: vec![
                line("chosen", found.of_evaluations("logps/chosen"), false),
                line("rejected", found.of_evaluations("logps/rejected"), false),
            ],
            levels: vec![],
        },
    ]
}
