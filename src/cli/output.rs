//! What is printed. Results go to stdout, errors and remarks to stderr.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Fault;

#[derive(Debug, Clone, Copy)]
pub struct Out {
    json: bool,
}

impl Out {
    pub fn new(json: bool) -> Out {
        Out { json }
    }

    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as JSON, or what `human` makes of it.
    pub fn result(self, value: &Value, human: impl FnOnce(&Value) -> String) {
        if self.json { self.line(&value.to_string()) } else { self.line(human(value).trim_end()) }
    }

    pub fn line(self, text: &str) {
        let mut stdout = io::stdout().lock();
        if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
            // Whoever read has gone (`| head`); nobody is left to tell.
            std::process::exit(0);
        }
    }

    /// For people only; a program that reads results is not disturbed.
    pub fn remark(self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    pub fn fault(self, fault: &Fault) {
        let mut stderr = io::stderr().lock();
        // Nothing can be done about a closed stderr.
        let _ = if self.json {
            writeln!(stderr, "{}", json!({ "error": fault.what, "cause": fault.cause, "mend": fault.mend }))
        } else {
            write!(stderr, "{}", told(fault))
        };
    }
}

fn told(fault: &Fault) -> String {
    let mut text = format!("error: {}\n", fault.what.replace('\n', "\n       "));
    if let Some(cause) = &fault.cause {
        text.push_str(&format!("cause: {}\n", cause.replace('\n', "\n       ")));
    }
    if let Some(mend) = &fault.mend {
        text.push_str(&format!("mend:  {}\n", mend.replace('\n', "\n       ")));
    }
    text
}

/// Columns under their heads, as wide as they need to be.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([heads[i].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect::<Vec<_>>().join("  ");
        padded.trim_end().to_owned()
    };
    let mut text = line(heads);
    for row in rows {
        text.push('\n');
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// A cell's text: nothing for null, no quotes round text, lists with commas.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A table of the objects in `list`, a column a key.
pub fn table_of(list: &Value, columns: &[(&str, &str)]) -> String {
    let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    let row = |v: &Value| columns.iter().map(|(_, key)| cell(&v[*key])).collect();
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    table(&heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_sentence_its_cause_and_its_mend() {
        let fault = Fault::new("cannot add the shop").because("a\nb").mend("try this");
        assert_eq!(told(&fault), "error: cannot add the shop\ncause: a\n       b\nmend:  try this\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let list = json!([{ "a": "long text", "b": null }, { "a": "x", "b": ["1", "2"] }]);
        assert_eq!(table_of(&list, &[("A", "a"), ("B", "b")]), "A          B\nlong text  -\nx          1, 2");
    }
}
