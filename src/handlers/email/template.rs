//! Texts with placeholders: `{{field}}` prints a field, `{{#field}}…{{/field}}` is there for each element of a list, or once if the
//! field says something. A tag of a section that stands alone on its line takes the line with it.
//!
//! What is wrong with a template is found when it is read, not when a mail is due.

use std::fmt;

use serde_json::{Map, Value};

use crate::config::nearest;
use crate::handlers::placeholders::{find, print};

#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Field(String),
    Section(String, Vec<Part>),
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    line: usize,
    column: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

/// Which fields a template may name.
pub struct Fields<'a> {
    pub known: &'a dyn Fn(&str) -> bool,
    /// For messages.
    pub names: &'a [&'a str],
}

impl Template {
    pub fn parse(text: &str, fields: &Fields<'_>) -> Result<Template, Fault> {
        let mut parser = Parser { text, at: 0, done: Vec::new(), open: Vec::new() };
        while let Some(begin) = text[parser.at..].find("{{").map(|n| parser.at + n) {
            parser.tag(begin, fields)?;
        }
        if let Some(open) = parser.open.last() {
            return Err(parser.fault(open.begin, format!("{{{{#{0}}}}} is not closed; end it with {{{{/{0}}}}}", open.name)));
        }
        parser.text_to(text.len());
        Ok(Template { parts: parser.done })
    }

    /// `printed` makes a value fit where it stands: escaped, on one line.
    pub fn fill(&self, document: &Map<String, Value>, printed: fn(&str) -> String) -> String {
        let mut text = String::new();
        fill(&self.parts, &[document], printed, &mut text);
        text
    }
}

struct Open {
    name: String,
    begin: usize,
    /// What came before it.
    before: Vec<Part>,
}

struct Parser<'a> {
    text: &'a str,
    /// Read up to here.
    at: usize,
    done: Vec<Part>,
    open: Vec<Open>,
}

impl Parser<'_> {
    /// Reads what lies before the tag at `begin`, and the tag.
    fn tag(&mut self, begin: usize, fields: &Fields<'_>) -> Result<(), Fault> {
        let Some(length) = self.text[begin + 2..].find("}}") else {
            return Err(self.fault(begin, "{{ is not closed; end it with }}".to_owned()));
        };
        let end = begin + 2 + length + 2;
        let name = self.text[begin + 2..end - 2].trim();
        let (kind, path) = match name.strip_prefix(['#', '/']) {
            Some(rest) => (name.chars().next(), rest.trim()),
            None => (None, name),
        };
        if !(fields.known)(path) {
            let near = nearest(path, fields.names.iter().copied());
            let hint =
                near.map_or_else(|| format!("there are {}", fields.names.join(", ")), |n| format!("did you mean \"{n}\"?"));
            return Err(self.fault(begin, format!("there is no field \"{path}\"; {hint}")));
        }
        let (text_end, next) = if kind.is_some() { self.alone(begin, end) } else { (begin, end) };
        self.text_to(text_end);
        self.at = next;
        match kind {
            None => self.done.push(Part::Field(path.to_owned())),
            Some('#') if self.open.iter().any(|o| o.name == path) => {
                return Err(self.fault(begin, format!("{{{{#{path}}}}} stands within itself")));
            }
            Some('#') => {
                let before = std::mem::take(&mut self.done);
                self.open.push(Open { name: path.to_owned(), begin, before });
            }
            Some(_) => match self.open.pop_if(|o| o.name == path) {
                Some(open) => {
                    let inner = std::mem::replace(&mut self.done, open.before);
                    self.done.push(Part::Section(open.name, inner));
                }
                None => return Err(self.fault(begin, format!("{{{{/{path}}}}} ends what does not begin right before"))),
            },
        }
        Ok(())
    }

    /// Where the text before the tag ends and the text after it begins.
    fn alone(&self, begin: usize, end: usize) -> (usize, usize) {
        let line = self.text[..begin].rfind('\n').map_or(0, |n| n + 1);
        let rest = self.text[end..].split_inclusive('\n').next().unwrap_or_default();
        match self.text[line..begin].trim().is_empty() && rest.trim().is_empty() {
            true => (line, end + rest.len()),
            false => (begin, end),
        }
    }

    fn text_to(&mut self, end: usize) {
        if self.at < end {
            self.done.push(Part::Text(self.text[self.at..end].to_owned()));
        }
    }

    fn fault(&self, at: usize, what: String) -> Fault {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Fault { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, what }
    }
}

fn fill(parts: &[Part], scopes: &[&Map<String, Value>], printed: fn(&str) -> String, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(own) => text.push_str(own),
            Part::Field(path) => text.push_str(&printed(&print(look_up(scopes, path)))),
            Part::Section(path, inner) => match look_up(scopes, path) {
                Value::Null | Value::Bool(false) => {}
                Value::String(said) if said.trim().is_empty() => {}
                Value::Array(elements) => {
                    for element in elements.iter().filter_map(Value::as_object) {
                        fill(inner, &[scopes, &[element]].concat(), printed, text);
                    }
                }
                _ => fill(inner, scopes, printed, text),
            },
        }
    }
}

/// In the innermost scope that has it.
fn look_up<'a>(scopes: &[&'a Map<String, Value>], path: &str) -> &'a Value {
    let first = path.split('.').next().unwrap_or_default();
    scopes.iter().rev().find(|scope| scope.contains_key(first)).map_or(&Value::Null, |scope| find(scope, path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Template, Fault> {
        let names = ["sku", "quantity", "lines", "links.snooze"];
        Template::parse(text, &Fields { known: &|path| names.contains(&path), names: &names })
    }

    fn fill(text: &str, document: Value) -> String {
        parse(text).expect("template").fill(document.as_object().expect("object"), super::super::text::html)
    }

    #[test]
    fn fields_are_printed_as_asked_sections_repeat_and_what_says_nothing_is_left_out() {
        let document = json!({"sku": "common", "quantity": null, "lines": [{"sku": "<a>"}, {"sku": "b", "quantity": 0}]});
        let text = "{{sku}}:\n{{#lines}}\n- {{ sku }}{{#quantity}} × {{quantity}}{{/quantity}}\n{{/lines}}\nend{{quantity}}";
        assert_eq!(fill(text, document), "common:\n- &lt;a&gt;\n- b × 0\nend");
    }

    #[test]
    fn a_value_is_not_read_as_a_template() {
        assert_eq!(fill("{{sku}}", json!({"sku": "{{quantity}}", "quantity": 1})), "{{quantity}}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_the_nearest_field() {
        for (text, want) in [
            ("a\nbc {{qantity}}", "line 2, column 4: there is no field \"qantity\"; did you mean \"quantity\"?"),
            ("{{sku}} {{quantity", "line 1, column 9: {{ is not closed"),
            ("{{#lines}}\n{{sku}}", "line 1, column 1: {{#lines}} is not closed"),
            ("{{/lines}}", "ends what does not begin"),
            ("{{#lines}}{{#quantity}}{{/lines}}{{/quantity}}", "{{/lines}} ends what does not begin"),
            ("{{#lines}}{{#lines}}{{/lines}}{{/lines}}", "within itself"),
            ("{{}}", "there is no field \"\""),
            ("{{{sku}}}", "there is no field \"{sku\""),
        ] {
            let told = parse(text).expect_err(text).to_string();
            assert!(told.contains(want), "{text}: {told}");
        }
    }
}
