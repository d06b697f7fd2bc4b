//! Query strings, read strictly: an unknown key is told, so that a misspelt filter never means "no filter".

use std::str::FromStr;

use actix_web::HttpRequest;
use actix_web::web::Query;

use super::problem::{Kind, Problem};

/// The pairs of a query string whose keys are all known and given once.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    pub fn read(request: &HttpRequest, known: &[&str]) -> Result<Params, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
        let Query(pairs) = Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|_| bad("the query string is not of the form key=value&key=value".to_owned()))?;
        for (at, (key, _)) in pairs.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                let told: String = key.chars().take(64).collect();
                let known =
                    if known.is_empty() { "none is known here".to_owned() } else { format!("known are {}", known.join(", ")) };
                return Err(bad(format!("there is no query key \"{}\"; {known}", told.escape_debug())));
            }
            if pairs[..at].iter().any(|(k, _)| k == key) {
                return Err(bad(format!("the query key {key} is given twice")));
            }
        }
        Ok(Params(pairs))
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    }

    /// `expected` says what a good value looks like.
    pub fn parsed<T: FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let told: String = text.chars().take(64).collect();
            Problem::new(Kind::BadRequest, format!("{key}=\"{}\" is not {expected}", told.escape_debug()))
        })
    }
}
