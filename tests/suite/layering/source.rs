//! Reads Rust source just well enough for the rules: words with their lines, without comments, literals and test code.

pub struct Token {
    pub text: String,
    pub line: usize,
}

/// Words and punctuation (`::` as one), without comments, text and character literals, and items under `#[cfg(test)]`.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let chars: Vec<char> = source.chars().collect();
    let (mut at, mut line) = (0, 1);
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if peek(at + 1) == '/' => at += chars[at..].iter().take_while(|&&c| c != '\n').count(),
            '/' if peek(at + 1) == '*' => at = past_comment(&chars, at),
            '"' => at = past_text(&chars, at),
            'r' | 'b' | 'c' if past_prefixed_text(&chars, at).is_some() => {
                at = past_prefixed_text(&chars, at).expect("the guard saw it");
            }
            '\'' if peek(at + 1) == '\\' => at += 3 + chars[at + 3..].iter().take_while(|&&c| c != '\'').count() + 1,
            '\'' if peek(at + 2) == '\'' => at += 3,
            c if c.is_alphanumeric() || c == '_' => {
                at += chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                found.push(Token { text: chars[start..at].iter().collect(), line });
            }
            c if c.is_whitespace() => at += 1,
            ':' if peek(at + 1) == ':' => {
                at += 2;
                found.push(Token { text: "::".into(), line });
            }
            c => {
                at += 1;
                found.push(Token { text: c.into(), line });
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    without_tests(found)
}

fn past_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn past_text(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r#"…"#`, `br"…"`, `b"…"`, `b'…'`; nothing when a plain word starts here.
fn past_prefixed_text(chars: &[char], start: usize) -> Option<usize> {
    if start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_') {
        return None;
    }
    let prefix = chars[start..].iter().take(2).take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let raw = chars[start..start + prefix].contains(&'r');
    let hashes = if raw { chars[start + prefix..].iter().take_while(|&&c| c == '#').count() } else { 0 };
    let quote = start + prefix + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    if !raw {
        return Some(past_text(chars, quote));
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    Some(chars[quote + 1..].windows(end.len()).position(|w| w == end).map_or(chars.len(), |n| quote + 1 + n + end.len()))
}

fn without_tests(all: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut rest = all.into_iter().peekable();
    while let Some(token) = rest.next() {
        kept.push(token);
        if ends_with(&kept, "# [ cfg ( test ) ]") {
            kept.truncate(kept.len() - 7);
            // The item: up to its `;`, or through its braces.
            let mut depth = 0;
            for token in rest.by_ref() {
                match token.text.as_str() {
                    "{" | "(" | "[" => depth += 1,
                    "}" if depth == 1 => break,
                    "}" | ")" | "]" => depth -= 1,
                    ";" if depth == 0 => break,
                    _ => {}
                }
            }
        }
    }
    kept
}

fn ends_with(tokens: &[Token], pattern: &str) -> bool {
    let pattern: Vec<&str> = pattern.split(' ').collect();
    tokens.len() >= pattern.len() && tokens[tokens.len() - pattern.len()..].iter().zip(pattern).all(|(t, p)| t.text == p)
}

/// The modules directly under the crate that this file names, by `crate::`, `super::` or the crate's own name.
pub fn modules_named<'a>(tokens: &'a [Token], module: &[&str]) -> Vec<&'a Token> {
    let mut named = Vec::new();
    // Braces of inline modules, so that `super` climbs from the right place.
    let (mut depth, mut inline) = (0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(at + n).map_or("", |t| t.text.as_str());
        match token.text.as_str() {
            "mod" if next(2) == "{" => inline.push(depth),
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|&opened| opened < depth);
            }
            "crate" | "stockwarden" if next(1) == "::" => named.extend(first_names(tokens, at + 2)),
            "super" if next(1) == "::" && at.checked_sub(2).is_none_or(|n| tokens[n].text != "super") => {
                let supers = tokens[at..].chunks(2).take_while(|c| c[0].text == "super").count();
                if supers == module.len() + inline.len() {
                    named.extend(first_names(tokens, at + 2 * supers));
                }
            }
            _ => {}
        }
    }
    named
}

/// `name`, or the first names of `{a::b, c}`.
pub fn first_names(tokens: &[Token], at: usize) -> Vec<&Token> {
    if tokens.get(at).is_none_or(|t| t.text != "{") {
        return tokens.get(at).into_iter().collect();
    }
    let mut names = Vec::new();
    let mut depth = 0;
    for pair in tokens[at..].windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") {
            names.push(&pair[1]);
        }
    }
    names
}

#[test]
fn comments_literals_and_test_code_are_not_read() {
    let source = r###"
        // rdkafka::a
        /* rdkafka::b /* nested */ rdkafka::c */
        let text = "rdkafka::d \" rdkafka::e"; let raw = r#"rdkafka::f " "#; let bytes = b"rdkafka"; let c = '"';
        #[cfg(test)]
        mod tests { fn f() { rdkafka::g(); } }
        #[cfg(test)]
        use rdkafka::h;
        fn seen<'a>(x: &'a str, y: char) -> bool { y == '\'' }
    "###;
    let words: Vec<String> = tokens(source).into_iter().map(|t| t.text).collect();
    assert!(!words.iter().any(|w| w.contains("rdkafka")), "{words:?}");
    assert_eq!(tokens(source).iter().find(|t| t.text == "seen").map(|t| t.line), Some(9));
}

#[test]
fn the_crates_modules_are_found_however_they_are_named() {
    let named = |source: &str| -> Vec<String> {
        modules_named(&tokens(source), &["ports", "ledger"]).into_iter().map(|t| t.text.clone()).collect()
    };
    assert_eq!(named("use crate::events::ids::Shop;"), ["events"]);
    assert_eq!(named("use crate::{events::{ids, time}, domain};"), ["events", "domain"]);
    assert_eq!(named("let x = super::super::actors::Shard;"), ["actors"]);
    assert_eq!(named("use super::snapshot_store::X;"), [""; 0]);
    assert_eq!(named("mod inner { use super::super::snapshot_store::X; use super::super::super::api; } use super::y;"), ["api"]);
    assert_eq!(named("use stockwarden::app;"), ["app"]);
}
