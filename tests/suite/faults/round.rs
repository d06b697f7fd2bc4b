//! One round: load and faults, then quiet, then the proof.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::checker::{self, Remains};
use super::fault::{Fault, Stage};
use super::installation::{Installation, NODES, Ways};
use super::load::{self, Load};
use super::raw;
use super::services::Services;
use super::target::Target;
use crate::reference::{VariantKey, VariantOutcome};
use crate::system::million::outcome_of;

pub struct World<'a> {
    pub installation: &'a Arc<Installation>,
    pub services: &'a Services,
    pub ways: &'a [Ways],
    pub target: &'a Target,
    pub load: &'a Arc<Load>,
    /// For what helps to understand a failure.
    pub folder: &'a std::path::Path,
}

/// The load goes on for so long after the last fault.
const AFTERMATH: Duration = Duration::from_millis(1_500);
/// For everything to come to rest: a session's timeout, a transaction's, retries of effects.
const REST: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A node that is not the owner waits some seconds before it says so.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl World<'_> {
    pub async fn run(&self, seed: u64, faults: &[(Duration, Fault)]) -> Result<String, Vec<String>> {
        let (stop, stopped) = watch::channel(false);
        let selling = tokio::spawn(self.load.clone().run(seed, stopped));
        let stage = Stage { installation: self.installation, services: self.services, ways: self.ways };
        let strikes = faults.iter().map(|(after, fault)| {
            let stage = &stage;
            async move {
                tokio::time::sleep(*after).await;
                fault.strike(stage).await
            }
        });
        let struck = futures::future::join_all(strikes).await;
        let mut wrong: Vec<String> = struck.into_iter().filter_map(Result::err).collect();
        tokio::time::sleep(AFTERMATH).await;
        stop.send_replace(true);
        selling.await.map_err(|e| vec![e.to_string()])?;
        match self.installation.revive().await {
            Ok(fallen) => wrong.extend(fallen),
            Err(e) => wrong.push(e),
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let began = Instant::now();
        let remains = self.come_to_rest().await.map_err(|why| vec![why])?;
        let rested = began.elapsed();
        let (wrong, summary) = tokio::task::block_in_place(|| (checker::check(&remains), summary(&remains)));
        if wrong.is_empty() {
            return Ok(format!("{summary}; at rest in {rested:.1?}"));
        }
        remains.keep(self.folder);
        Err(wrong)
    }

    /// Waits until every fact is applied, every decision sent and settled, and nothing more comes of it; then collects.
    async fn come_to_rest(&self) -> Result<Remains, String> {
        let deadline = Instant::now() + REST;
        loop {
            let why = match self.at_rest().await {
                Ok(remains) => return Ok(remains),
                Err(why) => why,
            };
            if Instant::now() > deadline {
                return Err(format!("not at rest within {REST:?}: {why}\n{}", self.readiness().await));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn at_rest(&self) -> Result<Remains, String> {
        let mut connection = self.installation.connection().await.map_err(|e| format!("Postgres: {e}"))?;
        let ledger = checker::ledger(&mut connection).await.map_err(|e| format!("the ledger: {e}"))?;
        if let Some(first) = ledger.iter().find(|r| !matches!(r.state.as_str(), "done" | "failed")) {
            return Err(format!("effects are not settled, for example {first:?}"));
        }
        let (broker, settings) = (self.services.broker.as_str(), &self.installation.settings);
        let read = |topic: &str| tokio::task::block_in_place(|| raw::read(broker, topic));
        let topics = &settings.topics;
        let ends = tokio::task::block_in_place(|| raw::ends(broker, &topics.facts))?;
        let committed = tokio::task::block_in_place(|| raw::committed(broker, &settings.group_id, &topics.facts))?;
        let (facts, decisions) = (read(&topics.facts)?, read(&topics.decisions)?);
        for (partition, committed) in committed.iter().enumerate() {
            let last = facts.iter().rev().find(|r| r.partition as usize == partition).map_or(-1, |r| r.offset);
            if committed.unwrap_or(0) <= last {
                return Err(format!("partition {partition} is committed up to {committed:?}, its last fact is {last}"));
            }
        }
        let planned: usize = decisions.iter().map(|d| routes_of(&d.value)).sum();
        if planned > ledger.len() {
            return Err(format!("{} effects are in the ledger, the decisions make {planned}", ledger.len()));
        }
        let (views, owners) = self.views(&facts).await?;
        if ends != tokio::task::block_in_place(|| raw::ends(broker, &topics.facts))? {
            return Err("facts still come".to_owned());
        }
        let dead_letters = read(&topics.dead_letters)?;
        let (acknowledged, received) = (self.load.acknowledged(), self.target.received());
        Ok(Remains { acknowledged, facts, decisions, dead_letters, ledger, received, views, owners })
    }

    /// Every variant, as the owner of its shop answers; and who else claims to own it.
    async fn views(
        &self,
        facts: &[crate::reference::Record],
    ) -> Result<(BTreeMap<VariantKey, VariantOutcome>, Vec<String>), String> {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().expect("a client");
        let (mut views, mut complaints) = (BTreeMap::new(), Vec::new());
        let shops = load::shops();
        let asked = shops.iter().map(|shop| {
            let last = facts.iter().filter(|r| r.key.as_deref() == Some(shop)).map(|r| (r.partition, r.offset)).max();
            let after = last.map_or(String::new(), |(p, o)| format!("&after={p}:{o}"));
            let path = format!("/v1/shops/{shop}/variants?limit=1000{after}");
            let ask = |node| {
                let request =
                    self.installation.base(node).map(|b| http.get(format!("{b}{path}")).bearer_auth(&self.installation.token));
                async move {
                    let answer = request?.send().await.ok()?;
                    if answer.status().as_u16() != 200 { None } else { answer.json::<Value>().await.ok() }
                }
            };
            let answers: Vec<_> = (0..NODES).map(ask).collect();
            async move { (shop, futures::future::join_all(answers).await) }
        });
        for (shop, answers) in futures::future::join_all(asked).await {
            let owned: Vec<Value> =
                answers.into_iter().flatten().filter(|a| a["variants"][0]["provenance"]["source"] == "owner").collect();
            let owners: BTreeSet<String> = owned.iter().map(|a| a["variants"][0]["provenance"]["node"].to_string()).collect();
            if owners.len() > 1 {
                complaints.push(format!("{shop} is owned by {owners:?} at the same time"));
            }
            let Some(answer) = owned.first() else { return Err(format!("no owner answers for {shop}")) };
            for view in answer["variants"].as_array().into_iter().flatten() {
                let (id, outcome) = outcome_of(view);
                views.insert((shop.clone(), id), outcome);
            }
        }
        Ok((views, complaints))
    }

    async fn readiness(&self) -> String {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().expect("a client");
        let mut told = String::new();
        for node in 0..NODES {
            let Some(base) = self.installation.base(node) else { continue };
            let answer = match http.get(format!("{base}/readyz")).send().await {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(e) => e.to_string(),
            };
            told.push_str(&format!("{}: {answer}\n", self.installation.name(node)));
        }
        told
    }
}

fn routes_of(decision: &[u8]) -> usize {
    let decision: Value = serde_json::from_slice(decision).unwrap_or_default();
    decision["rule_id"].as_str().map_or(0, |rule| load::routes(rule).len())
}

fn summary(remains: &Remains) -> String {
    let doubtful = remains.ledger.iter().filter(|r| r.possible_duplicate).count();
    format!(
        "{} acknowledged, {} facts, {} decisions, {} effects ({doubtful} possible duplicates), {} dead letters",
        remains.acknowledged.len(),
        remains.facts.len(),
        remains.decisions.len(),
        remains.ledger.len(),
        remains.dead_letters.len()
    )
}
