//! `wick data inspect`.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::Result;
use candlewick::data::{
    Encoder, Example, Origin, Record, Rejection, Row, Span, SpanKind, SpanPart, SpanText, Text, spans,
};

use super::dropped::Dropped;
use super::words::{Colour, DataInspect};
use super::{encoder, shown, source};

/// Rows shown where no number is given.
const USUAL: u64 = 3;
/// Dropped rows that are shown; those after them are counted.
const MOST_DROPPED: u64 = 20;

/// Prints rows.
pub(crate) fn inspect(arguments: &DataInspect) -> Result<()> {
    let rows = &arguments.rows;
    let encoder = encoder(&arguments.tokens)?;
    let source = source(rows)?;
    let mut dropped = Dropped::new(rows.dropped.as_deref(), rows.strict, &source.paths())?;
    let choice = match arguments.color {
        Colour::Auto => AutoStream::choice(&io::stdout()),
        Colour::Always => ColorChoice::Always,
        Colour::Never => ColorChoice::Never,
    };
    let mut out = AutoStream::new(io::stdout(), choice);
    let page = Page { colour: choice != ColorChoice::Never, ids: arguments.ids };
    if encoder.is_some() && out.write_all(page.legend().as_bytes()).is_err() {
        return Ok(());
    }
    let mut left = arguments.number.unwrap_or(if rows.rows.is_some() { u64::MAX } else { USUAL });
    let mut records = source.records()?;
    let mut gone = 0;
    while left > 0
        && let Some(row) = records.next()
    {
        let (text, rejection) = match row? {
            Err(rejection) => (page.dropped(&rejection), Some((rejection, None))),
            Ok((origin, record)) => match look(&page, &origin, &record, encoder.as_ref()) {
                Ok(text) => {
                    left -= 1;
                    (text, None)
                }
                Err(rejection) => (page.dropped(&rejection), Some((rejection, Some(record)))),
            },
        };
        gone += u64::from(rejection.is_some());
        let silent = rejection.is_some() && gone > MOST_DROPPED;
        let written = if silent { Ok(()) } else { out.write_all(text.as_bytes()) };
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            break;
        }
        shown(written)?;
        if let Some((rejection, record)) = rejection {
            dropped.add(rejection, record.as_ref())?;
        }
    }
    if let Some(more) = gone.checked_sub(MOST_DROPPED).filter(|more| *more > 0) {
        shown(writeln!(out, "{more} more dropped; --dropped FILE lists every one of them"))?;
    }
    dropped.finish()
}

fn look(page: &Page, origin: &Origin, record: &Record, encoder: Option<&Encoder>) -> Result<String, Rejection> {
    match encoder {
        Some(encoder) => {
            let example = encoder.encode_record(record, origin)?;
            Ok(page.tokens(&example, record, encoder))
        }
        None => {
            record.check(origin)?;
            Ok(page.texts(origin, record))
        }
    }
}

const HEAD: Style = Style::new().bold();
const NAME: Style = AnsiColor::Cyan.on_default();
const PROMPT: Style = Style::new().dimmed();
const SCORED: [Style; 2] = [AnsiColor::Green.on_default(), AnsiColor::Green.on_default().underline()];
const UNSCORED: [Style; 2] = [AnsiColor::Yellow.on_default(), AnsiColor::Yellow.on_default().underline()];
const DROPPED: Style = AnsiColor::Red.on_default();

/// How rows are laid out.
struct Page {
    colour: bool,
    ids: bool,
}

impl Page {
    fn paint(&self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn legend(&self) -> String {
        let parts = match self.colour {
            true => {
                [self.paint(PROMPT, "prompt"), self.paint(SCORED[0], "scored"), self.paint(UNSCORED[0], "not scored")]
            }
            false => ["prompt".to_owned(), "⟦scored⟧".to_owned(), "⟨not scored⟩".to_owned()],
        };
        let between = if self.colour { "every other token underlined" } else { "| between tokens" };
        let [prompt, scored, unscored] = parts;
        format!("{prompt}  {scored}  {unscored}  ({between}; · space, ↵ line break, → tab)\n\n")
    }

    fn dropped(&self, rejection: &Rejection) -> String {
        let head = self.paint(DROPPED, &format!("{}  dropped", rejection.origin));
        format!("{head}: {}: {}\n\n", rejection.reason, visible(&rejection.detail))
    }

    fn head(&self, origin: &Origin, record: &Record) -> String {
        let kind = match &record.row {
            Row::Pair { .. } => "pair".to_owned(),
            Row::Labelled { desirable: true, .. } => "labelled, desirable".to_owned(),
            Row::Labelled { desirable: false, .. } => "labelled, undesirable".to_owned(),
            Row::Demonstration { .. } => "demonstration".to_owned(),
            Row::Ranked { completions, .. } => format!("ranked, {} completions", completions.len()),
            Row::Judged { positive: true, .. } => "judged well".to_owned(),
            Row::Judged { positive: false, .. } => "judged badly".to_owned(),
        };
        let mut head = format!("{}  {kind}", self.paint(HEAD, &origin.to_string()));
        for (name, value) in &record.numbers {
            let _ = write!(head, ", {} {value}", visible(name));
        }
        head.push('\n');
        for tool in &record.tools {
            let name =
                tool["function"]["name"].as_str().or(tool["name"].as_str()).map_or(tool.to_string(), str::to_owned);
            let _ = writeln!(head, "  {} {}", self.paint(NAME, "tool"), visible(&name));
        }
        for (name, value) in &record.template_arguments {
            let _ = writeln!(
                head,
                "  {} {} = {}",
                self.paint(NAME, "template"),
                visible(name),
                visible(&value.to_string())
            );
        }
        head
    }

    /// A row as it was read.
    fn texts(&self, origin: &Origin, record: &Record) -> String {
        let mut out = self.head(origin, record);
        let mut put = |name: &str, text: &Text| out.push_str(&self.text(name, text));
        match &record.row {
            Row::Pair { prompt, chosen, rejected } => {
                put("prompt", prompt);
                put("chosen", chosen);
                put("rejected", rejected);
            }
            Row::Labelled { prompt, completion, .. } | Row::Demonstration { prompt, completion } => {
                put("prompt", prompt);
                put("completion", completion);
            }
            Row::Ranked { prompt, completions } => {
                put("prompt", prompt);
                for (completion, rating) in completions {
                    put(&format!("completion rated {rating}"), completion);
                }
            }
            Row::Judged { prompt, completion, judgment, .. } => {
                put("prompt", prompt);
                put("completion", completion);
                put("judgment", &Text::Plain(judgment.clone()));
            }
        }
        out.push('\n');
        out
    }

    fn text(&self, name: &str, text: &Text) -> String {
        let mut out = format!("  {}\n", self.paint(NAME, name));
        match text {
            Text::Plain(text) => out.push_str(&indented(&visible(text))),
            Text::Chat(messages) => {
                for message in messages {
                    let role = self.paint(HEAD, &format!("{}:", visible(&message.role)));
                    let extra: String = message
                        .extra
                        .iter()
                        .map(|(key, value)| format!("\n{} = {}", visible(key), visible(&value.to_string())))
                        .collect();
                    out.push_str(&indented(&format!("{role} {}{extra}", visible(&message.content))));
                }
            }
        }
        out
    }

    /// A row as a model is shown it.
    fn tokens(&self, example: &Example, record: &Record, encoder: &Encoder) -> String {
        let mut out = self.head(&example.origin, record);
        for part in spans(example, encoder) {
            let scored = match part.is_prompt {
                true => String::new(),
                false => format!(", {} scored", part.scored_tokens()),
            };
            let _ = writeln!(out, "  {}, {} tokens{scored}", self.paint(NAME, &part.name), part.tokens());
            out.push_str(&indented(&self.part(&part)));
        }
        out.push('\n');
        out
    }

    fn part(&self, part: &SpanPart) -> String {
        let mut out = String::new();
        for run in part.spans.chunk_by(|left, right| left.kind == right.kind) {
            let tokens = run.iter().enumerate().map(|(place, span)| self.span(span, place));
            let tokens: Vec<String> = tokens.collect();
            let text = tokens.join(if self.colour { "" } else { "|" });
            // A bracket closes before the line does.
            let (text, end) = text.strip_suffix('\n').map_or((text.as_str(), ""), |text| (text, "\n"));
            let _ = match run.first().map(|span| span.kind) {
                Some(SpanKind::Scored) if !self.colour => write!(out, "⟦{text}⟧{end}"),
                Some(SpanKind::Unscored) if !self.colour => write!(out, "⟨{text}⟩{end}"),
                _ => write!(out, "{text}{end}"),
            };
        }
        out.truncate(out.trim_end_matches('\n').len());
        out
    }

    fn span(&self, span: &Span, place: usize) -> String {
        let style = match span.kind {
            SpanKind::Prompt => PROMPT,
            SpanKind::Scored => SCORED[place % 2],
            SpanKind::Unscored => UNSCORED[place % 2],
        };
        let (style, mut text) = match span.reading {
            SpanText::Plain => (style, marked(&span.text)),
            SpanText::Special => (style.bold(), visible(&span.text)),
            SpanText::Pieces => (style.invert(), visible(&span.text)),
        };
        if self.ids {
            let ids: Vec<String> = span.ids.iter().map(u32::to_string).collect();
            let end = text.trim_end_matches('\n').len();
            text.insert_str(end, &format!("[{}]", ids.join(" ")));
        }
        // A style does not go over a line break.
        text.split('\n').map(|line| self.paint(style, line)).collect::<Vec<_>>().join("\n")
    }
}

/// White space to be seen.
fn marked(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            ' ' => out.push('·'),
            '\n' => out.push_str("↵\n"),
            '\t' => out.push('→'),
            other => push_visible(&mut out, other),
        }
    }
    out
}

/// Text without what would steer a terminal.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            // Joiners hold emoji and words together, and turn nothing around.
            '\n' | '\t' | '\u{200c}' | '\u{200d}' => out.push(letter),
            other => push_visible(&mut out, other),
        }
    }
    out
}

/// Control characters, and those that turn the direction of the text around, by their numbers.
fn push_visible(out: &mut String, letter: char) {
    match letter {
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            let _ = write!(out, "{}", letter.escape_unicode());
        }
        letter if letter.is_control() => {
            let _ = write!(out, "{}", letter.escape_default());
        }
        letter => out.push(letter),
    }
}

fn indented(text: &str) -> String {
    text.split('\n').map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(visible("a\u{200d}b"), "a\u{200d}b");
        assert_eq!(visible("a\u{1b}[31mb\r\n\tc\u{202e}"), "a\\u{1b}[31mb\\r\n\tc\\u{202e}");
        assert_eq!(marked(" a\tb\n"), "·a→b↵\n");
    }

    #[test]
    fn spans_are_told_apart_without_colour() {
        let span = |text: &str, kind, reading| Span { ids: vec![7], text: text.to_owned(), kind, reading };
        let part = SpanPart {
            name: "chosen".to_owned(),
            is_prompt: false,
            spans: vec![
                span("ab", SpanKind::Unscored, SpanText::Plain),
                span(" c", SpanKind::Scored, SpanText::Plain),
                span("</s>\n", SpanKind::Scored, SpanText::Special),
            ],
        };
        assert_eq!(Page { colour: false, ids: false }.part(&part), "⟨ab⟩⟦·c|</s>⟧");
        assert_eq!(Page { colour: false, ids: true }.part(&part), "⟨ab[7]⟩⟦·c[7]|</s>[7]⟧");
        let coloured = Page { colour: true, ids: false }.part(&part);
        assert!(coloured.contains("\u{1b}[32m·c") && coloured.contains("\u{1b}[33mab"), "{coloured:?}");
    }
}
