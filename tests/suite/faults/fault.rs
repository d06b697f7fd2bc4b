//! What goes wrong in a round: chosen by the seed, carried out on processes, services and proxies. To add a fault: a variant, an
//! arm in [`Deck::make`], an arm in [`Fault::strike`].

use std::fmt;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::installation::{Installation, NODES, Ways};
use super::proxy::{Act, Call, Weather};
use super::services::Services;

/// When a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Any,
    /// As soon as the node makes this call; so it is inside a commit.
    At(Call),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Kafka,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill {
        node: usize,
        moment: Moment,
        away: Duration,
    },
    Terminate {
        node: usize,
        away: Duration,
    },
    /// SIGSTOP, later SIGCONT: past the session's timeout it wakes as a writer of the past.
    Freeze {
        node: usize,
        moment: Moment,
        time: Duration,
    },
    KillService {
        service: Service,
        away: Duration,
    },
    RestartService {
        service: Service,
    },
    Weather {
        node: usize,
        service: Service,
        weather: Weather,
        time: Duration,
        cut_after: bool,
    },
    Cut {
        node: usize,
        service: Service,
        times: u32,
    },
    /// Strikes at the end of a transaction, which is then of unknown outcome to the node.
    EndTxn {
        node: usize,
        act: Act,
    },
}

/// Past a transaction's own deadline of 8 s, and the 2 s for its abort.
const PAST_DEADLINE: Duration = Duration::from_secs(11);
/// Nodes without a partition commit nothing.
const COMMIT_WITHIN: Duration = Duration::from_secs(3);
const KINDS: usize = 16;

/// Deals every kind once before any comes again.
pub struct Deck {
    rng: SmallRng,
    all: Vec<usize>,
    kinds: Vec<usize>,
}

impl Deck {
    /// `only`: these kinds, by their numbers in [`Deck::make`], to look for what one of them did; all if there are none.
    pub fn new(rng: SmallRng, only: Vec<usize>) -> Deck {
        let all = if only.is_empty() { (0..KINDS).collect() } else { only };
        Deck { rng, all, kinds: Vec::new() }
    }

    /// One fault, sometimes two at the same time, each with how long the load runs before it.
    pub fn deal(&mut self) -> Vec<(Duration, Fault)> {
        let count = if self.rng.random_bool(0.25) { 2 } else { 1 };
        (0..count)
            .map(|_| {
                if self.kinds.is_empty() {
                    self.kinds = self.all.clone();
                    self.kinds.shuffle(&mut self.rng);
                }
                let kind = self.kinds.pop().expect("just filled");
                (self.ms(500, 3_000), self.make(kind))
            })
            .collect()
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    fn moment(&mut self) -> Moment {
        match self.rng.random_range(0..10) {
            0 => Moment::At(Call::AddOffsetsToTxn),
            1 => Moment::At(Call::TxnOffsetCommit),
            2 => Moment::At(Call::Produce),
            3 | 4 => Moment::At(Call::EndTxn),
            _ => Moment::Any,
        }
    }

    fn make(&mut self, kind: usize) -> Fault {
        let node = self.rng.random_range(0..NODES);
        let cut_after = self.rng.random_bool(0.5);
        let weather = |service, weather, time| Fault::Weather { node, service, weather, time, cut_after };
        match kind {
            0 | 1 => Fault::Kill { node, moment: self.moment(), away: self.ms(0, 6_000) },
            2 => Fault::Terminate { node, away: self.ms(0, 3_000) },
            3 => Fault::Freeze { node, moment: self.moment(), time: self.ms(5_000, 8_000) },
            4 => Fault::Freeze { node, moment: Moment::At(Call::EndTxn), time: self.ms(11_000, 13_000) },
            5 => Fault::KillService { service: Service::Kafka, away: self.ms(0, 2_000) },
            6 => Fault::RestartService { service: Service::Kafka },
            7 => Fault::KillService { service: Service::Postgres, away: self.ms(0, 4_000) },
            8 => Fault::RestartService { service: Service::Postgres },
            9 => weather(Service::Kafka, Weather::Slow(self.ms(100, 600)), self.ms(3_000, 6_000)),
            10 => weather(Service::Kafka, Weather::Still, self.ms(3_000, 14_000)),
            11 => weather(Service::Postgres, Weather::Still, self.ms(3_000, 14_000)),
            12 => Fault::Cut { node, service: Service::Kafka, times: self.rng.random_range(1..12) },
            13 => Fault::Cut { node, service: Service::Postgres, times: self.rng.random_range(1..12) },
            14 => Fault::EndTxn { node, act: Act::HoldAnswer(PAST_DEADLINE) },
            _ => Fault::EndTxn { node, act: if self.rng.random_bool(0.5) { Act::LoseAnswer } else { Act::LoseRequest } },
        }
    }
}

pub struct Stage<'a> {
    pub installation: &'a Installation,
    pub services: &'a Services,
    pub ways: &'a [Ways],
}

impl Fault {
    /// Happens, and is over when it returns; an error is a promise that was broken on the way.
    pub async fn strike(self, on: &Stage<'_>) -> Result<(), String> {
        let Stage { installation, services, ways } = on;
        match self {
            Fault::Kill { node, moment, away } => {
                moment.wait(&ways[node]).await;
                installation.kill(node);
                tokio::time::sleep(away).await;
                installation.start_node(node).await?;
            }
            Fault::Terminate { node, away } => {
                installation.terminate(node).await?;
                tokio::time::sleep(away).await;
                installation.start_node(node).await?;
            }
            Fault::Freeze { node, moment, time } => {
                moment.wait(&ways[node]).await;
                installation.signal(node, "-STOP");
                tokio::time::sleep(time).await;
                installation.signal(node, "-CONT");
            }
            Fault::KillService { service, away } => {
                services.act(&format!("kill-{service}")).await;
                tokio::time::sleep(away).await;
                services.act(&format!("restart-{service}")).await;
            }
            Fault::RestartService { service } => services.act(&format!("restart-{service}")).await,
            Fault::Weather { node, service, weather, time, cut_after } => {
                let proxy = service.way(&ways[node]);
                proxy.set(weather);
                tokio::time::sleep(time).await;
                proxy.calm();
                if cut_after {
                    proxy.cut();
                }
            }
            Fault::Cut { node, service, times } => {
                for _ in 0..times {
                    service.way(&ways[node]).cut();
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            }
            Fault::EndTxn { node, act } => {
                let struck = ways[node].kafka.strike(Call::EndTxn, act);
                let _ = tokio::time::timeout(COMMIT_WITHIN, struck).await;
                if let Act::HoldAnswer(time) = act {
                    tokio::time::sleep(time).await;
                }
                ways[node].kafka.calm();
            }
        }
        Ok(())
    }
}

impl Moment {
    async fn wait(self, way: &Ways) {
        if let Moment::At(call) = self {
            let _ = tokio::time::timeout(COMMIT_WITHIN, way.kafka.strike(call, Act::Tell)).await;
        }
    }
}

impl Service {
    fn way(self, ways: &Ways) -> &super::proxy::Proxy {
        match self {
            Service::Kafka => &ways.kafka,
            Service::Postgres => &ways.postgres,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Service::Kafka => "kafka",
            Service::Postgres => "postgres",
        })
    }
}
