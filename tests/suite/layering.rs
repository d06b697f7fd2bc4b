//! The layout's rules of dependency (ARCHITECTURE.md), checked on the text of `src/`.
//!
//! To add a module: its line in [`MAY_USE`]. To let a crate into another place: its line in [`CRATES`].

use std::fmt;
use std::path::{Path, PathBuf};

mod source;

use source::{Token, first_names, modules_named, tokens};

/// Folders and files directly under `src/`, and what they may name. `*` is everything but [`RESERVED`] modules.
const MAY_USE: &[(&str, &[&str])] = &[
    ("events", &[]),
    ("domain", &["events"]),
    ("ports", &["events", "domain"]),
    ("config", &["events", "domain", "ports", "vault"]),
    ("telemetry", &["events", "domain", "ports", "config"]),
    ("adapters", &["events", "domain", "ports", "config", "telemetry"]),
    ("sources", &["*"]),
    ("handlers", &["*"]),
    ("shopify", &["*"]),
    ("actors", &["*"]),
    ("api", &["*"]),
    ("dashboard", &["*"]),
    ("audit", &["*"]),
    ("analytics", &["*"]),
    ("sim", &["*"]),
    ("admin", &["events", "domain", "ports", "config", "vault"]),
    ("vault", &[]),
    ("causes", &[]),
    ("html", &[]),
    ("links", &["events", "vault"]),
    // The command line says what it needs of the program (cli::World); app is that program.
    ("app", &["*", "adapters", "cli"]),
    ("cli", &["*"]),
    ("main", &["*", "app", "cli"]),
];

/// Modules that `*` does not cover: who may name them is said in [`MAY_USE`], and why not everybody, here.
const RESERVED: &[(&str, &str)] = &[
    ("adapters", "only app chooses adapters: take the port"),
    ("app", "the tree is put together at the edge: only the command line stands outside app"),
    ("cli", "the command line is the outermost layer"),
    ("main", "the command line is the outermost layer"),
];

/// Invariant 7: what replays has no path to a handler.
const NO_HANDLERS: &[&str] = &["audit", "analytics"];

/// Crates that stay in their place: `(crates, folders or files under src/)`.
const CRATES: &[(&[&str], &[&str])] = &[
    (&["rdkafka", "rdkafka_sys"], &["adapters/kafka"]),
    // adapters/sql is what the two stores share.
    (&["sqlx"], &["adapters/postgres", "adapters/embedded", "adapters/sql"]),
    (&["actix", "actix_rt"], &["actors", "app"]),
    (&["actix_web", "actix_http"], &["api", "dashboard", "app"]),
    (&["reqwest"], &["adapters/peers", "handlers", "shopify", "cli", "sim"]),
    (&["lettre"], &["handlers", "shopify"]),
    // Where reqwest's connections are hung up.
    (&["tower"], &["handlers"]),
    (&["anyhow"], &["main", "cli"]),
    (&["proptest", "tempfile", "standardwebhooks"], &[]),
];

/// Modules of std that pure code must not name.
const IMPURE_STD: &[(&str, &str)] = &[
    ("env", "no ambient settings: config reads them, they are passed in"),
    ("fs", "no I/O: effects go back as data, adapters perform them"),
    ("io", "no I/O: effects go back as data, adapters perform them"),
    ("net", "no I/O: effects go back as data, adapters perform them"),
    ("process", "no I/O: effects go back as data, adapters perform them"),
    ("thread", "no threads: actors run pure code"),
];

/// What pure code must not say, as sequences of tokens: state is a function of the log.
const IMPURE: &[(&str, &str)] = &[
    ("tokio ::", "no I/O and no timers: actors run pure code"),
    ("futures ::", "pure code is synchronous: facts are fetched before the call"),
    ("async fn", "pure code is synchronous: facts are fetched before the call"),
    ("println !", "no I/O: return it, or log at the boundary"),
    ("eprintln !", "no I/O: return it, or log at the boundary"),
    ("tracing ::", "no I/O: return it, or log at the boundary"),
    ("HashMap", "std's HashMap iterates in a random order: FxHashMap where order is not seen, else BTreeMap"),
    ("HashSet", "std's HashSet iterates in a random order: FxHashSet where order is not seen, else BTreeSet"),
];

/// Also for actors, whose time comes from the log and from ports.
const AMBIENT: &[(&str, &str)] = &[
    ("SystemTime", "no ambient clock: time is the fact's, or passed in through a port"),
    ("Instant :: now", "no ambient clock: time is the fact's, or passed in through a port"),
    (". elapsed ( )", "no ambient clock: time is the fact's, or passed in through a port"),
    ("Utc :: now", "no ambient clock: time is the fact's, or passed in through a port"),
    ("Local :: now", "no ambient clock: time is the fact's, or passed in through a port"),
    ("new_v4", "no ambient randomness: ids are derived (v5), or passed in through a port"),
    ("rand ::", "no ambient randomness: a seeded generator is passed in"),
    ("getrandom ::", "no ambient randomness: a seeded generator is passed in"),
    ("thread :: sleep", "never block an actor's thread"),
];

const EVERYWHERE: &[(&str, &str)] = &[
    ("unsafe", "no unsafe code"),
    ("todo !", "finish it, or leave it out"),
    ("unimplemented !", "finish it, or leave it out"),
    (". unwrap (", "no unwrap outside tests: return the error, or expect() with the invariant that holds"),
];

#[derive(Clone, Debug)]
struct Breach {
    file: String,
    line: usize,
    what: String,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}: {}", self.file, self.line, self.what, self.rule)
    }
}

/// One file under `src/`, named with `/`.
struct File<'a> {
    name: &'a str,
    /// Its module: `adapters/kafka` for `adapters/kafka/mod.rs`.
    place: &'a str,
    /// The folder or file directly under `src/`.
    top: &'a str,
    tokens: Vec<Token>,
}

impl<'a> File<'a> {
    fn new(name: &'a str, text: &str) -> Self {
        let place = name.trim_end_matches(".rs").trim_end_matches("/mod");
        Self { name, place, top: place.split('/').next().unwrap_or(place), tokens: tokens(text) }
    }

    fn breach(&self, line: usize, what: String, rule: &str) -> Breach {
        Breach { file: self.name.into(), line, what, rule: rule.into() }
    }

    fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| &t.text)
    }

    fn wrong_modules(&self) -> Vec<Breach> {
        if self.top == "lib" {
            return Vec::new();
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == self.top) else {
            let rule = "is not in the layout: give it a line in tests/suite/layering.rs";
            return vec![self.breach(1, format!("module {}", self.top), rule)];
        };
        let module: Vec<&str> = if self.top == "main" { Vec::new() } else { self.place.split('/').collect() };
        let named = modules_named(&self.tokens, &module).into_iter();
        named
            .filter_map(|other| {
                let rule = forbidden_module(self.top, allowed, &other.text)?;
                Some(self.breach(other.line, format!("{} uses {}", self.top, other.text), &rule))
            })
            .collect()
    }

    fn wrong_crates(&self) -> Vec<Breach> {
        let outside = |homes: &[&str]| !homes.iter().any(|h| self.place == *h || self.place.starts_with(&format!("{h}/")));
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let before = if at == 0 { "" } else { self.word(at - 1) };
            let inside_a_path =
                before == "." || (before == "::" && at > 1 && self.word(at - 2).starts_with(char::is_alphanumeric));
            let is_path = self.word(at + 1) == "::" || (before == "use" && matches!(self.word(at + 1), ";" | "as"));
            if inside_a_path || !is_path {
                continue;
            }
            for (_, homes) in CRATES.iter().filter(|(names, homes)| names.contains(&token.text.as_str()) && outside(homes)) {
                let home = if homes.is_empty() { "tests/".into() } else { format!("src/{}", homes.join(", src/")) };
                found.push(self.breach(token.line, format!("crate {}", token.text), &format!("it belongs in {home}")));
            }
        }
        found
    }

    fn wrong_words(&self) -> Vec<Breach> {
        let pure = matches!(self.top, "events" | "domain");
        let rules = [(true, EVERYWHERE), (pure, IMPURE), (pure || self.top == "actors", AMBIENT)];
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            for (pattern, rule) in rules.iter().filter(|(holds, _)| *holds).flat_map(|(_, rules)| *rules) {
                if pattern.split(' ').enumerate().all(|(n, word)| self.word(at + n) == word) {
                    found.push(self.breach(token.line, pattern.replace(' ', ""), rule));
                }
            }
            if pure && token.text == "std" && self.word(at + 1) == "::" {
                for name in first_names(&self.tokens, at + 2) {
                    if let Some((_, rule)) = IMPURE_STD.iter().find(|(module, _)| *module == name.text) {
                        found.push(self.breach(name.line, format!("std::{}", name.text), rule));
                    }
                }
            }
        }
        found
    }
}

/// Every breach of the rules in one file; files of tests are free.
fn breaches(name: &str, text: &str) -> Vec<Breach> {
    let file = File::new(name, text);
    if file.place.split('/').any(|part| part == "tests") {
        return Vec::new();
    }
    [file.wrong_modules(), file.wrong_crates(), file.wrong_words()].concat()
}

/// Why `top` must not name `other`, or nothing.
fn forbidden_module(top: &str, allowed: &[&str], other: &str) -> Option<String> {
    // Items of the crate's root (a re-export, a macro) have no layer.
    let known = MAY_USE.iter().any(|(name, _)| *name == other);
    if !known || other == top || allowed.contains(&other) {
        return None;
    }
    if let Some((_, why)) = RESERVED.iter().find(|(name, _)| *name == other) {
        return Some((*why).into());
    }
    if other == "handlers" && NO_HANDLERS.contains(&top) {
        return Some("what replays has no path to a handler (invariant 7)".into());
    }
    if allowed.contains(&"*") {
        return None;
    }
    let inner = if allowed.is_empty() { "nothing else of the crate".into() } else { format!("only {}", allowed.join(", ")) };
    Some(format!("dependencies point inward, {top} may use {inner}: pass it in as data, or move it to {other} or further out"))
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn the_layers_depend_inward_and_each_crate_stays_in_its_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = source_files(&src);
    assert!(files.len() > 10, "found only {} files in {}", files.len(), src.display());
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
            breaches(&name, &std::fs::read_to_string(file).unwrap())
        })
        .map(|breach| breach.to_string())
        .collect();
    assert!(found.is_empty(), "{} breaches of the layout (ARCHITECTURE.md):\n{}", found.len(), found.join("\n"));
}

/// Each line breaks one rule, and the message names the file, the line, what was said and the way out.
#[test]
fn each_rule_is_seen_when_it_is_broken() {
    let bad = [
        ("events/fact.rs", "use crate::domain::Stock;", "events uses domain", "nothing else of the crate"),
        ("domain/stock.rs", "use crate::ports::Ledger;", "domain uses ports", "domain may use only events"),
        ("domain/mod.rs", "use crate::{events::Fact, actors};", "domain uses actors", "point inward"),
        ("ports/ledger.rs", "fn f(x: super::super::config::Root) {}", "ports uses config", "point inward"),
        ("adapters/kafka/mod.rs", "use crate::actors::Shard;", "adapters uses actors", "point inward"),
        ("actors/shard.rs", "use crate::adapters::kafka::Log;", "actors uses adapters", "take the port"),
        ("api/mod.rs", "use crate::app::Tree;", "api uses app", "outside app"),
        ("main.rs", "use stockwarden::adapters;", "main uses adapters", "take the port"),
        ("audit/verify.rs", "use crate::handlers::email;", "audit uses handlers", "invariant 7"),
        ("helpers/mod.rs", "", "module helpers", "not in the layout"),
        ("actors/shard.rs", "use rdkafka::Message;", "crate rdkafka", "src/adapters/kafka"),
        ("ports/ledger.rs", "impl From<sqlx::Error> for E {}", "crate sqlx", "src/adapters/postgres, src/adapters/embedded"),
        ("adapters/kafka/log.rs", "use sqlx as db;", "crate sqlx", "src/adapters/postgres"),
        ("domain/stock.rs", "impl actix::Actor for S {}", "crate actix", "src/actors, src/app"),
        ("actors/shard.rs", "use {actix_web::web, std::fmt};", "crate actix_web", "src/api"),
        ("actors/handler.rs", "let c = ::reqwest::Client::new();", "crate reqwest", "src/handlers"),
        ("sources/tills.rs", "use lettre::Message;", "crate lettre", "src/handlers"),
        ("ports/ledger.rs", "fn f() -> anyhow::Result<()> { Ok(()) }", "crate anyhow", "src/main"),
        ("domain/stock.rs", "let t = chrono::Utc::now();", "Utc::now", "ambient clock"),
        ("actors/shard.rs", "let t = tokio::time::Instant::now();", "Instant::now", "ambient clock"),
        ("events/time.rs", "use std::time::SystemTime;", "SystemTime", "ambient clock"),
        ("actors/commit.rs", "if started.elapsed() > d {}", ".elapsed()", "ambient clock"),
        ("domain/ids.rs", "let id = Uuid::new_v4();", "new_v4", "ambient randomness"),
        ("actors/shard.rs", "let x: u8 = rand::random();", "rand::", "seeded"),
        ("actors/shard.rs", "std::thread::sleep(d);", "thread::sleep", "never block"),
        ("domain/rules.rs", "use std::{fmt, fs::File};", "std::fs", "no I/O"),
        ("domain/rules.rs", "use std::collections::HashMap;", "HashMap", "random order"),
        ("events/codec.rs", "println!(\"x\");", "println!", "no I/O"),
        ("domain/rules.rs", "pub async fn f() {}", "asyncfn", "synchronous"),
        ("api/mod.rs", "unsafe { f() }", "unsafe", "no unsafe"),
        ("cli/demo.rs", "todo!()", "todo!", "finish it"),
        ("api/mod.rs", "let x = y.unwrap();", ".unwrap(", "invariant that holds"),
    ];
    for (file, line, what, rule) in bad {
        let found: Vec<String> = breaches(file, &format!("//! Doc.\n\n{line}\n")).iter().map(Breach::to_string).collect();
        let at = if file.starts_with("helpers") { 1 } else { 3 };
        assert_eq!(found.len(), 1, "{file}: {line}: {found:?}");
        assert!(found[0].starts_with(&format!("src/{file}:{at}: {what}: ")) && found[0].contains(rule), "{line}: {}", found[0]);
    }
}

#[test]
fn what_the_layout_allows_is_not_reported() {
    let good = [
        ("domain/stock.rs", "use crate::events::Fact; use std::{fmt, collections::BTreeMap}; use rustc_hash::FxHashMap;"),
        (
            "adapters/kafka/consumer.rs",
            "use rdkafka::Message; use crate::ports::EventLog; use super::log; use std::time::Instant;",
        ),
        ("adapters/embedded/sqlite.rs", "use sqlx::SqlitePool;"),
        ("app.rs", "use crate::{adapters::kafka, actors, api}; use actix_web::HttpServer;"),
        ("app/start.rs", "use crate::adapters::kafka; use actix::System;"),
        ("api/mod.rs", "use crate::actors::Query; use actix_web::web; let x = a.unwrap_or(b);"),
        ("handlers/email.rs", "use lettre::Message; use crate::shopify::Client;"),
        ("main.rs", "use anyhow::Result; use stockwarden::{app, cli};"),
        ("actors/shard.rs", "fn f(now: Instant, rand: u8) { self.actix.go(); tokio::time::sleep(d); } /* rdkafka::x */"),
        ("events/fact.rs", "#[cfg(test)]\nmod tests { fn f() { std::fs::read(p).unwrap(); } }"),
        ("domain/tests.rs", "use crate::adapters::embedded; x.unwrap();"),
    ];
    for (file, text) in good {
        let found: Vec<String> = breaches(file, text).iter().map(Breach::to_string).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
