//! What can be asked for. The JSON form goes through the control socket, between two processes of the same version.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::events::record::{Offset, Topic};
use crate::ports::registry::{Role, ShopKind};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command", content = "with")]
pub enum Command {
    OrgAdd {
        name: String,
    },
    OrgList,
    ShopAdd(ShopAdd),
    ShopList {
        organisation: Option<String>,
    },
    ShopRemove {
        shop: String,
    },
    RulesApply {
        organisation: String,
        text: String,
    },
    RulesShow {
        organisation: String,
    },
    TokenCreate {
        organisation: String,
        role: Role,
        shops: Vec<String>,
    },
    TokenList,
    TokenRevoke {
        id: String,
    },
    DeadLettersList {
        limit: usize,
        shop: Option<String>,
        reason: Option<String>,
    },
    DeadLettersShow {
        /// Of the dead letter itself, `"0:7"`; or a failed effect, `DECISION/ROUTE`.
        position: String,
    },
    DeadLettersRetry(RetrySelection),
    TopicsList,
    TopicsTail {
        topic: Topic,
        from: TailFrom,
        limit: usize,
        /// How long to wait for a first record.
        wait_ms: u64,
        shop: Option<String>,
        /// Type of fact, or kind of record in the other topics.
        fact: Option<String>,
    },
    /// Whether log and store answer.
    Status,
    /// Whether sends to the targets of the configured handlers would succeed; nothing is sent.
    Targets {
        /// For each of them.
        within_ms: u64,
    },
}

/// Registers a shop or changes its registration.
#[derive(Clone, Serialize, Deserialize)]
pub struct ShopAdd {
    /// The shop's domain; of a store its name, or the whole key `store:ORGANISATION/NAME`.
    pub shop: String,
    /// None: the organisation it is in, `default` for a new one.
    pub organisation: Option<String>,
    pub kind: ShopKind,
    pub webhook_secret: Option<Secret>,
    pub access_token: Option<Secret>,
    /// Allows to take the shop out of another organisation.
    pub move_here: bool,
}

impl fmt::Debug for ShopAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShopAdd").field("shop", &self.shop).field("organisation", &self.organisation).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrySelection {
    /// These, by their positions in the dead letters' topic; failed effects as `DECISION/ROUTE`.
    Positions(Vec<String>),
    /// All, or all with this reason.
    All { reason: Option<String> },
    /// All failed effects, or all of this handler.
    Effects { handler: Option<String> },
}

/// Where a look into a topic begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TailFrom {
    Beginning,
    /// The last so many.
    Last(usize),
    /// The next offset of each partition, as the last answer gave them.
    At(Vec<Offset>),
}

impl Command {
    /// Whether it changes something, and so takes its turn.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Command::OrgAdd { .. }
                | Command::ShopAdd(_)
                | Command::ShopRemove { .. }
                | Command::RulesApply { .. }
                | Command::TokenCreate { .. }
                | Command::TokenRevoke { .. }
                | Command::DeadLettersRetry(_)
        )
    }
}
