//! Charts of a comparison: intervals row by row, and points in a plane.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::chart::Level;
use super::escape;
use super::style::{Axis, GRID, INK, QUIET, SCALE, series_colour, svg, text};

/// Rows of values with intervals, such as the accuracies of several losses.
#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    /// The heading.
    pub(crate) title: String,
    /// From above to below.
    pub(crate) rows: Vec<IntervalRow>,
    /// Upright lines.
    pub(crate) levels: Vec<Level>,
}

/// A row of [`Intervals`].
#[derive(Clone, Debug)]
pub(crate) struct IntervalRow {
    /// Its name.
    pub(crate) name: String,
    /// Low end, value, high end.
    pub(crate) interval: (f64, f64, f64),
    /// Its colour.
    pub(crate) series: usize,
}

/// Points in a plane with intervals in both directions, told apart by numbers.
#[derive(Clone, Debug)]
pub(crate) struct Plane {
    /// The heading.
    pub(crate) title: String,
    /// What the axis to the right says.
    pub(crate) right: String,
    /// What the axis upwards says.
    pub(crate) up: String,
    /// The points.
    pub(crate) points: Vec<PlanePoint>,
    /// A line through some of them, such as the best ones.
    pub(crate) line: Vec<(f64, f64)>,
}

/// A point of a [`Plane`].
#[derive(Clone, Debug)]
pub(crate) struct PlanePoint {
    /// What stands beside it.
    pub(crate) label: String,
    /// Low end, value, high end, to the right.
    pub(crate) x: (f64, f64, f64),
    /// The same upwards.
    pub(crate) y: (f64, f64, f64),
    /// Its colour.
    pub(crate) series: usize,
}

const WIDTH: u32 = 560;
const ROW: u32 = 18;
const NAMES: u32 = 190;
/// Values to the right whose largest is so many times the smallest are drawn by powers of ten.
const SPAN: f64 = 30.0;

impl Intervals {
    /// The chart as an HTML `figure`.
    pub(crate) fn to_html(&self) -> String {
        let ends = self.rows.iter().flat_map(|row| [row.interval.0, row.interval.1, row.interval.2]);
        let levels = self.levels.iter().map(|level| level.value);
        let Some(x) = Axis::covering(ends.chain(levels)) else {
            return format!("<figure><figcaption>{}</figcaption><p>nothing recorded</p></figure>", escape(&self.title));
        };
        let count = self.rows.len();
        let height = count as u32 * ROW + 52;
        let drawn = svg((WIDTH, height), &self.title, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin_right(16 * SCALE)
                .margin_top(18 * SCALE)
                .margin_bottom(6 * SCALE)
                .x_label_area_size(22 * SCALE)
                .y_label_area_size(NAMES * SCALE)
                .build_cartesian_2d(x.range(), 0.0..count as f64)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .axis_style(TRANSPARENT)
                .x_labels(x.labels())
                .y_labels(0)
                .x_label_formatter(&|value| x.label(*value))
                .bold_line_style(GRID.stroke_width(SCALE))
                .light_line_style(TRANSPARENT)
                .x_label_style(text(11, &QUIET, HPos::Center, VPos::Top))
                .draw()?;
            for level in &self.levels {
                let ends = [(level.value, 0.0), (level.value, count as f64)];
                chart.draw_series(DashedLineSeries::new(ends, 4 * SCALE, 3 * SCALE, QUIET.stroke_width(SCALE)))?;
                let place = chart.backend_coord(&(level.value, count as f64));
                area.draw_text(&level.name, &text(11, &QUIET, HPos::Center, VPos::Bottom), place)?;
            }
            for (number, row) in self.rows.iter().enumerate() {
                let (low, value, high) = row.interval;
                let y = (count - number) as f64 - 0.5;
                let colour = series_colour(row.series);
                chart.draw_series([PathElement::new([(low, y), (high, y)], colour.stroke_width(2 * SCALE))])?;
                chart.draw_series([Circle::new((value, y), 4 * SCALE, colour.filled())])?;
                let (_, height) = chart.backend_coord(&(value, y));
                let right = ((NAMES - 8) * SCALE) as i32;
                area.draw_text(&row.name, &text(12, &INK, HPos::Right, VPos::Center), (right, height))?;
            }
            Ok(())
        });
        format!("<figure><figcaption>{}</figcaption>{drawn}</figure>", escape(&self.title))
    }
}

impl Plane {
    /// The chart as an HTML `figure`.
    pub(crate) fn to_html(&self) -> String {
        let ends = |of: fn(&PlanePoint) -> (f64, f64, f64)| {
            self.points.iter().map(of).flat_map(|(low, value, high)| [low, value, high])
        };
        // Values that span powers of ten would lie on each other at the left.
        let positive = || ends(|p| p.x).filter(|value| *value > 0.0);
        let (least, most) = positive().fold((f64::INFINITY, 0.0), |(l, m): (f64, f64), v| (l.min(v), m.max(v)));
        let powers = ends(|p| p.x).all(|value| value > 0.0) && most > SPAN * least;
        let right = |value: f64| if powers { value.log10() } else { value };
        let x_axis = if powers { Axis::of_powers(positive()) } else { Axis::covering(ends(|p| p.x)) };
        let (Some(x), Some(y)) = (x_axis, Axis::covering(ends(|p| p.y))) else {
            return format!("<figure><figcaption>{}</figcaption><p>nothing recorded</p></figure>", escape(&self.title));
        };
        let drawn = svg((WIDTH, 380), &self.title, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin(10 * SCALE)
                .margin_right(20 * SCALE)
                .x_label_area_size(38 * SCALE)
                .y_label_area_size(54 * SCALE)
                .build_cartesian_2d(x.range(), y.range())?;
            chart
                .configure_mesh()
                .axis_style(TRANSPARENT)
                .x_labels(x.labels())
                .y_labels(y.labels())
                .x_label_formatter(&|value| if powers { Axis::power(*value) } else { x.label(*value) })
                .y_label_formatter(&|value| y.label(*value))
                .x_desc(self.right.as_str())
                .y_desc(self.up.as_str())
                .axis_desc_style(text(12, &INK, HPos::Center, VPos::Top))
                .bold_line_style(GRID.stroke_width(SCALE))
                .light_line_style(TRANSPARENT)
                .x_label_style(text(11, &QUIET, HPos::Center, VPos::Top))
                .y_label_style(text(11, &QUIET, HPos::Right, VPos::Center))
                .draw()?;
            if self.line.len() > 1 {
                let line: Vec<(f64, f64)> = self.line.iter().map(|(x, y)| (right(*x), *y)).collect();
                let dashes = DashedLineSeries::new(line, 4 * SCALE, 3 * SCALE, QUIET.stroke_width(SCALE));
                chart.draw_series(dashes)?;
            }
            for point in &self.points {
                let colour = series_colour(point.series);
                let (low, value, high) = point.x;
                let (x, y) = ((right(low), right(value), right(high)), point.y);
                let faint = colour.mix(0.45).stroke_width(SCALE);
                chart.draw_series([
                    PathElement::new([(x.0, y.1), (x.2, y.1)], faint),
                    PathElement::new([(x.1, y.0), (x.1, y.2)], faint),
                ])?;
                chart.draw_series([Circle::new((x.1, y.1), 4 * SCALE, colour.filled())])?;
                let (across, down) = chart.backend_coord(&(x.1, y.1));
                let beside = 6 * SCALE as i32;
                area.draw_text(&point.label, &text(11, &INK, HPos::Left, VPos::Bottom), (across + beside, down))?;
            }
            Ok(())
        });
        format!("<figure><figcaption>{}</figcaption>{drawn}</figure>", escape(&self.title))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_named_and_drawn() {
        let row = |name: &str, value: f64| IntervalRow {
            name: name.into(),
            interval: (value - 0.1, value, value + 0.1),
            series: 0,
        };
        let html = Intervals {
            title: "accuracy".into(),
            rows: vec![row("dpo", 0.7), row("a<b", 0.6)],
            levels: vec![Level { name: "chance".into(), value: 0.5 }],
        }
        .to_html();
        assert_eq!(html.matches("<circle").count(), 2);
        assert!(html.contains("a&lt;b") && html.contains("chance") && !html.contains("not drawn"), "{html}");
        let empty = Intervals { title: "t".into(), rows: vec![], levels: vec![] }.to_html();
        assert!(empty.contains("nothing recorded"));
    }

    #[test]
    fn points_stand_with_their_labels() {
        let point = PlanePoint { label: "7".into(), x: (0.0, 1.0, 2.0), y: (0.5, 0.6, 0.7), series: 1 };
        let html = Plane {
            title: "frontier".into(),
            right: "KL".into(),
            up: "accuracy".into(),
            points: vec![point],
            line: vec![(0.0, 0.5), (1.0, 0.6)],
        }
        .to_html();
        assert!(html.contains(">\n7\n") && html.contains("KL") && !html.contains("not drawn"), "{html}");
    }
}
