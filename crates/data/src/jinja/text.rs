//! Python's texts: white space, `repr`, numbers as they are written.

/// What `str.isspace` calls white space.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

pub(super) fn strip_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

pub(super) fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// A text between quotes, as `repr` writes it.
pub(super) fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => {
                let point = u32::from(character);
                out.push_str(&match point {
                    0..=0xff => format!("\\x{point:02x}"),
                    0x100..=0xffff => format!("\\u{point:04x}"),
                    _ => format!("\\U{point:08x}"),
                });
            }
        }
    }
    out.push(quote);
}

/// Neither a control nor a format character, a separator, a surrogate, private or unassigned: what Rust's own escaping of a
/// text leaves as it is behind the first character.
fn is_printable(character: char) -> bool {
    let mut pair = String::from("a");
    pair.push(character);
    pair.escape_debug().eq(pair.chars())
}

/// A number as `repr` writes it: the shortest digits that give it back.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

pub(super) fn ends_line(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Where lines end, as `str.splitlines` has it.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends_line) {
        let after = &rest[at..];
        let end = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A letter as a title begins with it: of a ligature, only its first part is large.
fn title_case(character: char) -> String {
    match character {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        _ => {
            let mut parts = character.to_uppercase();
            let first: String = parts.by_ref().take(1).collect();
            first + &parts.flat_map(char::to_lowercase).collect::<String>()
        }
    }
}

/// The first letter large, the others small.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| title_case(first) + &characters.as_str().to_lowercase())
}

/// `str.title`: every letter that follows none is large.
pub(super) fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_letter = false;
    for character in text.chars() {
        if after_letter {
            out.extend(character.to_lowercase());
        } else {
            out.push_str(&title_case(character));
        }
        after_letter = character.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_writes_them() {
        // Made with repr() of CPython 3.11.
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (1e300, "1e+300"),
            (123456.789, "123456.789"),
            (f64::INFINITY, "inf"),
        ];
        for (number, text) in cases {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn quotes_as_python_sets_them() {
        // Made with repr() of CPython 3.11.
        let cases = [
            ("it's", r#""it's""#),
            ("a\"b", r#"'a"b'"#),
            ("it's \"b\"", r#"'it\'s "b"'"#),
            ("\\ \n\t\r\x0b\x7f", r"'\\ \n\t\r\x0b\x7f'"),
            ("é e\u{301} \u{a0}\u{200b}\u{200d}\u{ad}", "'é e\u{301} \\xa0\\u200b\\u200d\\xad'"),
            ("😀\u{e0041}\u{2028}\u{e000}", r"'😀\U000e0041\u2028\ue000'"),
        ];
        for (text, expected) in cases {
            let mut out = String::new();
            quoted(text, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        assert_eq!(lines("a\r\nb\x0bc\u{2028}\n", false), ["a", "b", "c", ""]);
        assert_eq!(lines("a\r\nb\rc\n\n", true), ["a\r\n", "b\r", "c\n", "\n"]);
        assert!(lines("", false).is_empty());
    }
}
