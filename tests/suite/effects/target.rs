//! The kind `target`, against a stand-in on loopback.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::Decision;
use stockwarden::handlers::target::{Lookup, SystemLookup};
use stockwarden::handlers::{Handler, Handlers, Job, Verdict};
use stockwarden::ports::ledger::EffectState;

use super::harness::{World, decision, job, planned, route};
use super::tap::Tap;
use crate::support::stand_in::{Behaviour, Request, StandIn};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn handler_with(toml: &str, lookup: Arc<dyn Lookup>) -> Result<Arc<dyn Handler>, String> {
    let config = HandlerConfig { kind: "target".into(), table: toml::from_str(toml).expect("toml") };
    let env = Env::of([("ERP_SECRET", SECRET), ("ERP_TOKEN", "Bearer t0ken-of-erp")]);
    let handlers = Handlers::build(&BTreeMap::from([("erp".to_owned(), config)]), &env, lookup);
    handlers.map(|h| h.get("erp").expect("erp").handler.clone()).map_err(|e| e[0].to_string())
}

fn handler(stand_in: &StandIn, more: &str) -> Arc<dyn Handler> {
    let toml = format!(
        "url = \"{}\"\nsecret = {{ env = \"ERP_SECRET\" }}\nallow_private_addresses = true\ntimeout = \"300ms\"\n{more}",
        stand_in.url()
    );
    handler_with(&toml, Arc::new(SystemLookup)).expect("handler")
}

fn erp_job(decision: &Decision) -> Job {
    job(decision, serde_json::json!({"to": "erp", "plant": "N", "id": "erp-north"}))
}

async fn send(handler: &dyn Handler, job: &Job) -> Verdict {
    let request = handler.prepare(job, Utc::now()).expect("request");
    handler.send(job, &request, Utc::now()).await
}

async fn verdict_on(behaviour: Behaviour) -> Verdict {
    let stand_in = StandIn::start([behaviour]).await;
    let verdict = send(&*handler(&stand_in, ""), &erp_job(&decision(1))).await;
    assert_eq!(stand_in.requests().len(), 1, "one request, whatever the answer");
    verdict
}

#[tokio::test]
async fn the_decision_arrives_signed_with_its_route_and_ids_as_text() {
    let stand_in = StandIn::start([]).await;
    let handler = handler(&stand_in, "headers = { Authorization = { env = \"ERP_TOKEN\" }, X-Client = \"7\" }");
    let (decision, job) = (decision(1), erp_job(&decision(1)));
    assert!(
        matches!(send(&*handler, &job).await, Verdict::Done { response: Some(r), .. } if r.contains("200") && r.contains("fine"))
    );
    let request = stand_in.requests().pop().expect("request");
    assert_eq!(request.head, "POST /orders HTTP/1.1");
    verify(SECRET, &request).expect("the signature holds");
    assert!(verify("whsec_c2Vjb25kc2VjcmV0", &request).is_err());
    assert_eq!(request.headers["idempotency-key"], format!("{}/0", decision.decision_id));
    assert_eq!(request.headers["webhook-id"], request.headers["idempotency-key"]);
    assert_eq!((request.headers["authorization"].as_str(), request.headers["x-client"].as_str()), ("Bearer t0ken-of-erp", "7"));
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["variant_id"], "9007199254740993");
    assert_eq!(body["decision_id"], decision.decision_id.to_string());
    assert_eq!((&body["quantity"], &body["route"]["plant"], &body["route"]["to"]), (&24.into(), &"N".into(), &"erp".into()));
    assert!(body.get("routes").is_none(), "what other routes say is nobody's business");
}

/// By the specification's own crate.
fn verify(secret: &str, request: &Request) -> Result<(), standardwebhooks::WebhookError> {
    let mut map = reqwest::header::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        map.insert(name, request.headers[name].parse().expect("value"));
    }
    standardwebhooks::Webhook::new(secret).expect("secret").verify(&request.body, &map)
}

#[tokio::test]
async fn every_answer_has_its_verdict() {
    for (status, headers, after) in [
        ("429 Too Many Requests", &[("retry-after", "7")][..], Some(7)),
        ("503 Service Unavailable", &[("retry-after", "30")][..], Some(30)),
        ("408 Request Timeout", &[][..], None),
        ("425 Too Early", &[][..], None),
    ] {
        let verdict = verdict_on(Behaviour::status(status, headers, "no")).await;
        let Verdict::Retry { after: found, .. } = verdict else { panic!("{status}: {verdict:?}") };
        assert_eq!(found, after.map(Duration::from_secs), "{status}");
    }
    for status in ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone", "422 Unprocessable Content"] {
        let verdict = verdict_on(Behaviour::status(status, &[], "no such article")).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains("no such article")), "{status}: {verdict:?}");
    }
    for status in ["500 Internal Server Error", "502 Bad Gateway", "504 Gateway Timeout"] {
        let verdict = verdict_on(Behaviour::status(status, &[], "broke")).await;
        assert!(matches!(&verdict, Verdict::Ambiguous { reason } if reason.contains("broke")), "{status}: {verdict:?}");
    }
    for status in ["201 Created", "204 No Content"] {
        assert!(matches!(verdict_on(Behaviour::status(status, &[], "")).await, Verdict::Done { .. }), "{status}");
    }
    assert!(matches!(verdict_on(Behaviour::status("409 Conflict", &[], "")).await, Verdict::AlreadyDone { .. }));
}

#[tokio::test]
async fn a_target_that_has_gone_is_left_alone_for_an_hour() {
    let stand_in = StandIn::start([Behaviour::status("410 Gone", &[], "moved out")]).await;
    let handler = handler(&stand_in, "");
    let now = Utc::now();
    let send_at = async |minutes: i64| {
        let (job, at) = (erp_job(&decision(1)), now + chrono::TimeDelta::minutes(minutes));
        let request = handler.prepare(&job, at).expect("request");
        handler.send(&job, &request, at).await
    };
    assert!(matches!(send_at(0).await, Verdict::Permanent { reason } if reason.contains("moved out")));
    assert!(matches!(send_at(59).await, Verdict::Permanent { reason } if reason.contains("left alone until")));
    assert_eq!(stand_in.requests().len(), 1);
    assert!(matches!(send_at(60).await, Verdict::Done { .. }));
    assert!(matches!(send_at(61).await, Verdict::Done { .. }));
    assert_eq!(stand_in.requests().len(), 3);
}

#[test]
fn check_refuses_a_template_with_an_unknown_field() {
    let folder = tempfile::tempdir().expect("folder");
    let check = |field: &str| {
        let config = format!(
            "data_dir = \"{0}\"\n[handlers.erp]\nkind = \"target\"\nurl = \"https://erp.example/\"\nbody = {{ lines = [{{ article = \"{field}\" }}] }}\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("stockwarden.toml");
        std::fs::write(&file, config).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stockwarden"));
        command.args(["--json", "check", "--offline", "--config"]).arg(file).env_clear().env("PATH", "/usr/bin:/bin");
        let done = command.output().expect("the binary runs");
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let (code, told) = check("{{skuu}}");
    assert!(code == Some(1) && told.contains("handlers.erp") && told.contains("skuu") && told.contains("decision_id"), "{told}");
    let (code, told) = check("{{sku}}");
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let trap = StandIn::start([]).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let verdict = verdict_on(Behaviour::status(status, &[("location", &trap.url())], "")).await;
        assert!(
            matches!(&verdict, Verdict::Permanent { reason } if reason.contains("redirects are not followed")),
            "{verdict:?}"
        );
    }
    assert!(trap.requests().is_empty());
}

#[tokio::test]
async fn no_word_after_the_request_is_ambiguous() {
    for behaviour in [
        Behaviour::CommitThenDrop,
        Behaviour::Hang,
        Behaviour::Answer("this is not HTTP\r\n\r\n".into()),
        Behaviour::Answer("HTTP/1.1 2".into()),
    ] {
        let verdict = verdict_on(behaviour.clone()).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{behaviour:?}: {verdict:?}");
    }
    // The status was there, only the text breaks off.
    let verdict = verdict_on(Behaviour::Answer("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".into())).await;
    assert!(matches!(verdict, Verdict::Done { .. }), "{verdict:?}");
}

#[tokio::test]
async fn a_target_that_is_not_there_had_no_effect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = nobody.local_addr().expect("address");
    drop(nobody);
    let toml = format!("url = \"http://{address}/\"\nallow_private_addresses = true");
    let handler = handler_with(&toml, Arc::new(SystemLookup)).expect("handler");
    assert!(matches!(send(&*handler, &erp_job(&decision(1))).await, Verdict::Retry { .. }));
}

/// Answers each look-up with the next of its lists.
struct Scripted(Mutex<Vec<Vec<IpAddr>>>);

impl Lookup for Scripted {
    fn lookup<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        let next = self.0.lock().expect("lock").remove(0);
        Box::pin(async move { Ok(next) })
    }
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_refused_at_every_look_up() {
    let stand_in = StandIn::start([]).await;
    let port = stand_in.address.port();
    let answers = ["127.0.0.1", "::ffff:127.0.0.1", "::1", "169.254.169.254"];
    let lists = answers.iter().map(|a| vec![a.parse().expect("address")]).collect();
    let toml = format!("url = \"http://erp.example:{port}/\"");
    let handler = handler_with(&toml, Arc::new(Scripted(Mutex::new(lists)))).expect("handler");
    for answer in answers {
        let verdict = send(&*handler, &erp_job(&decision(1))).await;
        assert!(
            matches!(&verdict, Verdict::Permanent { reason } if reason.contains("allow_private_addresses")),
            "{answer}: {verdict:?}"
        );
    }
    assert!(stand_in.requests().is_empty(), "nothing was connected to");
    // The same answer is taken when it is allowed, so that it was the guard that refused.
    let lists = Mutex::new(vec![vec!["127.0.0.1".parse().expect("address")]]);
    let allowed = handler_with(&format!("{toml}\nallow_private_addresses = true"), Arc::new(Scripted(lists))).expect("handler");
    assert!(matches!(send(&*allowed, &erp_job(&decision(1))).await, Verdict::Done { .. }));
}

#[test]
fn a_private_address_in_the_url_is_refused_however_it_is_written() {
    for host in [
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "169.254.169.254",
        "[fe80::1]",
        "224.0.0.1",
        "0.0.0.0",
    ] {
        let refused = handler_with(&format!("url = \"http://{host}/\""), Arc::new(SystemLookup));
        assert!(refused.as_ref().is_err_and(|e| e.contains("allow_private_addresses")), "{host}: {:?}", refused.err());
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    for (toml, want) in [
        ("url = \"ftp://a.example/\"", "http://"),
        ("url = \"https://me:secret@a.example/\"", "credentials"),
        ("url = \"https://a.example/\"\nsecret = { env = \"NOT_SET\" }", "NOT_SET"),
        ("url = \"https://a.example/\"\nsecret = { env = \"ERP_TOKEN\" }", "whsec_"),
        ("url = \"https://a.example/\"\nheaders = { Webhook-Id = \"x\" }", "headers.Webhook-Id"),
        ("url = \"https://a.example/\"\nbody = { a = \"{{nope}}\" }", "nope"),
        ("url = \"https://a.example/\"\ntimeout = \"0s\"", "timeout"),
        ("url = \"https://a.example/\"\nmethod = \"GET\"", "method"),
    ] {
        let refused = handler_with(toml, Arc::new(SystemLookup)).err();
        assert!(refused.as_ref().is_some_and(|e| e.contains(want)), "{toml}: {refused:?}");
        assert!(refused.is_some_and(|e| !e.contains("t0ken") && !e.contains("me:secret")), "{toml}");
    }
}

#[tokio::test]
async fn a_body_template_is_filled() {
    let stand_in = StandIn::start([]).await;
    let handler =
        handler(&stand_in, "body = { article = \"{{sku}}\", amount = \"{{quantity}}\", note = \"for {{route.plant}}\" }");
    send(&*handler, &erp_job(&decision(1))).await;
    let body: serde_json::Value = serde_json::from_slice(&stand_in.requests()[0].body).expect("JSON");
    assert_eq!(body, serde_json::json!({"article": "TB-750", "amount": 24, "note": "for N"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_ledger_a_lost_answer_is_sent_again_with_the_same_body_and_key() {
    let stand_in = StandIn::start([
        Behaviour::CommitThenDrop,
        Behaviour::status("503 Service Unavailable", &[], "t0ken-of-erp is what you sent"),
    ])
    .await;
    let world = World::new();
    let node = world.node(Tap::default()).await;
    let row = planned(1, "erp", &decision(1), &route(serde_json::json!({"to": "erp"})));
    node.plan(&[row]).await;
    let handler = handler(&stand_in, "headers = { X-Token = { env = \"ERP_TOKEN\" } }");
    node.sender("erp", stockwarden::handlers::Common::default(), handler);
    node.until(1, EffectState::Ambiguous).await;
    let row = super::harness::until("it is done", async || {
        world.clock.advance(Duration::from_secs(3));
        Some(node.row(1).await).filter(|r| r.state == EffectState::Done)
    })
    .await;
    assert!(row.possible_duplicate);
    let requests = stand_in.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert_eq!(
            (&request.body, &request.headers["idempotency-key"]),
            (&requests[0].body, &requests[0].headers["idempotency-key"])
        );
        let signed_at: i64 = request.headers["webhook-timestamp"].parse().expect("number");
        assert!(signed_at >= 1_795_168_800, "signed anew");
    }
    assert_ne!(requests[0].headers["webhook-timestamp"], requests[2].headers["webhook-timestamp"]);
}
