//! An error for whoever sits at the terminal: one sentence, its cause, how to mend it.

use super::FAILED;
use crate::admin::AdminError;
use crate::config::{Config, LogKind};
use crate::ports::LogError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub what: String,
    /// May have several lines.
    pub cause: Option<String>,
    pub mend: Option<String>,
    /// Exit code.
    pub code: u8,
}

impl Fault {
    pub fn new(what: impl Into<String>) -> Fault {
        Fault { what: what.into(), cause: None, mend: None, code: FAILED }
    }

    pub fn because(mut self, cause: impl Into<String>) -> Fault {
        self.cause = Some(cause.into());
        self
    }

    pub fn mend(mut self, mend: impl Into<String>) -> Fault {
        self.mend = Some(mend.into());
        self
    }

    /// What is configured wrongly says itself how to mend it.
    pub fn log_not_ready(why: &LogError, config: &Config) -> Fault {
        let fault = Fault::new("the log is not ready").because(why.to_string());
        match why {
            LogError::Misconfigured(_) => fault,
            _ => fault.mend(log_mend(config)),
        }
    }

    /// The command line itself is wrong.
    pub fn usage(mut self) -> Fault {
        self.code = 2;
        self
    }
}

impl From<AdminError> for Fault {
    fn from(e: AdminError) -> Fault {
        Fault { mend: e.mend(), ..Fault::new(e.to_string()) }
    }
}

/// What to look at where the log does not answer.
pub fn log_mend(config: &Config) -> String {
    match config.log.kind {
        LogKind::Embedded => format!("is {} writable, and the disk not full?", config.log_dir().display()),
        LogKind::Kafka => format!("do the brokers {} run, and does log.properties fit them?", config.log.bootstrap_servers),
    }
}

/// What to look at where the store does not answer.
pub fn store_mend(config: &Config) -> String {
    format!("does the store {} exist, run, and let this user in?", config.store.url)
}
