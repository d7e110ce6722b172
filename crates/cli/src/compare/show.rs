//! What a comparison found, for a screen, for a spreadsheet, and as a page.

use std::collections::{BTreeMap, BTreeSet};

use candlewick::evaluate;
use candlewick::evaluate::compare::{ArmReport, Matrix, Report};
use candlewick::evaluate::stats::Interval;

use crate::progress::duration;
use crate::report::{Chart, IntervalRow, Intervals, Level, Plane, PlanePoint, Section, Series, page as to_page};
use crate::screen::columns;

/// Slices of a column that are shown, those of the most items; `results.json` has up to a hundred.
const SLICES: usize = 12;
/// Arms whose courses are drawn.
const CURVES: usize = 8;

/// What will be run, in a line.
pub(super) fn plan(matrix: &Matrix) -> String {
    let settings: usize = matrix.arms.iter().map(|arm| arm.variants.len()).sum();
    let tried: usize = matrix.arms.iter().filter(|arm| arm.variants.len() > 1).map(|arm| arm.variants.len()).sum();
    let (arms, seeds) = (matrix.arms.len(), matrix.seeds.len());
    match tried {
        0 => format!("comparing {arms} arms on {seeds} seeds: {} runs", arms * seeds),
        _ => format!(
            "comparing {arms} arms on {seeds} seeds; {settings} settings are tried, on {} seeds each where there is a choice",
            matrix.tuning_seeds.len()
        ),
    }
}

/// The table for a screen: the arms by accuracy.
pub(super) fn table(report: &Report) -> Vec<String> {
    let mut rows = vec![row(&[
        "arm",
        "settings",
        "seeds",
        "accuracy",
        "95 % interval",
        "to baseline",
        "p (Holm)",
        "KL",
        "chosen",
        "rejected",
        "steps to target",
    ])];
    for arm in by_accuracy(report).into_iter().map(|number| &report.arms[number]) {
        let difference = arm.difference.as_ref();
        rows.push(vec![
            arm.name.clone(),
            arm.settings.clone(),
            seeds(arm),
            share(arm.accuracy.map(|a| a.estimate)),
            arm.accuracy.map(|a| format!("{:.3} to {:.3}", a.low, a.high)).unwrap_or_default(),
            difference.map_or_else(|| "baseline".into(), |d| format!("{:+.3}", d.interval.estimate)),
            p_value(difference.and_then(|d| d.adjusted)),
            number(arm.drift.map(|d| d.estimate), 2),
            number(arm.chosen.map(|d| d.estimate), 2),
            number(arm.rejected.map(|d| d.estimate), 2),
            steps(arm, report),
        ]);
    }
    let mut lines = columns(&without_empty(&rows));
    lines.push(String::new());
    lines.extend(notes(report));
    lines
}

/// What the numbers mean, and what is worth saying of them.
fn notes(report: &Report) -> Vec<String> {
    let mut notes = vec![format!(
        "accuracy: share of {} held-out preferences with which log π/π_start agrees; before training the log-probabilities alone agree \
         with {:.3}, the longer completion with {:.3}",
        report.items, report.start, report.longer
    )];
    if report.tuning_items > 0 {
        notes.push(format!("settings were chosen on {} other held-out preferences", report.tuning_items));
    }
    notes.push(
        "intervals are over seeds and preferences; p is of Student's t on differences of the same seeds, for all arms together".into(),
    );
    if (2..6).contains(&report.seeds) {
        let smallest = 2.0f64.powi(1 - report.seeds as i32);
        notes.push(format!(
            "with {} seeds, turning signs alone can give no p below {smallest:.4}: a small p here rests on normal differences",
            report.seeds
        ));
    }
    let falling: Vec<&str> = report.arms.iter().filter(|arm| falls(arm)).map(|arm| arm.name.as_str()).collect();
    if !falling.is_empty() {
        notes.push(format!(
            "the margin rises while the chosen completions become less likely than before training: {}",
            falling.join(", ")
        ));
    }
    let failed: Vec<String> = report
        .arms
        .iter()
        .filter(|arm| arm.failures > 0)
        .map(|arm| format!("{} ({} of {})", arm.name, arm.failures, arm.failures + arm.seeds))
        .collect();
    if !failed.is_empty() {
        notes.push(format!("runs that stopped at a loss or gradient that was not finite: {}", failed.join(", ")));
    }
    notes
}

/// Whether the chosen completions have become less likely while the margin has grown, beyond doubt.
fn falls(arm: &ArmReport) -> bool {
    arm.margin.zip(arm.chosen).is_some_and(|(margin, chosen)| evaluate::preferred_fall(margin, chosen))
}

/// What a column says of an arm.
type Of<T> = fn(&ArmReport) -> Option<T>;

/// One line an arm, one column a number.
pub(super) fn csv(report: &Report) -> String {
    let mut head = vec!["arm".to_owned(), "objective".into(), "settings".into(), "seeds".into(), "failures".into()];
    let intervals: [(&str, Of<Interval>); 9] = [
        ("accuracy", |arm| arm.accuracy),
        ("accuracy_log_prob", |arm| arm.by_log_prob),
        ("accuracy_mean_log_prob", |arm| arm.by_mean_log_prob),
        ("difference", |arm| arm.difference.map(|d| d.interval)),
        ("margin", |arm| arm.margin),
        ("chosen_log_ratio", |arm| arm.chosen),
        ("rejected_log_ratio", |arm| arm.rejected),
        ("kl", |arm| arm.drift),
        ("margin_length_correlation", |arm| arm.length.margin_and_length),
    ];
    for (name, _) in &intervals {
        head.extend([(*name).to_owned(), format!("{name}_low"), format!("{name}_high")]);
    }
    let numbers: [(&str, Of<f64>); 9] = [
        ("p_student", |arm| arm.difference.and_then(|d| d.test).map(|test| test.student)),
        ("p_sign_flip", |arm| arm.difference.and_then(|d| d.test).map(|test| test.sign_flip)),
        ("p_holm", |arm| arm.difference.and_then(|d| d.adjusted)),
        ("accuracy_chosen_longer", |arm| arm.length.accuracy_longer),
        ("accuracy_chosen_shorter", |arm| arm.length.accuracy_shorter),
        ("answer_tokens", |arm| arm.length.answer_tokens),
        ("steps_to_target", |arm| arm.steps_to_target),
        ("tokens_to_target", |arm| arm.tokens_to_target),
        ("seconds", |arm| arm.seconds),
    ];
    head.extend(numbers.iter().map(|(name, _)| (*name).to_owned()));
    let mut lines = vec![head];
    for arm in &report.arms {
        let mut line = vec![
            arm.name.clone(),
            arm.objective.clone(),
            arm.settings.clone(),
            arm.seeds.to_string(),
            arm.failures.to_string(),
        ];
        for (_, of) in &intervals {
            let ends = of(arm).map(|interval| [interval.estimate, interval.low, interval.high]);
            line.extend(ends.map_or([const { String::new() }; 3], |ends| ends.map(|end| end.to_string())));
        }
        line.extend(numbers.iter().map(|(_, of)| of(arm).map(|value| value.to_string()).unwrap_or_default()));
        lines.push(line);
    }
    crate::csv::text(&lines)
}

/// The page.
pub(super) fn page(report: &Report, matrix: &Matrix) -> String {
    let order = by_accuracy(report);
    let colour = |number: usize| usize::from(number != report.baseline);
    let rows = order.iter().filter_map(|number| {
        let arm = &report.arms[*number];
        let accuracy = arm.accuracy?;
        let interval = (accuracy.low, accuracy.estimate, accuracy.high);
        Some(IntervalRow { name: arm.name.clone(), interval, series: colour(*number) })
    });
    let mut levels = vec![Level { name: "chance".into(), value: 0.5 }];
    if let Some(value) = report.target {
        levels.push(Level { name: "target".into(), value });
    }
    let accuracies =
        Intervals { title: "Held-out accuracy with its interval of 95 %".into(), rows: rows.collect(), levels };
    let mut numbers = vec![row(&[
        "",
        "arm",
        "settings",
        "seeds",
        "accuracy",
        "by log π",
        "by log π a token",
        "to baseline",
        "p (Holm)",
        "p (signs)",
        "KL",
        "margin",
        "chosen",
        "rejected",
        "length ρ",
        "answer tokens",
        "steps to target",
        "time of a run",
    ])];
    for (place, number) in order.iter().enumerate() {
        numbers.push(numbers_of(place, &report.arms[*number], report));
    }
    let mut sections = vec![
        Section::Text(notes(report).iter().map(|note| sentence(note)).collect::<Vec<_>>().join(" ")),
        Section::Heading("Accuracy".into()),
        Section::Intervals(accuracies),
        Section::Heading("Accuracy against drift".into()),
        Section::Text(
            "Points are numbered as in the table below; further left is nearer to the model before training. The dashed line goes \
             through the arms that no other one beats in both. KL is of answers to held-out prompts, in nats an answer."
                .into(),
        ),
        Section::Planes(vec![frontier(report, &order), likelihoods(report, &order)]),
        Section::Heading("In the course of training".into()),
    ];
    if order.len() > CURVES {
        sections.push(Section::Text(format!("The baseline and the {} most accurate other arms.", CURVES - 1)));
    }
    sections.push(Section::Charts(courses(report, &order)));
    sections.extend([Section::Heading("Numbers".into()), Section::Table(numbers), Section::Text(LEGEND.into())]);
    for name in labels(report) {
        sections
            .extend([Section::Heading(format!("Accuracy by {name}")), Section::Table(slices(report, &order, name))]);
    }
    if report.tuning_items > 0 {
        sections.extend([Section::Heading("Settings tried".into()), Section::Table(tried(report))]);
    }
    let seeds: Vec<String> = matrix.seeds.iter().map(u64::to_string).collect();
    sections.extend([
        Section::Heading("What was run".into()),
        Section::Verbatim(match matrix.cell(0, 0, matrix.seeds[0]) {
            Ok(cell) => format!("seeds {}\nthe first run:\n{}", seeds.join(", "), cell.plan),
            Err(_) => format!("seeds {}", seeds.join(", ")),
        }),
    ]);
    to_page("wick compare", &sections)
}

/// The columns by which rows are told apart.
fn labels(report: &Report) -> BTreeSet<&str> {
    report.arms.iter().flat_map(|arm| arm.slices.keys()).map(String::as_str).collect()
}

/// The accuracy of each arm in each slice.
fn slices(report: &Report, order: &[usize], name: &str) -> Vec<Vec<String>> {
    let of = |arm: usize| report.arms[arm].slices.get(name);
    let sizes: BTreeMap<&String, usize> =
        order.iter().filter_map(|arm| of(*arm)).flatten().map(|(word, slice)| (word, slice.items)).collect();
    let mut words: Vec<(&String, usize)> = sizes.into_iter().collect();
    // Stable: those of as many items stay in the order of the alphabet.
    words.sort_by_key(|(_, items)| std::cmp::Reverse(*items));
    words.truncate(SLICES);
    let named = words.iter().map(|(word, items)| format!("{word}\n{items} items"));
    let head = ["arm".to_owned()].into_iter().chain(named).collect();
    let of_arm = |number: &usize| {
        let found = |word: &String| of(*number).and_then(|slices| slices.get(word)).map(|slice| slice.accuracy);
        let cells = words.iter().map(|(word, _)| within(found(word), 3));
        [report.arms[*number].name.clone()].into_iter().chain(cells).collect()
    };
    std::iter::once(head).chain(order.iter().map(of_arm)).collect()
}

/// A note as a sentence.
fn sentence(note: &str) -> String {
    let mut letters = note.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>() + ".").unwrap_or_default()
}

/// What the columns of the table mean.
const LEGEND: &str = "Accuracy is of log π(y|x) − log π_start(y|x); “by log π” of log π(y|x) alone, and a token of its mean. Chosen \
    and rejected are mean log-ratios in nats, the margin their difference. Length ρ is Spearman's correlation of the margin with the \
    difference of lengths: 0 where length does not matter. p (Holm) is Student's t on differences of the same seeds, corrected for \
    all arms; p (signs) is of all ways to turn their signs, uncorrected. Times depend on the machine and what else it did.";

fn numbers_of(place: usize, arm: &ArmReport, report: &Report) -> Vec<String> {
    let difference = arm.difference.as_ref();
    vec![
        (place + 1).to_string(),
        arm.name.clone(),
        arm.settings.clone(),
        seeds(arm),
        within(arm.accuracy, 3),
        within(arm.by_log_prob, 3),
        within(arm.by_mean_log_prob, 3),
        difference.map_or_else(|| "baseline".into(), |d| within(Some(d.interval), 3)),
        p_value(difference.and_then(|d| d.adjusted)),
        p_value(difference.and_then(|d| d.test).map(|test| test.sign_flip)),
        within(arm.drift, 2),
        within(arm.margin, 2),
        within(arm.chosen, 2),
        within(arm.rejected, 2),
        within(arm.length.margin_and_length, 2),
        number(arm.length.answer_tokens, 1),
        steps(arm, report),
        arm.seconds.map(|s| duration(std::time::Duration::from_secs_f64(s.max(0.0)))).unwrap_or_default(),
    ]
}

fn frontier(report: &Report, order: &[usize]) -> Plane {
    let mut points: Vec<PlanePoint> = Vec::new();
    for (place, number) in order.iter().enumerate() {
        let arm = &report.arms[*number];
        if let (Some(accuracy), Some(drift)) = (arm.accuracy, arm.drift) {
            points.push(PlanePoint {
                label: (place + 1).to_string(),
                x: (drift.low, drift.estimate, drift.high),
                y: (accuracy.low, accuracy.estimate, accuracy.high),
                series: usize::from(*number != report.baseline),
            });
        }
    }
    let line = best(points.iter().map(|point| (point.x.1, point.y.1)).collect());
    let title = "Held-out accuracy against drift from the model before".into();
    Plane { title, right: "KL, nats an answer".into(), up: "accuracy".into(), points, line }
}

/// The points that no other one beats in both, from left to right: less drift, more accuracy.
fn best(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut best: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if best.last().is_none_or(|last| point.1 > last.1) {
            best.push(point);
        }
    }
    best
}

fn likelihoods(report: &Report, order: &[usize]) -> Plane {
    let points = order.iter().enumerate().filter_map(|(place, number)| {
        let arm = &report.arms[*number];
        let (chosen, rejected) = (arm.chosen?, arm.rejected?);
        Some(PlanePoint {
            label: (place + 1).to_string(),
            x: (rejected.low, rejected.estimate, rejected.high),
            y: (chosen.low, chosen.estimate, chosen.high),
            series: usize::from(*number != report.baseline),
        })
    });
    Plane {
        title: "Where the margin comes from".into(),
        right: "log-ratio of the rejected, nats".into(),
        up: "log-ratio of the chosen, nats".into(),
        points: points.collect(),
        line: Vec::new(),
    }
}

fn courses(report: &Report, order: &[usize]) -> Vec<Chart> {
    let others = order.iter().copied().filter(|number| *number != report.baseline).take(CURVES - 1);
    let shown: Vec<&ArmReport> =
        std::iter::once(report.baseline).chain(others).map(|number| &report.arms[number]).collect();
    type At = fn(&candlewick::evaluate::compare::CurvePoint) -> f64;
    let chart = |title: &str, of: At, levels: Vec<Level>| Chart {
        title: title.into(),
        series: shown
            .iter()
            .map(|arm| Series {
                name: arm.name.clone(),
                points: arm.curve.iter().map(|point| (point.step as f64, of(point))).collect(),
                noisy: false,
            })
            .collect(),
        levels,
    };
    let level = |name: &str, value| Level { name: name.into(), value };
    vec![
        chart("Accuracy", |point| point.accuracy, vec![level("chance", 0.5)]),
        chart("Margin, nats", |point| point.margin, vec![]),
        chart("Log-ratio of the chosen, nats", |point| point.chosen, vec![level("before", 0.0)]),
        chart("Log-ratio of the rejected, nats", |point| point.rejected, vec![level("before", 0.0)]),
    ]
}

fn tried(report: &Report) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["arm", "settings", "accuracy on the tuning half", ""])];
    for arm in report.arms.iter().filter(|arm| arm.tried.len() > 1) {
        for tried in &arm.tried {
            let mark = match (tried.settings == arm.settings, tried.failures) {
                (true, _) => "chosen".to_owned(),
                (false, 0) => String::new(),
                (false, failures) => format!("{failures} not finite"),
            };
            rows.push(vec![arm.name.clone(), tried.settings.clone(), share(tried.accuracy), mark]);
        }
    }
    rows
}

/// Numbers of the arms, the most accurate first; those without a result last.
fn by_accuracy(report: &Report) -> Vec<usize> {
    let accuracy = |number: &usize| report.arms[*number].accuracy.map_or(f64::NEG_INFINITY, |a| a.estimate);
    let mut order: Vec<usize> = (0..report.arms.len()).collect();
    order.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
    order
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn seeds(arm: &ArmReport) -> String {
    match arm.failures {
        0 => arm.seeds.to_string(),
        failures => format!("{} ({failures} failed)", arm.seeds),
    }
}

fn steps(arm: &ArmReport, report: &Report) -> String {
    match (report.target, arm.steps_to_target) {
        (None, _) => String::new(),
        (Some(_), None) => "never".into(),
        (Some(_), Some(steps)) if arm.reached_target < arm.seeds => {
            format!("{steps:.0} ({} of {})", arm.reached_target, arm.seeds)
        }
        (Some(_), Some(steps)) => format!("{steps:.0}"),
    }
}

fn share(value: Option<f64>) -> String {
    number(value, 3)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
}

fn within(interval: Option<Interval>, digits: usize) -> String {
    interval.map(|i| format!("{:.digits$}\n{:.digits$} to {:.digits$}", i.estimate, i.low, i.high)).unwrap_or_default()
}

fn p_value(p: Option<f64>) -> String {
    match p {
        None => String::new(),
        Some(p) if p < 0.0001 => "< 0.0001".into(),
        Some(p) => format!("{p:.4}"),
    }
}

/// Rows without the columns that say nothing of any arm.
fn without_empty(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let says = |column: usize| rows.iter().skip(1).any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()));
    let kept =
        |row: &Vec<String>| row.iter().enumerate().filter(|(i, _)| says(*i)).map(|(_, cell)| cell.clone()).collect();
    rows.iter().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_is_what_nothing_beats() {
        let points = vec![(2.0, 0.7), (1.0, 0.6), (3.0, 0.65), (1.0, 0.5), (4.0, 0.8)];
        assert_eq!(best(points), [(1.0, 0.6), (2.0, 0.7), (4.0, 0.8)]);
    }

    #[test]
    fn columns_that_say_nothing_go() {
        let rows = [row(&["arm", "none", "value"]), row(&["dpo", "", "0.7"]), row(&["ipo", "", "0.65"])];
        assert_eq!(without_empty(&rows), [row(&["arm", "value"]), row(&["dpo", "0.7"]), row(&["ipo", "0.65"])]);
    }
}
