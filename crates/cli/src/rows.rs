//! What became of rows, for the screen.

use candlewick::data::Report;

/// Rejected rows shown in full.
const SHOWN: usize = 5;

/// Lines about rows that were set aside or cut, steps of one label, and flags of safety; none where there is nothing of the kind.
pub(crate) fn lines(what: &str, report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if report.rows > report.kept
        || report.counts.truncated > 0
        || report.one_label_steps > 0
        || !report.safety.is_empty()
    {
        lines.push(format!("{what}: {}", report.summary()));
        lines.extend(report.rejected.iter().take(SHOWN).map(|rejection| format!("    {rejection}")));
        if report.rejected.len() > SHOWN {
            lines.push("    …".into());
        }
    }
    let parts = report.parts.iter();
    lines.extend(parts.map(|(name, part)| format!("{what} of {name}: {}, {} kept", part.rows, part.kept)));
    lines
}

/// A line with its middle left out, where it is long: how it begins and how it ends tells most.
pub(crate) fn shortened(line: &str) -> String {
    const END: usize = 80;
    let characters: Vec<char> = line.chars().collect();
    if characters.len() <= 2 * END + 3 {
        return line.to_owned();
    }
    let (head, tail) = (&characters[..END], &characters[characters.len() - END..]);
    head.iter().chain(&[' ', '…', ' ']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick::data::{Counts, SafetyCounts};

    #[test]
    fn cut_rows_are_told_though_none_was_rejected() {
        let counts = Counts { sequences: 6, truncated: 2, ..Counts::default() };
        let report = Report { rows: 3, kept: 3, counts, ..Report::default() };
        let told = lines("rows", &report);
        assert!(told.len() == 1 && told[0].contains("2 of 6 sequences truncated"), "{told:?}");
        let report = Report { counts: Counts::default(), ..report };
        assert!(lines("rows", &report).is_empty());
        let safety = SafetyCounts { both_safe: 3, ..SafetyCounts::default() };
        let told = lines("rows", &Report { safety, ..report.clone() });
        assert!(told.len() == 1 && told[0].contains("every completion is labelled safe"), "{told:?}");
        let told = lines("rows", &Report { one_label_steps: 2, ..report });
        assert!(told.len() == 1 && told[0].contains("2 steps with one label only"), "{told:?}");
    }

    #[test]
    fn a_long_line_keeps_its_two_ends() {
        assert_eq!(shortened("short"), "short");
        let line = shortened(&format!("begin{}end", "ü".repeat(1000)));
        assert!(line.chars().count() < 170 && line.starts_with("begin") && line.ends_with("end"), "{line}");
    }
}
