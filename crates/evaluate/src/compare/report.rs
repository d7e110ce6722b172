//! What a comparison found: numbers with their uncertainty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CellResult, Common, Comparison, Point};
use crate::drift::Drift;
use crate::error::Result;
use crate::preferences::{Half, Preferences, members};
use crate::stats::{self, Bootstrap, Interval, PairedTest, holm, of_a_share};

/// What a comparison found. Accuracies are shares of the held-out preferences with which a score agrees; intervals are of 95 %,
/// over seeds and held-out items ([`Bootstrap::crossed_mean`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The arms in order.
    pub arms: Vec<ArmReport>,
    /// The number of the arm that the others are compared with.
    pub baseline: usize,
    /// Seeds of the comparison.
    pub seeds: usize,
    /// Held-out preferences reported on.
    pub items: usize,
    /// Held-out preferences spent on choosing settings.
    pub tuning_items: usize,
    /// The held-out accuracy whose first reaching is reported.
    pub target: Option<f64>,
    /// Accuracy of the log-probabilities of the model before training.
    pub start: f64,
    /// The answers of the model before training.
    pub answers_at_start: Option<Drift>,
    /// Accuracy of a rule that prefers the longer completion.
    pub longer: f64,
}

/// What one arm came to, with the settings chosen for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its name.
    pub name: String,
    /// The objective's name.
    pub objective: String,
    /// The settings chosen.
    pub settings: String,
    /// What was tried.
    pub tried: Vec<Tried>,
    /// Seeds that came to an end.
    pub seeds: usize,
    /// Seeds on which a loss or gradient was not finite.
    pub failures: usize,
    /// Accuracy of log π(y|x) − log π_start(y|x).
    pub accuracy: Option<Interval>,
    /// Accuracy of log π(y|x).
    pub by_log_prob: Option<Interval>,
    /// Accuracy of log π(y|x) divided by the tokens of y.
    pub by_mean_log_prob: Option<Interval>,
    /// The difference of `accuracy` to that of the baseline; none of the baseline itself.
    pub difference: Option<Difference>,
    /// Mean difference of the log-ratios of preferred and other completions, in nats.
    pub margin: Option<Interval>,
    /// Mean log-ratio of the preferred completions, in nats: below 0 the policy has become less likely to write them.
    pub chosen: Option<Interval>,
    /// Mean log-ratio of the others, in nats.
    pub rejected: Option<Interval>,
    /// KL of answers from those of the model before training, in nats an answer; over seeds.
    pub drift: Option<Interval>,
    /// What length has to do with it.
    pub length: LengthBias,
    /// `accuracy` by the columns of `evaluation.slices` and their words, at most 100 of a column, those of the most items.
    #[serde(default)]
    pub slices: BTreeMap<String, BTreeMap<String, SliceAccuracy>>,
    /// Steps until the accuracy was first reached, mean over the seeds that reached it.
    pub steps_to_target: Option<f64>,
    /// Tokens trained on until then.
    pub tokens_to_target: Option<f64>,
    /// Seeds that reached it.
    pub reached_target: usize,
    /// Mean seconds of a run in steps, on the machine and beside the load that it ran with.
    pub seconds: Option<f64>,
    /// Measurements in the course of the runs, mean over seeds, on all held-out rows.
    pub curve: Vec<CurvePoint>,
}

/// Accuracy on the items of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SliceAccuracy {
    /// Items.
    pub items: usize,
    /// Accuracy of log π(y|x) − log π_start(y|x).
    pub accuracy: Interval,
}

/// Settings of an arm that were tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The settings.
    pub settings: String,
    /// Mean accuracy over the tuning seeds, on the tuning half; none where a seed failed.
    pub accuracy: Option<f64>,
    /// Tuning seeds on which a loss or gradient was not finite.
    pub failures: usize,
}

/// An arm's accuracy less that of the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Over seeds and items, the same ones for both.
    pub interval: Interval,
    /// Over seeds; none of a single one.
    pub test: Option<PairedTest>,
    /// Student's p after Holm's correction for all arms of the comparison.
    pub adjusted: Option<f64>,
}

/// What length has to do with what an arm prefers and writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LengthBias {
    /// Spearman's ρ over items of the margin of log-ratios and the preferred completion's tokens less the other's: 0 where length
    /// does not matter.
    pub margin_and_length: Option<Interval>,
    /// Accuracy where the preferred completion is the longer one.
    pub accuracy_longer: Option<f64>,
    /// Accuracy where it is the shorter one.
    pub accuracy_shorter: Option<f64>,
    /// Mean tokens of an answer of the policy.
    pub answer_tokens: Option<f64>,
}

/// Measurements at a step, mean over the seeds that have them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Mean accuracy.
    pub accuracy: f64,
    /// The lowest of a seed.
    pub lowest: f64,
    /// The highest of a seed.
    pub highest: f64,
    /// Mean margin.
    pub margin: f64,
    /// Mean log-ratio of the preferred completions.
    pub chosen: f64,
    /// Mean log-ratio of the others.
    pub rejected: f64,
}

/// Values of the items reported on, seed by seed.
struct Table {
    seeds: Vec<u64>,
    accuracy: Vec<Vec<f64>>,
}

/// The held-out rows, as far as they are reported on.
struct Measure<'a> {
    held_out: &'a Preferences,
    reference: &'a [f64],
    reported: Vec<usize>,
    /// Tokens of the preferred completions of an item less those of the others, of those reported on.
    longer: Vec<f64>,
    bootstrap: Bootstrap,
}

impl Measure<'_> {
    fn of_items(&self, values: &[f64]) -> Vec<f64> {
        self.reported.iter().map(|item| values[*item]).collect()
    }

    fn ratios(&self, result: &CellResult) -> Vec<f64> {
        result.scores.iter().zip(self.reference).map(|(a, b)| a - b).collect()
    }

    fn accuracy(&self, scores: &[f64]) -> Vec<f64> {
        self.of_items(&self.held_out.agreement(scores))
    }
}

impl Report {
    pub(crate) fn of(comparison: &Comparison, common: &Common) -> Result<Self> {
        let (matrix, held_out) = (comparison.matrix(), common.held_out());
        let is_reported = |half: Half| half == Half::Report || !matrix.chooses();
        let items = held_out.items();
        let tokens: Vec<f64> = held_out.tokens().iter().map(|tokens| *tokens as f64).collect();
        let reported: Vec<usize> = (0..items.len()).filter(|i| is_reported(items[*i].half)).collect();
        let mut measure = Measure {
            held_out,
            reference: common.reference(),
            longer: Vec::new(),
            reported,
            bootstrap: Bootstrap::default(),
        };
        measure.longer = measure.of_items(&held_out.margins(&tokens));
        let mut arms = Vec::new();
        let mut tables = Vec::new();
        for number in 0..matrix.arms.len() {
            let (arm, table) = of_arm(comparison, number, &measure, matrix.accuracy)?;
            arms.push(arm);
            tables.push(table);
        }
        compare_with(&mut arms, &tables, matrix.baseline, &measure.bootstrap);
        let mean = |values: &[f64]| stats::mean(values).unwrap_or(f64::NAN);
        Ok(Self {
            arms,
            baseline: matrix.baseline,
            seeds: matrix.seeds.len(),
            items: measure.reported.len(),
            tuning_items: items.len() - measure.reported.len(),
            target: matrix.accuracy,
            start: mean(&measure.accuracy(common.reference())),
            answers_at_start: common.at_start().copied(),
            longer: mean(&measure.accuracy(&tokens)),
        })
    }
}

fn of_arm(
    comparison: &Comparison,
    number: usize,
    measure: &Measure<'_>,
    target: Option<f64>,
) -> Result<(ArmReport, Table)> {
    let matrix = comparison.matrix();
    let arm = &matrix.arms[number];
    let (chosen, tried) = comparison.choose(number, measure.held_out, measure.reference)?;
    let (mut seeds, mut results, mut failures) = (Vec::new(), Vec::new(), 0);
    for seed in matrix.seeds.iter().filter(|_| chosen.is_some()) {
        match CellResult::read(&matrix.cell(number, chosen.unwrap_or_default(), *seed)?.plan)? {
            Some(result) if result.failure.is_some() => failures += 1,
            Some(result) if result.finished => {
                seeds.push(*seed);
                results.push(result);
            }
            _ => {}
        }
    }
    let table = |of: &dyn Fn(&CellResult) -> Vec<f64>| -> Vec<Vec<f64>> { results.iter().map(of).collect() };
    let interval = |rows: &[Vec<f64>]| measure.bootstrap.crossed_mean(rows);
    let tokens: Vec<f64> = measure.held_out.tokens().iter().map(|tokens| *tokens as f64).collect();
    let accuracy = table(&|result| measure.accuracy(&measure.ratios(result)));
    let by_mean = table(&|result| {
        let means: Vec<f64> = result.scores.iter().zip(&tokens).map(|(sum, tokens)| sum / tokens).collect();
        measure.accuracy(&means)
    });
    let side = |better: bool| -> Vec<Vec<f64>> {
        let of = |result: &CellResult| {
            let sides = measure.held_out.sides(&measure.ratios(result));
            if better { sides.0 } else { sides.1 }
        };
        table(&of)
    };
    let margins = table(&|result| measure.of_items(&measure.held_out.margins(&measure.ratios(result))));
    let drifts: Vec<f64> = results.iter().filter_map(|result| Some(result.drift?.kl)).collect();
    let reached: Vec<&Point> = results
        .iter()
        .filter_map(|result| result.points.iter().find(|point| target.is_some_and(|target| point.accuracy >= target)))
        .collect();
    let mean_of = |of: &dyn Fn(&Point) -> f64| stats::mean(&reached.iter().map(|point| of(point)).collect::<Vec<_>>());
    let seconds: Vec<f64> = results.iter().map(|result| result.seconds).collect();
    let report = ArmReport {
        name: arm.name.clone(),
        objective: arm.objective.to_owned(),
        settings: chosen.map(|variant| arm.variants[variant].name.clone()).unwrap_or_default(),
        tried,
        seeds: seeds.len(),
        failures,
        accuracy: interval(&accuracy),
        by_log_prob: interval(&table(&|result| measure.accuracy(&result.scores))),
        by_mean_log_prob: interval(&by_mean),
        difference: None,
        margin: interval(&margins),
        chosen: interval(&side(true)),
        rejected: interval(&side(false)),
        drift: measure.bootstrap.mean(&drifts),
        length: length_bias(&results, &accuracy, &margins, measure),
        slices: slices(&results, measure, matrix.chooses()),
        steps_to_target: mean_of(&|point| point.step as f64),
        tokens_to_target: mean_of(&|point| point.tokens as f64),
        reached_target: reached.len(),
        seconds: stats::mean(&seconds),
        curve: curve(&results),
    };
    Ok((report, Table { seeds, accuracy }))
}

fn slices(
    results: &[CellResult],
    measure: &Measure<'_>,
    is_half: bool,
) -> BTreeMap<String, BTreeMap<String, SliceAccuracy>> {
    let reported = if is_half { measure.held_out.half(Half::Report) } else { None };
    let held_out = reported.as_ref().map_or(measure.held_out, |(half, _)| half);
    let of_slice = |name: &str, word: &str| {
        let (slice, _) = held_out.slice(name, word)?;
        let rows: Vec<Vec<f64>> = results.iter().map(|result| slice.agreement(&measure.ratios(result))).collect();
        let items = slice.items().len();
        let accuracy = of_a_share(measure.bootstrap.crossed_mean(&rows)?, items);
        Some(SliceAccuracy { items, accuracy })
    };
    let labels = held_out.items().iter().map(|item| &item.labels);
    let of_label = |name: &str, words: BTreeMap<String, Vec<usize>>| {
        words.into_keys().filter_map(|word| of_slice(name, &word).map(|found| (word, found))).collect()
    };
    members(labels).into_iter().map(|(name, words)| (name.clone(), of_label(&name, words))).collect()
}

fn length_bias(
    results: &[CellResult],
    accuracy: &[Vec<f64>],
    margins: &[Vec<f64>],
    measure: &Measure<'_>,
) -> LengthBias {
    let over_seeds = |table: &[Vec<f64>]| -> Vec<f64> {
        (0..measure.reported.len()).map(|i| table.iter().map(|row| row[i]).sum::<f64>() / table.len() as f64).collect()
    };
    if results.is_empty() {
        return LengthBias::default();
    }
    let (accuracy, margins) = (over_seeds(accuracy), over_seeds(margins));
    let where_longer = |longer: bool| {
        let those = accuracy
            .iter()
            .zip(&measure.longer)
            .filter(|(_, tokens)| if longer { **tokens > 0.0 } else { **tokens < 0.0 });
        stats::mean(&those.map(|(accuracy, _)| *accuracy).collect::<Vec<_>>())
    };
    let correlation = |items: &[usize]| {
        let pick = |values: &[f64]| items.iter().map(|i| values[*i]).collect::<Vec<_>>();
        stats::spearman(&pick(&margins), &pick(&measure.longer))
    };
    let answers: Vec<f64> = results.iter().filter_map(|result| Some(result.drift?.tokens)).collect();
    LengthBias {
        margin_and_length: measure.bootstrap.of(measure.reported.len(), correlation),
        accuracy_longer: where_longer(true),
        accuracy_shorter: where_longer(false),
        answer_tokens: stats::mean(&answers),
    }
}

fn curve(results: &[CellResult]) -> Vec<CurvePoint> {
    let mut by_step: BTreeMap<u64, Vec<&Point>> = BTreeMap::new();
    for point in results.iter().flat_map(|result| &result.points) {
        by_step.entry(point.step).or_default().push(point);
    }
    let of_step = |(step, points): (u64, Vec<&Point>)| {
        let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(|point| of(point)).sum::<f64>() / points.len() as f64;
        let accuracies = || points.iter().map(|point| point.accuracy);
        CurvePoint {
            step,
            accuracy: mean(&|point| point.accuracy),
            lowest: accuracies().fold(f64::INFINITY, f64::min),
            highest: accuracies().fold(f64::NEG_INFINITY, f64::max),
            margin: mean(&|point| point.margin),
            chosen: mean(&|point| point.chosen),
            rejected: mean(&|point| point.rejected),
        }
    };
    by_step.into_iter().map(of_step).collect()
}

/// Differences to the baseline, seed by seed, on the seeds that both have.
fn compare_with(arms: &mut [ArmReport], tables: &[Table], baseline: usize, bootstrap: &Bootstrap) {
    let base = &tables[baseline];
    for (_, (arm, table)) in arms.iter_mut().zip(tables).enumerate().filter(|(number, _)| *number != baseline) {
        let rows: Vec<Vec<f64>> = table
            .seeds
            .iter()
            .zip(&table.accuracy)
            .filter_map(|(seed, row)| {
                let same = base.seeds.iter().position(|other| other == seed)?;
                Some(row.iter().zip(&base.accuracy[same]).map(|(a, b)| a - b).collect())
            })
            .collect();
        let of_seeds: Vec<f64> = rows.iter().filter_map(|row| stats::mean(row)).collect();
        arm.difference = bootstrap.crossed_mean(&rows).map(|interval| Difference {
            interval,
            test: PairedTest::of(&of_seeds),
            adjusted: None,
        });
    }
    let p_values: Vec<f64> = arms
        .iter()
        .map(|arm| arm.difference.and_then(|difference| difference.test).map_or(f64::NAN, |test| test.student))
        .collect();
    for (arm, adjusted) in arms.iter_mut().zip(holm(&p_values)) {
        if let Some(difference) = &mut arm.difference {
            difference.adjusted = (!adjusted.is_nan()).then_some(adjusted);
        }
    }
}
