//! The targets of the configured handlers, asked whether sends to them would succeed; for `stockwarden check`.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::events::decision::Route;

/// What targets are asked about, besides what the handlers' own settings name.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    pub routes: Vec<Routed>,
    /// All shops at Shopify, with their organisations.
    pub shops: Vec<(String, String)>,
}

/// A route of a rule that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Routed {
    pub organisation: String,
    /// Id of the rule.
    pub rule: String,
    /// Shops at Shopify that the rule is about.
    pub shops: Vec<String>,
    pub route: Route,
}

/// What one question came to. The texts are for people and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the handler.
    #[serde(default)]
    pub handler: String,
    /// The account, a project, a channel.
    pub about: String,
    pub result: Found,
    /// What the target answered.
    pub said: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    Fine,
    Problem,
    /// It cannot be told without an effect, or without rights that sending does not need.
    NotAsked,
}

impl Finding {
    fn new(about: impl Into<String>, result: Found, said: impl Into<String>, mend: Option<String>) -> Finding {
        Finding { handler: String::new(), about: about.into(), result, said: said.into(), mend }
    }

    pub fn fine(about: impl Into<String>, said: impl Into<String>) -> Finding {
        Finding::new(about, Found::Fine, said, None)
    }

    pub fn problem(about: impl Into<String>, said: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding::new(about, Found::Problem, said, Some(mend.into()))
    }

    pub fn not_asked(about: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(about, Found::NotAsked, why, None)
    }
}

pub trait Targets: Send + Sync + 'static {
    /// Names of the configured handlers.
    fn names(&self) -> Vec<String>;

    /// Asks all of them at once, each for at most `within`.
    fn ask(&self, scope: Scope, within: Duration) -> BoxFuture<'_, Vec<Finding>>;
}
