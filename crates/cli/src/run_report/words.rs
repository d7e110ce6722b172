//! What is worth saying of a run.

use candlewick::evaluate::stats::Interval;
use candlewick::evaluate::{Against, Diagnostics, Extreme, SliceCourse, Trend};

use super::course::Course;

/// Spearman's ρ beyond which, whatever its uncertainty, a margin is said to go with length.
const GOES_WITH: f64 = 0.15;
/// By how much of itself a loss has to rise to be worth a word.
const RISEN: f64 = 0.02;

/// What slices mean.
pub(super) const SLICES: &str = "A slice rose where the interval of the last evaluation lies above its first accuracy; half-way is then the \
     first evaluation at which it had come half the way to its highest. Intervals are Wilson's, for as many trials as there are prompts. \
     “length”: whether the preferred completion has more tokens; “difference”: how many of the tokens of both completions only one of them \
     has, in thirds of the pairs; “before”: which completion was likelier a token before training. The other slices are columns of the rows, \
     named in [evaluation] slices. “with the others” is how often the same pair was judged alike elsewhere.";

/// What log-probabilities are compared with.
pub(super) fn against(against: Against) -> &'static str {
    match against {
        Against::Reference => "Everything is of log π(y|x) − log π_ref(y|x), in nats, whatever the loss compares.",
        Against::Start => {
            "The run has no reference that stands still: everything is of log π(y|x) less what it was before the first step, in nats."
        }
        Against::Nothing => {
            "The run has no reference that stands still, and was not evaluated before its first step ([evaluation] at_start = true): \
             everything is of log π(y|x) alone, in nats, where longer completions are less likely whatever was learned."
        }
    }
}

/// The same in a word.
fn basis(against: Against) -> &'static str {
    match against {
        Against::Reference => "log π/π_ref",
        Against::Start => "log π/π_start",
        Against::Nothing => "log π alone ([evaluation] at_start = true measures from the start)",
    }
}

/// Of the logged curves; those of a reference that moves start anew with it.
pub(super) fn of_course(course: &Course, reference_moves: bool) -> Option<String> {
    let losses = course.of("eval_loss");
    let lowest = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (first, last) = (losses.first()?, losses.last()?);
    let rise = last.1 - lowest.1;
    if reference_moves || rise <= RISEN * lowest.1.abs() {
        return None;
    }
    let risen = format!(
        "The held-out loss was lowest after step {} ({:.4}) and has risen to {:.4} since",
        lowest.0, lowest.1, last.1
    );
    let training = course.of("loss");
    let around = |step: f64| {
        let reach = (training.len() / 10).max(1);
        let place = training.partition_point(|(at, _)| *at < step);
        let window = &training[place.saturating_sub(reach)..(place + reach).min(training.len())];
        (!window.is_empty()).then(|| window.iter().map(|(_, loss)| loss).sum::<f64>() / window.len() as f64)
    };
    let went_on = around(lowest.0).zip(around(last.0)).is_some_and(|(then, now)| now < then);
    Some(match (went_on, lowest.0 > first.0) {
        (true, true) => format!(
            "{risen}, while the training loss fell on: from there the run learned its rows by heart. Fewer steps, a lower rate or a \
             larger beta stop earlier."
        ),
        (true, false) => {
            format!("{risen}, while the training loss fell: what is learned does not carry over to the held-out rows.")
        }
        (false, _) => {
            format!("{risen}, and the training loss with it: the steps are too large; lower optimizer.learning_rate.")
        }
    })
}

/// Of held-out preferences.
pub(super) fn of_diagnostics(found: &Diagnostics) -> Vec<String> {
    let mut said = Vec::new();
    let (Some(_), Some(last)) = (found.course.first(), found.course.last()) else { return said };
    if let Some(accuracy) = found.accuracy {
        let (shown, basis) = (interval(accuracy), basis(found.against));
        said.push(match found.verdicts {
            false => format!("After step {}, {basis} agrees with {shown} of {} held-out preferences.", last.step, found.items),
            true => format!(
                "After step {}, {basis} puts a desirable held-out completion above an undesirable one in {shown} of the cases (area under \
                 the curve, {} desirable ones).",
                last.step, found.items
            ),
        });
    }
    if let Some(change) = found.change.filter(|_| found.preferred_fall()) {
        let since =
            if change.since == 0 { "before training".to_owned() } else { format!("after step {}", change.since) };
        said.push(format!(
            "The preferred completions are less likely than {since} ({:+.2} nats) while the margin has grown by {:.2}: it comes from pushing \
             the others further down. Objectives that hold the preferred up are dpop, cal_dpo, and any loss in a mix with sft.",
            change.preferred.estimate, change.margin.estimate
        ));
    }
    let goes_with = |rho: &Interval| rho.low > GOES_WITH || rho.high < -GOES_WITH;
    if let Some(rho) = found.margin_and_length.filter(goes_with).filter(|_| found.against != Against::Nothing) {
        let whose = if rho.estimate > 0.0 { "longer" } else { "shorter" };
        said.push(format!(
            "The margin goes with length (Spearman's ρ {:+.2}, {:+.2} to {:+.2}): the model is surer where the preferred completion is the \
             {whose} one. Compare the slices by length.",
            rho.estimate, rho.low, rho.high
        ));
    }
    for (name, slices) in &found.slices {
        said.extend(first_and_last(name, slices));
    }
    said
}

/// Which slices were learned first, which last, and which not.
fn first_and_last(name: &str, slices: &[SliceCourse]) -> Option<String> {
    let mut reached: Vec<(u64, &str)> =
        slices.iter().filter_map(|slice| Some((slice.halfway?, slice.word.as_str()))).collect();
    reached.sort_unstable();
    let (first, last) = (reached.first()?.0, reached.last()?.0);
    let at = |step: u64| listed(reached.iter().filter(|(at, _)| *at == step).map(|(_, word)| *word));
    let fell = listed(slices.iter().filter(|slice| slice.trend == Trend::Fell).map(|slice| slice.word.as_str()));
    let open = slices.iter().any(|slice| slice.trend == Trend::Level);
    let mut said = match first < last {
        true => format!(
            "By {name}, {} was learned first (half-way after step {first}), {} last (step {last})",
            at(first),
            at(last)
        ),
        false if open || !fell.is_empty() => {
            format!("By {name}, {} rose clearly (half-way after step {first})", at(first))
        }
        false => return None,
    };
    if !fell.is_empty() {
        said.push_str(&format!("; {fell} fell"));
    }
    if open {
        said.push_str("; of the others the rows are too few, or the change too small, to tell");
    }
    Some(said + ".")
}

/// A few words, and how many more there are.
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    const NAMED: usize = 4;
    let words: Vec<&str> = words.collect();
    let named = words.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if words.len() > NAMED { format!("{named} and {} more", words.len() - NAMED) } else { named }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn course(training: &[f64], held_out: &[(u64, f64)]) -> Course {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("metrics.jsonl");
        let steps = training.iter().enumerate().map(|(i, loss)| serde_json::json!({ "step": i + 1, "loss": loss }));
        let evaluations = held_out.iter().map(|(step, loss)| serde_json::json!({ "step": step, "eval_loss": loss }));
        let text: String = steps.chain(evaluations).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).expect("written");
        Course::read(&path).expect("lines")
    }

    #[test]
    fn a_loss_that_rises_again_is_told_from_noise_and_from_steps_too_large() {
        let falling: Vec<f64> = (0..40).map(|i| 0.7 - 0.01 * f64::from(i)).collect();
        let said = |training: &[f64], held_out: &[(u64, f64)]| of_course(&course(training, held_out), false);
        assert!(said(&falling, &[(0, 0.69), (20, 0.5), (40, 0.6)]).is_some_and(|text| text.contains("by heart")));
        assert_eq!(said(&falling, &[(0, 0.691), (20, 0.6915), (40, 0.695)]), None);
        assert_eq!(said(&falling, &[(20, 0.5), (40, 0.4)]), None);
        let text = said(&falling, &[(0, 0.69), (40, 0.9)]).expect("a rise");
        assert!(text.contains("does not carry over"), "{text}");
        let rising: Vec<f64> = falling.iter().rev().map(|loss| loss * 100.0).collect();
        let text = said(&rising, &[(0, 0.69), (40, 4000.0)]).expect("a rise");
        assert!(text.contains("lower optimizer.learning_rate"), "{text}");
        assert_eq!(of_course(&course(&falling, &[(0, 0.69), (20, 0.5), (40, 0.6)]), true), None);
        assert_eq!(said(&falling, &[]), None);
    }

    #[test]
    fn slices_that_rose_fell_or_stayed_are_told_apart() {
        let slice = |word: &str, trend, halfway| SliceCourse {
            word: word.to_owned(),
            items: 9,
            course: vec![],
            accuracy: None,
            trend,
            halfway,
            with_others: None,
        };
        let (a, b) = (slice("a", Trend::Rose, Some(10)), slice("b", Trend::Rose, Some(10)));
        let late = slice("late", Trend::Rose, Some(40));
        let text = first_and_last("kind", &[late, b.clone(), a.clone()]).expect("an order");
        assert_eq!(text, "By kind, a, b was learned first (half-way after step 10), late last (step 40).");
        assert_eq!(first_and_last("kind", &[a.clone(), b]), None);
        let text = first_and_last("kind", &[a, slice("x", Trend::Fell, None), slice("y", Trend::Level, None)]);
        let text = text.expect("a difference");
        assert!(
            text.contains("a rose clearly") && text.contains("; x fell; of the others the rows are too few"),
            "{text}"
        );
        assert_eq!(first_and_last("kind", &[slice("y", Trend::Level, None)]), None);
    }
}
