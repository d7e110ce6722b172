//! Line charts as inline SVG.

use std::fmt::Write as _;

/// One line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What the legend calls it.
    pub(crate) name: String,
    /// (step, value); a value that is no number breaks the line.
    pub(crate) points: Vec<(f64, f64)>,
    /// Draws the single values faintly and their moving mean strongly.
    pub(crate) noisy: bool,
}

/// A level that helps to read a chart: chance, a baseline, ln 2.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    /// Its label.
    pub(crate) name: String,
    /// Where it lies on the vertical axis.
    pub(crate) value: f64,
}

/// A chart over the steps of a run.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// The heading.
    pub(crate) title: String,
    /// Its lines.
    pub(crate) series: Vec<Series>,
    /// Its levels.
    pub(crate) levels: Vec<Level>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

impl Chart {
    /// The chart as an HTML `figure`; colours come from the page's classes `s0`, `s1`, ….
    pub(crate) fn to_html(&self) -> String {
        let mut svg = String::new();
        let values = || self.series.iter().flat_map(|s| s.points.iter()).filter(|(_, y)| y.is_finite());
        let (Some(x), Some(y)) = (
            Axis::covering(values().map(|p| p.0)),
            Axis::covering(values().map(|p| p.1).chain(self.levels.iter().map(|l| l.value))),
        ) else {
            return format!("<figure><figcaption>{}</figcaption><p>nothing recorded</p></figure>", escape(&self.title));
        };
        let place = |point: (f64, f64)| {
            (
                LEFT + x.position(point.0) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - y.position(point.1) * (HEIGHT - TOP - BOTTOM),
            )
        };
        grid(&mut svg, &x, &y, &place);
        let heights: Vec<f64> = self.levels.iter().map(|level| place((x.low, level.value)).1).collect();
        for (level, py) in self.levels.iter().zip(&heights).map(|(level, py)| (level, *py)) {
            // Its name stands above it, or below it where another level is close above.
            let crowded = heights.iter().any(|other| *other < py && py - other < 12.0);
            let _ = write!(
                svg,
                r#"<line class="level" x1="{LEFT}" x2="{:.1}" y1="{py:.1}" y2="{py:.1}"/><text class="level" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                WIDTH - RIGHT,
                WIDTH - RIGHT - 2.0,
                if crowded { py + 11.0 } else { py - 3.0 },
                escape(&level.name)
            );
        }
        for (index, series) in self.series.iter().enumerate() {
            if series.noisy {
                line(&mut svg, &series.points, index, "faint", &place);
                line(&mut svg, &moving_mean(&series.points), index, "strong", &place);
            } else {
                line(&mut svg, &series.points, index, "strong", &place);
            }
        }
        let legend: String = self
            .series
            .iter()
            .enumerate()
            .map(|(i, s)| format!(r#"<span class="key k{i}">{}</span>"#, escape(&s.name)))
            .collect();
        format!(
            r#"<figure><figcaption>{} {legend}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">{svg}</svg></figure>"#,
            escape(&self.title),
            escape(&self.title)
        )
    }
}

fn grid(svg: &mut String, x: &Axis, y: &Axis, place: &impl Fn((f64, f64)) -> (f64, f64)) {
    for tick in y.ticks() {
        let (_, py) = place((x.low, tick));
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{py:.1}" y2="{py:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 5.0,
            py + 3.5,
            y.label(tick)
        );
    }
    for tick in x.ticks() {
        let (px, _) = place((tick, y.low));
        let _ =
            write!(svg, r#"<text x="{px:.1}" y="{:.1}" text-anchor="middle">{}</text>"#, HEIGHT - 8.0, x.label(tick));
    }
}

fn line(
    svg: &mut String,
    points: &[(f64, f64)],
    index: usize,
    weight: &str,
    place: &impl Fn((f64, f64)) -> (f64, f64),
) {
    for run in points.split(|(_, y)| !y.is_finite()).filter(|run| !run.is_empty()) {
        let path: Vec<String> = run
            .iter()
            .map(|p| {
                let (px, py) = place(*p);
                format!("{px:.1},{py:.1}")
            })
            .collect();
        if let [only] = path.as_slice() {
            let (px, py) = only.split_once(',').unwrap_or_default();
            let _ = write!(svg, r#"<circle class="s{index}" cx="{px}" cy="{py}" r="2.5"/>"#);
        } else {
            let _ = write!(svg, r#"<polyline class="s{index} {weight}" points="{}"/>"#, path.join(" "));
        }
    }
}

/// Means over a window of a fifteenth of the run, centred.
fn moving_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 30 + 1;
    (0..points.len())
        .map(|i| {
            let window = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
            (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

/// A range of values with round ticks.
#[derive(Debug)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn covering(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return None;
        }
        if high - low < 1e-9 {
            low -= 0.5;
            high += 0.5;
        }
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        Some(Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step })
    }

    fn position(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|i| self.low + i as f64 * self.step)
    }

    fn label(&self, tick: f64) -> String {
        let digits = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        // −0 reads as a mistake.
        let text = format!("{tick:.digits$}");
        if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) {
            text.trim_start_matches('-').to_owned()
        } else {
            text
        }
    }
}

/// Text that HTML shows as it is.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart { title: "a < b".into(), series: vec![Series { name: "x".into(), points, noisy: false }], levels: vec![] }
    }

    #[test]
    fn points_span_the_plot_and_a_gap_breaks_the_line() {
        let html = chart(vec![(0.0, 0.0), (1.0, 1.0), (2.0, f64::NAN), (3.0, 0.5), (4.0, 1.0)]).to_html();
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(html.contains("52.0,224.0"), "{html}");
        assert!(html.contains("a &lt; b") && !html.contains("NaN"));
    }

    #[test]
    fn an_empty_or_flat_chart_is_still_a_chart() {
        assert!(chart(vec![]).to_html().contains("nothing recorded"));
        assert!(chart(vec![(1.0, 2.0)]).to_html().contains("<circle"));
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::covering([0.03, 0.97].into_iter()).expect("values");
        let labels: Vec<String> = axis.ticks().map(|t| axis.label(t)).collect();
        assert_eq!(labels, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }
}
