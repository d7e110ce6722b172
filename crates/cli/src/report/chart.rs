//! Line charts over the steps of a run.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::escape;
use super::style::{Axis, Failed, GRID, QUIET, SCALE, series_colour, svg, text};

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
    /// Where it lies on the axis of values.
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

const WIDTH: u32 = 560;
const HEIGHT: u32 = 250;

impl Chart {
    /// The chart as an HTML `figure`.
    pub(crate) fn to_html(&self) -> String {
        let values = || self.series.iter().flat_map(|s| s.points.iter()).filter(|(_, y)| y.is_finite());
        let (Some(x), Some(y)) = (
            Axis::covering(values().map(|p| p.0)),
            Axis::covering(values().map(|p| p.1).chain(self.levels.iter().map(|l| l.value))),
        ) else {
            return format!("<figure><figcaption>{}</figcaption><p>nothing recorded</p></figure>", escape(&self.title));
        };
        let drawn = svg((WIDTH, HEIGHT), &self.title, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin(8 * SCALE)
                .margin_right(18 * SCALE)
                .x_label_area_size(20 * SCALE)
                .y_label_area_size(44 * SCALE)
                .build_cartesian_2d(x.range(), y.range())?;
            chart
                .configure_mesh()
                .disable_x_mesh()
                .axis_style(TRANSPARENT)
                .x_labels(x.labels())
                .y_labels(y.labels())
                .x_label_formatter(&|value| x.label(*value))
                .y_label_formatter(&|value| y.label(*value))
                .bold_line_style(GRID.stroke_width(SCALE))
                .light_line_style(TRANSPARENT)
                .x_label_style(text(11, &QUIET, HPos::Center, VPos::Top))
                .y_label_style(text(11, &QUIET, HPos::Right, VPos::Center))
                .set_all_tick_mark_size(4 * SCALE)
                .draw()?;
            for (index, series) in self.series.iter().enumerate() {
                let colour = series_colour(index);
                let smooth;
                let strong = if series.noisy {
                    draw_line(&mut chart, &series.points, colour.mix(0.3).stroke_width(SCALE))?;
                    smooth = moving_mean(&series.points);
                    &smooth
                } else {
                    &series.points
                };
                draw_line(&mut chart, strong, colour.stroke_width(2 * SCALE))?;
            }
            for (level, crowded) in self.levels.iter().zip(crowded(&self.levels, y)) {
                let dashes = DashedLineSeries::new(
                    [(x.low, level.value), (x.high, level.value)],
                    4 * SCALE,
                    3 * SCALE,
                    QUIET.stroke_width(SCALE),
                );
                chart.draw_series(dashes)?;
                // Its name stands above it, or below it where another level is close above.
                let (right, height) = chart.backend_coord(&(x.high, level.value));
                let (anchor, gap) = if crowded { (VPos::Top, 2) } else { (VPos::Bottom, -2) };
                area.draw_text(
                    &level.name,
                    &text(11, &QUIET, HPos::Right, anchor),
                    (right, height + gap * SCALE as i32),
                )?;
            }
            Ok(())
        });
        let legend: String = self
            .series
            .iter()
            .enumerate()
            .map(|(i, s)| format!(r#"<span class="key k{}">{}</span>"#, i % super::style::SERIES, escape(&s.name)))
            .collect();
        format!("<figure><figcaption>{} {legend}</figcaption>{drawn}</figure>", escape(&self.title))
    }
}

/// Which levels have another one, or the end of the chart, close above them.
fn crowded(levels: &[Level], axis: Axis) -> Vec<bool> {
    let near = (axis.high - axis.low) * 14.0 / f64::from(HEIGHT);
    let is_close = |level: &Level, above: f64| above > level.value && above - level.value < near;
    let has_no_room = |level: &Level| axis.high - level.value < near;
    levels.iter().map(|level| has_no_room(level) || levels.iter().any(|other| is_close(level, other.value))).collect()
}

type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_line(chart: &mut Plot<'_, '_>, points: &[(f64, f64)], style: ShapeStyle) -> Result<(), Failed> {
    for run in points.split(|(_, y)| !y.is_finite()).filter(|run| !run.is_empty()) {
        match run {
            [only] => {
                chart.draw_series([Circle::new(*only, 3 * SCALE, style.filled())])?;
            }
            several => {
                chart.draw_series(LineSeries::new(several.iter().copied(), style))?;
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart { title: "a < b".into(), series: vec![Series { name: "x".into(), points, noisy: false }], levels: vec![] }
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let html = chart(vec![(0.0, 0.0), (1.0, 1.0), (2.0, f64::NAN), (3.0, 0.5), (4.0, 1.0)]).to_html();
        let lines = html.split("<polyline").filter(|line| line.contains("stroke=\"#010200\"")).count();
        assert_eq!(lines, 2, "{html}");
        assert!(html.contains("a &lt; b") && !html.contains("NaN"));
    }

    #[test]
    fn an_empty_or_flat_chart_is_still_a_chart() {
        assert!(chart(vec![]).to_html().contains("nothing recorded"));
        assert!(chart(vec![(1.0, 2.0)]).to_html().contains("<circle"));
    }

    #[test]
    fn levels_that_are_close_are_named_on_either_side() {
        let level = |value| Level { name: "l".into(), value };
        let axis = Axis::covering([0.0, 1.0].into_iter()).expect("values");
        assert_eq!(crowded(&[level(0.5), level(0.51), level(0.9), level(0.99)], axis), [true, false, false, true]);
    }
}
