//! Links in mails: they show on GET and move on POST.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use reqwest::{Method, StatusCode};
use stockwarden::events::fact::Move;
use stockwarden::events::record::Position;
use stockwarden::links::{Claim, LIFETIME_MS, LinkKey, Links};
use stockwarden::ports::reorders::{MoveError, MoveOutcome, MoveRequest, Moves};
use uuid::Uuid;

use super::site::Site;

/// Notes what it is asked; answers as told, else that it has moved.
#[derive(Default)]
pub struct Moved {
    pub asked: Mutex<Vec<MoveRequest>>,
    pub answers: Mutex<VecDeque<Result<MoveOutcome, MoveError>>>,
}

impl Moves for Moved {
    fn carry_out(&self, request: MoveRequest) -> BoxFuture<'_, Result<MoveOutcome, MoveError>> {
        self.asked.lock().expect("lock").push(request);
        let moved = || Ok(MoveOutcome::Moved { position: Position { partition: 0, offset: 1 }, state: "acknowledged".into() });
        let answer = self.answers.lock().expect("lock").pop_front().unwrap_or_else(moved);
        Box::pin(async { answer })
    }
}

fn claim(moved: Move) -> Claim {
    Claim {
        proposal_id: Uuid::from_u128(7),
        moved,
        ends_at: (Utc::now().timestamp_millis() + LIFETIME_MS) / 1000 * 1000,
        via: "mail".into(),
        by: "orders@acme.example".into(),
        what: "24 × <b>TB-750</b>".into(),
    }
}

fn url(site: &Site, claim: &Claim) -> String {
    Links::new(LinkKey::new(&site.vault), &format!("{}/", site.base)).url(claim)
}

#[tokio::test]
async fn looking_at_a_link_changes_nothing_and_its_button_moves_the_proposal() {
    let moves = Arc::new(Moved::default());
    let site = Site::moving(moves.clone()).await;
    let url = url(&site, &claim(Move::Acknowledge));
    for method in [Method::HEAD, Method::GET, Method::GET] {
        let shown = site.client.request(method.clone(), &url).send().await.expect("answer");
        assert_eq!(shown.status(), StatusCode::OK, "{method}");
        for (name, want) in [
            ("content-security-policy", "default-src 'none'"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("content-type", "text/html"),
        ] {
            let value = shown.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            assert!(value.contains(want), "{method} {name}: {value}");
        }
        let page = shown.text().await.expect("page");
        if method == Method::GET {
            assert!(page.contains("24 × &lt;b&gt;TB-750") && !page.contains("<b>"), "{page}");
            assert!(page.contains("<form method=\"post\">") && page.contains("Acknowledge</button>"), "{page}");
        }
    }
    assert!(moves.asked.lock().expect("lock").is_empty(), "nothing has moved");
    let done = site.client.post(&url).send().await.expect("answer");
    assert_eq!(done.status(), StatusCode::OK);
    assert!(done.text().await.expect("page").contains("It is acknowledged now."));
    site.client.post(&url).send().await.expect("answer");
    let asked = moves.asked.lock().expect("lock").clone();
    let (proposal, moved) = (asked[0].proposal_id, asked[0].moved);
    assert_eq!((proposal, moved, asked[0].by.as_str()), (Uuid::from_u128(7), Move::Acknowledge, "orders@acme.example"));
    assert_eq!(asked[0].via, "mail");
    assert!(asked[0].dedupe_id.is_some() && asked[0].dedupe_id == asked[1].dedupe_id, "a button pressed twice is one act");
}

#[tokio::test]
async fn a_snooze_lasts_a_day_from_when_the_button_is_pressed() {
    let moves = Arc::new(Moved::default());
    let site = Site::moving(moves.clone()).await;
    let before = Utc::now().timestamp_millis();
    site.client.post(url(&site, &claim(Move::Snooze))).send().await.expect("answer");
    let asked = moves.asked.lock().expect("lock").pop().expect("asked");
    let until = asked.details.until.expect("a time");
    assert_eq!(asked.moved, Move::Snooze);
    assert!((before + 86_400_000..=Utc::now().timestamp_millis() + 86_400_000).contains(&until), "{until}");
}

#[tokio::test]
async fn a_link_that_is_bent_old_or_anothers_moves_nothing_and_says_why_in_plain_words() {
    let moves = Arc::new(Moved::default());
    let site = Site::moving(moves.clone()).await;
    let good = url(&site, &claim(Move::Acknowledge));
    let old = url(&site, &Claim { ends_at: Utc::now().timestamp_millis() - 1000, ..claim(Move::Acknowledge) });
    let other = stockwarden::vault::Vault::from_base64(&stockwarden::vault::Vault::new_key().expect("key")).expect("key");
    let foreign = Links::new(LinkKey::new(&other), &site.base).url(&claim(Move::Acknowledge));
    for (url, status, told) in [
        (&good[..good.len() - 1], StatusCode::NOT_FOUND, "cut when it was copied"),
        (&foreign, StatusCode::NOT_FOUND, "leads nowhere"),
        (&old, StatusCode::GONE, "too old"),
    ] {
        for method in [Method::GET, Method::POST] {
            let answer = site.client.request(method, url).send().await.expect("answer");
            assert_eq!(answer.status(), status, "{url}");
            assert!(answer.headers().contains_key("content-security-policy") && !answer.headers().contains_key("location"));
            let page = answer.text().await.expect("page");
            assert!(page.contains(told) && !page.contains("<form"), "{page}");
        }
    }
    assert_eq!(site.client.put(&good).send().await.expect("answer").status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(moves.asked.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn what_cannot_be_moved_is_told_on_the_page() {
    let moves = Arc::new(Moved::default());
    let site = Site::moving(moves.clone()).await;
    let url = url(&site, &claim(Move::Acknowledge));
    let unavailable = MoveError::Unavailable { reason: "internal detail".into(), retry_after: Duration::from_secs(3) };
    for (answer, status, told) in [
        (Ok(MoveOutcome::Already { state: "in_transit".into() }), StatusCode::OK, "It was in transit already"),
        (Err(MoveError::NotFound(Uuid::from_u128(7))), StatusCode::NOT_FOUND, "no such reorder"),
        (Err(MoveError::Illegal("it is <received>".into())), StatusCode::CONFLICT, "it is &lt;received&gt;"),
        (Err(unavailable), StatusCode::SERVICE_UNAVAILABLE, "try again"),
    ] {
        moves.answers.lock().expect("lock").push_back(answer);
        let answer = site.client.post(&url).send().await.expect("answer");
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == StatusCode::SERVICE_UNAVAILABLE);
        let page = answer.text().await.expect("page");
        assert!(page.contains(told) && !page.contains("internal detail"), "{page}");
    }
}
