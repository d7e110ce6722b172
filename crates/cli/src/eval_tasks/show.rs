//! Reports of tasks for the screen.

use candlewick::evaluate::tasks::{Metric, TaskReport};

/// Lines of one report: every number over all rows, and the first number of every slice.
pub(crate) fn lines(report: &TaskReport) -> Vec<String> {
    let mut lines = vec![format!("{} ({}), {} rows of {}", report.task, report.kind.name(), report.items, report.rows)];
    let width = report.metrics.iter().map(|metric| metric.name.chars().count()).max().unwrap_or(0);
    lines.extend(report.metrics.iter().map(|metric| format!("  {:width$}  {}", metric.name, number(metric))));
    let mut column = "";
    for slice in &report.slices {
        let Some(metric) = slice.metrics.first() else { continue };
        if slice.column != column {
            column = &slice.column;
            lines.push(format!("  {} by {column}", metric.name));
        }
        let value = if slice.value.is_empty() { "(nothing)" } else { &slice.value };
        lines.push(format!("    {}  {value}", number(metric)));
    }
    lines
}

fn number(metric: &Metric) -> String {
    let Metric { value, low, high, n, .. } = metric;
    // An exact number has no interval.
    let interval = if high > low { format!("[{low:.4}, {high:.4}]") } else { String::new() };
    format!("{value:>9.4}  {interval:22}  n = {n}")
}

/// What was left out, for standard error.
pub(crate) fn left_out(report: &TaskReport) -> Vec<String> {
    if report.left_out == 0 {
        return Vec::new();
    }
    let mut lines = vec![format!("wick: warning: {}: {} rows could not be measured", report.task, report.left_out)];
    lines.extend(report.reasons.iter().map(|reason| format!("    {reason}")));
    if report.left_out > report.reasons.len() {
        lines.push("    …".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_with_their_interval_and_count() {
        let report: TaskReport = serde_json::from_value(serde_json::json!({
            "version": 1, "task": "t", "kind": "choice", "rows": "r.jsonl", "items": 3, "left_out": 12,
            "reasons": ["r.jsonl:4: why"],
            "metrics": [{"name": "accuracy_sum", "value": 0.5, "low": 0.25, "high": 0.75, "n": 3},
                        {"name": "chance", "value": 0.5, "low": 0.5, "high": 0.5, "n": 3}],
            "slices": [{"column": "c", "value": "", "metrics": [{"name": "accuracy_sum", "value": 1.0, "low": 0.2, "high": 1.0, "n": 1}]},
                       {"column": "c", "value": "x", "metrics": []}],
        }))
        .expect("a report");
        let told = lines(&report);
        assert_eq!(told[0], "t (choice), 3 rows of r.jsonl");
        assert_eq!(told[1], "  accuracy_sum     0.5000  [0.2500, 0.7500]        n = 3");
        assert!(told[2].starts_with("  chance           0.5000  ") && !told[2].contains('['), "{}", told[2]);
        assert_eq!((told[3].as_str(), told.len()), ("  accuracy_sum by c", 5));
        assert!(told[4].ends_with("n = 1  (nothing)"), "{}", told[4]);
        assert_eq!(left_out(&report).len(), 3);
    }
}
