//! What a front looks like, for a screen, for a spreadsheet, and as a page.

use candlewick::evaluate::pareto::{Aim, Direction, Measure, ParetoReport, Point};
use candlewick::train::Plan;
use serde_json::{Value, json};

use super::scores::{CUT, KL};
use super::words::Pareto;
use crate::report::{Plane, PlanePoint, Section, page as to_page};
use crate::screen::{columns, percent};

/// Planes of two objectives that are drawn.
const PLANES: usize = 6;
/// Standard errors that bars reach to either side.
const BARS: f64 = 2.0;

/// What a report is of, beside its numbers.
pub(super) struct Context<'a> {
    pub(super) arguments: &'a Pareto,
    /// Prompts that not every policy answered.
    pub(super) left_out: usize,
    /// Prompts without an answer, by policy.
    pub(super) missing: Vec<(String, usize)>,
    /// Answers that stayed empty, by policy.
    pub(super) empty: Vec<(String, usize)>,
    /// What is not measured, and why: runs that stopped before their end, policies that answered nothing.
    pub(super) failures: Vec<(String, String)>,
    /// The first run of the sweep.
    pub(super) plan: Option<&'a Plan>,
}

impl Context<'_> {
    /// How the policies answered.
    pub(super) fn sampling(&self) -> Value {
        let draws = &self.arguments.draws;
        json!({
            "prompts": self.arguments.prompts,
            "samples": draws.samples,
            "temperature": draws.temperature,
            "top_k": draws.top_k,
            "top_p": draws.top_p,
            "max_new_tokens": draws.max_new_tokens,
            "seed": draws.seed,
            "reference": self.arguments.reference,
        })
    }
}

/// The table for a screen, and what is to be said of it.
pub(super) fn table(report: &ParetoReport, context: &Context<'_>) -> Vec<String> {
    let mut lines = columns(&rows(report));
    lines.push(String::new());
    lines.extend(notes(report, context));
    lines
}

/// A row a policy, below a head.
fn rows(report: &ParetoReport) -> Vec<Vec<String>> {
    let names = measured(report);
    let head = ["", "policy"].map(str::to_owned).into_iter().chain(names.iter().cloned());
    let mut rows = vec![head.chain(["volume", "front"].map(str::to_owned)).collect()];
    for (number, point) in report.points.iter().enumerate() {
        let values = names.iter().map(|name| point.measures.get(name).map(within).unwrap_or_default());
        let row = [(number + 1).to_string(), point.name.clone()].into_iter().chain(values);
        rows.push(row.chain([format!("{:.3}", point.contribution), standing(point)]).collect());
    }
    rows
}

/// The objectives, and what else was measured.
fn measured(report: &ParetoReport) -> Vec<String> {
    let aims: Vec<String> = report.objectives.iter().map(|aim| aim.name.clone()).collect();
    let all = report.points.first().into_iter().flat_map(|point| point.measures.keys());
    let others = all.filter(|name| !aims.contains(name) && *name != CUT).cloned().collect::<Vec<_>>();
    aims.into_iter().chain(others).collect()
}

fn within(measure: &Measure) -> String {
    format!("{:.3} ± {:.3}", measure.mean, measure.standard_error)
}

fn standing(point: &Point) -> String {
    let place = match point.dominated_by.as_slice() {
        [] => "on it".to_owned(),
        [one] => format!("behind {one}"),
        [one, others @ ..] => format!("behind {one} and {} more", others.len()),
    };
    if point.within_error { format!("{place}, within error") } else { place }
}

/// What the numbers mean, and what is worth saying of them.
fn notes(report: &ParetoReport, context: &Context<'_>) -> Vec<String> {
    let aim = |aim: &Aim| {
        let better = match aim.direction {
            Direction::Maximise => "more is better",
            Direction::Minimise => "less is better",
        };
        format!("{}: {better} (by {})", aim.name, aim.because)
    };
    let from: Vec<String> = report
        .objectives
        .iter()
        .zip(&report.reference_point)
        .map(|(aim, value)| format!("{} {value:.3}", aim.name))
        .collect();
    let mut notes: Vec<String> = report.objectives.iter().map(aim).collect();
    notes.push(format!(
        "± is one standard error over {} prompts; within error: two standard errors of the differences, prompt by prompt, leave open \
         whether a policy is on the front",
        report.prompts
    ));
    notes.push(format!(
        "hypervolume {:.4} from {}; volume is how much of it is a policy's alone",
        report.hypervolume,
        from.join(", ")
    ));
    if report.points.iter().any(|point| point.measures.contains_key(KL)) {
        notes.push("kl is from the reference, in nats an answer".to_owned());
    }
    let cut: Vec<String> = report
        .points
        .iter()
        .filter_map(|point| Some((point, point.measures.get(CUT)?.mean)))
        .filter(|(_, share)| *share > 0.0)
        .map(|(point, share)| format!("{} ({})", point.name, percent(share)))
        .collect();
    if !cut.is_empty() {
        notes.push(format!("answers cut at --max-new-tokens: {}", cut.join(", ")));
    }
    let counts = |of: &[(String, usize)]| {
        let some = of.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} ({count})"));
        some.collect::<Vec<_>>().join(", ")
    };
    let empty = counts(&context.empty);
    if !empty.is_empty() {
        notes.push(format!("answers left out that stayed empty: {empty}"));
    }
    if context.left_out > 0 {
        let of = counts(&context.missing);
        notes.push(format!(
            "{} prompts left out, to which not every policy has an answer: {of} have none",
            context.left_out
        ));
    }
    notes.extend(context.failures.iter().map(|(name, why)| format!("{name} is not measured: {why}")));
    notes
}

/// One line a policy, one column a number.
pub(super) fn csv(report: &ParetoReport) -> String {
    let names: Vec<String> =
        report.points.first().into_iter().flat_map(|point| point.measures.keys()).cloned().collect();
    let errors = names.iter().flat_map(|name| [name.clone(), format!("{name}_standard_error")]);
    let head = ["policy", "place"].map(str::to_owned).into_iter().chain(errors);
    let of_front = ["on_front", "within_error", "dominated_by", "contribution"].map(str::to_owned);
    let mut lines: Vec<Vec<String>> = vec![head.chain(of_front).collect()];
    for point in &report.points {
        let values = point.measures.values().flat_map(|of| [of.mean.to_string(), of.standard_error.to_string()]);
        let line = [point.name.clone(), point.place.clone()].into_iter().chain(values);
        let of_front = [
            point.on_front.to_string(),
            point.within_error.to_string(),
            point.dominated_by.join("; "),
            point.contribution.to_string(),
        ];
        lines.push(line.chain(of_front).collect());
    }
    crate::csv::text(&lines)
}

/// The page.
pub(super) fn page(report: &ParetoReport, context: &Context<'_>) -> String {
    let aims = &report.objectives;
    let pairs = (0..aims.len()).flat_map(|y| (0..y).map(move |x| (x, y)));
    let fronts: Vec<Plane> = pairs.take(PLANES).map(|(x, y)| plane(report, &aims[x].name, &aims[y].name)).collect();
    let mut sections = vec![
        Section::Text(
            "Points are numbered as in the table below. Those of the first colour are on the front: no other policy is as good in every \
             objective and better in one. Bars reach two standard errors to either side. Of two objectives the dashed line goes through \
             the front."
                .into(),
        ),
        Section::Planes(fronts),
    ];
    if report.points.iter().any(|point| point.measures.contains_key(KL)) && aims.iter().all(|aim| aim.name != KL) {
        sections.push(Section::Heading("What it costs in distance".into()));
        sections.push(Section::Planes(aims.iter().map(|aim| plane(report, KL, &aim.name)).collect()));
    }
    sections.push(Section::Heading("Numbers".into()));
    sections.push(Section::Table(rows(report)));
    sections.extend(notes(report, context).into_iter().map(Section::Text));
    let run = context.plan.map(|plan| format!("\nthe first run:\n{plan}")).unwrap_or_default();
    let places: Vec<String> = report.points.iter().map(|point| format!("{}: {}", point.name, point.place)).collect();
    let sampling = context.sampling();
    sections.extend([
        Section::Heading("What was run".into()),
        Section::Verbatim(format!("answers: {sampling}\n{}{run}", places.join("\n"))),
    ]);
    to_page("wick pareto", &sections)
}

/// Two measures of every policy against each other.
fn plane(report: &ParetoReport, x: &str, y: &str) -> Plane {
    let bar = |of: &Measure| {
        let reach = BARS * of.standard_error;
        (of.mean - reach, of.mean, of.mean + reach)
    };
    let points = report.points.iter().enumerate().filter_map(|(number, point)| {
        Some(PlanePoint {
            label: (number + 1).to_string(),
            x: bar(point.measures.get(x)?),
            y: bar(point.measures.get(y)?),
            series: usize::from(!point.on_front),
        })
    });
    let points: Vec<PlanePoint> = points.collect();
    let is_front = report.objectives.len() == 2 && report.objectives.iter().all(|aim| aim.name == x || aim.name == y);
    let on_front = points.iter().filter(|point| point.series == 0 && is_front);
    let mut line: Vec<(f64, f64)> = on_front.map(|point| (point.x.1, point.y.1)).collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    Plane { title: format!("{y} against {x}"), right: axis(report, x), up: axis(report, y), points, line }
}

/// What an axis is called, with the way that is better.
fn axis(report: &ParetoReport, name: &str) -> String {
    let aim = report.objectives.iter().find(|aim| aim.name == name);
    match aim.map(|aim| aim.direction) {
        Some(Direction::Maximise) => format!("{name} (more is better)"),
        Some(Direction::Minimise) => format!("{name} (less is better)"),
        None if name == KL => "kl, nats an answer".to_owned(),
        None => name.to_owned(),
    }
}
