//! What people see, and what hostile texts do not do to it.

use std::sync::Arc;

use serde_json::{Value, json};
use stockwarden::events::decision::{Decision, Inputs, Kind, ProposalChange, RiskLevel};
use stockwarden::events::fact::Move;
use stockwarden::events::ids::LocationId;
use stockwarden::handlers::{Earlier, Handler, Job, Update, Verdict};
use stockwarden::ports::ledger::EffectId;

use super::server::{ALL_SCOPES, CHANNEL, SlackServer};
use super::{at, body, change, handler, handler_with, send, slack_job, update_job};
use crate::effects::harness::{decision, job};

/// Without a server.
fn offline() -> Arc<dyn Handler> {
    let toml = "token = { env = \"SLACK_TOKEN\" }\nsigning_secret = { env = \"SLACK_SIGNING_SECRET\" }\nchannel = \"#a\"";
    handler_with(toml).expect("handler")
}

fn buttons(body: &Value) -> Vec<String> {
    let blocks = body["blocks"].as_array().expect("blocks");
    let actions = blocks.iter().filter(|b| b["type"] == "actions").flat_map(|b| b["elements"].as_array().expect("elements"));
    actions.map(|e| e["action_id"].as_str().expect("id").to_owned()).collect()
}

#[tokio::test]
async fn a_decision_becomes_a_message_that_says_what_where_how_fast_how_long_and_why() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let inputs = Inputs { rate_fast: Some(3.2), rate_slow: Some(1.1), hours_left: Some(2.1), ..Inputs::default() };
    let decision = Decision { inputs, location_id: Some(LocationId(77)), ..decision(1) };
    let job = slack_job(&decision);
    let verdict = send(&*handler(&server), &job).await;
    let Verdict::Done { reference: Some(reference), .. } = verdict else { panic!("{verdict:?}") };
    let posted = server.posted().pop().expect("a message");
    assert_eq!(reference, format!("{CHANNEL}:{}", posted.ts));
    let text = posted.body["blocks"].to_string();
    for part in ["Bottle", "TB-750", "Acme", "a.example", "77", "3.2 an hour, usually 1.1 an hour", "~2.1 h", "fell to 4", "24"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(posted.body["text"].as_str().is_some_and(|t| t.contains("Bottle") && t.contains("fell to 4")));
    assert_eq!(buttons(&posted.body), ["reorder_ack", "reorder_snooze_24h", "reorder_ordered"]);
    assert!(text.contains(&format!("\"value\":\"{}\"", decision.proposal_id)), "{text}");
    let payload = &posted.body["metadata"]["event_payload"];
    assert_eq!(payload["reorder_id"], decision.proposal_id.to_string());
    assert_eq!((&payload["decision_id"], &payload["route_id"]), (&json!(decision.decision_id), &json!("0")));
    let id = |body: &Value| body["client_msg_id"].as_str().expect("id").parse::<uuid::Uuid>().expect("UUID");
    let other = Job { id: EffectId { route_id: "1".into(), ..job.id.clone() }, ..job.clone() };
    assert_eq!(id(&posted.body), id(&body(&*handler(&server), &job)), "the same at every build");
    assert_ne!(id(&posted.body), id(&body(&*handler(&server), &other)), "another route, another message");
}

#[test]
fn warning_reorder_and_transfer_are_told_apart_at_a_glance() {
    let header = |kind, severity| {
        let decision = Decision { kind, severity, ..decision(1) };
        body(&*offline(), &slack_job(&decision))["blocks"][0]["text"]["text"].as_str().expect("header").to_owned()
    };
    assert_eq!(header(Kind::Reorder, RiskLevel::Warning), ":package: Reorder 24 × Bottle");
    assert_eq!(header(Kind::Transfer, RiskLevel::Warning), ":truck: Transfer 24 × Bottle");
    assert_eq!(header(Kind::Warning, RiskLevel::Warning), ":warning: Early warning: Bottle");
    assert_eq!(header(Kind::Warning, RiskLevel::Out), ":rotating_light: Sold out: Bottle");
}

#[tokio::test]
async fn hostile_texts_fit_the_limits_and_ping_nobody() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    for evil in ["<!channel> ", "&", "🧴\n", "<@U0123456789>", "a<https://evil.example|b>", "\u{202e}\0", " ", "x"] {
        let evil = evil.repeat(10_000);
        let some = Some(evil.clone());
        let decision = Decision {
            title: some.clone(),
            sku: some.clone(),
            vendor: some.clone(),
            shop: some.clone(),
            reason: evil.clone(),
            rule_id: evil.clone(),
            ..decision(1)
        };
        let handler = handler(&server);
        let verdict = send(&*handler, &slack_job(&decision)).await;
        assert!(matches!(verdict, Verdict::Done { .. }), "{verdict:?}");
        let mut changed = change(1, "ordered", Some(Move::Ordered));
        (changed.by, changed.via, changed.note, changed.reference) = (some.clone(), some.clone(), some.clone(), some.clone());
        changed.assigned_to = some;
        let posted = server.posted().pop().expect("a message");
        let reference = format!("{CHANNEL}:{}", posted.ts);
        let update = Update { change: changed, reference: Some(reference) };
        let edit = Job { update: Some(update), ..slack_job(&decision) };
        let verdict = send(&*handler, &edit).await;
        assert!(matches!(&verdict, Verdict::Done { response: Some(r), .. } if r.contains("changed")), "{verdict:?}");
        let posted = server.posted().pop().expect("a message");
        for body in [&posted.body, &posted.edits[0]] {
            let text = body.to_string();
            for ping in ["<!channel", "<!here", "<@U", "<https"] {
                assert!(!text.contains(ping), "{ping} is in {text}");
            }
            assert!(!body["blocks"][0]["text"]["text"].as_str().expect("header").contains('\n'));
        }
        server.clear();
    }
}

#[test]
fn without_a_signing_secret_there_are_no_buttons() {
    let handler = handler_with("token = { env = \"SLACK_TOKEN\" }\nchannel = \"#a\"").expect("handler");
    assert!(buttons(&body(&*handler, &slack_job(&decision(1)))).is_empty());
    assert_eq!(buttons(&body(&*offline(), &slack_job(&decision(1)))).len(), 3);
}

#[test]
fn messages_about_a_variant_answer_in_the_thread_of_the_first_in_their_channel() {
    let handler = offline();
    let in_channel = |n: u128, channel: &str, earlier: &[Earlier]| {
        let job = Job { earlier: earlier.to_vec(), ..job(&decision(n), json!({"to": "slack", "channel": channel})) };
        let request = handler.prepare(&job, at()).expect("request");
        let thread = body(&*handler, &job)["thread_ts"].as_str().map(str::to_owned);
        (thread, Earlier { request, reference: format!("C0000000{channel}:{n}.000") })
    };
    let (thread, first) = in_channel(1, "A", &[]);
    assert_eq!(thread, None);
    let (thread, second) = in_channel(2, "A", std::slice::from_ref(&first));
    assert_eq!(thread.as_deref(), Some("1.000"));
    // The newest is an answer itself; and the first has left the ledger.
    let (thread, _) = in_channel(3, "A", std::slice::from_ref(&second));
    assert_eq!(thread.as_deref(), Some("1.000"));
    let (thread, other) = in_channel(4, "B", &[second.clone(), first]);
    assert_eq!(thread, None, "another channel has its own thread");
    let edit = handler.prepare(&update_job(change(1, "ordered", None), Some("C0000000A:1.000")), at()).expect("request");
    let edit = Earlier { request: edit, reference: "C0000000A:7.000".into() };
    let junk = Earlier { request: b"{}".to_vec(), reference: "x".into() };
    let (thread, _) = in_channel(5, "A", &[junk, edit, other, second]);
    assert_eq!(thread.as_deref(), Some("1.000"), "edits and other channels do not count");
}

#[tokio::test]
async fn a_change_edits_the_message_and_takes_away_the_buttons_that_do_no_more() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let Verdict::Done { reference, .. } = send(&*handler, &slack_job(&decision(1))).await else { panic!("posted") };
    let snoozed = ProposalChange { snoozed_until: Some(1_795_255_200_000), ..change(1, "sent", Some(Move::Snooze)) };
    let partly = ProposalChange { received: 10, ..change(1, "in_transit", Some(Move::Received)) };
    for (change, says, left) in [
        (snoozed, "*Snoozed* until <!date^1795255200^", &["reorder_ack", "reorder_ordered"][..]),
        (change(1, "acknowledged", Some(Move::Acknowledge)), "*Acknowledged*", &["reorder_snooze_24h", "reorder_ordered"]),
        (change(1, "ordered", Some(Move::Ordered)), "*Ordered* (24)", &[]),
        (partly, "*10 of 24 received*", &[]),
        (change(1, "cancelled", Some(Move::Cancel)), "*Cancelled*", &[]),
        (change(1, "resolved", None), "*Resolved*", &[]),
        (change(1, "expired", None), "*Expired*", &[]),
        (change(1, "teleported", None), "*teleported*", &[]),
    ] {
        let who = change.by.clone();
        let verdict = send(&*handler, &update_job(change, reference.as_deref())).await;
        assert!(matches!(verdict, Verdict::Done { .. }), "{says}: {verdict:?}");
        let edit = server.posted()[0].edits.last().expect("an edit").clone();
        let text = edit["blocks"].to_string();
        assert!(text.contains(says) && text.contains("Bottle"), "{says} is not in {text}");
        assert!(edit["text"].as_str().is_some_and(|t| t.contains(says)));
        assert_eq!(text.contains("by petra (U0123456789) via jira"), who.is_some(), "{text}");
        assert_eq!(buttons(&edit), left, "{says}");
    }
    assert_eq!(server.posted().len(), 1, "nothing else is said");
}
