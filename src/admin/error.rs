//! Why a command failed: for people, and in the form that goes through the control socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ports::{LogError, StoreError};
use crate::vault::VaultError;

/// Why a command is refused though everything works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// It makes no sense.
    Invalid,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{message}")]
    Refused { why: Refusal, message: String, mend: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{0}")]
    Internal(String),
}

impl AdminError {
    pub fn refused(why: Refusal, message: impl Into<String>, mend: impl Into<String>) -> AdminError {
        AdminError::Refused { why, message: message.into(), mend: mend.into() }
    }

    /// What the user can do about it.
    pub fn mend(&self) -> Option<String> {
        match self {
            AdminError::Refused { mend, .. } => Some(mend.clone()).filter(|m| !m.is_empty()),
            AdminError::Log(LogError::Unavailable { .. }) | AdminError::Store(StoreError::Unavailable { .. }) => {
                Some("stockwarden check says what cannot be reached; the command can be repeated safely".to_owned())
            }
            _ => None,
        }
    }
}

/// The answer of the control socket, always with status 200: whether the command worked is in the body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done(Value),
    Failed {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mend: Option<String>,
    },
}

impl From<Result<Value, AdminError>> for Reply {
    fn from(result: Result<Value, AdminError>) -> Reply {
        match result {
            Ok(value) => Reply::Done(value),
            Err(e) => Reply::Failed { message: e.to_string(), mend: e.mend() },
        }
    }
}
