//! How findings look on a screen.

/// Columns of a screen that everybody has.
const WIDTH: usize = 100;

/// Breaks a text into lines of at most `width` characters, at spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Two texts in two columns.
pub(crate) fn side_by_side(left: &str, right: &str) -> Vec<String> {
    let column = (WIDTH - 7) / 2;
    let (left, right) = (wrap(left, column), wrap(right, column));
    (0..left.len().max(right.len()))
        .map(|i| {
            let cell = |lines: &[String]| lines.get(i).cloned().unwrap_or_default();
            format!("    {:column$} | {}", cell(&left), cell(&right)).trim_end().to_owned()
        })
        .collect()
}

/// A table whose columns are as wide as their widest cell.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or_default())
        .collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("    {}", cells.join("   ")).trim_end().to_owned()
        })
        .collect()
}

/// A share in per cent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_wrap_inside_their_column() {
        let lines = side_by_side(&"word ".repeat(30), "short");
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert!(lines[0].ends_with("| short"));
        assert!(lines[1].ends_with('|'));
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "1".into()], vec!["long".into(), "2".into()]];
        assert_eq!(columns(&rows), ["    a      1", "    long   2"]);
    }
}
