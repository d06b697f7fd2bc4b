//! Secrets: given by reference (`{ env = "NAME" }` or `{ file = "path" }`), never printed.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::source::Env;

/// A secret's text. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; not for messages.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("{key} = {{ env = \"{name}\" }}: the environment variable {name} is not set; set it where this process starts")]
    NotSet { key: String, name: String },
    #[error("{key} = {{ env = \"{name}\" }}: the environment variable {name} is empty")]
    Empty { key: String, name: String },
    #[error("{key} = {{ file = \"{}\" }}: cannot read it: {reason}", path.display())]
    Unreadable { key: String, path: PathBuf, reason: String },
    #[error("{key} = {{ file = \"{}\" }}: the file is empty", path.display())]
    EmptyFile { key: String, path: PathBuf },
}

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    Env(String),
    File(PathBuf),
}

/// What is allowed; part of every message about a secret that is something else.
pub const FORMS: &str = "a secret is given as { env = \"NAME\" } or { file = \"path\" }";

impl SecretRef {
    /// Reads the secret. `key` is the dotted path it was configured under, for the message. A file's last line end is not
    /// part of it.
    pub fn resolve(&self, key: &str, env: &Env) -> Result<Secret, SecretError> {
        let key = key.to_owned();
        match self {
            SecretRef::Env(name) => match env.get(name) {
                Some("") => Err(SecretError::Empty { key, name: name.clone() }),
                Some(text) => Ok(Secret::new(text)),
                None => Err(SecretError::NotSet { key, name: name.clone() }),
            },
            SecretRef::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| SecretError::Unreadable {
                    key: key.clone(),
                    path: path.clone(),
                    reason: e.to_string(),
                })?;
                match text.trim_end_matches(['\r', '\n']) {
                    "" => Err(SecretError::EmptyFile { key, path: path.clone() }),
                    secret => Ok(Secret::new(secret)),
                }
            }
        }
    }

    /// Reads the reference itself; the reason why not never quotes the value.
    pub(super) fn from_toml(value: &toml::Value) -> Result<SecretRef, String> {
        let toml::Value::Table(table) = value else {
            return Err(format!("{FORMS}; the secret itself is never written here"));
        };
        SecretRef::from_pairs(table.iter().map(|(k, v)| (k.as_str(), v.as_str())))
    }

    fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<SecretRef, String> {
        let pairs: Vec<_> = pairs.collect();
        match pairs.as_slice() {
            [("env", Some(name))] if !name.is_empty() => Ok(SecretRef::Env((*name).to_owned())),
            [("file", Some(path))] if !path.is_empty() => Ok(SecretRef::File(PathBuf::from(path))),
            _ => Err(format!("{FORMS}, with one of the two keys and a text")),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(RefVisitor)
    }
}

struct RefVisitor;

impl<'de> Visitor<'de> for RefVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    // serde would quote the text, and the text is a secret.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<SecretRef, E> {
        Err(E::custom(format!("{FORMS}; the secret itself is never written here")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        SecretRef::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), Some(v.as_str())))).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn a_missing_variable_is_named_with_its_key() {
        let reference = SecretRef::Env("ERP_SECRET".into());
        let none = Env::default();
        assert_eq!(
            reference.resolve("handlers.erp.secret", &none).expect_err("not set").to_string(),
            "handlers.erp.secret = { env = \"ERP_SECRET\" }: the environment variable ERP_SECRET is not set; set it where this \
             process starts"
        );
        let empty = Env::of([("ERP_SECRET", "")]);
        assert!(reference.resolve("handlers.erp.secret", &empty).expect_err("empty").to_string().contains("is empty"));
    }

    #[test]
    fn a_file_gives_its_text_without_the_line_end() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("token");
        std::fs::write(&path, " s3cret \r\n").expect("written");
        let env = Env::default();
        assert_eq!(SecretRef::File(path.clone()).resolve("k", &env).expect("read").expose(), " s3cret ");
        std::fs::write(&path, "\n").expect("written");
        assert!(SecretRef::File(path).resolve("k", &env).expect_err("empty").to_string().contains("the file is empty"));
        let gone = SecretRef::File(dir.path().join("gone")).resolve("handlers.erp.secret", &env).expect_err("gone");
        assert!(gone.to_string().starts_with("handlers.erp.secret = { file = "), "{gone}");
    }

    #[test]
    fn a_secret_written_in_place_is_refused_and_not_repeated() {
        #[derive(Debug, Deserialize)]
        struct Table {
            #[expect(dead_code, reason = "only its reading is looked at")]
            secret: SecretRef,
        }
        for text in ["secret = \"hunter2\"", "secret = { env = \"A\", file = \"hunter2\" }", "secret = { vault = \"hunter2\" }"] {
            let told = toml::from_str::<Table>(text).expect_err(text).message().to_owned();
            assert!(told.contains("{ env = \"NAME\" } or { file = \"path\" }") && !told.contains("hunter2"), "{told}");
        }
    }
}
