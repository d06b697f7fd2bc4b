//! Text of others, made fit for Slack: nothing in a title may ping, link, break a line or outgrow a limit.

/// One line of at most `limit` UTF-16 units, which is how Slack counts; what is cut ends with an ellipsis.
pub(super) fn line(text: &str, limit: usize) -> String {
    let visible =
        |c: &char| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let mut out = String::new();
    let mut units = 0;
    // Longer texts need not be read to the end.
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
        let space = (!out.is_empty()).then_some(' ');
        for c in space.into_iter().chain(word.chars().filter(visible)) {
            if units + c.len_utf16() > limit {
                while units + 1 > limit {
                    units -= out.pop().map_or(units, char::len_utf16);
                }
                out.push('…');
                return out;
            }
            units += c.len_utf16();
            out.push(c);
        }
    }
    out
}

/// For `mrkdwn` and the fallback text: [`line`], with what begins a mention, a link or an entity escaped. The limit holds afterwards.
pub(super) fn mrkdwn(text: &str, limit: usize) -> String {
    let line = line(text, limit);
    let escaped = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        c => c.to_string(),
    };
    let units = |text: &str| text.encode_utf16().count();
    let whole: String = line.chars().map(escaped).collect();
    if units(&whole) <= limit {
        return whole;
    }
    let mut out = String::new();
    let mut left = limit.saturating_sub(1);
    for part in line.chars().map(escaped) {
        let Some(rest) = left.checked_sub(units(&part)) else { break };
        left = rest;
        out.push_str(&part);
    }
    out.push('…');
    out
}

/// For `plain_text`, which knows no entities: angle brackets become ones that mean nothing.
pub(super) fn plain(text: &str, limit: usize) -> String {
    line(text, limit).replace('<', "‹").replace('>', "›")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_one_line_and_is_cut_between_characters() {
        assert_eq!(line(" a\r\n\tb\0c ", 10), "a b c");
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefg", 6), "abcde…");
        assert_eq!(line("🧴🧴🧴🧴", 6), "🧴🧴…");
        assert_eq!(line("\u{202e}evil\u{200b}", 10), "evil");
        for limit in 1..20 {
            assert!(line(&"ü🧴 x".repeat(100), limit).encode_utf16().count() <= limit, "{limit}");
        }
    }

    #[test]
    fn nothing_in_a_text_pings_or_links() {
        assert_eq!(mrkdwn("<!channel> & <@U1>", 100), "&lt;!channel&gt; &amp; &lt;@U1&gt;");
        assert_eq!(mrkdwn("&&&", 12), "&amp;&amp;…", "never within an entity");
        assert_eq!(plain("<!channel> & co", 100), "‹!channel› & co");
    }
}
