//! Every message that a user may meet, word by word.

use std::time::Duration;

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_text("c.toml", text, &Env::of(env.iter().copied()))
}

fn good(text: &str, env: &[(&str, &str)]) -> Config {
    load(text, env).expect("a good configuration")
}

/// The one message that `text` is refused with.
fn refusal(text: &str) -> String {
    refusal_with(text, &[])
}

fn refusal_with(text: &str, env: &[(&str, &str)]) -> String {
    let error = load(text, env).expect_err(text);
    assert!(error.problems().len() <= 1, "{error}");
    error.to_string()
}

const EXAMPLE: &str = include_str!("../../docs/example/stockwarden.toml");

#[test]
fn an_empty_file_is_an_embedded_node_on_loopback() {
    let config = good("", &[]);
    assert_eq!(config.log.kind, LogKind::Embedded);
    assert_eq!(config.store.url, StoreUrl::Sqlite("data/stockwarden.db".into()));
    assert_eq!((config.http.listen.as_str(), config.http.body_limit), ("127.0.0.1:8080", 2 << 20));
    assert_eq!(config.node.advertise, None);
    assert_eq!(config.node.roles, NodeRole::ALL);
    assert_eq!(config.log_dir(), PathBuf::from("data/log"));
    assert_eq!(config.log.topics.facts, "stock-facts");
    assert_eq!(config.shards.commit_interval, Duration::from_millis(20));
    assert!(!config.node.name.is_empty());
}

#[test]
fn the_example_of_the_documentation_is_read_whole() {
    let config = good(EXAMPLE, &[]);
    assert_eq!((config.log.kind, config.log.bootstrap_servers.as_str()), (LogKind::Kafka, "127.0.0.1:9092"));
    assert_eq!(config.log.properties["compression.type"], Property::Plain("lz4".into()));
    assert_eq!(config.store.url.expose(), "postgres://stockwarden@127.0.0.1:5432/stockwarden");
    assert_eq!((config.node.name.as_str(), config.shards.max_resident_variants), ("a", 2_000_000));
    let kinds: Vec<_> = config.handlers.iter().map(|(n, h)| (n.as_str(), h.kind.as_str())).collect();
    assert_eq!(
        kinds,
        [("erp", "target"), ("jira", "jira"), ("mail", "email"), ("slack", "slack"), ("transfer", "shopify-transfer")]
    );
    assert_eq!(config.handlers["erp"].table["allow_private_addresses"].as_bool(), Some(false));
}

#[test]
fn the_environment_wins_and_reaches_every_depth() {
    let config = good(
        EXAMPLE,
        &[
            ("STOCKWARDEN__DATA_DIR", "/tmp/x"),
            ("STOCKWARDEN__LOG__BOOTSTRAP_SERVERS", "a:1, b:2"),
            ("STOCKWARDEN__LOG__TOPICS__FACTS", "facts-7"),
            ("STOCKWARDEN__LOG__PARTITIONS", "3"),
            ("STOCKWARDEN__LOG__PROPERTIES__COMPRESSION_TYPE", "zstd"),
            ("STOCKWARDEN__LOG__PROPERTIES__SSL_CA_LOCATION", "/etc/ca.pem"),
            ("STOCKWARDEN__LOG__PROPERTIES__SASL_PASSWORD", "hunter2"),
            ("STOCKWARDEN__HANDLERS__ERP__URL", "http://127.0.0.1:9/x"),
            ("STOCKWARDEN__HANDLERS__ERP__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("STOCKWARDEN__HANDLERS__ERP__SECRET__ENV", "OTHER"),
            ("STOCKWARDEN__NODE__NAME", "007"),
            ("STOCKWARDEN__NODE__ROLES", "[\"api\", \"ingest\"]"),
            ("STOCKWARDEN__SHARDS__SNAPSHOT_INTERVAL", "1m"),
            ("STOCKWARDEN__HTTP__BODY_LIMIT", "4096"),
            ("STOCKWARDEN_MASTER_KEY", "not ours to read here"),
        ],
    );
    assert_eq!(config.data_dir, PathBuf::from("/tmp/x"));
    assert_eq!((config.log.bootstrap_servers.as_str(), config.log.partitions), ("a:1,b:2", 3));
    assert_eq!((config.log.topics.facts.as_str(), config.log.topics.decisions.as_str()), ("facts-7", "reorder-decisions"));
    let properties = config.log.resolved_properties(&Env::default()).expect("resolved");
    assert_eq!(properties["compression.type"], "zstd");
    assert_eq!(properties["ssl.ca.location"], "/etc/ca.pem");
    assert_eq!(properties["sasl.password"], "hunter2");
    let erp = &config.handlers["erp"].table;
    assert_eq!(erp["url"].as_str(), Some("http://127.0.0.1:9/x"));
    assert_eq!(erp["allow_private_addresses"].as_bool(), Some(true));
    assert_eq!(erp["secret"]["env"].as_str(), Some("OTHER"));
    assert_eq!(config.node.name, "007", "a text that looks like a number stays text");
    assert_eq!(config.node.roles, [NodeRole::Ingest, NodeRole::Api]);
    assert_eq!(config.shards.snapshot_interval, Duration::from_secs(60));
    assert_eq!(config.http.body_limit, 4096);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_variable_finds_a_name_with_a_hyphen() {
    let config = good("[handlers.erp-eu]\nkind = \"target\"\nurl = \"x\"", &[("STOCKWARDEN__HANDLERS__ERP_EU__URL", "y")]);
    assert_eq!(config.handlers["erp-eu"].table["url"].as_str(), Some("y"));
    assert_eq!(config.handlers.len(), 1);
}

#[test]
fn brokers_without_a_kind_mean_kafka() {
    assert_eq!(good("", &[("STOCKWARDEN__LOG__BOOTSTRAP_SERVERS", "a:1")]).log.kind, LogKind::Kafka);
    let embedded = good("[log]\nkind = \"embedded\"\nbootstrap_servers = \"a:1\"", &[]);
    assert_eq!(embedded.log.kind, LogKind::Embedded);
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_and_its_line() {
    assert_eq!(
        refusal("[log]\nbootstrap_server = \"a:1\"\nkind = \"embedded\""),
        "log.bootstrap_server: there is no such key; did you mean \"log.bootstrap_servers\"? (c.toml line 2)"
    );
    assert_eq!(refusal("[sharts]\n"), "sharts: there is no such key; did you mean \"shards\"? (c.toml line 1)");
    assert_eq!(refusal("[store]\nqqqq = 1"), "store.qqqq: there is no such key in [store]; valid are url (c.toml line 2)");
    assert_eq!(
        refusal_with("", &[("STOCKWARDEN__HTTP__LISTN", "x")]),
        "http.listn: there is no such key; did you mean \"http.listen\"? (from STOCKWARDEN__HTTP__LISTN)"
    );
}

#[test]
fn a_wrong_value_is_told_with_what_is_allowed() {
    for (text, told) in [
        (
            "[log]\nkind = \"kafca\"",
            "log.kind = \"kafca\": it must be one of \"embedded\", \"kafka\"; did you mean \"kafka\"? (c.toml line 2)",
        ),
        (
            "[log]\nkind = \"kafka\"",
            "log.bootstrap_servers: it is missing; with log.kind = \"kafka\" it names the brokers, such as \"127.0.0.1:9092\"",
        ),
        (
            "[log]\nkind = \"kafka\"\nbootstrap_servers = \"broker\"",
            "log.bootstrap_servers = \"broker\": it must be host:port, or several with commas between them, such as \
             \"127.0.0.1:9092\" (c.toml line 3)",
        ),
        ("[log]\npartitions = 0", "log.partitions = 0: it must be a whole number from 1 to 10000 (c.toml line 2)"),
        ("[log]\npartitions = \"12\"", "log.partitions = \"12\": it must be a whole number from 1 to 10000 (c.toml line 2)"),
        ("[log]\ngroup_id = \"a b\"", "log.group_id = \"a b\": it must be 1 to 200 letters, digits and . _ - (c.toml line 2)"),
        (
            "[log]\ntopics = { facts = \"x\", decisions = \"x\" }",
            "log.topics.decisions = \"x\": it is the same topic as log.topics.facts; each needs its own (c.toml line 2)",
        ),
        ("log = 7", "log = 7: this is a section; write [log] and its keys below it (c.toml line 1)"),
        (
            "[shards]\ncommit_interval = \"20\"",
            "shards.commit_interval = \"20\": it must be a duration such as \"20ms\", from 1ms to 5s (c.toml line 2)",
        ),
        ("[shards]\nsnapshot_interval = 5", "shards.snapshot_interval = 5: it must be text, in quotes (c.toml line 2)"),
        (
            "[shards]\nmax_resident_variants = 10",
            "shards.max_resident_variants = 10: it must be a whole number from 1000 to 1000000000 (c.toml line 2)",
        ),
        ("[http]\nlisten = \"8080\"", "http.listen = \"8080\": it must be host:port, such as \"127.0.0.1:8080\" (c.toml line 2)"),
        (
            "[http]\nbody_limit = \"2mb\"",
            "http.body_limit = \"2mb\": it must be a number of bytes or a size such as \"2MiB\", from 1KiB to 64MiB (c.toml line 2)",
        ),
        (
            "[http]\npublic_url = \"shop.example\"",
            "http.public_url = \"shop.example\": it must be a URL such as \"https://stockwarden.example.com\" (c.toml line 2)",
        ),
        ("[node]\nname = \"\"", "node.name = \"\": it is empty; leave the key out for the default (c.toml line 2)"),
        (
            "[node]\nroles = [\"shard\"]",
            "node.roles = [\"shard\"]: \"shard\" is not one of \"ingest\", \"shards\", \"handlers\", \"api\"; did you mean \
             \"shards\"? (c.toml line 2)",
        ),
        (
            "[node]\nroles = []",
            "node.roles = []: it must be a list with at least one of \"ingest\", \"shards\", \"handlers\", \"api\" (c.toml line 2)",
        ),
        (
            "[handlers.erp]\nurl = \"x\"",
            "handlers.erp: it has no kind; every handler needs one, such as kind = \"target\" (c.toml line 1)",
        ),
        (
            "[handlers]\nerp = \"x\"",
            "handlers.erp: this is a section; write [handlers.erp] and its keys below it (c.toml line 2)",
        ),
        (
            "[handlers.\"E R P\"]\nkind = \"target\"",
            "handlers.E R P: a handler's name is 1 to 64 lower-case letters, digits, _ and - (c.toml line 1)",
        ),
    ] {
        assert_eq!(refusal(text), told);
    }
}

#[test]
fn an_url_of_a_store_that_is_neither_is_shown_without_its_password() {
    assert_eq!(
        refusal("[store]\nurl = \"mysql://me:hunter2@h/db\""),
        "store.url = \"mysql://me:…@h/db\": it must be sqlite://PATH or postgres://USER@HOST:PORT/DATABASE (c.toml line 2)"
    );
    assert_eq!(
        refusal("[store]\nurl = \"me:hunter2@h/db\""),
        "store.url: it must be sqlite://PATH or postgres://USER@HOST:PORT/DATABASE (c.toml line 2)"
    );
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let told = refusal("[log.properties]\n\"sasl.password\" = \"hunter2\"");
    assert_eq!(
        told,
        "log.properties.sasl.password: a secret is given as { env = \"NAME\" } or { file = \"path\" }; the secret itself is \
         never written here (c.toml line 2)"
    );
    let config = good("[log.properties]\n\"sasl.password\" = { env = \"PW\" }", &[]);
    let told = config.log.resolved_properties(&Env::default()).expect_err("not set").to_string();
    assert!(told.contains("the environment variable PW is not set"), "{told}");
    assert_eq!(config.log.resolved_properties(&Env::of([("PW", "x")])).expect("set")["sasl.password"], "x");
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let told = refusal("[log]\nkind = \"kafka\"\npartitions = = 3\n");
    assert!(told.starts_with("c.toml line 3: "), "{told}");
    let told = refusal("[log]\nkind = \"kafka\"\nkind = \"kafka\"\n");
    assert!(told.starts_with("c.toml line 3: ") && told.contains("duplicate key"), "{told}");
}

#[test]
fn several_problems_are_told_together() {
    let error = load(
        "[log]\nkind = \"kafca\"\npartitions = 0\n[http]\nlistn = \"x\"\n[handlers.a]\n",
        &[("STOCKWARDEN__STORE__URL", "redis://x")],
    )
    .expect_err("five");
    let mut keys: Vec<_> = error.problems().iter().map(|p| p.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["handlers.a", "http.listn", "log.kind", "log.partitions", "store.url"]);
    assert_eq!(error.to_string().lines().count(), 5);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let told = Config::load(Some(Path::new("/nowhere/c.toml")), &Env::default()).expect_err("none").to_string();
    assert!(told.starts_with("cannot read the configuration /nowhere/c.toml: "), "{told}");
}

#[test]
fn a_data_dir_too_deep_for_a_socket_is_refused_before_anything_is_opened() {
    let deep = format!("/tmp/{}", "d".repeat(120));
    let told = refusal_with("", &[("STOCKWARDEN__DATA_DIR", &deep)]);
    assert!(told.contains("may be 107; choose a shorter one"), "{told}");
}

#[test]
fn debug_shows_no_secret() {
    let config = good(
        "[store]\nurl = \"postgres://me:hunter2@h/db\"\n[handlers.a]\nkind = \"target\"\nsecret = \"hunter2\"",
        &[("STOCKWARDEN__LOG__PROPERTIES__SASL_PASSWORD", "hunter2")],
    );
    assert!(!format!("{config:?} {}", config.store.url).contains("hunter2"));
}
