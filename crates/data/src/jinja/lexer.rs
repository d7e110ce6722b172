//! From the source of a template to tokens, with Jinja's rules of white space: `trim_blocks` and `lstrip_blocks` are on, as
//! transformers has them.

use super::Fail;
use super::text::{is_space, strip_end, strip_start};

/// A piece of a template and its line, 1-based.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text between tags.
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longest first, so that `**` is not two `*`.
const OPERATORS: [&str; 26] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Fail> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    lexer.run()?;
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// What was read last ended a line.
    line_starting: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let passed = self.rest().get(..bytes).unwrap_or_default();
        self.at += passed.len();
        self.line += passed.matches('\n').count();
        if !passed.is_empty() {
            self.line_starting = passed.ends_with('\n');
        }
        passed
    }

    fn fail(&self, message: impl Into<String>) -> Fail {
        Fail::new(message).at(self.line)
    }

    fn run(&mut self) -> Result<(), Fail> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|tag| rest.find(tag)).min() else {
                let text = self.advance(rest.len());
                self.push(Kind::Data(text.to_owned()));
                return Ok(());
            };
            self.text_before_tag(start);
            let tag = self.advance(2);
            if self.rest().starts_with(['-', '+']) {
                self.advance(1);
            }
            match tag {
                "{#" => self.comment()?,
                "{%" if self.raw()? => {}
                "{%" => {
                    self.push(Kind::BlockBegin);
                    self.expression("%}", Kind::BlockEnd)?;
                }
                _ => {
                    self.push(Kind::PrintBegin);
                    self.expression("}}", Kind::PrintEnd)?;
                }
            }
        }
        Ok(())
    }

    /// The text up to a tag, without what the tag takes away before itself.
    fn text_before_tag(&mut self, length: usize) {
        let line_starting = self.line_starting;
        let tag = &self.rest()[length..];
        let (is_print, sign) = (tag.starts_with("{{"), tag.chars().nth(2));
        let line = self.line;
        let mut text = self.advance(length);
        if length == 0 {
            self.line_starting = line_starting;
        }
        if sign == Some('-') {
            text = strip_end(text);
        } else if sign != Some('+') && !is_print {
            let from = text.rfind('\n').map_or(0, |newline| newline + 1);
            if (from > 0 || line_starting) && text[from..].chars().all(is_space) {
                text = &text[..from];
            }
        }
        if !text.is_empty() {
            self.tokens.push(Token { kind: Kind::Data(text.to_owned()), line });
        }
    }

    fn comment(&mut self) -> Result<(), Fail> {
        let end = self.rest().find("#}").ok_or_else(|| self.fail("a comment that does not end"))?;
        let inside = self.advance(end);
        self.advance(2);
        self.after_tag(inside.chars().last());
        Ok(())
    }

    /// White space that a tag takes away behind itself.
    fn after_tag(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => {
                let length = self.rest().len() - strip_start(self.rest()).len();
                self.advance(length);
            }
            Some('+') => {}
            _ => {
                let length = usize::from(self.rest().starts_with('\n'));
                self.advance(length);
            }
        }
    }

    /// Reads a raw block; false where this is none.
    fn raw(&mut self) -> Result<bool, Fail> {
        let Some((dash, length)) = word_tag(self.rest(), "raw") else {
            return Ok(false);
        };
        self.advance(length);
        if dash {
            self.after_tag(Some('-'));
        }
        let rest = self.rest();
        let mut from = 0;
        while let Some(start) = rest[from..].find("{%").map(|start| from + start) {
            let sign = rest[start + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let inside = start + 2 + usize::from(sign.is_some());
            if let Some((closing_dash, length)) = word_tag(&rest[inside..], "endraw") {
                self.text_before_tag(start);
                self.advance(inside - start + length);
                self.after_tag(closing_dash.then_some('-'));
                return Ok(true);
            }
            from = start + 2;
        }
        Err(self.fail("a raw block that does not end"))
    }

    fn expression(&mut self, end: &'static str, kind: Kind) -> Result<(), Fail> {
        let mut open: Vec<char> = Vec::new();
        loop {
            let spaces = self.rest().len() - strip_start(self.rest()).len();
            self.advance(spaces);
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(self.fail(format!("a tag that does not end, expected {end}")));
            };
            let sign = Some(first).filter(|first| *first == '-' || (*first == '+' && end == "%}"));
            if open.is_empty() && rest[sign.map_or(0, char::len_utf8)..].starts_with(end) {
                self.push(kind);
                self.advance(sign.map_or(0, char::len_utf8) + end.len());
                if end == "%}" || sign == Some('-') {
                    self.after_tag(sign);
                }
                return Ok(());
            }
            if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let name = |character: char| !(character.is_alphanumeric() || character == '_');
                let name = self.advance(rest.find(name).unwrap_or(rest.len()));
                self.push(Kind::Name(name.to_owned()));
            } else if matches!(first, '\'' | '"') {
                self.string(first)?;
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<char>) -> Result<(), Fail> {
        let rest = self.rest();
        let operator = OPERATORS
            .into_iter()
            .find(|operator| rest.starts_with(operator))
            .ok_or_else(|| self.fail(format!("unexpected {:?}", rest.chars().next().unwrap_or_default())))?;
        match operator {
            "(" => open.push(')'),
            "[" => open.push(']'),
            "{" => open.push('}'),
            ")" | "]" | "}" if open.pop().is_none_or(|expected| !operator.starts_with(expected)) => {
                return Err(self.fail(format!("unexpected {operator:?}")));
            }
            _ => {}
        }
        self.push(Kind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fail> {
        let rest = self.rest();
        let digits = |from: usize| {
            let text = &rest[from..];
            from + text.find(|character: char| !(character.is_ascii_digit() || character == '_')).unwrap_or(text.len())
        };
        let digit_at = |at: usize| rest[at..].starts_with(|character: char| character.is_ascii_digit());
        let mut end = digits(0);
        let whole = end;
        if rest[end..].starts_with('.') && digit_at(end + 1) {
            end = digits(end + 1);
        }
        if rest[end..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
            if digit_at(end + 1 + sign) {
                end = digits(end + 1 + sign);
            }
        }
        let text = rest[..end].replace('_', "");
        let wrong = || self.fail(format!("the number {text} is too large"));
        let kind = if end == whole {
            Kind::Int(text.parse().map_err(|_| wrong())?)
        } else {
            Kind::Float(text.parse().map_err(|_| wrong())?)
        };
        self.push(kind);
        self.advance(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Fail> {
        let mut escaped = false;
        let length = self.rest().char_indices().skip(1).find_map(|(at, character)| {
            let ends = character == quote && !escaped;
            escaped = character == '\\' && !escaped;
            ends.then_some(at)
        });
        let length = length.ok_or_else(|| self.fail("a string that does not end"))?;
        let text = unescaped(&self.rest()[1..length]).map_err(|message| self.fail(message))?;
        self.push(Kind::Str(text));
        self.advance(length + 1);
        Ok(())
    }
}

/// Whether a tag says only this word, whether it ends with a dash, and its length.
fn word_tag(text: &str, word: &str) -> Option<(bool, usize)> {
    let after = strip_start(strip_start(text).strip_prefix(word)?);
    let (dash, end) = match after.strip_prefix("-%}") {
        Some(end) => (true, end),
        None => (false, after.strip_prefix("%}")?),
    };
    Some((dash, text.len() - end.len()))
}

/// A string literal as Python reads it.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        let code = characters.next().ok_or("a string that ends in a backslash")?;
        match code {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(code),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            'x' | 'u' | 'U' => {
                let width = match code {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits: String = characters.by_ref().take(width).collect();
                let point = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == width);
                let read = point.and_then(char::from_u32);
                out.push(read.ok_or_else(|| format!("\\{code}{digits} in a string is no character"))?);
            }
            '0'..='7' => {
                let mut point = code.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = characters.peek().and_then(|next| next.to_digit(8)) else {
                        break;
                    };
                    point = point * 8 + digit;
                    characters.next();
                }
                out.extend(char::from_u32(point));
            }
            'N' => return Err("\\N{…} in a string is not read; write the character itself".to_owned()),
            other => out.extend(['\\', other]),
        }
    }
    Ok(out)
}
