//! Secrets of handlers: where they come from, and that they are seen nowhere.

use std::fmt;

use serde::Deserialize;

/// `{ env = "NAME" }`, `{ file = "path" }`, or the text itself where the configuration was resolved before.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Secret {
    Text(String),
    Env(EnvRef),
    File(FileRef),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvRef {
    env: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    file: std::path::PathBuf,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Secret(…)"),
            Secret::Env(e) => write!(f, "Secret(env {})", e.env),
            Secret::File(p) => write!(f, "Secret(file {})", p.file.display()),
        }
    }
}

impl Secret {
    /// The secret, without white space at its ends. The error says where it was looked for.
    pub fn resolve(&self) -> Result<String, String> {
        let text = match self {
            Secret::Text(text) => text.clone(),
            Secret::Env(EnvRef { env }) => {
                std::env::var(env).map_err(|_| format!("the environment variable {env} is not set (or not UTF-8)"))?
            }
            Secret::File(FileRef { file }) => {
                std::fs::read_to_string(file).map_err(|e| format!("the file {} cannot be read: {e}", file.display()))?
            }
        };
        let text = text.trim();
        if text.is_empty() { Err(format!("{self:?} is empty")) } else { Ok(text.to_owned()) }
    }
}

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

    #[test]
    fn a_secret_is_not_printed_and_its_absence_names_the_place() {
        assert_eq!(format!("{:?}", Secret::Text("x1".into())), "Secret(…)");
        let missing: Secret = toml::from_str::<toml::Table>("a = { env = \"NO_SUCH_VARIABLE_7\" }").expect("toml")["a"]
            .clone()
            .try_into()
            .expect("secret");
        assert!(missing.resolve().expect_err("not set").contains("NO_SUCH_VARIABLE_7"));
    }
}
