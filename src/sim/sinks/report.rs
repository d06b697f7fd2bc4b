//! What a run came to, and what to do about it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::sim::histogram::{Histogram, Percentiles};

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Where it went.
    pub target: String,
    /// Deliveries of the catalogue.
    pub catalogue: u64,
    /// Deliveries after the catalogue that were sent.
    pub live: u64,
    /// Of all: what is durable now.
    pub accepted: u64,
    /// Due, but not sent: too many were waiting for an answer.
    pub skipped: u64,
    /// Answers by status, or what came instead: `timeout`, `connect`, `broken`.
    pub answers: BTreeMap<String, u64>,
    /// Of the live part.
    pub seconds: f64,
    pub facts_per_second: f64,
    /// Sent after it was due.
    pub lateness: Percentiles,
    /// From sending to the answer.
    pub latency: Percentiles,
    /// Why it ended before its time, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Collected while a run goes on.
#[derive(Default)]
pub(super) struct Tally {
    pub report: Report,
    pub lateness: Histogram,
    pub latency: Histogram,
}

impl Tally {
    pub fn new(target: String) -> Tally {
        Tally { report: Report { target, ..Report::default() }, ..Tally::default() }
    }

    pub fn answer(&mut self, answer: &str, after: Duration) {
        match self.report.answers.get_mut(answer) {
            Some(n) => *n += 1,
            None => _ = self.report.answers.insert(answer.to_owned(), 1),
        }
        self.report.accepted += u64::from(answer.starts_with('2'));
        self.latency.record(after);
    }

    pub fn finish(&mut self, live_for: Duration) -> Report {
        let mut report = std::mem::take(&mut self.report);
        report.seconds = (live_for.as_secs_f64() * 1000.0).round() / 1000.0;
        report.facts_per_second = (report.live as f64 / live_for.as_secs_f64().max(1e-9)).round();
        report.lateness = self.lateness.percentiles();
        report.latency = self.latency.percentiles();
        report
    }
}

impl Report {
    pub fn answered(&self, what: &str) -> u64 {
        self.answers.get(what).copied().unwrap_or(0)
    }

    /// Answers with 4xx or 5xx: the first digit.
    pub fn answered_class(&self, class: char) -> u64 {
        self.answers.iter().filter(|(a, _)| a.len() == 3 && a.starts_with(class)).map(|(_, n)| n).sum()
    }

    /// Whether everything that was sent is durable.
    pub fn is_clean(&self) -> bool {
        self.stopped.is_none() && self.skipped == 0 && self.accepted == self.catalogue + self.live
    }

    /// What to do next, a line each.
    pub fn advice(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |n: u64, text: String| {
            if n > 0 {
                lines.push(text);
            }
        };
        let n = |what| self.answered(what);
        say(
            n("404"),
            format!(
                "{} answers 404: the shops are not registered there. `stockwarden simulate --print-shops` with the same --seed and --shops prints each shop's domain and webhook secret; register them with `stockwarden shop add`.",
                n("404")
            ),
        );
        say(
            n("401"),
            format!(
                "{} answers 401: the shops are registered with other secrets. Use the --seed they were registered with, or --secret-env.",
                n("401")
            ),
        );
        say(n("413"), format!("{} answers 413: bodies are larger than the target's limit.", n("413")));
        say(
            n("503") + n("429"),
            format!(
                "{} answers 503 or 429: the target is not ready or its queue is full. See its /readyz, or lower --rate.",
                n("503") + n("429")
            ),
        );
        say(n("connect"), format!("{} connections failed: is the target running, and is --to its address?", n("connect")));
        say(
            n("timeout"),
            format!("{} answers took longer than the time allowed: the target is overloaded or its log is away.", n("timeout")),
        );
        say(
            self.skipped,
            format!(
                "{} deliveries were due but not sent, because too many waited for an answer: the target is slower than --rate.",
                self.skipped
            ),
        );
        if self.lateness.p99_ms > 1000.0 {
            lines.push("Deliveries were sent more than a second late: this machine cannot send so fast; lower --rate or run several with different seeds.".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_what_went_wrong_and_only_that() {
        let mut tally = Tally::new("http://x".into());
        tally.report.live = 2;
        tally.answer("200", Duration::from_millis(3));
        tally.answer("200", Duration::from_millis(3));
        let clean = tally.finish(Duration::from_secs(2));
        assert_eq!((clean.is_clean(), clean.advice(), clean.facts_per_second), (true, vec![], 1.0));

        let mut tally = Tally::new("http://x".into());
        tally.report.live = 3;
        for a in ["404", "503", "timeout"] {
            tally.answer(a, Duration::from_millis(3));
        }
        let bad = tally.finish(Duration::from_secs(1));
        assert!(!bad.is_clean());
        assert_eq!((bad.answered_class('4'), bad.answered_class('5'), bad.advice().len()), (1, 1, 3));
        assert!(bad.advice()[0].contains("shop add"));
    }
}
