//! Statistics as aligned text.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::form::Form;

use super::{LengthSummary, LengthUnit, RowPart, SafetySummary, Summary, VoteSummary};

/// Lines are no shorter than this, however narrow the terminal.
const NARROWEST: usize = 60;
/// And no longer than this.
const WIDEST: usize = 100;
/// Columns taken by a name on the left.
const NAME: usize = 18;

impl Summary {
    /// The summary as text for a terminal of so many columns (at least 60 are used, at most 100). Ends with a line break.
    #[must_use]
    pub fn to_text(&self, width: usize) -> String {
        let width = width.clamp(NARROWEST, WIDEST);
        let mut out = String::new();
        for source in &self.sources {
            entry(&mut out, "source", &format!("{} ({})", source.name, form_name(source.form)));
        }
        self.rows(&mut out);
        lengths(&mut out, "characters", &self.characters, width);
        if let Some(tokens) = &self.tokens {
            lengths(&mut out, "tokens", &tokens.lengths, width);
        }
        self.work(&mut out);
        self.verdicts(&mut out);
        if let Some(safety) = &self.safety {
            of_safety(&mut out, safety);
        }
        if let Some(votes) = &self.votes {
            of_votes(&mut out, votes);
        }
        self.numbers(&mut out);
        out
    }

    fn rows(&self, out: &mut String) {
        let rows = &self.rows;
        entry(out, "rows read", &count(rows.read));
        entry(out, "kept", &count(rows.kept));
        entry(out, "dropped", &of(rows.dropped, rows.read));
        for (reason, dropped) in &rows.reasons {
            entry(out, "", &format!("{} {reason}", count(*dropped)));
        }
        let name = |kind: &super::RowKind| format!("{kind:?}").to_lowercase();
        let kinds: Vec<String> =
            self.kinds.iter().map(|(kind, rows)| format!("{} {}", name(kind), count(*rows))).collect();
        if !kinds.is_empty() {
            entry(out, "kinds", &kinds.join(", "));
        }
        if self.conversational > 0 {
            entry(out, "conversations", &of(self.conversational, rows.kept));
        }
        if self.with_tools > 0 {
            entry(out, "with tools", &of(self.with_tools, rows.kept));
        }
        let twice = &self.duplicates;
        entry(out, "duplicates", &of(twice.rows, rows.kept));
        entry(out, "contradictions", &of(twice.contradictions, rows.kept));
    }

    /// Tokens, and what shared prompts save of them.
    fn work(&self, out: &mut String) {
        let prompts = &self.prompts;
        let _ = writeln!(out, "\nwork, in {}", unit(prompts.unit));
        entry(out, "total", &count(prompts.total));
        if let Some(tokens) = &self.tokens {
            let counts = &tokens.counts;
            entry(out, "scored", &of(counts.scored_tokens, counts.tokens));
            entry(out, "truncated", &format!("{} sequences", of(counts.truncated, counts.sequences)));
        }
        entry(out, "prompts", &format!("{} different ones", count(prompts.distinct)));
        entry(
            out,
            "shared in a row",
            &format!("{} saved by computing a row's prompt once", of(prompts.saved_within_rows, prompts.total)),
        );
        entry(
            out,
            "shared by rows",
            &format!("{} more by computing it once for all rows", of(prompts.saved_across_rows, prompts.total)),
        );
    }

    fn verdicts(&self, out: &mut String) {
        let balances = [("labels", &self.labels), ("judgments", &self.judgments)];
        if self.ties.is_some() || self.length_bias.is_some() || balances.iter().any(|(_, balance)| balance.is_some()) {
            out.push_str("\nverdicts\n");
        }
        for (name, balance) in balances {
            if let Some(balance) = balance {
                let all = balance.desirable + balance.undesirable;
                entry(out, name, &format!("{} desirable", of(balance.desirable, all)));
                entry(out, "", &format!("{} undesirable", of(balance.undesirable, all)));
            }
        }
        if let Some(ties) = &self.ties {
            let share = percent(ties.share);
            entry(
                out,
                "ties",
                &format!("{} kept, {} dropped ({share} of the pairs)", count(ties.kept), count(ties.dropped)),
            );
        }
        if let Some(bias) = &self.length_bias {
            let pairs = bias.chosen_longer + bias.rejected_longer + bias.equal;
            entry(out, "chosen is longer", &of(bias.chosen_longer, pairs));
            entry(out, "chosen is shorter", &of(bias.rejected_longer, pairs));
            entry(out, "mean difference", &format!("{:+.1} {}", bias.mean_difference, unit(bias.unit)));
        }
    }

    fn numbers(&self, out: &mut String) {
        if self.numbers.is_empty() {
            return;
        }
        let head = ["rows", "min", "5 %", "median", "95 %", "max", "mean"].map(str::to_owned);
        let mut table = vec![("numbers".to_owned(), head)];
        for (name, numbers) in &self.numbers {
            let values = [numbers.min, numbers.p5, numbers.p50, numbers.p95, numbers.max, numbers.mean].map(number);
            let [min, p5, p50, p95, max, mean] = values;
            table.push((format!("  {name}"), [count(numbers.count), min, p5, p50, p95, max, mean]));
        }
        out.push('\n');
        rows_of(out, &table, &[]);
    }
}

fn of_safety(out: &mut String, safety: &SafetySummary) {
    let (counts, pairs) = (&safety.counts, safety.counts.pairs());
    out.push_str("\nsafety, of the rows read\n");
    if pairs > 0 {
        for (name, some) in
            [("both safe", counts.both_safe), ("mixed", counts.mixed), ("both unsafe", counts.both_unsafe)]
        {
            entry(out, name, &format!("{} of the pairs", of(some, pairs)));
        }
        entry(out, "at odds", &format!("{} prefer the less safe one as the more helpful", of(counts.conflicts, pairs)));
        entry(
            out,
            "contradictory",
            &format!("{} have labels that contradict each other", of(counts.contradictions, pairs)),
        );
    }
    if counts.without_better > 0 {
        let detail = format!("{} pairs without better_response_id stand in the order of safety", counts.without_better);
        entry(out, "no helpfulness", &detail);
    }
    let singles = counts.safe + counts.not_safe;
    if singles > 0 {
        entry(out, "safe", &format!("{} of the single completions", of(counts.safe, singles)));
    }
    if let Some(safe) = safety.one_class {
        let class = if safe { "safe" } else { "unsafe" };
        entry(
            out,
            "one class",
            &format!("every completion is {class}: no cost can be learnt that tells the classes apart"),
        );
    }
}

fn of_votes(out: &mut String, votes: &VoteSummary) {
    out.push_str("\nannotators\n");
    let per_row = &votes.votes_per_row;
    let range =
        if per_row.min == per_row.max { count(per_row.min) } else { format!("{} to {}", per_row.min, per_row.max) };
    let all = votes.chosen + votes.rejected + votes.tied;
    entry(out, "votes", &format!("{} on {} rows, {range} a row", count(all), count(votes.rows)));
    entry(out, "", &format!("{} for chosen", of(votes.chosen, all)));
    entry(out, "", &format!("{} for rejected", of(votes.rejected, all)));
    entry(out, "", &format!("{} for a tie", of(votes.tied, all)));
    if let (Some(unanimous), Some(raw)) = (votes.unanimous_share, votes.raw_agreement) {
        entry(out, "unanimous", &format!("{} of the rows with two votes or more", percent(unanimous)));
        entry(out, "agreement", &format!("{} of the pairs of votes on a row", percent(raw)));
        let alpha = votes
            .krippendorff_alpha
            .map_or("not defined: all votes are alike".to_owned(), |alpha| format!("{alpha:.3}"));
        entry(out, "Krippendorff's α", &format!("{alpha} (1 agreement, 0 chance)"));
    }
}

/// A table of lengths, and bars for prompts with their completions.
fn lengths(out: &mut String, unit: &str, lengths: &BTreeMap<RowPart, LengthSummary>, width: usize) {
    if lengths.is_empty() {
        return;
    }
    let mut table =
        vec![(unit.to_owned(), ["min", "median", "90 %", "95 %", "99 %", "max", "mean"].map(str::to_owned))];
    let mut sparks = vec![String::new()];
    for (part, summary) in lengths {
        let LengthSummary { min, p50, p90, p95, p99, max, mean, .. } = summary;
        let [min, p50, p90, p95, p99, max] = [min, p50, p90, p95, p99, max].map(|length| count(*length));
        table.push((format!("  {}", part.name()), [min, p50, p90, p95, p99, max, format!("{mean:.1}")]));
        sparks.push(spark(summary));
    }
    out.push('\n');
    rows_of(out, &table, if width >= 80 { &sparks } else { &[] });
    if let Some(total) = lengths.get(&RowPart::Total) {
        bars(out, total, width);
    }
}

/// Bars by powers of two.
fn bars(out: &mut String, summary: &LengthSummary, width: usize) {
    let most = summary.histogram.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let digits = count(most).len();
    let room = width.saturating_sub(NAME + digits + 4).clamp(10, 40);
    for bin in &summary.histogram {
        let range =
            if bin.from == bin.to { count(bin.from) } else { format!("{} to {}", count(bin.from), count(bin.to)) };
        let eighths = (u128::from(bin.count) * room as u128 * 8).div_ceil(u128::from(most)) as usize;
        let (full, rest) = (eighths / 8, eighths % 8);
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][rest];
        let line = format!("  {range:>NAME$} {:>digits$} {}{part}", count(bin.count), "█".repeat(full));
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// One column a power of two.
fn spark(summary: &LengthSummary) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = summary.histogram.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let step = |bin: &super::LengthBin| match bin.count {
        0 => ' ',
        some => STEPS[(u128::from(some) * 8).div_ceil(u128::from(most)).saturating_sub(1).min(7) as usize],
    };
    summary.histogram.iter().map(step).collect()
}

/// A table, its first row the head; columns are as wide as they have to be.
fn rows_of(out: &mut String, table: &[(String, [String; 7])], ends: &[String]) {
    let names = table.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(NAME - 4);
    let width = |column: usize| table.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for (place, (name, cells)) in table.iter().enumerate() {
        let mut line = format!("{name:<names$}");
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, "  {cell:>width$}");
        }
        if let Some(end) = ends.get(place) {
            let _ = write!(line, "  {end}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

impl RowPart {
    fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Chosen => "chosen",
            Self::Rejected => "rejected",
            Self::Completion => "completion",
            Self::Total => "total",
        }
    }
}

/// As it is written in configurations.
fn form_name(form: Form) -> String {
    serde_json::to_value(form).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn entry(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<NAME$} {value}");
}

fn unit(unit: LengthUnit) -> &'static str {
    match unit {
        LengthUnit::Characters => "characters",
        LengthUnit::Tokens => "tokens",
    }
}

/// `9 (0.4 %)`.
fn of(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    format!("{} ({})", count(part), percent(share))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// With a comma between thousands.
fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Four significant digits, as short as they can be.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.4}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(of(9, 2312), "9 (0.4 %)");
        assert_eq!(of(0, 0), "0 (0.0 %)");
        for (value, text) in [(0.0, "0"), (-0.0, "0"), (0.5, "0.5"), (-1.25, "-1.25"), (3.0, "3"), (2e7, "2.000e7")] {
            assert_eq!(number(value), text);
        }
    }
}
