//! Carries out what people and targets ask of a proposal: looks at the live variant, writes the fact, waits until it shows.

mod ruling;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use self::ruling::{Known, Ruling, check};
use super::settings::WallClock;
use crate::domain::proposal::State;
use crate::events::fact::{FactType, Move, ProposalMoved, VERSION, header};
use crate::events::ids::VariantId;
use crate::events::record::{NewRecord, Position, Topic};
use crate::events::time::{self, Millis};
use crate::ports::queries::{Queries, QueryError};
use crate::ports::reorders::{MoveError, MoveOutcome, MoveRequest, Moves, Reorder, Reorders};
use crate::ports::snapshot_store::StoreError;
use crate::ports::{EventLog, LogError};

/// Name of these facts' source.
const SOURCE: &str = "moves";
/// How long live state is waited for.
const LIVE_WITHIN: Duration = Duration::from_secs(2);
/// How long the log may take.
const APPEND_WITHIN: Duration = Duration::from_secs(4);
const LOOK_AGAIN: Duration = Duration::from_millis(15);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Moves of one proposal are made one after the other; so many proposals at a time.
const TURNS: usize = 64;
/// Acts that are remembered, so that a second delivery of one is not carried out again.
const REMEMBERED: usize = 10_000;

pub struct Mover {
    log: Arc<dyn EventLog>,
    reorders: Arc<dyn Reorders>,
    queries: Arc<dyn Queries>,
    clock: WallClock,
    turns: Vec<tokio::sync::Mutex<()>>,
    seen: Mutex<Seen>,
}

/// The last acts carried out here, by their dedupe ids.
#[derive(Default)]
struct Seen {
    ids: BTreeSet<String>,
    oldest_first: VecDeque<String>,
}

impl Seen {
    fn remember(&mut self, id: &str) {
        if self.ids.insert(id.to_owned()) {
            self.oldest_first.push_back(id.to_owned());
        }
        while self.oldest_first.len() > REMEMBERED {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

impl Moves for Mover {
    fn carry_out(&self, request: MoveRequest) -> BoxFuture<'_, Result<MoveOutcome, MoveError>> {
        Box::pin(self.make(request))
    }
}

impl Mover {
    pub fn new(log: Arc<dyn EventLog>, reorders: Arc<dyn Reorders>, queries: Arc<dyn Queries>, clock: WallClock) -> Mover {
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect();
        Mover { log, reorders, queries, clock, turns, seen: Mutex::default() }
    }

    async fn make(&self, request: MoveRequest) -> Result<MoveOutcome, MoveError> {
        check(request.moved, &request.details, (self.clock)()).map_err(MoveError::BadRequest)?;
        let id = request.proposal_id;
        let turn = usize::try_from(id.as_u128() % TURNS as u128).expect("less than the number of turns");
        let _turn = self.turns[turn].lock().await;
        let row = self.row(id).await?;
        if request.dedupe_id.as_ref().is_some_and(|d| self.seen().ids.contains(d)) {
            return Ok(MoveOutcome::Already { state: row.state });
        }
        let Some(variant) = row.opening.variant_id else {
            return Err(MoveError::Illegal("a reorder of a pooled SKU cannot be moved in this version".to_owned()));
        };
        let known = self.known(&row, variant).await?;
        let next = match known.rule(request.moved, &request.details) {
            Ruling::Go(next) => next,
            Ruling::Already => return Ok(MoveOutcome::Already { state: known.state().as_str().to_owned() }),
            Ruling::Illegal(why) => return Err(MoveError::Illegal(why)),
        };
        let record = self.fact(&row, variant, &request);
        let position = self.append(record).await?;
        if let Some(dedupe) = &request.dedupe_id {
            self.seen().remember(dedupe);
        }
        let shown = self.until_shown(&row, variant, position, request.wait).await;
        Ok(MoveOutcome::Moved { position, state: shown.unwrap_or_else(|| next.as_str().to_owned()) })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn row(&self, id: Uuid) -> Result<Reorder, MoveError> {
        self.reorders.reorder(id).await.map_err(store_away)?.ok_or(MoveError::NotFound(id))
    }

    /// The live variant knows open proposals; what became of closed ones stands in the list, which may lag a moment.
    async fn known(&self, row: &Reorder, variant: VariantId) -> Result<Known, MoveError> {
        let after = Position { partition: row.partition, offset: row.version };
        let open = match self.queries.variant(&row.opening.shop, variant, Some(after), LIVE_WITHIN).await {
            Ok(view) => view.open_proposals.into_iter().find(|p| p.proposal_id == row.opening.proposal_id),
            // A variant that is gone has no open proposals.
            Err(QueryError::NoShop(_) | QueryError::NoVariant { .. }) => None,
            Err(QueryError::NotReady { reason, retry_after }) => return Err(MoveError::Unavailable { reason, retry_after }),
            Err(e) => return Err(unavailable(e.to_string())),
        };
        if let Some(open) = open {
            return Ok(Known::Open(Box::new(open)));
        }
        let state = self.until_closed(row.clone()).await?.state;
        let unknown = || MoveError::Illegal(format!("this version does not know the state \"{state}\" of the reorder"));
        State::parse(&state).map(Known::Closed).ok_or_else(unknown)
    }

    async fn until_closed(&self, mut row: Reorder) -> Result<Reorder, MoveError> {
        let deadline = self.deadline(LIVE_WITHIN);
        while State::parse(&row.state).is_some_and(State::is_open) {
            if (self.clock)() >= deadline {
                return Err(unavailable("the reorder is closed, and the list does not show yet how".to_owned()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            row = self.row(row.opening.proposal_id).await?;
        }
        Ok(row)
    }

    fn fact(&self, row: &Reorder, variant_id: VariantId, request: &MoveRequest) -> NewRecord {
        let now = time::format((self.clock)());
        let MoveRequest { proposal_id, moved, .. } = *request;
        let dedupe = request.dedupe_id.clone().unwrap_or_else(|| format!("{proposal_id}/{}/{now}", moved.as_str()));
        let mut details = request.details.clone();
        if moved == Move::Received {
            details.receipt = Some(dedupe.clone());
        }
        let fact = ProposalMoved { proposal_id, variant_id, moved, by: request.by.clone(), via: request.via.clone(), details };
        NewRecord {
            topic: Topic::Facts,
            // Where the shop lives: a foreign producer may have put it elsewhere than its key says.
            partition: Some(row.partition),
            key: Some(row.opening.shop.as_bytes().to_vec()),
            headers: vec![
                (header::FACT, FactType::ProposalMoved.as_str().into()),
                (header::VERSION, VERSION.to_string().into()),
                (header::DEDUPE_ID, dedupe.into()),
                (header::SOURCE, SOURCE.into()),
                (header::EVENT_TIME, now.into()),
            ],
            value: Some(serde_json::to_vec(&fact).expect("a fact is plain data")),
        }
    }

    async fn append(&self, record: NewRecord) -> Result<Position, MoveError> {
        let appended = tokio::time::timeout(APPEND_WITHIN, self.log.append(vec![record])).await;
        let positions = appended.unwrap_or_else(|_| Err(late())).map_err(|e| match e {
            LogError::Refused { reason, .. } => MoveError::BadRequest(format!("the log refuses the move: {reason}")),
            e => unavailable(e.to_string()),
        })?;
        positions.first().copied().ok_or_else(|| unavailable("the log gave no position".to_owned()))
    }

    /// The state as the list shows it, once the fact has come through. If the list takes too long, the live variant's: also where the fact
    /// changed nothing after all (another node was faster, a receipt was told again) and is waited for in vain. None: not known in time.
    async fn until_shown(&self, row: &Reorder, variant: VariantId, position: Position, wait: Duration) -> Option<String> {
        let deadline = self.deadline(wait);
        let view = self.queries.variant(&row.opening.shop, variant, Some(position), wait).await.ok()?;
        let live = view.open_proposals.into_iter().find(|p| p.proposal_id == row.opening.proposal_id);
        loop {
            let row = self.reorders.reorder(row.opening.proposal_id).await.ok()??;
            if row.version >= position.offset {
                return Some(row.state);
            }
            if (self.clock)() >= deadline {
                return live.map(|p| p.state.as_str().to_owned());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn deadline(&self, wait: Duration) -> Millis {
        (self.clock)().saturating_add(Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX))
    }
}

/// It may be written all the same; then the same move again finds it done.
fn late() -> LogError {
    LogError::Unavailable { during: "writing a move".to_owned(), reason: format!("no answer within {APPEND_WITHIN:?}") }
}

fn store_away(e: StoreError) -> MoveError {
    unavailable(e.to_string())
}

fn unavailable(reason: String) -> MoveError {
    MoveError::Unavailable { reason, retry_after: RETRY_AFTER }
}
