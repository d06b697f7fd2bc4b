//! Organisations, shops, rules, tokens and dead letters on the embedded log and SQLite.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use stockwarden::events::dead_letter::{DeadLetter, Origin, Reason, Unreadable};
use stockwarden::events::record::{NewRecord, Topic};
use stockwarden::ports::EventLog;

use super::Home;

const SHOP: &str = "a.myshopify.com";
const RULES: &str = r#"
[[rule]]
id = "low"
trigger = { kind = "constant", threshold = 10 }
quantity = { kind = "up-to", level = 60 }
routes = [{ to = "mail", address = "a@example.com" }]
"#;

#[test]
fn a_shop_is_registered_once_with_its_fact_and_its_secrets_stay_sealed() {
    let home = Home::new().with("S1", "shpss_first").with("S2", "shpss_second").with("S3", "shpss_third").with("T", "shpat_tok");
    let run = home.run(&["shop", "add", "A.myshopify.com", "--webhook-secret-env", "S1", "--access-token-env", "T"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.starts_with("registered a.myshopify.com in the organisation default, as fact "), "{run:?}");
    assert!(run.err.contains("made a master key in "), "{run:?}");
    let mode = std::fs::metadata(home.data().join("master.key")).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let facts = home.records("facts", &[]);
    assert_eq!(facts.len(), 1);
    assert_eq!((&facts[0]["type"], &facts[0]["key"]), (&json!("shop/registered"), &json!(SHOP)));
    assert_eq!(facts[0]["value"], json!({ "shop": SHOP, "organisation": "default", "kind": "shopify" }));

    // The same again changes nothing, a new secret keeps the previous one, a third drops the first.
    let again = home.json(&["shop", "add", SHOP, "--webhook-secret-env", "S1"]);
    assert_eq!((&again["webhook_secret"], &again["webhook_secrets"]), (&json!("unchanged"), &json!(1)));
    assert_eq!((&again["added"], &again["access_token"]), (&json!(false), &json!(true)));
    for secret in ["S2", "S3"] {
        let rotated = home.json(&["shop", "add", SHOP, "--webhook-secret-env", secret]);
        assert_eq!((&rotated["webhook_secret"], &rotated["webhook_secrets"]), (&json!("rotated"), &json!(2)));
    }
    let list = home.run(&["shop", "list"]);
    assert!(list.out.contains(SHOP) && !list.out.contains("shp"), "{list:?}");
    for secret in ["shpss_first", "shpss_second", "shpss_third", "shpat_tok"] {
        assert!(!home.holds(secret), "{secret} stands in a file in clear");
    }

    let removed = home.json(&["shop", "remove", SHOP]);
    let facts = home.records("facts", &["--type", "shop/removed"]);
    assert_eq!(facts[0]["position"], removed["position"]);
    assert_eq!(home.json(&["shop", "list"])["shops"], json!([]));
    let run = home.run(&["shop", "remove", SHOP]);
    assert_eq!(run.code, 1);
    assert!(run.err.starts_with("error: there is no shop \"a.myshopify.com\"\nmend:  stockwarden shop list"), "{run:?}");
}

#[test]
fn a_shop_changes_its_organisation_only_on_purpose() {
    let home = Home::new();
    let run = home.run(&["shop", "add", SHOP, "--org", "acme"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("there is no organisation \"acme\"") && run.err.contains("stockwarden org add acme"), "{run:?}");
    assert_eq!(home.json(&["org", "add", "acme"])["added"], true);
    assert_eq!(home.json(&["org", "add", "acme"])["added"], false);
    assert!(home.run(&["org", "add", "Acme Ltd"]).err.contains("cannot name an organisation"));

    home.json(&["shop", "add", SHOP]);
    let run = home.run(&["shop", "add", SHOP, "--org", "acme"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("belongs to the organisation \"default\"") && run.err.contains("--move"), "{run:?}");
    let moved = home.json(&["shop", "add", SHOP, "--org", "acme", "--move"]);
    assert_eq!((&moved["organisation"], &moved["moved_from"]), (&json!("acme"), &json!("default")));
    assert_eq!(home.json(&["shop", "add", SHOP])["organisation"], "acme", "without --org it stays where it is");
    let run = home.run(&["shop", "add", SHOP, "--kind", "generic"]);
    assert!(run.code == 1 && run.err.contains("is registered as shopify, not generic"), "{run:?}");

    let store = home.json(&["shop", "add", "berlin", "--kind", "store", "--org", "acme"]);
    assert_eq!(store["shop"], "store:acme/berlin");
    assert_eq!(home.json(&["org", "list"])["organisations"][0], json!({ "organisation": "acme", "shops": 2 }));
    for bad in ["https://a.myshopify.com", "a", "a..b", "~rules", "store:acme/x"] {
        let run = home.run(&["shop", "add", bad]);
        assert!(run.code == 1 && run.err.contains("is not a shop's domain"), "{bad}: {run:?}");
    }
}

#[test]
fn rules_are_one_fact_on_every_partition_and_an_unchanged_set_makes_none() {
    let home = Home::new();
    let file = home.file("rules.toml", RULES);
    let bad = home.file("bad.toml", &RULES.replace("threshold", "treshold"));
    let run = home.run(&["rules", "check", &bad]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.contains("bad.toml has 1 problem(s)") && run.err.contains("\"low\""), "{run:?}");
    assert!(!home.data().exists(), "a check opens nothing");
    assert_eq!(home.run(&["rules", "apply", &bad]).code, 1);
    assert_eq!(home.records("facts", &[]).len(), 0, "nothing of a bad file is applied");

    let checked = home.json(&["rules", "check", &file]);
    assert_eq!((&checked["ok"], &checked["rules"]), (&json!(true), &json!(1)));
    assert!(checked["warnings"][0].as_str().is_some_and(|w| w.contains("sends to \"mail\"")), "{checked}");

    let applied = home.json(&["rules", "apply", &file]);
    assert_eq!((&applied["applied"], &applied["rule_version"]), (&json!(true), &json!(1)));
    let facts = home.records("facts", &["--type", "rules/applied"]);
    let positions: Vec<_> = facts.iter().map(|f| f["position"].clone()).collect();
    assert_eq!(json!(positions), applied["positions"]);
    assert_eq!(positions.len(), 12);
    assert!(facts.iter().all(|f| f["key"] == "~rules" && f["value"]["rules"][0]["id"] == "low"), "{facts:?}");

    // What is shown is a file that means the same.
    let shown = home.run(&["rules", "show"]).out;
    assert!(shown.starts_with("# organisation default, version 1, applied "), "{shown}");
    let same = home.file("same.toml", &shown);
    let again = home.json(&["rules", "apply", &same]);
    assert_eq!((&again["applied"], &again["rule_version"]), (&json!(false), &json!(1)), "{shown}");
    let other = home.file("other.toml", &RULES.replace("= 10", "= 11"));
    assert_eq!(home.json(&["rules", "apply", &other])["rule_version"], 2);
    assert_eq!(home.records("facts", &["--type", "rules/applied"]).len(), 24);
    assert_eq!(home.json(&["rules", "show"])["rules"][0]["trigger"]["threshold"], 11);
}

#[test]
fn a_token_is_shown_once_and_kept_as_a_hash() {
    let home = Home::new();
    home.json(&["org", "add", "acme"]);
    home.json(&["shop", "add", SHOP, "--org", "acme"]);
    let made = home.json(&["token", "create", "--role", "staff", "--org", "acme", "--shop", SHOP]);
    let token = made["token"].as_str().expect("a token");
    assert!(token.starts_with("swt_") && token.len() == 47, "{token}");
    assert!(!home.holds(token));
    let list = home.run(&["token", "list"]);
    assert!(list.out.contains(made["id"].as_str().expect("an id")) && !list.out.contains("swt_"), "{list:?}");

    let plain = home.run(&["token", "create", "--role", "reader"]);
    assert_eq!(plain.out.trim().len(), 47, "stdout is the token alone: {plain:?}");
    assert!(plain.err.contains("it is shown only now"), "{plain:?}");

    let run = home.run(&["token", "create", "--role", "staff", "--shop", SHOP]);
    assert!(run.code == 1 && run.err.contains("belongs to the organisation \"acme\", not \"default\""), "{run:?}");

    let id = made["id"].as_str().expect("an id");
    assert_eq!(home.json(&["token", "revoke", id])["revoked"], true);
    assert_eq!(home.json(&["token", "revoke", id])["already"], true);
    assert!(home.json(&["token", "list"])["tokens"][0]["revoked_at"].is_string());
    let run = home.run(&["token", "revoke", token]);
    assert!(run.code == 1 && run.err.contains("not its id") && !run.err.contains(token), "{run:?}");
}

#[test]
fn a_dead_letter_is_shown_and_goes_back_with_its_key_and_its_headers() {
    let home = Home::new();
    let body = br#"{"inventory_item_id":1,"location_id":2,"available":"x"}"#;
    let log = home.log();
    let fact = NewRecord {
        topic: Topic::Facts,
        partition: None,
        key: Some(SHOP.into()),
        headers: vec![("x-shopify-topic", b"inventory_levels/update".to_vec())],
        value: Some(body.to_vec()),
    };
    let at = super::block_on(log.append(vec![fact])).expect("appended")[0];
    let stood = Origin { topic: "stock-facts".into(), partition: Some(at.partition), offset: Some(at.offset) };
    let came = Origin { topic: "webhooks/shopify".into(), partition: None, offset: None };
    let why = Unreadable::new(Reason::WrongType, "available is text");
    let letters = [
        DeadLetter::new(stood, Some("inventory_levels/update"), body, &why, 0),
        DeadLetter::new(came, None, b"{", &Unreadable::new(Reason::InvalidJson, "it ends early"), 1),
        DeadLetter::new(
            Origin { topic: "webhooks/shopify".into(), partition: None, offset: None },
            Some("orders/create"),
            b"{\"email\":\"buyer@example.com\"",
            &Unreadable::new(Reason::InvalidJson, "it ends early"),
            2,
        ),
    ];
    let records = letters.map(|l| l.into_record(Some(SHOP.into()), Some(at.partition))).to_vec();
    super::block_on(log.append(records)).expect("appended");
    drop(log);

    let list = home.json(&["dead-letters", "list"]);
    assert_eq!((&list["total"], list["dead_letters"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    assert_eq!(home.json(&["dead-letters", "list", "--reason", "wrong_type"])["total"], 1);
    assert_eq!(home.json(&["dead-letters", "list", "--limit", "1"])["dead_letters"][0]["at"], "1970-01-01T00:00:00.002Z");
    let position = format!("{}:0", at.partition);
    let shown = home.json(&["dead-letters", "show", &position]);
    assert_eq!(shown["text"].as_str().map(str::as_bytes), Some(&body[..]));
    let run = home.run(&["dead-letters", "show", "0:999"]);
    assert!(run.code == 1 && run.err.contains("there is no dead letter at 0:999"), "{run:?}");

    let done = home.json(&["dead-letters", "retry", &position]);
    let facts = home.records("facts", &["--shop", SHOP]);
    let back = facts.iter().find(|f| f["position"] == done["retried"][0]["fact"]).expect("the fact is there");
    assert_eq!((&back["key"], &back["headers"]["retry_of"]), (&json!(SHOP), &json!(position)));
    assert_eq!(back["headers"]["x-shopify-topic"], "inventory_levels/update");
    assert_eq!(back["value"]["available"], "x");

    let all = home.json(&["dead-letters", "retry", "--all", "--reason", "invalid_json"]);
    assert_eq!((all["retried"].as_array().map(Vec::len), all["skipped"].as_array().map(Vec::len)), (Some(1), Some(1)));
    assert!(all["skipped"][0]["reason"].as_str().is_some_and(|r| r.contains("buyers' data")), "{all}");
    assert_eq!(home.run(&["dead-letters", "retry"]).code, 2);
}

#[test]
fn topics_tell_what_they_hold_and_the_last_records() {
    let home = Home::new();
    for i in 0..5 {
        home.json(&["shop", "add", &format!("s{i}.myshopify.com")]);
    }
    let list = home.json(&["topics", "list"]);
    assert_eq!((&list["topics"][0]["topic"], &list["topics"][0]["lag"]), (&json!("stock-facts"), &json!(5)));
    let last = home.run(&["topics", "tail", "facts", "-n", "2", "--json"]);
    let keys: Vec<&str> = last.out.lines().filter_map(|l| l.split("\"key\":\"").nth(1)?.split('"').next()).collect();
    assert_eq!(keys, ["s3.myshopify.com", "s4.myshopify.com"]);
    assert_eq!(home.records("stock-facts", &["--shop", "s1.myshopify.com"]).len(), 1);
    let run = home.run(&["topics", "tail", "fats"]);
    assert!(run.code == 2 && run.err.contains("facts, decisions and dead-letters"), "{run:?}");
}
