//! Colours that the page decides, in light and in dark, and the drawing area of a chart.

use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours of series in the style of the page.
pub(super) const SERIES: usize = 8;

/// Coordinates of a drawing are whole numbers: it is drawn so many times larger than it is shown.
pub(super) const SCALE: u32 = 4;

/// What drawing can go wrong with; a string takes everything.
pub(super) type Failed = Box<dyn std::error::Error>;

/// A colour that stands for one of the page's: the style sheet puts that in its place ([`rules`]).
pub(super) fn series_colour(index: usize) -> RGBColor {
    RGBColor(1, 2, (index % SERIES) as u8)
}

/// Of labels and levels.
pub(super) const QUIET: RGBColor = RGBColor(1, 3, 0);
/// Of the lines behind a chart.
pub(super) const GRID: RGBColor = RGBColor(1, 3, 1);
/// Of names.
pub(super) const INK: RGBColor = RGBColor(1, 3, 2);

/// The rules of the style sheet that give the drawings their colours.
pub(super) fn rules() -> String {
    let mut rules = String::new();
    let named = [(QUIET, "quiet".to_owned()), (GRID, "line".to_owned()), (INK, "ink".to_owned())];
    for (colour, name) in (0..SERIES).map(|i| (series_colour(i), format!("c{i}"))).chain(named) {
        let RGBColor(r, g, b) = colour;
        let _ = writeln!(
            rules,
            "svg [stroke=\"#{r:02X}{g:02X}{b:02X}\"] {{ stroke: var(--{name}); }} \
             svg [fill=\"#{r:02X}{g:02X}{b:02X}\"] {{ fill: var(--{name}); }}"
        );
    }
    rules
}

/// Text of a size in shown pixels, anchored at a side.
pub(super) fn text(size: u32, colour: &'static RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    // The back end takes sizes for those of a font's box.
    let size = f64::from(size * SCALE) * 1.24;
    TextStyle::from(("sans-serif", size).into_font()).color(colour).pos(Pos::new(horizontal, vertical))
}

/// Draws on an area of a size in shown pixels; the drawing as an element of HTML. What cannot be drawn is said in its place.
pub(super) fn svg(
    size: (u32, u32),
    label: &str,
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failed>,
) -> String {
    let mut drawn = String::new();
    let done = {
        let area = SVGBackend::with_string(&mut drawn, (size.0 * SCALE, size.1 * SCALE)).into_drawing_area();
        draw(&area).and_then(|()| area.present().map_err(Failed::from))
    };
    if let Err(error) = done {
        return format!("<p>not drawn: {}</p>", super::escape(&error.to_string()));
    }
    // Inside a page it needs neither a size of its own nor the name of its language.
    let Some((_, inside)) = drawn.split_once('>') else { return String::new() };
    format!(
        r#"<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{inside}"#,
        size.0 * SCALE,
        size.1 * SCALE,
        super::escape(label)
    )
}

/// A range of values with round ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    step: f64,
}

impl Axis {
    /// Around finite values; nothing where there are none.
    pub(super) fn covering(values: impl Iterator<Item = f64>) -> Option<Self> {
        let finite = values.filter(|value| value.is_finite());
        let (mut low, mut high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
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

    /// Around the logarithms of positive values, from one power of ten to another.
    pub(super) fn of_powers(values: impl Iterator<Item = f64>) -> Option<Self> {
        let logarithms = values.filter(|value| *value > 0.0 && value.is_finite()).map(f64::log10);
        let (low, high) = logarithms.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
        low.is_finite().then_some(Self { low, high, step: 1.0 })
    }

    /// A power of ten as its label says it.
    pub(super) fn power(logarithm: f64) -> String {
        let digits = (-logarithm.round()).max(0.0) as usize;
        format!("{:.digits$}", 10f64.powf(logarithm.round()))
    }

    /// As the range that plotters takes.
    pub(super) fn range(self) -> std::ops::Range<f64> {
        self.low..self.high
    }

    /// How many labels to ask for.
    pub(super) fn labels(self) -> usize {
        ((self.high - self.low) / self.step).round() as usize + 1
    }

    /// A value of this axis as its label says it.
    pub(super) fn label(self, value: f64) -> String {
        let digits = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        // −0 reads as a mistake.
        let text = format!("{value:.digits$}");
        match text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) {
            true => text.trim_start_matches('-').to_owned(),
            false => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_round_and_labels_short() {
        let axis = Axis::covering([0.03, 0.97, f64::NAN].into_iter()).expect("values");
        assert_eq!((axis.low, axis.high, axis.labels()), (0.0, 1.0, 6));
        assert_eq!(axis.label(0.4), "0.4");
        assert_eq!(axis.label(-1e-17), "0.0");
        assert_eq!(Axis::covering([f64::NAN].into_iter()), None);
        let powers = Axis::of_powers([0.3, 218.0, 0.0].into_iter()).expect("positive values");
        assert_eq!((powers.low, powers.high, powers.labels()), (-1.0, 3.0, 5));
        assert_eq!((Axis::power(-1.0), Axis::power(2.0)), ("0.1".to_owned(), "100".to_owned()));
        assert_eq!(Axis::of_powers([0.0].into_iter()), None);
        let flat = Axis::covering([2.0].into_iter()).expect("a value");
        assert!(flat.low < 2.0 && flat.high > 2.0);
    }

    #[test]
    fn every_colour_has_its_rules() {
        let rules = rules();
        assert_eq!(rules.lines().count(), SERIES + 3);
        assert!(rules.contains("svg [stroke=\"#010207\"] { stroke: var(--c7); }"), "{rules}");
    }
}
