//! What a run shows while it goes: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use candlewick::train::StepReport;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows steps as they are done.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    label: &'static str,
    total: u64,
    first: u64,
    /// Time in steps alone: computing a reference, evaluating and saving come at other rates.
    stepping: Duration,
    shown: Option<Instant>,
    tokens: u64,
}

/// Lines come no closer together than this, so that a log stays readable.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Whether to draw and redraw: on a terminal that can, outside continuous integration.
pub(crate) fn animated() -> bool {
    let set =
        |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "false" && value != "0");
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !set("CI") && !dumb
}

impl Progress {
    /// Begins with step `done` of `total` behind us.
    pub(crate) fn start(label: &'static str, done: u64, total: u64) -> Self {
        let bar = animated().then(|| {
            let template = "{prefix} {bar:28.cyan/dim} {pos}/{len} steps  {msg}";
            let bar = ProgressBar::new(total).with_position(done).with_prefix(label);
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar, label, total, first: done, stepping: Duration::ZERO, shown: None, tokens: 0 }
    }

    /// Shows a step that was done, and took so long.
    pub(crate) fn step(&mut self, report: &StepReport, took: Duration) {
        self.tokens += report.tokens;
        self.stepping += took;
        let mut message = format!("loss {:.4}", report.loss);
        if let Some(accuracy) = report.metrics.value("rewards/accuracies") {
            message += &format!("  accuracy {accuracy:.2}");
        }
        message += &format!("  {:.0} tokens/s", self.tokens as f64 / self.stepping.as_secs_f64().max(1e-9));
        let done = report.step.saturating_sub(self.first).max(1);
        let left = self.stepping.as_secs_f64() * self.total.saturating_sub(report.step) as f64 / done as f64;
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        message += &format!("  {} left", duration(left));
        if let Some(bar) = &self.bar {
            bar.set_position(report.step);
            bar.set_message(message);
            return;
        }
        let last = report.step >= self.total;
        if last || self.shown.is_none_or(|shown| shown.elapsed() >= BETWEEN_LINES) {
            self.shown = Some(Instant::now());
            eprintln!("{} {}/{} steps  {message}", self.label, report.step, self.total);
        }
    }

    /// Shows how many completions were scored in so many steps, and in what time.
    pub(crate) fn scored(&mut self, steps: u64, completions: usize, took: Duration) {
        let rate = completions as f64 / took.as_secs_f64().max(1e-9);
        let message = format!("{completions} completions  {rate:.0}/s");
        if let Some(bar) = &self.bar {
            bar.set_position(steps);
            bar.set_message(message);
            return;
        }
        if self.shown.is_none_or(|shown| shown.elapsed() >= BETWEEN_LINES) {
            self.shown = Some(Instant::now());
            eprintln!("{} {steps} of at most {} steps  {message}", self.label, self.total);
        }
    }

    /// Says something beside the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration as people read it.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_secs(5)), "5 s");
        assert_eq!(duration(Duration::from_secs(65)), "1 min 05 s");
        assert_eq!(duration(Duration::from_secs(7260)), "2 h 01 min");
    }
}
