//! What a target says is stored for people, so it must be short and without secrets.

use std::fmt;

/// Longest text of a target that is kept.
const KEPT: usize = 300;

/// Makes what a target said fit to be stored and shown.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    pub fn new(mut secrets: Vec<String>) -> Self {
        // One character would hit everywhere; the longest first, so that a secret within a secret leaves nothing behind.
        secrets.retain(|s| s.len() > 3);
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
        Redactor { secrets }
    }

    /// One short line without secrets.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "***");
            }
        }
        let mut line = String::with_capacity(text.len().min(KEPT));
        for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            if line.len() > KEPT {
                let cut = line.char_indices().map(|(i, _)| i).take_while(|i| *i <= KEPT).last().unwrap_or(0);
                line.truncate(cut);
                line.push('…');
                break;
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_echoes_is_stored_short_on_one_line_and_without_secrets() {
        let redactor = Redactor::new(vec!["abc".into(), "token-1".into(), "token-1-long".into()]);
        assert_eq!(redactor.clean("bad\r\n\ttoken-1-long or token-1\0!"), "bad *** or *** !");
        assert!(redactor.clean(&"ü".repeat(1000)).chars().count() <= KEPT / 2 + 1);
    }
}
