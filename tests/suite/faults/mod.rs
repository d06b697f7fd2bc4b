//! The schema of faults: real services, three nodes, a load that never rests, one fault or two a round, and after each round an
//! independent proof that nothing is lost, doubled or made up. `./test faults --rounds N [--seed S]` runs it longer.

mod checker;
mod clock;
mod effects;
mod fault;
mod installation;
mod load;
mod proxy;
mod raw;
mod round;
mod services;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use fault::Deck;
use installation::{Installation, NODES, Ways};
use load::{Load, RULES};
use services::Services;
use target::Target;

/// The proof reads everything since the beginning; so there is a new beginning now and then.
const ROUNDS_OF_AN_INSTALLATION: u64 = 25;
const ROUNDS: u64 = 5;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Where everything that helps to understand a failure is kept.
fn folder(seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-seed-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// `STOCKWARDEN_FAULT_KINDS=5,6`: only faults of these kinds, see [`Deck::new`].
fn only() -> Vec<usize> {
    let told = std::env::var("STOCKWARDEN_FAULT_KINDS").unwrap_or_default();
    told.split(',').filter(|k| !k.is_empty()).map(|k| k.trim().parse().expect("numbers of kinds")).collect()
}

/// Invariants 1 to 6 of DESIGN §7, all at once and under faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and the whole machine: ./test and ./test faults run it by itself"]
async fn rounds() {
    let rounds = setting("STOCKWARDEN_FAULT_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("STOCKWARDEN_FAULT_SEED").unwrap_or_else(|| (uuid::Uuid::new_v4().as_u128() % 1_000_000_000) as u64);
    println!("faults: {rounds} rounds, seed {seed} (again with: ./test faults --rounds {rounds} --seed {seed})");
    let folder = folder(seed);
    let mut ways = Vec::new();
    for _ in 0..NODES {
        ways.push(Ways::start().await);
    }
    let ports: Vec<u16> = ways.iter().map(|w| w.kafka.port).collect();
    let services = Services::start(&ports).await;
    for (way, behind) in ways.iter().zip(&services.behind) {
        way.kafka.lead_to(*behind);
        way.postgres.lead_to(services.postgres_port());
    }
    let mut deck = Deck::new(SmallRng::seed_from_u64(seed), only());
    let mut done = 0;
    while done < rounds {
        let place = folder.join(format!("from-round-{}", done + 1));
        let target = Target::start(seed).await;
        let installation = Arc::new(Installation::start(&services, &ways, &target, &place, RULES, &load::shops()).await);
        let load = Arc::new(Load::new(installation.clone()).await);
        load.list_products().await;
        let world = round::World {
            installation: &installation,
            services: &services,
            ways: &ways,
            target: &target,
            load: &load,
            folder: &folder,
        };
        for _ in 0..ROUNDS_OF_AN_INSTALLATION.min(rounds - done) {
            done += 1;
            let (began, faults) = (Instant::now(), deck.deal());
            let told: Vec<String> = faults.iter().map(|(after, f)| format!("after {after:?} {f:?}")).collect();
            let told = told.join(" and ");
            match world.run(seed.wrapping_add(done), &faults).await {
                Ok(summary) => println!("round {done}/{rounds}: {told}; {summary}; {:.0?}", began.elapsed()),
                Err(wrong) => {
                    let report = format!("seed {seed}, round {done}: {told}\n{}", wrong.join("\n"));
                    services.keep_logs(&folder);
                    std::fs::write(folder.join("report.txt"), &report).expect("the report");
                    panic!("{report}\nthe logs of nodes and services are in {}", folder.display());
                }
            }
        }
    }
    services.stop().await;
    let _ = std::fs::remove_dir_all(&folder);
}
