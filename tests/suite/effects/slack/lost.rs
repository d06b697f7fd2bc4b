//! After a lost answer: what became of the message is found out, or it cannot be.

use serde_json::{Value, json};
use stockwarden::events::fact::Move;
use stockwarden::handlers::{Earlier, Job, Resolution, Verdict};

use super::server::{ALL_SCOPES, CHANNEL, Fault, SlackServer};
use super::{answer, at, change, handler, later, send, slack_job, update_job};
use crate::effects::harness::{decision, job};

#[tokio::test]
async fn a_lost_message_is_found_in_the_history_and_one_that_never_came_is_not() {
    for (named, fault, found) in [
        (CHANNEL, Fault::CommitThenDrop, true),
        (CHANNEL, Fault::Drop, false),
        ("#replenishment", Fault::CommitThenDrop, true),
        ("#replenishment", Fault::Drop, false),
    ] {
        let server = SlackServer::start(true, ALL_SCOPES, [fault]).await;
        let handler = handler(&server);
        let lost = job(&decision(1), json!({"to": "slack", "channel": named}));
        let request = handler.prepare(&lost, at()).expect("request");
        assert!(matches!(handler.send(&lost, &request, at()).await, Verdict::Ambiguous { .. }));
        // Others of the same channel lie on top of it.
        for n in 2..4 {
            send(&*handler, &slack_job(&decision(n))).await;
        }
        let resolution = handler.resolve(&lost, &request, later()).await;
        if found {
            let ts = server.posted()[0].ts.clone();
            let expected = format!("{CHANNEL}:{ts}");
            assert!(
                matches!(&resolution, Resolution::Done { reference: Some(r), .. } if *r == expected),
                "{named}: {resolution:?}"
            );
        } else {
            assert_eq!(resolution, Resolution::NotDone, "{named}");
            let soon = handler.resolve(&lost, &request, at()).await;
            assert!(matches!(soon, Resolution::AskLater { .. }), "it may still be on its way: {soon:?}");
        }
        let asked = server.calls("conversations.history");
        assert!(asked.len() >= 2, "it turns pages");
        let oldest = "oldest=1795168200";
        assert!(asked.iter().all(|r| r.head.contains(oldest) && r.head.contains("include_all_metadata=true")), "{asked:?}");
        assert!(asked.iter().all(|r| !r.head.contains("xoxb")));
    }
}

/// What counts is the last send, not when the message was first put together.
#[tokio::test]
async fn a_message_that_was_sent_again_may_be_on_its_way_again() {
    let server = SlackServer::start(false, ALL_SCOPES, [Fault::Error("ratelimited"), Fault::Drop]).await;
    let (handler, lost) = (handler(&server), slack_job(&decision(1)));
    let request = handler.prepare(&lost, at()).expect("request");
    assert!(matches!(handler.send(&lost, &request, at()).await, Verdict::Retry { .. }));
    assert!(matches!(handler.send(&lost, &request, later()).await, Verdict::Ambiguous { .. }));
    let soon = handler.resolve(&lost, &request, later()).await;
    assert!(matches!(soon, Resolution::AskLater { .. }), "{soon:?}");
    assert_eq!(handler.resolve(&lost, &request, later() + (later() - at())).await, Resolution::NotDone);
}

#[tokio::test]
async fn a_lost_answer_in_a_thread_is_found_there() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let first = slack_job(&decision(1));
    let request = handler.prepare(&first, at()).expect("request");
    let Verdict::Done { reference: Some(reference), .. } = handler.send(&first, &request, at()).await else { panic!("posted") };
    server.fail(Fault::CommitThenDrop);
    let second = Job { earlier: vec![Earlier { request, reference }], ..slack_job(&decision(2)) };
    let request = handler.prepare(&second, at()).expect("request");
    assert!(matches!(handler.send(&second, &request, at()).await, Verdict::Ambiguous { .. }));
    let resolution = handler.resolve(&second, &request, later()).await;
    let expected = format!("{CHANNEL}:{}", server.posted()[1].ts);
    assert!(matches!(&resolution, Resolution::Done { reference: Some(r), .. } if *r == expected), "{resolution:?}");
}

#[tokio::test]
async fn a_history_that_cannot_be_asked_now_is_asked_later_and_one_that_is_closed_is_not() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let (handler, job) = (handler(&server), slack_job(&decision(1)));
    let request = handler.prepare(&job, at()).expect("request");
    for fault in [
        answer("429 Too Many Requests", &[("retry-after", "60")], ""),
        Fault::Error("ratelimited"),
        Fault::Error("internal_error"),
        Fault::Drop,
        Fault::CommitThenHang,
        answer("200 OK", &[], "<html>"),
        answer("502 Bad Gateway", &[], ""),
    ] {
        server.fail_reading(fault.clone());
        let resolution = handler.resolve(&job, &request, later()).await;
        assert!(matches!(resolution, Resolution::AskLater { .. }), "{fault:?}: {resolution:?}");
    }
    for fault in [Fault::Error("missing_scope"), Fault::Error("not_in_channel"), Fault::Error("token_revoked")] {
        server.fail_reading(fault.clone());
        assert_eq!(handler.resolve(&job, &request, later()).await, Resolution::CannotAsk, "{fault:?}");
    }
}

#[tokio::test]
async fn where_the_thread_is_gone_the_message_stands_in_the_channel() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let first = slack_job(&decision(1));
    let request = handler.prepare(&first, at()).expect("request");
    let Verdict::Done { reference: Some(reference), .. } = handler.send(&first, &request, at()).await else { panic!("posted") };
    server.clear();
    let second = Job { earlier: vec![Earlier { request, reference }], ..slack_job(&decision(2)) };
    assert!(matches!(send(&*handler, &second).await, Verdict::Done { .. }));
    let posted = server.posted();
    assert_eq!((posted.len(), &posted[0].body["thread_ts"]), (1, &Value::Null));
}

#[tokio::test]
async fn an_edit_is_repeated_without_doubt_and_one_of_nothing_is_done() {
    let server = SlackServer::start(true, ALL_SCOPES, []).await;
    let handler = handler(&server);
    let acknowledged = || change(1, "acknowledged", Some(Move::Acknowledge));
    let nothing = update_job(acknowledged(), None);
    assert!(matches!(send(&*handler, &nothing).await, Verdict::Done { reference: None, .. }));
    assert!(server.calls("chat.update").is_empty());
    let gone = update_job(acknowledged(), Some("C0123456789:1.000"));
    let verdict = send(&*handler, &gone).await;
    assert!(matches!(&verdict, Verdict::Done { response: Some(r), .. } if r == "message_not_found"), "{verdict:?}");
    for fault in [Fault::Drop, Fault::Error("internal_error")] {
        server.fail(fault);
        assert!(matches!(send(&*handler, &gone).await, Verdict::Retry { .. }));
    }
    let request = handler.prepare(&gone, at()).expect("request");
    assert_eq!(handler.resolve(&gone, &request, later()).await, Resolution::NotDone);
    server.fail(Fault::Error("is_archived"));
    assert!(matches!(send(&*handler, &gone).await, Verdict::Permanent { .. }));
}
