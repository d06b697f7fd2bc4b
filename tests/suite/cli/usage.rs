//! Wrong usage, wrong configuration, things that are away.

use std::time::{Duration, Instant};

use super::Home;

#[test]
fn help_is_no_error_and_wrong_usage_is_2() {
    let home = Home::new();
    let help = home.run(&["--help"]);
    assert_eq!(help.code, 0);
    for verb in ["serve", "check", "org", "shop", "rules", "token", "dead-letters", "topics"] {
        assert!(help.out.contains(verb), "{verb} is not in {}", help.out);
    }
    assert!(home.run(&["token", "create", "--help"]).out.contains("Examples:"));
    for wrong in [&["frobnicate"][..], &["shop", "add"], &["token", "create", "--role", "king"], &["serve", "--roles", "x"], &[]]
    {
        let run = home.run(wrong);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{wrong:?}: {run:?}");
    }
    assert!(home.run(&["token", "create", "--role", "king"]).err.contains("reader, staff, auditor, admin or ingest"));
    let run = home.run(&["--log", "stockwarden=loud", "org", "list"]);
    assert_eq!(run.code, 2);
    assert!(run.err.contains("is not a filter"), "{run:?}");
}

#[test]
fn a_wrong_configuration_is_told_by_key_value_and_place() {
    let home = Home::new().with("STOCKWARDEN__SHARDS__COMMIT_INTERVAL", "20");
    let file = home.file("c.toml", "[log]\nkind = \"kafca\"\n[stor]\n");
    for verb in [&["org", "list"][..], &["serve"]] {
        let run = home.run(&[verb, &["--config", &file]].concat());
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{run:?}");
        assert!(run.err.starts_with("error: the configuration is wrong\n"), "{}", run.err);
        for told in [
            "log.kind = \"kafca\": it must be one of \"embedded\", \"kafka\"; did you mean \"kafka\"?",
            "c.toml line 2",
            "did you mean \"store\"?",
            "shards.commit_interval = 20: it must be a duration such as \"20ms\", from 1ms to 5s (from STOCKWARDEN__SHARDS__COMMIT_INTERVAL)",
        ] {
            assert!(run.err.contains(told), "{told} is not in {}", run.err);
        }
    }
    let run = home.run(&["check", "--config", &file, "--json"]);
    assert_eq!(run.code, 1);
    let value: serde_json::Value = serde_json::from_str(&run.out).expect("json");
    assert_eq!((value["ok"].as_bool(), value["checks"].as_array().map(Vec::len)), (Some(false), Some(3)), "{value}");
}

#[test]
fn the_file_in_the_working_folder_is_read_unless_another_is_named() {
    let home = Home::new();
    home.file("stockwarden.toml", "[log]\npartitions = 0\n");
    assert!(home.run(&["org", "list"]).err.contains("log.partitions = 0"));
    let other = home.file("other.toml", "[log]\npartitions = 12\n");
    assert_eq!(home.run(&["org", "list", "--config", &other]).code, 0);
    let run = home.run(&["org", "list", "--config", "gone.toml", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&run.err).expect("with --json errors are JSON too");
    assert_eq!(run.code, 1);
    assert!(told["cause"].as_str().is_some_and(|c| c.starts_with("cannot read the configuration gone.toml")), "{told}");
}

#[test]
fn check_says_that_all_is_well_or_what_is_away_in_bounded_time() {
    let home = Home::new();
    let run = home.run(&["check"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("all is well"), "{run:?}");

    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let away = Home::new().with("STOCKWARDEN__STORE__URL", &format!("postgres://me:hunter2@127.0.0.1:{port}/x"));
    let run = away.run(&["org", "list"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("STOCKWARDEN_MASTER_KEY is not set") && run.err.contains("head -c 32 /dev/urandom"), "{run:?}");
    let away = away.with("STOCKWARDEN_MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let before = Instant::now();
    let run = away.run(&["check", "--timeout", "2"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    assert!(run.out.contains("PROBLEM") && run.out.contains("does the store postgres://me:…@127.0.0.1"), "{run:?}");
    assert!(!format!("{run:?}").contains("hunter2"), "{run:?}");
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    let home = Home::new();
    let run = home.run(&["shop", "add", "a.myshopify.com", "--webhook-secret-env", "shpss-hunter2"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("takes the name of an environment variable") && !run.err.contains("hunter2"), "{run:?}");
    let run = home.run(&["shop", "add", "a.myshopify.com", "--webhook-secret-env", "NOT_SET"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.contains("the environment variable NOT_SET is not set"), "{run:?}");
}
