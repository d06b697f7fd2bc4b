//! An error for whoever sits at the terminal: one sentence, its cause, how to mend it.

use super::FAILED;
use crate::admin::AdminError;

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
