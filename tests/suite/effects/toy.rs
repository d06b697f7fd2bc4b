//! A toy kind of handler: what a new one has to bring, and a target whose every move a test scripts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use stockwarden::handlers::{Blame, Guarantee, Handler, Job, Resolution, Verdict};

use super::tap::{Step, Tap};

#[derive(Debug, Clone)]
pub enum Move {
    Say(Verdict),
    Hang,
    Panic,
}

pub fn done() -> Move {
    Move::Say(Verdict::Done { response: Some("ok".into()), reference: Some("T-1".into()) })
}

pub fn busy() -> Move {
    Move::Say(Verdict::Retry { reason: "busy".into(), after: None, blame: Blame::Target })
}

pub fn lost() -> Move {
    Move::Say(Verdict::Ambiguous { reason: "the line went dead".into() })
}

/// What the target has received, for good: it outlives the nodes.
#[derive(Default)]
pub struct ToyTarget {
    pub received: Mutex<Vec<(String, Vec<u8>)>>,
    /// Then it says done.
    pub script: Mutex<VecDeque<Move>>,
    /// Requests built; part of their bytes, so that one built twice differs.
    built: AtomicUsize,
    pub asked: AtomicUsize,
}

impl ToyTarget {
    pub fn with(script: impl IntoIterator<Item = Move>) -> Arc<ToyTarget> {
        Arc::new(ToyTarget { script: Mutex::new(script.into_iter().collect()), ..ToyTarget::default() })
    }

    pub fn received(&self) -> Vec<(String, Vec<u8>)> {
        self.received.lock().expect("lock").clone()
    }

    pub fn keys(&self) -> Vec<String> {
        self.received().into_iter().map(|(key, _)| key).collect()
    }
}

pub struct Toy {
    pub target: Arc<ToyTarget>,
    pub can_be_asked: bool,
    pub tap: Tap,
}

impl Handler for Toy {
    fn guarantee(&self) -> Guarantee {
        if self.can_be_asked { Guarantee::EffectivelyOnce } else { Guarantee::BestEffort }
    }

    fn prepare(&self, job: &Job, _now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        if job.setting("broken").is_some() {
            return Err("the route is broken; mend it".into());
        }
        Ok(format!("{} built {}", job.key(), self.target.built.fetch_add(1, Ordering::SeqCst)).into_bytes())
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            self.tap.at(Step::BeforeSend).await;
            self.target.received.lock().expect("lock").push((job.key(), request.to_vec()));
            self.tap.at(Step::AfterSend).await;
            let scripted = self.target.script.lock().expect("lock").pop_front();
            match scripted.unwrap_or_else(done) {
                Move::Say(verdict) => verdict,
                Move::Hang => std::future::pending().await,
                Move::Panic => panic!("the toy breaks"),
            }
        })
    }

    fn resolve<'a>(&'a self, job: &'a Job, _request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async move {
            self.target.asked.fetch_add(1, Ordering::SeqCst);
            match (self.can_be_asked, self.target.keys().contains(&job.key())) {
                (false, _) => Resolution::CannotAsk,
                (true, true) => Resolution::Done { response: None, reference: Some("T-1".into()) },
                (true, false) => Resolution::NotDone,
            }
        })
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".into()]
    }
}
