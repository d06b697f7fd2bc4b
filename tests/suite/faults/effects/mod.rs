//! Decisions become effects once each, whatever targets do and whenever nodes die (issue 5, its proof; invariant 6 of DESIGN §7).
//!
//! Two nodes of the real binary, on Kafka and Postgres, send each decision to all five kinds of handlers. In front of the stand-ins a third
//! of the sends goes wrong; nodes are killed with -9, half of the times while a send waits for its answer. The seed decides which send
//! of a kind, in the order of arrival, meets which fault, and how the kills come: `SEED=N ./test once_whatever` deals the same again.
//! 60 decisions and 3 kills, in `./test full` 500 and 20.

mod check;
mod erp;
mod front;
mod post;
mod script;
mod targets;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use stockwarden::events::record::NewRecord;

use self::check::{Remains, Row};
use self::script::{Kind, Landing};
use self::targets::Targets;
use super::installation::PARTITIONS;
use super::raw;
use crate::engine::harness::{foreign, level, product};
use crate::system::node::{Client, Node, Site};

const NAMES: [&str; 2] = ["node-a", "node-b"];
const SHOPS: u64 = 8;
const RULES: [&str; 2] = ["early", "low"];
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// For a send to come along, when there are decisions.
const CATCH_WITHIN: Duration = Duration::from_secs(60);
/// Until everything is settled, from the last kill on. What was in doubt at many kills has waited ever longer between its questions.
const REST_WITHIN: Duration = Duration::from_secs(900);
/// Between two kills at any instant: the time in which a group gives the dead node's partitions to the other one, and more.
const BETWEEN: std::ops::Range<u64> = 0..9_000;
const AWAY: std::ops::Range<u64> = 0..3_000;

#[derive(Debug, Clone, Copy)]
enum Moment {
    After(Duration),
    InFlight(Landing),
}

/// When nodes die: half of the times with a send under way.
fn moments(kills: usize, rng: &mut SmallRng) -> Vec<Moment> {
    let mut moments: Vec<Moment> = (0..kills)
        .map(|n| match n % 2 {
            0 => Moment::InFlight(*Landing::ALL.choose(rng).expect("there are some")),
            _ => Moment::After(Duration::from_millis(rng.random_range(BETWEEN))),
        })
        .collect();
    moments.shuffle(rng);
    moments
}

fn rules() -> String {
    let routes = r#"[{ to = "erp" }, { to = "jira" }, { to = "mail", address = "orders@acme.example" }, { to = "slack" }, { to = "transfer" }]"#;
    format!(
        r#"
[[rule]]
id = "{}"
scope = "shop"
trigger = {{ kind = "constant", threshold = 20 }}
quantity = {{ kind = "fixed", units = 12 }}
cool_down = "0s"
routes = {routes}

[[rule]]
id = "{}"
scope = "location"
trigger = {{ kind = "constant", threshold = 10 }}
quantity = {{ kind = "up-to", level = 60 }}
cool_down = "0s"
routes = {routes}
"#,
        RULES[0], RULES[1]
    )
}

fn shop(variant: u64) -> String {
    format!("shop-{}.myshopify.com", variant % SHOPS)
}

fn fact(variant: u64, value: String) -> NewRecord {
    foreign(&shop(variant), value)
}

struct World {
    site: Site,
    targets: Targets,
    environments: [Vec<(String, String)>; 2],
    nodes: [Option<Node>; 2],
    token: String,
}

impl World {
    async fn start(seed: u64) -> World {
        let targets = Targets::start(seed).await;
        let site = Site::new(PARTITIONS, &Targets::config()).await;
        let environments = [targets.environment(0).await, targets.environment(1).await];
        // What commands read of the configuration has to be complete as well.
        let site = environments[0].iter().fold(site, |site, (name, value)| site.with(name, value));
        site.apply_rules(&rules());
        let token = site.token();
        let mut world = World { site, targets, environments, nodes: [None, None], token };
        world.start_node(0);
        world.start_node(1);
        world
    }

    fn start_node(&mut self, node: usize) {
        let started = tokio::task::block_in_place(|| self.site.start_as_with(NAMES[node], &self.environments[node]));
        self.nodes[node] = Some(started);
    }

    /// One -9, and the node's return.
    async fn kill(&mut self, moment: Moment, rng: &mut SmallRng) -> Result<(), String> {
        let (either, away) = (rng.random_range(0..2), Duration::from_millis(rng.random_range(AWAY)));
        let node = match moment {
            Moment::After(wait) => {
                tokio::time::sleep(wait).await;
                either
            }
            Moment::InFlight(landing) => {
                let caught = tokio::time::timeout(CATCH_WITHIN, self.targets.script.set_trap(landing)).await;
                caught.map_err(|_| format!("nothing is sent within {CATCH_WITHIN:?}"))?.expect("the script lives")
            }
        };
        let dying = self.nodes[node].take().expect("it runs");
        tokio::task::block_in_place(|| dying.kill());
        tokio::time::sleep(away).await;
        self.start_node(node);
        Ok(())
    }

    /// Waits until every effect is done and every duplicate issue closed; the ledger then.
    async fn come_to_rest(&self, decisions: usize) -> Result<Vec<Row>, String> {
        let deadline = Instant::now() + REST_WITHIN;
        let mut connection = self.site.database.as_ref().expect("a database").connection().await;
        loop {
            let rows = check::ledger(&mut connection).await;
            if let Some(failed) = rows.iter().find(|r| r.state == "failed") {
                return Err(format!("an effect has failed: {failed:?}"));
            }
            let done = rows.iter().filter(|r| r.state == "done").count();
            let open = self.targets.effects()[&Kind::Jira].iter().filter(|e| !e.closed).count();
            let settled = done == decisions * Kind::ALL.len() && done == rows.len();
            if settled && open == decisions && !self.targets.script.on_its_way() {
                return Ok(rows);
            }
            if Instant::now() > deadline {
                let waiting: Vec<&Row> = rows.iter().filter(|r| r.state != "done").take(5).collect();
                let (all, want) = (rows.len(), decisions * Kind::ALL.len());
                return Err(format!(
                    "not at rest within {REST_WITHIN:?}: {done} of {all} rows are done, {want} are wanted; {open} issues are open; \
                     for example {waiting:?}"
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn remains(&self, ledger: Vec<Row>) -> Result<Remains, String> {
        let client = Client::new(self.nodes[0].as_ref().expect("it runs"), &self.token);
        client.ready().await;
        let (mut shown, mut path) = (Vec::new(), "/v1/reorders?limit=1000".to_owned());
        loop {
            let (status, page) = client.get(&path).await;
            if status != 200 {
                return Err(format!("{path}: {status} {page}"));
            }
            shown.extend(page["reorders"].as_array().into_iter().flatten().flat_map(check::shown));
            let Some(next) = page["next_cursor"].as_str() else { break };
            path = format!("/v1/reorders?limit=1000&cursor={next}");
        }
        let (broker, topics) = (&self.site.settings.bootstrap_servers, &self.site.settings.topics);
        let read = |topic: &str| tokio::task::block_in_place(|| raw::read(broker, topic));
        let (effects, sent) = (self.targets.effects(), self.targets.script.sent());
        let (facts, decisions) = (read(&topics.facts)?, read(&topics.decisions)?);
        Ok(Remains { facts, decisions, dead_letters: read(&topics.dead_letters)?, ledger, shown, effects, sent })
    }

    async fn run(&mut self, variants: u64, kills: usize, rng: &mut SmallRng) -> Result<(Remains, Instant), String> {
        let moments = moments(kills, rng);
        // A part of the decisions before each kill, and one after the last; the second crossing comes a part later than the first.
        let parts = kills as u64 + 1;
        let of_part = |part: u64| (1..=variants).filter(move |v| v % parts == part);
        for part in 0..parts {
            let mut facts: Vec<NewRecord> = Vec::new();
            facts.extend(of_part(part).map(|v| fact(v, product(v))));
            facts.extend(of_part(part).map(|v| fact(v, level(v, 30, 1))));
            facts.extend(of_part(part).map(|v| fact(v, level(v, 15, 2))));
            if part > 0 {
                facts.extend(of_part(part - 1).map(|v| fact(v, level(v, 5, 3))));
            }
            if part + 1 == parts {
                facts.extend(of_part(part).map(|v| fact(v, level(v, 5, 3))));
            }
            self.site.append(facts).await;
            if let Some(moment) = moments.get(part as usize) {
                self.kill(*moment, rng).await?;
            }
        }
        self.targets.script.calm();
        let killed = Instant::now();
        let ledger = self.come_to_rest(variants as usize * RULES.len()).await?;
        Ok((self.remains(ledger).await?, killed))
    }

    fn keep(&self, folder: &Path, remains: Option<&Remains>) {
        let _ = std::fs::create_dir_all(folder);
        for name in NAMES {
            let _ = std::fs::copy(self.site.dir.path().join(format!("{name}.log")), folder.join(format!("{name}.log")));
        }
        let lines = |lines: Vec<String>| lines.join("\n");
        let sent = self.targets.script.sent().iter().map(|s| format!("{s:?}")).collect();
        std::fs::write(folder.join("sent"), lines(sent)).expect("the sends are kept");
        let effects =
            self.targets.effects().iter().flat_map(|(k, all)| all.iter().map(move |e| format!("{k:?} {e:?}"))).collect();
        std::fs::write(folder.join("effects"), lines(effects)).expect("the effects are kept");
        if let Some(remains) = remains {
            let ledger = remains.ledger.iter().map(|r| format!("{r:?}")).collect();
            std::fs::write(folder.join("ledger"), lines(ledger)).expect("the ledger is kept");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_has_each_of_its_effects_once_whatever_targets_do_and_whenever_nodes_die() {
    let (decisions, kills) = if std::env::var_os("STOCKWARDEN_TEST_FULL").is_some() { (500, 20) } else { (60, 3) };
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => (uuid::Uuid::new_v4().as_u128() % 1_000_000_000) as u64,
    };
    let replay = format!("SEED={seed} ./test once_whatever");
    let began = Instant::now();
    let mut rng = SmallRng::seed_from_u64(seed);
    let variants = decisions / RULES.len() as u64;
    let mut world = World::start(seed).await;
    let ended = world.run(variants, kills, &mut rng).await;
    let all: BTreeSet<u64> = (1..=variants).collect();
    let (wrong, remains) = match &ended {
        Ok((remains, _)) => (check::check(remains, &all, &RULES), Some(remains)),
        Err(why) => (vec![why.clone()], None),
    };
    if !wrong.is_empty() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("effects-seed-{seed}"));
        world.keep(&folder, remains);
        let told: Vec<&String> = wrong.iter().take(12).collect();
        panic!("{replay}: {} wrong, for example\n{told:#?}\nmore is in {}", wrong.len(), folder.display());
    }
    if let Ok((remains, killed)) = &ended {
        let (all, rest) = (began.elapsed(), killed.elapsed());
        let told = check::summary(remains);
        println!("{decisions} decisions, {kills} kills, {replay}: {told} {all:.0?}, {rest:.0?} of it after the last kill");
    }
    for node in world.nodes.into_iter().flatten() {
        node.stop();
    }
    world.site.remove().await;
}
