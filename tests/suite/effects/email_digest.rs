//! Digests: what is planned for one, and that it is sent as safely as a single mail (DESIGN §4, §7.6).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use stockwarden::actors::dispatcher::Plan;
use stockwarden::events::decision::{Decision, RiskLevel, Route};
use stockwarden::events::record::RecordBatch;
use stockwarden::handlers::{Common, Guarantee, Handler, Handlers, Instance, Job, Resolution, Update, Verdict};
use stockwarden::ports::ledger::{EffectState, Planned};

use super::email::{address, change, handler, header, kept};
use super::harness::{World, decision, planned, route, until};
use super::log::DrivenLog;
use super::tap::{Step, Tap};
use super::toy::{Toy, ToyTarget, busy};

/// The toy, with several decisions in one request.
struct DigestToy(Toy);

impl Handler for DigestToy {
    fn guarantee(&self) -> Guarantee {
        self.0.guarantee()
    }

    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        self.0.prepare(job, now)
    }

    fn digests(&self) -> bool {
        true
    }

    fn prepare_digest(&self, jobs: &[Job], now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let each: Result<Vec<Vec<u8>>, String> = jobs.iter().map(|job| self.0.prepare(job, now)).collect();
        Ok(each?.join(&b'\n'))
    }

    fn send<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        self.0.send(job, request, now)
    }

    fn resolve<'a>(&'a self, job: &'a Job, request: &'a [u8], now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        self.0.resolve(job, request, now)
    }

    fn secrets(&self) -> Vec<String> {
        self.0.secrets()
    }
}

fn toy(target: &Arc<ToyTarget>, can_be_asked: bool, tap: &Tap) -> Arc<dyn Handler> {
    Arc::new(DigestToy(Toy { target: target.clone(), can_be_asked, tap: tap.clone() }))
}

/// Row `n` of the one digest there is, for `handler`.
fn row(n: u128, handler: &str, route: &Route) -> Planned {
    Planned { digest: Some("d".into()), ..planned(n, handler, &decision(n), route) }
}

fn toy_row(n: u128) -> Planned {
    row(n, "toy", &route(serde_json::json!({"to": "toy"})))
}

fn lines(request: &[u8]) -> usize {
    String::from_utf8_lossy(request).lines().count()
}

/// Kills a node at `step` of a digest of three, lets another finish; (sends, possible duplicate).
fn die_at(step: Step, can_be_asked: bool) -> (usize, bool) {
    let tap = Tap::stopping_at(step);
    let world = World::with_log(DrivenLog { tap: tap.clone(), ..DrivenLog::default() });
    let target = ToyTarget::with([]);
    let first = tokio::runtime::Runtime::new().expect("runtime");
    first.block_on(async {
        let node = world.node(tap.clone()).await;
        node.plan(&[toy_row(1), toy_row(2), toy_row(3)]).await;
        node.sender("toy", Common::default(), toy(&target, can_be_asked, &tap));
        tap.reached().await;
    });
    first.shutdown_background();

    let after = World { log: Arc::new(DrivenLog::default()), ..world };
    let second = tokio::runtime::Runtime::new().expect("runtime");
    second.block_on(async {
        let node = after.node(Tap::default()).await;
        node.sender("toy", Common::default(), toy(&target, can_be_asked, &Tap::default()));
        let mut marked = Vec::new();
        for n in 1..=3 {
            marked.push(node.until(n, EffectState::Done).await.possible_duplicate);
        }
        assert!(marked.iter().all(|m| *m == marked[0]), "{step:?}: all rows say the same: {marked:?}");
        let received = target.received();
        assert!(received.iter().all(|r| *r == received[0] && lines(&r.1) == 3), "{step:?}: {received:?}");
        if !matches!(step, Step::AfterSettle) {
            assert_eq!(after.log.states(), ["done"; 3], "{step:?}: a fact for each");
        }
        (received.len(), marked[0])
    })
}

#[test]
fn a_crash_anywhere_leaves_one_digest_where_the_target_can_be_asked() {
    for step in Step::ALL {
        assert_eq!(die_at(step, true), (1, false), "{step:?}");
    }
}

#[test]
fn a_crash_anywhere_in_a_digest_is_never_silent_where_the_target_cannot_be_asked() {
    for step in Step::ALL {
        let expected = match step {
            Step::AfterClaim | Step::AfterSettle => (1, false),
            Step::AfterFreeze | Step::BeforeSend => (1, true),
            Step::AfterSend | Step::BeforeFact | Step::AfterFact => (2, true),
        };
        assert_eq!(die_at(step, false), expected, "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_too_late_goes_into_the_next_digest_and_changes_no_frozen_byte() {
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let target = ToyTarget::with([busy()]);
    node.plan(&[toy_row(1), toy_row(2)]).await;
    node.sender("toy", Common::default(), toy(&target, false, &Tap::default()));
    until("it waits for its second try", async || {
        Some(node.row(1).await).filter(|r| r.state == EffectState::Planned && r.attempts == 1)
    })
    .await;
    assert_eq!(node.row(2).await.attempts, 1, "the other row shows it too");
    node.plan(&[toy_row(3)]).await;
    world.clock.advance(Duration::from_secs(2));
    for n in 1..=3 {
        node.until(n, EffectState::Done).await;
    }
    let received = target.received();
    let mut sizes: Vec<usize> = received.iter().map(|(_, bytes)| lines(bytes)).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2, 2]);
    let both: Vec<_> = received.iter().filter(|(_, bytes)| lines(bytes) == 2).collect();
    assert_eq!(both[0], both[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orders_of_an_hour_arrive_as_one_mail_and_a_cut_connection_marks_each_of_them() {
    let (handler, to) = (handler(), address("drop-once"));
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let route = route(serde_json::json!({"to": "mail", "address": to, "digest": "1h"}));
    node.plan(&[row(1, "mail", &route), row(2, "mail", &route), row(3, "mail", &route)]).await;
    node.sender("mail", Common::default(), handler.clone());
    for n in 1..=3 {
        node.until(n, EffectState::Ambiguous).await;
    }
    world.clock.advance(Duration::from_secs(2));
    for n in 1..=3 {
        assert!(node.until(n, EffectState::Done).await.possible_duplicate);
    }
    let mails = until("both are on disk", async || Some(kept(&to)).filter(|m| m.len() == 2)).await;
    assert_eq!(mails[0], mails[1]);
    let mail = String::from_utf8(mails[0].clone()).expect("ASCII");
    assert_eq!(header(&mail, "Subject"), Some("Order request: 3 articles of Acme"));
    let csv: Vec<&str> = mail.lines().filter(|l| l.contains(",\"TB-750\",")).collect();
    assert_eq!(csv.len(), 3, "{mail}");
    assert_eq!(world.log.states(), ["ambiguous", "ambiguous", "ambiguous", "done", "done", "done"]);
    // A reply to one of them goes into the digest's thread.
    let row = node.row(2).await;
    assert_eq!(row.reference.as_deref(), header(&mail, "Message-ID"));
    let mut job = Job::read(&row.planned).expect("job");
    job.update = Some(Update { change: change(&decision(2)), reference: row.reference });
    let reply = String::from_utf8(handler.prepare(&job, Utc::now()).expect("reply")).expect("ASCII");
    assert!(reply.contains(&format!("In-Reply-To: {}\r\n", header(&mail, "Message-ID").expect("id"))), "{reply}");
}

#[test]
fn a_route_with_a_digest_waits_for_the_end_of_its_window_unless_little_time_is_left() {
    let mut handlers = Handlers::default();
    let target = ToyTarget::with([]);
    handlers.insert(Instance::new("mail", "toy", Common::default(), toy(&target, false, &Tap::default())));
    let single: Arc<dyn Handler> = Arc::new(Toy { target, can_be_asked: false, tap: Tap::default() });
    handlers.insert(Instance::new("single", "toy", Common::default(), single));
    let now: DateTime<Utc> = "2026-11-20T10:20:00Z".parse().expect("time");
    let end: DateTime<Utc> = "2026-11-20T11:00:00Z".parse().expect("time");
    let plan = |change: &dyn Fn(&mut Decision), settings: serde_json::Value| {
        let mut decision = Decision { routes: vec![route(settings)], ..decision(1) };
        change(&mut decision);
        let value = serde_json::to_vec(&decision).expect("JSON");
        let mut batch = RecordBatch::new(0, 0);
        batch.push(0, 0, Some(b"a.example"), Some(&value), std::iter::empty::<(&str, &[u8])>());
        let row = Plan::of(&batch, &handlers, now).batch.rows.remove(0);
        (row.due_at, row.digest)
    };
    let hourly = |to: &str, address: &str| serde_json::json!({"to": to, "address": address, "digest": "1h"});
    let (due, together) = plan(&|_| {}, hourly("mail", "a@b.example"));
    assert!(due == end && together.is_some());
    assert_eq!(plan(&|d| d.title = Some("another".into()), hourly("mail", "a@b.example")).1, together);
    for (n, other) in [
        plan(&|_| {}, hourly("mail", "c@b.example")).1,
        plan(&|d| d.vendor = Some("Other".into()), hourly("mail", "a@b.example")).1,
        plan(&|d| d.organisation = "other".into(), hourly("mail", "a@b.example")).1,
    ]
    .into_iter()
    .enumerate()
    {
        assert!(other.is_some() && other != together, "{n}");
    }
    for (n, at_once) in [
        plan(&|d| d.severity = RiskLevel::Critical, hourly("mail", "a@b.example")),
        plan(&|d| d.severity = RiskLevel::Out, hourly("mail", "a@b.example")),
        plan(&|_| {}, hourly("single", "a@b.example")),
        plan(&|_| {}, serde_json::json!({"to": "mail", "digest": "hourly"})),
        plan(&|_| {}, serde_json::json!({"to": "mail"})),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(at_once, (now, None), "{n}");
    }
}
