//! What comes from outside (titles, SKUs, reasons) as text for a mail: one line in headers and plain text, escaped in HTML, quoted in
//! CSV, where it cannot begin a formula.

use crate::html::escape;

/// One line, without control characters, also those that turn the direction of what is read (a quantity, for example).
pub fn line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.split(|c: char| c.is_whitespace() || c.is_control() || turns(c)).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

pub fn cut(text: String, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// One line, for HTML: in text and in quoted attributes.
pub fn html(text: &str) -> String {
    escape(&line(text))
}

/// A text as a CSV cell (RFC 4180). Spreadsheets run a text that begins like a formula; an apostrophe before it stops that.
pub fn cell(text: &str) -> String {
    let text = line(text);
    let formula = text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_and_begins_no_formula() {
        assert_eq!(cell("a\"b,\r\nc"), "\"a\"\"b, c\"");
        for start in ["=", "+", "-", "@", "\t=", "\u{202e}@", "＝"] {
            assert!(cell(&format!("{start}HYPERLINK(1)")).starts_with("\"'"), "{start:?}");
        }
    }
}
