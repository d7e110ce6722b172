//! What was measured, as lines for people and programs.
use std::fmt::Write;

use candlewick_kernels::Properties;

use crate::Measured;

/// What a device can do at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ceilings {
    /// Bytes read and written in a second.
    pub(crate) bytes_per_second: f64,
    /// Operations of bf16 products in a second.
    pub(crate) flops_per_second: f64,
}

impl Ceilings {
    /// The part of the time taken that the work would take at these ceilings; infinite where one was not measured.
    fn share(self, Measured { work, seconds, .. }: &Measured) -> f64 {
        let (moving, computing) =
            (work.bytes as f64 / self.bytes_per_second, work.flops as f64 / self.flops_per_second);
        moving.max(computing) / seconds
    }
}

impl std::fmt::Display for Ceilings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} TB/s and {:.0} TFLOP/s", self.bytes_per_second / 1e12, self.flops_per_second / 1e12)
    }
}

/// The columns of a line, with their units.
const COLUMNS: [&str; 10] =
    ["op", "model", "size", "µs", "spread %", "MB", "TB/s", "TFLOP/s", "% of the given roof", "% of the measured roof"];

/// All lines, under what was measured on.
pub(crate) struct Table {
    heading: String,
    given: Ceilings,
    measured: Ceilings,
    lines: Vec<[String; COLUMNS.len()]>,
}

impl Table {
    pub(crate) fn new(device: Properties, given: Ceilings, measured: Ceilings, note: &str) -> Self {
        let (major, minor) = device.compute_capability;
        let products = if device.has_cublas_lt { "cuBLASLt" } else { "the crate's own kernel: no cuBLASLt was found" };
        let mut heading = format!(
            "{}: compute capability {major}.{minor}, {} multiprocessors, {} MB of second-level cache, {:.1} GB of memory\n\
             products by {products}\nceilings given: {given}\nceilings measured: {measured}\n",
            device.name,
            device.multiprocessors,
            device.l2_bytes / 1_000_000,
            device.memory_bytes as f64 / 1e9
        );
        if !note.is_empty() {
            heading += note;
            heading.push('\n');
        }
        Self { heading, given, measured, lines: Vec::new() }
    }

    pub(crate) fn heading(&self) -> &str {
        &self.heading
    }

    /// Adds a line, and says it in short.
    pub(crate) fn add(&mut self, model: &str, measured: Measured) -> String {
        let (given, here) = (self.given.share(&measured), self.measured.share(&measured));
        let Measured { work, seconds, spread } = measured;
        let (bytes, flops) = (work.bytes as f64, work.flops as f64);
        let line = [
            work.name.to_owned(),
            model.to_owned(),
            work.size,
            format!("{:.1}", seconds * 1e6),
            format!("{:.1}", spread * 100.0),
            format!("{:.1}", bytes / 1e6),
            format!("{:.2}", bytes / seconds / 1e12),
            format!("{:.1}", flops / seconds / 1e12),
            format!("{:.0}", given * 100.0),
            format!("{:.0}", here * 100.0),
        ];
        let [name, _, size, time, spread, _, tb, tflop, given, here] = &line;
        let said = format!(
            "{model:>5} {name:<34} {size:<34} {time:>9} µs, spread {spread:>4} %, {tb:>6} TB/s, {tflop:>6} TFLOP/s, {given:>4} % or {here:>4} % of the roof"
        );
        self.lines.push(line);
        said
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for line in self.heading.lines() {
            writeln!(text, "* {line}").expect("a string grows");
        }
        let row = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
        text += "\n";
        text += &row(&COLUMNS);
        text += "|";
        text += &"---|".repeat(COLUMNS.len());
        text += "\n";
        for line in &self.lines {
            text += &row(&line.each_ref().map(String::as_str));
        }
        text
    }

    /// Lines that begin with `#` are the heading.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        for line in self.heading.lines() {
            writeln!(text, "# {line}").expect("a string grows");
        }
        let quoted = |cell: &str| if cell.contains(',') { format!("\"{cell}\"") } else { cell.to_owned() };
        text += &COLUMNS.join(",");
        text.push('\n');
        for line in &self.lines {
            text += &line.each_ref().map(|cell| quoted(cell)).join(",");
            text.push('\n');
        }
        text
    }
}
