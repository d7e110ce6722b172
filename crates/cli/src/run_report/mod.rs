//! `wick report`: what a run learned, as a page and in words.

mod course;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candlewick::evaluate::{self, Diagnostics};
use candlewick::losses::{Objective, ReferenceUpdate};
use candlewick::train::{HeldOutLog, Plan, replace_file};
use serde_json::json;

use crate::arguments::Report;
use crate::failure::Failure;
use crate::report::{Chart, Level, Plane, PlanePoint, Section, Series, page};
use crate::screen::columns;
use course::Course;

/// Points of a plane that are drawn.
const POINTS: usize = 400;
/// Slices of a label whose courses are drawn.
const CURVES: usize = 8;

/// Writes the page of a run, and says what is worth saying.
pub(crate) fn report(arguments: &Report) -> Result<()> {
    let found = Found::read(&arguments.run)?;
    let page = arguments.page.clone().unwrap_or_else(|| arguments.run.join(PAGE));
    found.write(&page)?;
    if arguments.json {
        println!("{}", json!({ "page": page, "diagnostics": found.diagnostics }));
        return Ok(());
    }
    for line in found.lines() {
        println!("{line}");
    }
    println!("the page is {}", page.display());
    Ok(())
}

/// Writes the page of a run that has just ended: where, and what is worth saying.
pub(crate) fn of_finished(output: &Path) -> Result<(PathBuf, Vec<String>)> {
    let found = Found::read(output)?;
    let page = output.join(PAGE);
    found.write(&page)?;
    Ok((page, found.notes()))
}

/// What a run has left.
struct Found {
    plan: Plan,
    course: Course,
    /// None of a run without held-out rows that prefer something.
    diagnostics: Option<Diagnostics>,
}

impl Found {
    fn read(output: &Path) -> Result<Self> {
        let path = output.join("plan.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(Failure::Usage(format!(
                "{} is no directory of a run: it has no plan.json; name the --output of wick train",
                output.display()
            ))),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let plan: Plan = serde_json::from_str(&text).map_err(|error| {
            Failure::Model(format!("{}: {error}; it is of another version of wick, or damaged", path.display()))
        })?;
        let course = Course::read(&output.join("metrics.jsonl"))?;
        let starts_at_reference = plan.starts_at_reference();
        let log = HeldOutLog::read(output)?;
        let diagnostics = match log.as_ref().map(|log| Diagnostics::of(log, starts_at_reference)) {
            None => None,
            // Rows to imitate have a held-out loss, and nothing to diagnose.
            Some(Err(evaluate::Error::Rows { .. })) => None,
            Some(found) => found?,
        };
        Ok(Self { plan, course, diagnostics })
    }

    fn write(&self, page: &Path) -> Result<()> {
        Ok(replace_file(page, self.page().as_bytes())?)
    }

    /// What is worth saying.
    fn notes(&self) -> Vec<String> {
        let diagnosed = self.diagnostics.iter().flat_map(words::of_diagnostics);
        let moves = self.plan.objective.reference_update() != ReferenceUpdate::Frozen;
        let mut notes: Vec<String> = words::of_course(&self.course, moves).into_iter().chain(diagnosed).collect();
        if self.plan.objective.needs().outputs.values {
            notes.push(
                "The run trains score heads: what is diagnosed of held-out preferences are log-probabilities, which a score model has none \
                 of, so that only its curves are shown; wick eval measures it."
                    .into(),
            );
        } else if self.diagnostics.is_none() {
            notes.push(
                "No preferences were held out and evaluated, so that only the curves of training are known: [evaluation] with a path, \
                 or held_out = 0.05."
                    .into(),
            );
        }
        notes
    }

    /// For a screen.
    fn lines(&self) -> Vec<String> {
        let mut lines = self.notes();
        if let Some(found) = self.diagnostics.as_ref().filter(|found| !found.slices.is_empty()) {
            lines.push(String::new());
            lines.extend(columns(&words::slices(found)));
            lines.push(String::new());
        }
        lines
    }

    fn page(&self) -> String {
        let mut sections: Vec<Section> = self.notes().into_iter().map(Section::Text).collect();
        sections.push(Section::Heading("Course".into()));
        sections.push(Section::Charts(self.curves()));
        if let Some(found) = &self.diagnostics {
            sections.extend(diagnosed(found));
        }
        sections.push(Section::Heading("Plan".into()));
        sections.push(Section::Verbatim(self.plan.to_string()));
        page("a training run", &sections)
    }

    fn curves(&self) -> Vec<Chart> {
        let level = |name: &str, value| vec![Level { name: name.into(), value }];
        let chart = |title: &str, name: &str, levels| Chart {
            title: title.into(),
            series: [("training", name.to_owned(), true), ("held out", format!("eval_{name}"), false)]
                .into_iter()
                .map(|(label, key, noisy)| Series { name: label.into(), points: self.course.drawn(&key), noisy })
                .filter(|series| !series.points.is_empty())
                .collect(),
            levels,
        };
        let single = |title: &str, name: &str| Chart {
            title: title.into(),
            series: vec![Series {
                name: title.to_lowercase(),
                points: self.course.drawn(name),
                noisy: name == "grad_norm",
            }],
            levels: vec![],
        };
        let mut charts = vec![
            chart("Loss", "loss", vec![]),
            chart("Accuracy of the implicit rewards", "rewards/accuracies", level("chance", 0.5)),
            chart("Margin of the implicit rewards", "rewards/margins", vec![]),
            chart("Log-probability of the chosen, nats", "logps/chosen", vec![]),
            chart("Log-probability of the rejected, nats", "logps/rejected", vec![]),
            chart("Entropy of the policy, nats a token", "entropy", vec![]),
            single("Norm of the gradient", "grad_norm"),
            single("Learning rate", "learning_rate"),
        ];
        if self.plan.safety.is_some() {
            charts.extend([single("Multiplier", "lambda"), single("Expected cost", "expected_cost")]);
        }
        charts.into_iter().filter(|chart| chart.series.iter().any(|series| !series.points.is_empty())).collect()
    }
}

/// What held-out preferences say.
fn diagnosed(found: &Diagnostics) -> Vec<Section> {
    let mut sections =
        vec![Section::Heading("Held-out preferences".into()), Section::Text(words::against(found.against).into())];
    let of = |value: fn(&evaluate::Moment) -> f64| {
        found.course.iter().map(|moment| (moment.step as f64, value(moment))).collect::<Vec<_>>()
    };
    let line = |name: &str, points| Series { name: name.into(), points, noisy: false };
    sections.push(Section::Charts(vec![
        Chart {
            title: "Accuracy".into(),
            series: vec![line("all", of(|moment| moment.accuracy))],
            levels: vec![Level { name: "chance".into(), value: 0.5 }],
        },
        Chart {
            title: "Where the margin comes from, nats".into(),
            series: vec![line("preferred", of(|moment| moment.preferred)), line("others", of(|moment| moment.other))],
            levels: vec![],
        },
    ]));
    if !found.slices.is_empty() {
        sections.push(Section::Heading("What was learned first".into()));
        sections.push(Section::Charts(
            found.slices.iter().map(|(name, slices)| slice_chart(found, name, slices)).collect(),
        ));
        sections.push(Section::Table(words::slices(found)));
        sections.push(Section::Text(words::SLICES.into()));
    }
    sections.push(Section::Heading("Margin and length".into()));
    sections.push(Section::Planes(vec![lengths(found)]));
    for (title, pairs) in [("Pairs it is surest of", &found.best), ("Pairs it gets wrong by most", &found.worst)] {
        if !pairs.is_empty() {
            sections.push(Section::Heading(title.into()));
            sections.push(Section::Table(words::extremes(pairs)));
        }
    }
    sections
}

fn slice_chart(found: &Diagnostics, name: &str, slices: &[evaluate::SliceCourse]) -> Chart {
    let mut largest: Vec<&evaluate::SliceCourse> = slices.iter().collect();
    largest.sort_by_key(|slice| std::cmp::Reverse(slice.items));
    let points = |slice: &evaluate::SliceCourse| {
        found.course.iter().zip(&slice.course).map(|(moment, accuracy)| (moment.step as f64, *accuracy)).collect()
    };
    Chart {
        title: format!("Accuracy by {name}"),
        series: largest
            .into_iter()
            .take(CURVES)
            .map(|slice| Series { name: slice.word.clone(), points: points(slice), noisy: false })
            .collect(),
        levels: vec![Level { name: "chance".into(), value: 0.5 }],
    }
}

fn lengths(found: &Diagnostics) -> Plane {
    // Evenly from all, so that what is drawn does not depend on their order.
    let step = found.lengths.len().div_ceil(POINTS).max(1);
    let points = found.lengths.iter().step_by(step).filter(|(x, y)| x.is_finite() && y.is_finite());
    Plane {
        title: "The margin beside the tokens that the preferred completion has more".into(),
        right: "tokens more".into(),
        up: "margin, nats".into(),
        points: points
            .map(|(x, y)| PlanePoint { label: String::new(), x: (*x, *x, *x), y: (*y, *y, *y), series: 0 })
            .collect(),
        line: Vec::new(),
    }
}

const PAGE: &str = "report.html";
