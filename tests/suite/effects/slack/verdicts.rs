//! What each answer of Slack means, and what is refused before anything is sent.

use std::time::Duration;

use serde_json::json;
use stockwarden::handlers::Verdict;

use super::server::{ALL_SCOPES, CHANNEL, Fault, SlackServer, TOKEN};
use super::{answer, at, handler, handler_with, send, slack_job};
use crate::effects::harness::{decision, job};

async fn verdict_on(fault: Fault) -> Verdict {
    let server = SlackServer::start(true, ALL_SCOPES, [fault]).await;
    send(&*handler(&server), &slack_job(&decision(1))).await
}

#[tokio::test]
async fn every_refusal_has_its_verdict_and_says_what_to_mend() {
    for (code, mend) in [
        ("invalid_auth", "token"),
        ("account_inactive", "token"),
        ("token_revoked", "token"),
        ("channel_not_found", CHANNEL),
        ("not_in_channel", "invite"),
        ("is_archived", "unarchive"),
        ("msg_blocks_too_long", "report"),
        ("missing_scope", "scope"),
        ("restricted_action_read_only_channel", "administrators"),
        ("something_new", "docs.slack.dev"),
    ] {
        let verdict = verdict_on(Fault::Error(code)).await;
        let fits = matches!(&verdict, Verdict::Permanent { reason } if reason.contains(code) && reason.contains(mend));
        assert!(fits && !format!("{verdict:?}").contains(TOKEN), "{code}: {verdict:?}");
    }
    for code in ["internal_error", "fatal_error", "service_unavailable", "request_timeout"] {
        let verdict = verdict_on(Fault::Error(code)).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{code}: {verdict:?}");
    }
    let known = verdict_on(Fault::Error("duplicate_message_not_found")).await;
    assert!(matches!(known, Verdict::AlreadyDone { .. }), "{known:?}");
}

#[tokio::test]
async fn a_limit_is_waited_out_as_long_as_slack_says() {
    let body = r#"{"ok":false,"error":"ratelimited"}"#;
    for (status, headers, wait) in [
        ("429 Too Many Requests", &[("retry-after", "7")][..], Some(7)),
        ("429 Too Many Requests", &[][..], None),
        ("200 OK", &[("retry-after", "30")][..], Some(30)),
    ] {
        let verdict = verdict_on(answer(status, headers, body)).await;
        let Verdict::Retry { after, .. } = verdict else { panic!("{status}: {verdict:?}") };
        assert_eq!(after, wait.map(Duration::from_secs), "{status}");
    }
}

#[tokio::test]
async fn what_does_not_say_whether_it_was_done_is_ambiguous() {
    for fault in [
        Fault::CommitThenDrop,
        Fault::Drop,
        Fault::CommitThenHang,
        Fault::CommitThenError("internal_error"),
        answer("200 OK", &[], "<html>"),
        answer("200 OK", &[], "{}"),
        answer("200 OK", &[], r#"{"ok":true}"#),
        answer("200 OK", &[], r#"{"ok":true,"channel":"C0123456789""#),
        answer("200 OK", &[], r#"{"ok":false,"error":7}"#),
        answer("503 Service Unavailable", &[], ""),
        answer("504 Gateway Timeout", &[], "<html>"),
        Fault::Answer("this is not HTTP\r\n\r\n".into()),
    ] {
        let verdict = verdict_on(fault.clone()).await;
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{fault:?}: {verdict:?}");
    }
    for (fault, why) in [
        (answer("302 Found", &[("location", "http://127.0.0.1:1/")], ""), "redirects are not followed"),
        (answer("404 Not Found", &[], "<html>"), "api_url"),
    ] {
        let verdict = verdict_on(fault).await;
        assert!(matches!(&verdict, Verdict::Permanent { reason } if reason.contains(why)), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_slack_that_is_not_there_had_no_effect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let toml = format!(
        "api_url = \"http://{nobody}\"\ntoken = {{ env = \"SLACK_TOKEN\" }}\nchannel = \"#a\"\nallow_private_addresses = true"
    );
    assert!(matches!(send(&*handler_with(&toml).expect("handler"), &slack_job(&decision(1))).await, Verdict::Retry { .. }));
}

#[test]
fn a_wrong_configuration_is_refused_with_its_key() {
    let token = "token = { env = \"SLACK_TOKEN\" }";
    for (toml, want) in [
        ("channel = \"#a\"".to_owned(), "token"),
        ("token = { env = \"NOT_SET\" }".to_owned(), "NOT_SET"),
        ("token = \"xoxb-plain\"".to_owned(), "token"),
        ("token = { env = \"BROKEN\" }".to_owned(), "token"),
        (format!("{token}\nchannel = \"two words\""), "channel"),
        (format!("{token}\nchannel = \"\""), "channel"),
        (format!("{token}\napi_url = \"ftp://slack.com\""), "api_url"),
        (format!("{token}\napi_url = \"https://slack.com/api?x=1\""), "api_url"),
        (format!("{token}\napi_url = \"http://127.0.0.1/api\""), "allow_private_addresses"),
        (format!("{token}\nsigning_secret = {{ env = \"NOT_SET\" }}"), "NOT_SET"),
        (format!("{token}\nchanel = \"#a\""), "chanel"),
    ] {
        let refused = handler_with(&toml).err();
        assert!(refused.as_ref().is_some_and(|e| e.contains(want)), "{toml}: {refused:?}");
        assert!(refused.is_some_and(|e| !e.contains("t0ken") && !e.contains("xoxb-plain")), "{toml}");
    }
    let handler = handler_with(token).expect("a default channel is not needed");
    let without = handler.prepare(&slack_job(&decision(1)), at()).expect_err("no channel");
    assert!(without.contains("set channel"), "{without}");
    for wrong in [json!({"to": "slack", "channel": "a b"}), json!({"to": "slack", "channel": 7})] {
        assert!(handler.prepare(&job(&decision(1), wrong), at()).is_err_and(|e| e.contains("channel")));
    }
}
