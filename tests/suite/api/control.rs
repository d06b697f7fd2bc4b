//! The control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::{Value, json};
use stockwarden::api::control::{ControlError, call};
use stockwarden::api::{ControlHandler, serve_control};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const WITHIN: Duration = Duration::from_secs(20);

fn echo() -> ControlHandler {
    Arc::new(|command: Value| {
        async move {
            match command["fail"].as_str() {
                Some(why) => Err(why.to_owned()),
                None => Ok(json!({ "heard": command })),
            }
        }
        .boxed()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_answered_and_a_failure_told_in_the_handlers_words() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("control.sock");
    std::fs::write(&path, "left by a crash").expect("stale");
    let server = serve_control(&path, echo()).expect("serve");
    assert_eq!(std::fs::metadata(&path).expect("socket").permissions().mode() & 0o777, 0o600);
    let large = json!({ "rules": "x".repeat(5_000_000), "e": "é" });
    assert_eq!(call(&path, &large, WITHIN).await.expect("answer"), json!({ "heard": large }));
    let failed = call(&path, &json!({ "fail": "there is no shop \"x\"" }), WITHIN).await.expect_err("failure");
    assert_eq!(failed.to_string(), "there is no shop \"x\"");
    server.stop().await;
    assert!(!path.exists(), "the socket goes with its server");
    assert!(matches!(call(&path, &json!({}), WITHIN).await, Err(ControlError::Nobody { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_is_refused_with_problem_details() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("control.sock");
    let _server = serve_control(&path, echo()).expect("serve");
    for (request, status) in [
        ("POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{\"a", 400),
        ("GET /control HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ] {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_cannot_be_a_socket_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let error = serve_control(&file.join("folder.sock"), echo()).err().expect("refused");
    assert!(error.to_string().contains("folder.sock"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_missing_is_made_and_who_listens_there_is_not_pushed_aside() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("not").join("yet").join("control.sock");
    let server = serve_control(&path, echo()).expect("serve");
    let second = serve_control(&path, echo()).err().expect("refused");
    assert!(second.to_string().contains("another process"), "{second}");
    assert_eq!(call(&path, &json!(1), WITHIN).await.expect("the first still answers"), json!({ "heard": 1 }));
    server.stop().await;
}
