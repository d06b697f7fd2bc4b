//! Reads sections key by key. Every key that is asked for becomes known, so unknown ones can be told with the nearest valid
//! name; every problem is noted and reading goes on with a default, so that all are told at once.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::{Table, Value};

use super::error::Problem;
use super::source::{Origin, Source, join};

pub struct Reader<'a> {
    source: &'a Source,
    problems: RefCell<Vec<Problem>>,
}

pub struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    table: Option<&'a Table>,
    known: RefCell<Vec<&'static str>>,
}

/// Longer values are cut in messages.
const SHOWN: usize = 80;

impl<'a> Reader<'a> {
    pub fn new(source: &'a Source) -> Self {
        Reader { source, problems: RefCell::default() }
    }

    pub fn root(&'a self) -> Section<'a> {
        Section { reader: self, path: String::new(), table: Some(&self.source.table), known: RefCell::default() }
    }

    pub fn problem(&self, key: &str, value: Option<String>, told: impl Into<String>) {
        let place = self.place(key);
        self.problems.borrow_mut().push(Problem { key: key.to_owned(), value, told: told.into(), place });
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn place(&self, key: &str) -> Option<String> {
        match self.source.origins.get(key)? {
            Origin::File { line } => Some(format!("{} line {line}", self.source.file)),
            Origin::Env { variable, .. } => Some(format!("from {variable}")),
        }
    }
}

impl<'a> Section<'a> {
    pub fn key(&self, name: &str) -> String {
        join(&self.path, name)
    }

    pub fn problem(&self, name: &str, told: impl Into<String>) {
        let value = self.raw(name).map(show);
        self.reader.problem(&self.key(name), value, told);
    }

    /// As [`Section::problem`], for a value that may be a secret.
    pub fn problem_unshown(&self, name: &str, told: impl Into<String>) {
        self.reader.problem(&self.key(name), None, told);
    }

    /// As [`Section::problem`], with the value as it may be shown.
    pub fn problem_shown(&self, name: &str, shown: Option<String>, told: impl Into<String>) {
        self.reader.problem(&self.key(name), shown, told);
    }

    fn raw(&self, name: &str) -> Option<&'a Value> {
        self.table?.get(name)
    }

    fn ask(&self, name: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(name);
        self.raw(name)
    }

    pub fn section(&self, name: &'static str) -> Section<'a> {
        let table = match self.ask(name) {
            Some(Value::Table(t)) => Some(t),
            Some(_) => {
                self.problem(name, format!("this is a section; write [{}] and its keys below it", self.key(name)));
                None
            }
            None => None,
        };
        Section { reader: self.reader, path: self.key(name), table, known: RefCell::default() }
    }

    /// Tables under free names, such as `[handlers.NAME]`.
    pub fn named_sections(&self) -> Vec<(&'a str, Option<&'a Table>)> {
        self.entries().map(|(k, v)| (k.as_str(), v.as_table())).collect()
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.table.into_iter().flat_map(|t| t.iter())
    }

    /// The variable's own text, if the value came from one.
    pub fn env_text(&self, name: &str) -> Option<&'a str> {
        match self.reader.source.origins.get(&self.key(name)) {
            Some(Origin::Env { raw, .. }) => Some(raw),
            _ => None,
        }
    }

    fn as_text(&self, name: &str, value: &'a Value) -> Option<&'a str> {
        value.as_str().or_else(|| self.env_text(name))
    }

    pub fn text(&self, name: &'static str) -> Option<&'a str> {
        let value = self.ask(name)?;
        match self.as_text(name, value) {
            Some("") => {
                self.problem(name, "it is empty; leave the key out for the default");
                None
            }
            Some(text) => Some(text),
            None => {
                self.problem(name, "it must be text, in quotes");
                None
            }
        }
    }

    /// Text that `read` understands; `allowed` says what that is.
    pub fn parsed<T>(&self, name: &'static str, allowed: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = read(text);
        if value.is_none() {
            self.problem(name, allowed);
        }
        value
    }

    /// One of a closed set.
    pub fn one_of<T: Copy>(&self, name: &'static str, set: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = set.iter().find(|(n, _)| *n == text).map(|(_, v)| *v);
        if found.is_none() {
            self.problem(name, among("it must be", text, set.iter().map(|(n, _)| *n)));
        }
        found
    }

    /// A list of members of a closed set.
    pub fn some_of<T: Copy>(&self, name: &'static str, set: &[(&str, T)]) -> Option<Vec<T>> {
        let value = self.ask(name)?;
        // A variable may also hold a plain list with commas, as `--roles` does.
        let texts: Option<Vec<&str>> = match value {
            Value::Array(list) => list.iter().map(Value::as_str).collect(),
            _ => self.env_text(name).map(|raw| raw.split(',').map(str::trim).collect()),
        };
        let allowed = || set.iter().map(|(n, _)| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let Some(texts) = texts.filter(|t| !t.is_empty()) else {
            self.problem(name, format!("it must be a list with at least one of {}", allowed()));
            return None;
        };
        let mut found = Vec::new();
        for text in texts {
            match set.iter().find(|(n, _)| *n == text) {
                Some((_, v)) => found.push(*v),
                None => {
                    self.problem(name, among(&format!("\"{text}\" is not"), text, set.iter().map(|(n, _)| *n)));
                    return None;
                }
            }
        }
        Some(found)
    }

    pub fn integer(&self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.ask(name)?;
        let read = value.as_integer().filter(|n| range.contains(n));
        if read.is_none() {
            self.problem(name, format!("it must be a whole number from {} to {}", range.start(), range.end()));
        }
        read
    }

    /// A text or a whole number, as text.
    pub fn scalar(&self, name: &'static str) -> Option<String> {
        match self.ask(name)? {
            Value::Integer(n) => Some(n.to_string()),
            other => Some(self.as_text(name, other).unwrap_or_default().to_owned()),
        }
    }

    /// Names every key that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.entries() {
            if !known.contains(&key.as_str()) {
                let place = if self.path.is_empty() { "at the top".to_owned() } else { format!("in [{}]", self.path) };
                let told = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("there is no such key; did you mean \"{}\"?", self.key(near)),
                    None => format!("there is no such key {place}; valid are {}", known.join(", ")),
                };
                self.problem_unshown(key, told);
            }
        }
    }
}

fn among<'n>(head: &str, text: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    let list = names.clone().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    match nearest(text, names) {
        Some(near) => format!("{head} one of {list}; did you mean \"{near}\"?"),
        None => format!("{head} one of {list}"),
    }
}

/// The candidate nearest to `text`, if one is near enough to be meant.
pub fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let text = plain(text);
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&text, &plain(c)), c))
        .filter(|(distance, c)| *distance <= (c.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

fn show(value: &Value) -> String {
    match value {
        Value::Table(_) => "{…}".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(SHOWN) {
                Some((cut, _)) => format!("{}…", &text[..cut]),
                None => text,
            }
        }
    }
}
