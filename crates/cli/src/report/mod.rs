//! One self-contained HTML page about a run: no script, no font, no address outside the file.

mod chart;
mod plots;
mod style;

use std::fmt::Write as _;

pub(crate) use chart::{Chart, Level, Series};
pub(crate) use plots::{IntervalRow, Intervals, Plane, PlanePoint};

/// A part of the page.
#[derive(Clone, Debug)]
pub(crate) enum Section {
    /// A heading.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// Charts, side by side where the page is wide enough.
    Charts(Vec<Chart>),
    /// Intervals row by row.
    Intervals(Intervals),
    /// Points in planes, side by side where the page is wide enough.
    Planes(Vec<Plane>),
    /// A table; the first row is its head.
    Table(Vec<Vec<String>>),
    /// Text in its own lines: a plan, a command.
    Verbatim(String),
}

/// The page.
pub(crate) fn page(title: &str, sections: &[Section]) -> String {
    let mut body = String::new();
    for section in sections {
        match section {
            Section::Heading(text) => {
                let _ = write!(body, "<h2>{}</h2>", escape(text));
            }
            Section::Text(text) => {
                let _ = write!(body, "<p>{}</p>", escape(text));
            }
            Section::Charts(charts) => {
                let figures: String = charts.iter().map(Chart::to_html).collect();
                let _ = write!(body, r#"<div class="charts">{figures}</div>"#);
            }
            Section::Intervals(intervals) => {
                let _ = write!(body, r#"<div class="one">{}</div>"#, intervals.to_html());
            }
            Section::Planes(planes) => {
                let figures: String = planes.iter().map(Plane::to_html).collect();
                let _ = write!(body, r#"<div class="charts">{figures}</div>"#);
            }
            Section::Table(rows) => body.push_str(&table(rows)),
            Section::Verbatim(text) => {
                let _ = write!(body, "<pre>{}</pre>", escape(text));
            }
        }
        body.push('\n');
    }
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title>\n<style>{STYLE}{}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n",
        style::rules()
    )
}

fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from(r#"<div class="wide"><table>"#);
    for (index, row) in rows.iter().enumerate() {
        let cell = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for text in row {
            let _ = write!(html, "<{cell}>{}</{cell}>", escape(text).replace('\n', "<br>"));
        }
        html.push_str("</tr>");
    }
    html + "</table></div>"
}

/// Text that HTML shows as it is.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #5c6570; --line: #d8dce2; --back: #fff; --soft: #f4f6f8;
  --c0: #2563c9; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #be185d; --c6: #0e7490; --c7: #57534e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --quiet: #9aa4b0; --line: #3a4048; --back: #15181c; --soft: #1e2328;
  --c0: #7aa7f7; --c1: #f59e6c; --c2: #6ecf8f; --c3: #c79bf2; --c4: #e0b64a; --c5: #f58fb8; --c6: #5cc8dd; --c7: #b8b2ab; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
.one { max-width: 46rem; } figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
.key { font-weight: 400; margin-left: .8em; } .k0 { color: var(--c0); } .k1 { color: var(--c1); } .k2 { color: var(--c2); } .k3 { color: var(--c3); }
.k4 { color: var(--c4); } .k5 { color: var(--c5); } .k6 { color: var(--c6); } .k7 { color: var(--c7); }
.wide { overflow-x: auto; } table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .3em 1em .3em 0; border-bottom: 1px solid var(--line); }
pre { background: var(--soft); padding: .8em; overflow-x: auto; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_its_text() {
        let html = page(
            "a <b>",
            &[
                Section::Heading("h & i".into()),
                Section::Table(vec![vec!["x".into()], vec!["<script>".into()]]),
                Section::Charts(vec![Chart { title: "loss".into(), series: vec![], levels: vec![] }]),
                Section::Verbatim("k = \"v\"".into()),
                Section::Text("t".into()),
            ],
        );
        assert!(html.contains("a &lt;b&gt;") && html.contains("&lt;script&gt;") && html.contains("h &amp; i"));
        for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "<script"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
