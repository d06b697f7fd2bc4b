//! What keeps effects from happening, for readiness.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Problems by the part that has them; empty when all is well.
#[derive(Debug, Default)]
pub struct Health {
    problems: Mutex<BTreeMap<String, String>>,
}

impl Health {
    /// Logs it when it is new, so that an outage is one line and not one a retry.
    pub fn problem(&self, part: &str, what: impl ToString) {
        let what = what.to_string();
        let before = self.lock().insert(part.to_owned(), what.clone());
        if before.is_none() {
            tracing::warn!(part, problem = %what, "effects are held up; retrying");
        }
    }

    pub fn well(&self, part: &str) {
        if self.lock().remove(part).is_some() {
            tracing::info!(part, "effects go on");
        }
    }

    /// All problems in one line, or none.
    pub fn summary(&self) -> Option<String> {
        let problems = self.lock();
        (!problems.is_empty())
            .then(|| problems.iter().map(|(part, what)| format!("{part}: {what}")).collect::<Vec<_>>().join("; "))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.problems.lock().expect("no code panics while holding this lock")
    }
}
