//! What is worth saying of a run.

use candlewick::evaluate::stats::Interval;
use candlewick::evaluate::{Against, Diagnostics, Extreme, SliceCourse};

use super::course::Course;

/// Spearman's ρ from which a margin is said to go with length.
const GOES_WITH: f64 = 0.3;
/// By how much of what it had fallen a loss has to rise again to be worth a word.
const RISEN: f64 = 0.05;

/// What slices mean.
pub(super) const SLICES: &str = "Half-way is the first evaluation at which the accuracy of a slice had come half the way from its first \
     value to its highest. “length”: whether the preferred completion has more tokens; “difference”: how many of the tokens of both \
     completions only one of them has, in thirds of the pairs; “before”: which completion was likelier a token before training. The other \
     slices are columns of the rows, named in [evaluation] slices. “with the others” is how often the same pair was judged alike \
     elsewhere.";

/// What log-probabilities are compared with.
pub(super) fn against(against: Against) -> &'static str {
    match against {
        Against::Reference => "Everything is of log π(y|x) − log π_ref(y|x), in nats, whatever the loss compares.",
        Against::Start => {
            "The loss has no reference: everything is of log π(y|x) less what it was before the first step, in nats."
        }
        Against::Nothing => {
            "The loss has no reference, and the run was not evaluated before its first step ([evaluation] at_start = true): \
             everything is of log π(y|x) alone, in nats."
        }
    }
}

/// Of the logged curves.
pub(super) fn of_course(course: &Course) -> Vec<String> {
    let mut said = Vec::new();
    let losses = course.of("eval_loss");
    let lowest = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some(first), Some(lowest), Some(last)) = (losses.first(), lowest, losses.last())
        && lowest.0 < last.0
        && last.1 - lowest.1 > RISEN * (first.1 - lowest.1).abs()
        && last.1 > lowest.1
    {
        said.push(format!(
            "The held-out loss was lowest after step {} ({:.4}) and has risen to {:.4} since: the run learned its rows by heart from \
             there on. Fewer steps, a lower rate or a larger beta stop earlier.",
            lowest.0, lowest.1, last.1
        ));
    }
    said
}

/// Of held-out preferences.
pub(super) fn of_diagnostics(found: &Diagnostics) -> Vec<String> {
    let mut said = Vec::new();
    let (Some(first), Some(last)) = (found.course.first(), found.course.last()) else { return said };
    if let Some(accuracy) = found.accuracy {
        said.push(format!(
            "After step {} the model agrees with {} of {} held-out preferences.",
            last.step,
            interval(accuracy),
            found.items
        ));
    }
    if found.preferred_fall() {
        let before = match found.against {
            Against::Reference => 0.0,
            _ => first.preferred,
        };
        said.push(format!(
            "The preferred completions have become less likely ({:+.2} nats) while the margin grew to {:.2}: it comes from pushing the \
             others further down. Objectives that hold the preferred up are dpop, cal_dpo, and any loss in a mix with sft.",
            last.preferred - before,
            last.margin
        ));
    }
    if let Some(rho) = found.margin_and_length.filter(|rho| rho.abs() >= GOES_WITH) {
        let whose = if rho > 0.0 { "longer" } else { "shorter" };
        said.push(format!(
            "The margin goes with length (Spearman's ρ {rho:+.2}): the model is surer where the preferred completion is the {whose} one. \
             Compare the slices by length, and losses of means over tokens (simpo, length_normalized_dpo)."
        ));
    }
    for (name, slices) in &found.slices {
        said.extend(first_and_last(name, slices));
    }
    said
}

/// Which slice was learned first, and which last.
fn first_and_last(name: &str, slices: &[SliceCourse]) -> Option<String> {
    let mut reached: Vec<(u64, &str)> =
        slices.iter().filter_map(|slice| Some((slice.halfway?, slice.word.as_str()))).collect();
    reached.sort_unstable();
    let never = slices.iter().filter(|slice| slice.halfway.is_none()).map(|slice| slice.word.as_str());
    let never: Vec<&str> = never.take(3).collect();
    match (reached.first(), reached.last()) {
        (Some(first), Some(last)) if first.0 < last.0 => Some(format!(
            "By {name}, {} was learned first (half-way after step {}) and {} last (step {}){}.",
            first.1,
            first.0,
            last.1,
            last.0,
            if never.is_empty() { String::new() } else { format!("; {} hardly moved", never.join(", ")) }
        )),
        (Some(first), _) if !never.is_empty() => Some(format!(
            "By {name}, {} was learned (half-way after step {}) and {} hardly moved.",
            first.1,
            first.0,
            never.join(", ")
        )),
        _ => None,
    }
}

/// The slices as a table.
pub(super) fn slices(found: &Diagnostics) -> Vec<Vec<String>> {
    let has_others = found.slices.values().flatten().any(|slice| slice.with_others.is_some());
    let mut head =
        ["slice", "", "items", "first", "last", "95 % interval", "half-way after step"].map(str::to_owned).to_vec();
    if has_others {
        head.push("with the others".into());
    }
    let mut rows = vec![head];
    for (name, slices) in &found.slices {
        let mut slices: Vec<&SliceCourse> = slices.iter().collect();
        slices.sort_by_key(|slice| (slice.halfway.unwrap_or(u64::MAX), slice.word.clone()));
        for slice in slices {
            let share = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
            let mut row = vec![
                name.clone(),
                slice.word.clone(),
                slice.items.to_string(),
                share(slice.course.first().copied()),
                share(slice.accuracy.map(|interval| interval.estimate)),
                slice.accuracy.map(|i| format!("{:.3} to {:.3}", i.low, i.high)).unwrap_or_default(),
                slice.halfway.map(|step| step.to_string()).unwrap_or_default(),
            ];
            if has_others {
                row.push(slice.with_others.map(|(n, share)| format!("{share:.3} of {n}")).unwrap_or_default());
            }
            rows.push(row);
        }
    }
    rows
}

/// Pairs as a table.
pub(super) fn extremes(pairs: &[Extreme]) -> Vec<Vec<String>> {
    let head = ["margin, nats", "row", "prompt", "chosen", "rejected"].map(str::to_owned).to_vec();
    let row = |pair: &Extreme| {
        let labels: String = pair.labels.iter().map(|(name, word)| format!("\n{name}: {word}")).collect();
        vec![
            format!("{:+.2}", pair.margin),
            format!("{}{labels}", pair.place),
            pair.prompt.clone(),
            pair.chosen.clone(),
            pair.rejected.clone(),
        ]
    };
    std::iter::once(head).chain(pairs.iter().map(row)).collect()
}

fn interval(interval: Interval) -> String {
    format!("{:.3} ({:.3} to {:.3})", interval.estimate, interval.low, interval.high)
}
