//! The kinds of handlers, and the instances that a configuration makes of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::common::{Common, common, with_nearest};
use super::{Guarantee, Handler, Redactor};
use crate::config::{Env, HandlerConfig, SecretRef, nearest};
use crate::links::Links;
use crate::shopify::{NoStoredTokens, StoredTokens};

/// What all instances are built with.
#[derive(Clone)]
pub struct Surroundings {
    /// Where secrets are looked up.
    pub env: Env,
    /// How names become addresses; the system's, except in tests.
    pub lookup: Arc<dyn super::target::Lookup>,
    /// Where people reach this installation, for links in what is sent.
    pub public_url: Option<String>,
    /// Makes links that move proposals; none where nobody outside could follow them.
    pub links: Option<Links>,
    /// The Admin API tokens that shops were registered with.
    pub tokens: Arc<dyn StoredTokens>,
}

impl Surroundings {
    /// For who reaches nobody: `check`, tests.
    pub fn new(env: &Env) -> Surroundings {
        let lookup = Arc::new(super::target::SystemLookup);
        Surroundings { env: env.clone(), lookup, public_url: None, links: None, tokens: Arc::new(NoStoredTokens) }
    }
}

/// What an instance is built with besides its own table.
#[derive(Clone)]
pub struct Context {
    /// Name of the instance.
    pub name: String,
    pub surroundings: Surroundings,
}

impl std::ops::Deref for Context {
    type Target = Surroundings;

    fn deref(&self) -> &Surroundings {
        &self.surroundings
    }
}

/// Makes an instance of its table. Everything that needs no network is checked here; errors are for people and name the key.
pub type Build = fn(toml::Table, &Context) -> Result<Arc<dyn Handler>, String>;

/// A kind of handler, as the configuration and the docs know it.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    /// What it makes of a decision; for the docs' table, as are the next two.
    pub makes: &'static str,
    pub guarantee: Guarantee,
    /// What becomes of a send whose outcome is unknown.
    pub in_doubt: &'static str,
    pub build: Build,
}

/// Add a kind here.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "email",
        makes: "an order mail to the vendor",
        guarantee: super::email::GUARANTEE,
        in_doubt: "SMTP cannot be asked: the same mail is sent again, with the same Message-ID",
        build: super::email::build,
    },
    Kind {
        name: "jira",
        makes: "an issue",
        guarantee: super::jira::GUARANTEE,
        in_doubt: "the issue is searched by its label until the index cannot lag any more; a later sweep closes what was made twice",
        build: super::jira::build,
    },
    Kind {
        name: "shopify-transfer",
        makes: "an inventory transfer, draft or ready to ship",
        guarantee: super::shopify_transfer::GUARANTEE,
        in_doubt: "the same input is sent again under the same idempotency key; past its lifetime the transfer is searched by its tag",
        build: super::shopify_transfer::build,
    },
    Kind {
        name: "slack",
        makes: "a message with buttons in a channel",
        guarantee: super::slack::GUARANTEE,
        in_doubt: "the message is looked for in the channel's history; without the scope for that, the same message is posted again \
                   with its `client_msg_id`, by which Slack recognises a repeat, though it does not document that",
        build: super::slack::build,
    },
    Kind {
        name: "target",
        makes: "a signed request to an API of your own",
        guarantee: super::target::GUARANTEE,
        in_doubt: "the same request is sent again with its `Idempotency-Key`: once, if the receiver heeds it",
        build: super::target::build,
    },
];

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("[handlers.{name}]: there is no kind \"{kind}\"; {works}")]
    UnknownKind { name: String, kind: String, works: String },
    #[error("[handlers.{name}]: {reason}")]
    Invalid { name: String, reason: String },
}

impl Problem {
    /// Name of the instance.
    pub fn handler(&self) -> &str {
        match self {
            Problem::UnknownKind { name, .. } | Problem::Invalid { name, .. } => name,
        }
    }
}

impl Context {
    /// The secret behind `key` of the instance's table.
    pub fn secret(&self, key: &str, secret: &SecretRef) -> Result<String, String> {
        let found = secret.resolve(key, &self.env).map_err(|e| e.to_string())?;
        Ok(found.expose().trim().to_owned())
    }
}

/// A handler with a name.
#[derive(Clone)]
pub struct Instance {
    pub name: String,
    pub kind: &'static str,
    pub common: Common,
    pub redactor: Redactor,
    pub handler: Arc<dyn Handler>,
}

impl Instance {
    pub fn new(name: &str, kind: &'static str, common: Common, handler: Arc<dyn Handler>) -> Instance {
        Instance { name: name.to_owned(), kind, common, redactor: Redactor::new(handler.secrets()), handler }
    }

    pub fn guarantee(&self) -> Guarantee {
        self.handler.guarantee()
    }

    /// Why decisions of `organisation` may not go here.
    pub fn refuses(&self, organisation: &str) -> Option<String> {
        let open = self.common.organisations.is_empty() || self.common.organisations.iter().any(|o| o == organisation);
        (!open).then(|| format!("the handler \"{}\" does not serve the organisation \"{organisation}\"", self.name))
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// All configured instances, by name.
#[derive(Debug, Clone, Default)]
pub struct Handlers {
    by_name: BTreeMap<String, Instance>,
}

impl Handlers {
    /// Builds every `[handlers.NAME]` table. All errors at once, so that one `check` shows all that is wrong.
    pub fn build<'c>(
        configs: impl IntoIterator<Item = (&'c String, &'c HandlerConfig)>,
        env: &Env,
        lookup: Arc<dyn super::target::Lookup>,
    ) -> Result<Handlers, Vec<Problem>> {
        let surroundings = Surroundings { lookup, ..Surroundings::new(env) };
        Handlers::build_in(KINDS, configs, &surroundings)
    }

    /// The same with other kinds, or where instances reach more of the installation.
    pub fn build_in<'c>(
        kinds: &[Kind],
        configs: impl IntoIterator<Item = (&'c String, &'c HandlerConfig)>,
        surroundings: &Surroundings,
    ) -> Result<Handlers, Vec<Problem>> {
        install_tls();
        let mut handlers = Handlers::default();
        let mut errors = Vec::new();
        for (name, config) in configs {
            let context = Context { name: name.clone(), surroundings: surroundings.clone() };
            match build_one(kinds, config, &context) {
                Ok(instance) => handlers.insert(instance),
                Err(e) => errors.push(e),
            }
        }
        if errors.is_empty() { Ok(handlers) } else { Err(errors) }
    }

    pub fn insert(&mut self, instance: Instance) {
        self.by_name.insert(instance.name.clone(), instance);
    }

    pub fn get(&self, name: &str) -> Option<&Instance> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_name.values()
    }

    /// For messages.
    pub fn names(&self) -> String {
        if self.by_name.is_empty() {
            return "none".to_owned();
        }
        self.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn build_one(kinds: &[Kind], config: &HandlerConfig, context: &Context) -> Result<Instance, Problem> {
    let name = &context.name;
    let invalid = |reason: String| Problem::Invalid { name: name.clone(), reason };
    let names = || kinds.iter().map(|k| k.name);
    let works = |kind: &str| match nearest(kind, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("kinds that work: {}", names().collect::<Vec<_>>().join(", ")),
    };
    let (kind, mut table) = (config.kind.clone(), config.table.clone());
    let Some(found) = kinds.iter().find(|k| k.name == kind) else {
        return Err(Problem::UnknownKind { name: name.clone(), works: works(&kind), kind });
    };
    let common = common(&mut table).map_err(invalid)?;
    let handler = (found.build)(table, context).map_err(invalid)?;
    Ok(Instance::new(name, found.name, common, handler))
}

/// Reads a kind's own settings, with the key named in the error.
pub fn read_config<C: DeserializeOwned>(table: toml::Table) -> Result<C, String> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let message = with_nearest(e.into_inner().to_string().trim().replace('\n', " "));
        if path == "." { message } else { format!("{path}: {message}") }
    })
}

/// "250ms", "10s", "5m", "2h"; positive.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let n: u64 = text[..digits].parse().ok().filter(|n| *n > 0)?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(n)),
        "s" => Some(Duration::from_secs(n)),
        "m" => n.checked_mul(60).map(Duration::from_secs),
        "h" => n.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// serde of [`duration`].
pub(super) fn duration_text<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    use serde::Deserialize as _;
    let text = String::deserialize(d)?;
    duration(&text).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is not a duration such as \"10s\"")))
}

/// The one crypto provider of the process. Who was first wins, which is fine: it is always ring.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::target::SystemLookup;

    fn build(text: &str) -> Result<Handlers, String> {
        let tables: toml::Table = toml::from_str(text).expect("toml");
        let config = |v: &toml::Value| {
            let mut table = v.as_table().expect("table").clone();
            let kind = table.remove("kind").and_then(|k| Some(k.as_str()?.to_owned())).expect("kind");
            HandlerConfig { kind, table }
        };
        let configs: BTreeMap<String, HandlerConfig> = tables.iter().map(|(name, v)| (name.clone(), config(v))).collect();
        Handlers::build(&configs, &Env::default(), Arc::new(SystemLookup))
            .map_err(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// The table of the docs, a line a kind.
    fn guarantees() -> String {
        let mut table = "| Kind | Makes of a decision | Guarantee | If an outcome is unknown |\n|---|---|---|---|\n".to_owned();
        for kind in KINDS {
            let Kind { name, makes, guarantee, in_doubt, .. } = kind;
            table.push_str(&format!("| `{name}` | {makes} | {} | {in_doubt} |\n", guarantee.as_str()));
        }
        table
    }

    #[test]
    fn the_docs_table_of_guarantees_is_what_the_kinds_declare() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/handlers.md");
        let text = std::fs::read_to_string(&path).expect("docs/handlers.md");
        let (begin, end) = ("<!-- guarantees: written by a test -->\n", "<!-- end -->");
        let (before, rest) = text.split_once(begin).expect("the mark before the table");
        let (_, after) = rest.split_once(end).expect("the mark after the table");
        let right = format!("{before}{begin}{}{end}{after}", guarantees());
        if std::env::var_os("STOCKWARDEN_WRITE_DOCS").is_some() {
            return std::fs::write(&path, &right).expect("written");
        }
        assert!(
            text == right,
            "docs/handlers.md does not say what the kinds declare; to write it anew:\n  \
             STOCKWARDEN_WRITE_DOCS=1 cargo test --release --lib docs_table"
        );
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_kinds_that_work() {
        let error = build("[x]\nkind = \"fax\"").expect_err("refused");
        assert!(error.contains("[handlers.x]") && error.contains("no kind \"fax\""), "{error}");
        assert!(error.contains("email, jira, shopify-transfer, slack, target"), "{error}");
    }

    #[test]
    fn every_fault_of_a_configuration_is_named_at_once_with_its_key() {
        let error = build(
            "[a]\nkind = \"target\"\nurl = \"https://a.example/\"\nsekret = \"x\"\n\
             [b]\nkind = \"email\"\nsmtp_url = \"smtp://mail.example\"\nfrom = \"nobody\"\n\
             [c]\nkind = \"target\"\nurl = \"https://c.example\"\nconcurrency = 0",
        )
        .expect_err("refused");
        for want in ["[handlers.a]", "sekret", "[handlers.b]", "from", "[handlers.c]", "concurrency = 0"] {
            assert!(error.contains(want), "{want} is not named in: {error}");
        }
    }

    #[test]
    fn of_an_unknown_key_or_kind_the_nearest_is_told() {
        for (wrong, near) in [
            (
                "kind = \"target\"\nurl = \"https://a.example/\"\nsecrte = \"x\"",
                "there is no key \"secrte\"; did you mean \"secret\"?",
            ),
            ("kind = \"target\"\nurl = \"https://a.example/\"\nconcurency = 2", "did you mean \"concurrency\"?"),
            ("kind = \"email\"\nsmpt_url = \"smtp://a\"", "did you mean \"smtp_url\"?"),
            ("kind = \"slak\"", "there is no kind \"slak\"; did you mean \"slack\"?"),
        ] {
            let error = build(&format!("[a]\n{wrong}")).expect_err("refused");
            assert!(error.starts_with("[handlers.a]: ") && error.contains(near), "{error}");
        }
    }

    #[test]
    fn a_handler_for_one_organisation_refuses_the_others() {
        let handlers = build("[a]\nkind = \"target\"\nurl = \"https://a.example/\"\norganisations = [\"acme\"]").expect("built");
        let a = handlers.get("a").expect("a");
        assert!(a.refuses("acme").is_none() && a.refuses("other").is_some_and(|r| r.contains("other")));
    }

    #[test]
    fn durations_are_positive_numbers_with_a_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
        for bad in ["", "0s", "10", "s", "-1s", "1d", "1.5s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
