//! A new kind of handler, written by the lesson of `src/handlers/mod.rs` and run as the built-in ones are: `bell` rings the bell of a
//! tower. The numbers are the lesson's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use stockwarden::config::{Env, HandlerConfig, SecretRef};
use stockwarden::events::decision::ProposalChange;
use stockwarden::events::fact::{Move, MoveDetails};
use stockwarden::handlers::registry::{Kind, Surroundings, read_config};
use stockwarden::handlers::{
    Blame, Context, Guarantee, Handler, Handlers, Instance, Job, Resolution, Update, Verdict, ask_targets,
};
use stockwarden::ports::inbound::{Asked, Heard, Inbound, Refusal, Request, Subject};
use stockwarden::ports::ledger::EffectState;
use stockwarden::ports::targets::{Finding, Found, Scope};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{World, decision, job, planned, route, until};
use super::slack::change;
use super::tap::Tap;

// ---- the kind: what would stand in src/handlers/bell.rs ---------------------------------------------------------------

/// 10: the line in `registry::KINDS`.
const BELL: Kind =
    Kind { name: "bell", makes: "a stroke of the bell", guarantee: GUARANTEE, in_doubt: "the tower is asked", build };

/// 7: the tower can be asked, and says so at once.
const GUARANTEE: Guarantee = Guarantee::EffectivelyOnce;

/// 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    tower: std::net::SocketAddr,
    key: SecretRef,
}

struct Bell {
    tower: std::net::SocketAddr,
    key: String,
}

fn build(table: toml::Table, context: &Context) -> Result<Arc<dyn Handler>, String> {
    let config: Config = read_config(table)?;
    Ok(Arc::new(Bell { tower: config.tower, key: context.secret("key", &config.key)? }))
}

impl Handler for Bell {
    fn guarantee(&self) -> Guarantee {
        GUARANTEE
    }

    /// 5.
    fn follows(&self, _: &ProposalChange) -> bool {
        true
    }

    /// 6.
    fn inbound(self: Arc<Self>) -> Option<Arc<dyn Inbound>> {
        Some(self)
    }

    /// 2: the key comes with the send.
    fn prepare(&self, job: &Job, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
        let strokes = job.decision.quantity.ok_or("a warning has no quantity to strike; route reorders here only")?;
        let what = job.update.as_ref().map_or("proposed", |u| u.change.state.as_str());
        Ok(format!("{} {strokes} {what} {}", job.key(), now.timestamp()).into_bytes())
    }

    /// 3.
    fn send<'a>(&'a self, _job: &'a Job, request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let line = format!("ring {} {}", self.key, String::from_utf8_lossy(request));
            match self.say(&line).await {
                Err(NotSaid::NotThere(reason)) => Verdict::Retry { reason, after: None, blame: Blame::Target },
                Err(NotSaid::NoWord(reason)) => Verdict::Ambiguous { reason },
                Ok(answer) => match answer.split_once(' ') {
                    Some(("rung", number)) => Verdict::Done { response: None, reference: Some(number.to_owned()) },
                    Some(("refused", why)) => Verdict::Permanent { reason: why.to_owned() },
                    _ => Verdict::Ambiguous { reason: format!("the tower said {answer:?}") },
                },
            }
        })
    }

    /// 4.
    fn resolve<'a>(&'a self, job: &'a Job, _request: &'a [u8], _now: DateTime<Utc>) -> BoxFuture<'a, Resolution> {
        Box::pin(async move {
            let answer = self.say(&format!("heard {} {}", self.key, job.key())).await.unwrap_or_default();
            match answer.split_once(' ') {
                Some(("rung", number)) => Resolution::Done { response: None, reference: Some(number.to_owned()) },
                Some(("silent", _)) => Resolution::NotDone,
                _ => Resolution::AskLater { reason: format!("the tower said {answer:?}"), after: None },
            }
        })
    }

    /// 8: whether it knows the key; no stroke.
    fn probe<'a>(&'a self, _scope: &'a Scope, _now: DateTime<Utc>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async move {
            vec![match self.say(&format!("heard {} -", self.key)).await {
                Ok(answer) if answer.starts_with("refused") => Finding::problem("key", answer, "cut a new key"),
                Ok(_) => Finding::fine("key", "the tower knows it"),
                Err(NotSaid::NotThere(said) | NotSaid::NoWord(said)) => Finding::problem("tower", said, "is somebody up there?"),
            }]
        })
    }

    /// 9.
    fn secrets(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}

enum NotSaid {
    NotThere(String),
    NoWord(String),
}

impl Bell {
    async fn say(&self, line: &str) -> Result<String, NotSaid> {
        let mut stream = TcpStream::connect(self.tower).await.map_err(|e| NotSaid::NotThere(e.to_string()))?;
        let no_word = |e: std::io::Error| NotSaid::NoWord(e.to_string());
        stream.write_all(format!("{line}\n").as_bytes()).await.map_err(no_word)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.map_err(no_word)?;
        Ok(answer.trim_end().to_owned())
    }
}

impl Inbound for Bell {
    fn hear<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Heard, Refusal>> {
        Box::pin(async move {
            if (request.header)("x-key").as_deref() != Some(&self.key) {
                return Err(Refusal::BadSignature("not the tower".to_owned()));
            }
            let number = String::from_utf8_lossy(request.body).into_owned();
            let asked = Asked {
                subject: Subject::Reference(number.clone()),
                moved: Move::Acknowledge,
                by: "ringer".to_owned(),
                details: MoveDetails::default(),
                dedupe_id: Some(number),
            };
            Ok(Heard { asked: vec![asked], answer: Some(json!({"thanks": true})) })
        })
    }
}

// ---- 11: its tests ----------------------------------------------------------------------------------------------------

const KEY: &str = "k3y-of-the-tower";

/// What it heard, as (key of the effect, the rest); it drops the connection after the strokes of `deaf`.
#[derive(Clone, Default)]
struct Tower {
    heard: Arc<Mutex<Vec<(String, String)>>>,
    deaf: Arc<Mutex<Vec<&'static str>>>,
}

impl Tower {
    async fn start(answers: impl IntoIterator<Item = &'static str>) -> (Tower, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let tower = Tower { deaf: Arc::new(Mutex::new(answers.into_iter().collect())), ..Tower::default() };
        let serving = tower.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a line");
                let answer = serving.answer(line.trim_end());
                let _ = stream.get_mut().write_all(answer.as_bytes()).await;
            }
        });
        (tower, format!("tower = \"{address}\"\nkey = {{ env = \"KEY\" }}\n"))
    }

    fn answer(&self, line: &str) -> String {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (verb, key, effect, rest) = (word(), word(), word(), word());
        if key != KEY {
            return format!("refused the key {key} is wrong; cut a new one\n");
        }
        let mut heard = self.heard.lock().expect("lock");
        match verb.as_str() {
            "ring" => {
                heard.push((effect, rest));
                let number = format!("rung {}\n", heard.len());
                self.deaf.lock().expect("lock").pop().map_or(number, str::to_owned)
            }
            _ => heard.iter().position(|(e, _)| *e == effect).map_or("silent -\n".into(), |n| format!("rung {}\n", n + 1)),
        }
    }
}

fn instance(toml: &str) -> Result<Instance, String> {
    let config = HandlerConfig { kind: "bell".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("KEY", KEY), ("OLD_KEY", "0ld-key")]);
    let configs = BTreeMap::from([("tower".to_owned(), config)]);
    let handlers = Handlers::build_in(&[BELL], &configs, &Surroundings::new(&env)).map_err(|e| e[0].to_string())?;
    Ok(handlers.get("tower").expect("tower").clone())
}

#[tokio::test]
async fn a_new_kind_is_configured_like_the_others() {
    let (_, toml) = Tower::start([]).await;
    let tower = instance(&format!("{toml}concurrency = 2\norganisations = [\"acme\"]")).expect("built");
    assert_eq!((tower.kind, tower.common.concurrency, tower.guarantee()), ("bell", 2, BELL.guarantee));
    assert!(tower.refuses("other").is_some());
    for (wrong, want) in [
        (toml.replace("tower", "towr"), "towr"),
        (toml.replace("KEY", "NOT_SET"), "NOT_SET"),
        (toml.replace("127.0.0.1", "nowhere"), "tower"),
        (format!("{toml}concurrency = 0"), "concurrency"),
    ] {
        let error = instance(&wrong).expect_err("refused");
        assert!(error.contains("[handlers.tower]") && error.contains(want), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_kind_goes_through_the_ledger_once_whatever_the_target_answers() {
    // The first stroke goes unanswered, the second gets nonsense.
    let (tower, toml) = Tower::start(["what?\n", ""]).await;
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let rows = [1, 2, 3].map(|n| planned(n, "tower", &decision(n), &route(json!({"to": "tower"}))));
    node.plan(&rows).await;
    let bell = instance(&toml).expect("built");
    node.sender("tower", bell.common.clone(), bell.handler);
    for n in 1..=3 {
        let row = until("it is done", async || {
            world.clock.advance(Duration::from_secs(3));
            Some(node.row(n).await).filter(|r| r.state == EffectState::Done)
        })
        .await;
        assert!(row.reference.is_some() && !row.possible_duplicate, "{row:?}");
    }
    let mut heard: Vec<String> = tower.heard.lock().expect("lock").iter().map(|(effect, _)| effect.clone()).collect();
    heard.sort();
    assert_eq!(heard, rows.map(|r| format!("{}/0", r.id.decision_id)));
}

#[tokio::test]
async fn a_new_kind_tells_what_became_of_a_proposal_and_what_is_to_be_mended() {
    let (tower, toml) = Tower::start([]).await;
    let bell = instance(&toml).expect("built").handler;
    let update = Update { change: change(1, "ordered", Some(Move::Ordered)), reference: Some("1".into()) };
    let told = Job { update: Some(update), ..job(&decision(1), json!({"to": "tower"})) };
    let now = "2026-11-20T10:00:00Z".parse().expect("time");
    let request = bell.prepare(&told, now).expect("request");
    assert!(!String::from_utf8_lossy(&request).contains(KEY), "no secret is frozen");
    assert!(matches!(bell.send(&told, &request, now).await, Verdict::Done { .. }));
    assert!(tower.heard.lock().expect("lock")[0].1.contains("24 ordered"));
    let stranger = instance(&toml.replace("KEY", "OLD_KEY")).expect("built");
    let Verdict::Permanent { reason } = stranger.handler.send(&told, &request, now).await else { panic!("refused") };
    assert_eq!(stranger.redactor.clean(&reason), "the key *** is wrong; cut a new one");
    let warning = stockwarden::events::decision::Decision { quantity: None, ..decision(1) };
    assert!(bell.prepare(&job(&warning, json!({"to": "tower"})), now).is_err_and(|e| e.contains("route reorders")));
}

#[tokio::test]
async fn a_new_kind_is_asked_by_check_without_an_effect_and_without_a_secret_in_what_is_told() {
    let (tower, toml) = Tower::start([]).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let nobody = format!("tower = \"{}\"\nkey = {{ env = \"KEY\" }}\n", silent.local_addr().expect("address"));
    let ask = async |toml: &str| {
        let mut handlers = Handlers::default();
        handlers.insert(instance(toml).expect("built"));
        let found = ask_targets(&handlers, &Scope::default(), Duration::from_millis(200), Utc::now()).await;
        let [found] = <[Finding; 1]>::try_from(found).expect("one finding");
        assert_eq!(found.handler, "tower");
        (found.result, found.said, found.mend.unwrap_or_default())
    };
    assert_eq!(ask(&toml).await, (Found::Fine, "the tower knows it".into(), String::new()));
    let wrong = (Found::Problem, "refused the key *** is wrong; cut a new one".into(), "cut a new key".into());
    assert_eq!(ask(&toml.replace("KEY", "OLD_KEY")).await, wrong);
    let (result, said, _) = ask(&nobody).await;
    assert_eq!((result, said.as_str()), (Found::Problem, "no answer within 0.2 s"));
    assert!(tower.heard.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn a_new_kind_is_talked_back_to() {
    let (_, toml) = Tower::start([]).await;
    let inbound = instance(&toml).expect("built").handler.inbound().expect("it listens");
    let hear = async |key: &str| {
        let header = |name: &str| (name == "x-key").then(|| key.to_owned());
        inbound.hear(Request { header: &header, body: b"7", now: Utc::now() }).await
    };
    let heard = hear(KEY).await.expect("heard");
    assert_eq!((&heard.asked[0].subject, heard.asked[0].moved), (&Subject::Reference("7".into()), Move::Acknowledge));
    assert!(matches!(hear("another").await, Err(Refusal::BadSignature(_))));
}
