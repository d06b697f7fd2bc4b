//! Where values come from: the file, with the line of every key, and the environment over it.

use std::collections::{BTreeMap, HashMap};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::ConfigError;

const PREFIX: &str = "STOCKWARDEN__";

/// Names in front of which nothing is known about the case of what follows, and whose keys have dots where a variable's name
/// can only have underscores.
const DOTTED: &str = "log.properties";

/// The environment, taken once and handed on, so that tests need not change the process's own.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl std::fmt::Debug for Env {
    /// Nothing of it: it is full of secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env(…)")
    }
}

impl Env {
    pub fn of_process() -> Env {
        Env(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    pub fn of<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Env {
        Env(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File {
        line: usize,
    },
    /// `raw` is the variable's text: a key that wants text takes it as it is, also where it looks like a number.
    Env {
        variable: String,
        raw: String,
    },
}

/// A table of values and the origin of each by dotted path.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub file: String,
    pub table: Table,
    pub origins: HashMap<String, Origin>,
}

impl Source {
    pub fn empty() -> Source {
        Source::default()
    }

    pub fn parse(file: &str, text: &str) -> Result<Source, ConfigError> {
        let not_toml = |e: toml::de::Error| ConfigError::NotToml {
            file: file.to_owned(),
            line: line_of(text, e.span().map_or(0, |s| s.start)),
            reason: e.message().replace('\n', "; "),
        };
        let spanned = DeTable::parse(text).map_err(not_toml)?;
        let table: Table = toml::from_str(text).map_err(not_toml)?;
        let mut origins = HashMap::new();
        note_lines(text, "", spanned.get_ref(), &mut origins);
        Ok(Source { file: file.to_owned(), table, origins })
    }

    /// Lays every `STOCKWARDEN__…` variable over the values; the environment wins.
    pub fn overlaid(mut self, env: &Env) -> Source {
        for (variable, raw) in &env.0 {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            let segments: Vec<&str> = name.split("__").collect();
            let path = set(&mut self.table, "", &segments, parse_value(raw));
            self.origins.insert(path, Origin::Env { variable: variable.clone(), raw: raw.clone() });
        }
        self
    }
}

/// A variable's text as TOML if it is a TOML value, else as text.
fn parse_value(raw: &str) -> Value {
    let one = |t: Table| (t.len() == 1).then_some(t).and_then(|mut t| t.remove("v"));
    match toml::from_str::<Table>(&format!("v = {raw}")).ok().and_then(one) {
        // A name that looks like a date is a name.
        None | Some(Value::Datetime(_)) => Value::String(raw.to_owned()),
        Some(value) => value,
    }
}

/// Sets the value and returns its dotted path.
fn set(table: &mut Table, above: &str, segments: &[&str], value: Value) -> String {
    let dotted = above == DOTTED;
    // Below the dotted table the rest is one key, whatever it holds.
    let (segment, rest) = if dotted { (segments.join("_"), &[][..]) } else { (segments[0].to_owned(), &segments[1..]) };
    let key = key_for(table, &segment, dotted);
    let path = join(above, &key);
    if rest.is_empty() {
        table.insert(key, value);
        return path;
    }
    let below = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    if !below.is_table() {
        *below = Value::Table(Table::new());
    }
    match below {
        Value::Table(t) => set(t, &path, rest, value),
        _ => path,
    }
}

/// The key that a segment of a variable's name means: an existing one that differs only in case and `-` for `_`, else the
/// segment in lower case.
fn key_for(table: &Table, segment: &str, dotted: bool) -> String {
    let plain = |s: &str| s.to_lowercase().replace(['-', '.'], "_");
    match table.keys().find(|k| plain(k) == plain(segment)) {
        Some(key) => key.clone(),
        None if dotted => segment.to_lowercase().replace('_', "."),
        None => segment.to_lowercase(),
    }
}

pub fn join(above: &str, key: &str) -> String {
    match above {
        "" => key.to_owned(),
        _ => format!("{above}.{key}"),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

fn note_lines(text: &str, above: &str, table: &DeTable<'_>, origins: &mut HashMap<String, Origin>) {
    for (key, value) in table {
        let path = join(above, key.get_ref());
        origins.insert(path.clone(), Origin::File { line: line_of(text, key.span().start) });
        if let DeValue::Table(below) = value.get_ref() {
            note_lines(text, &path, below, origins);
        }
    }
}
