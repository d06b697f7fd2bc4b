//! Templates that the customer replaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use stockwarden::config::{Env, HandlerConfig};
use stockwarden::events::decision::Decision;
use stockwarden::events::fact::Move;
use stockwarden::handlers::registry::{KINDS, Surroundings};
use stockwarden::handlers::{Handler, Handlers};
use stockwarden::links::{LIFETIME_MS, LinkKey, Links};
use stockwarden::vault::Vault;

use super::email::{build, mail_job};
use super::harness::decision;

fn with(templates: &str) -> Result<Arc<dyn Handler>, String> {
    build(&format!("smtp_url = \"smtp://mail.example\"\nfrom = \"a@example.com\"\ntemplates = {{ {templates} }}"))
}

fn mail(handler: &dyn Handler, decision: &Decision) -> String {
    let request = handler.prepare(&mail_job(decision, "b@example.com"), Utc::now()).expect("request");
    String::from_utf8(request).expect("ASCII")
}

#[test]
fn the_customers_own_subject_text_and_html_are_used_with_values_escaped_where_they_stand() {
    let folder = tempfile::tempdir().expect("folder");
    let html = folder.path().join("order.html");
    std::fs::write(&html, "<p class=own>{{#lines}}<b>{{title}}</b>{{/lines}} {{route.plant}}{{links.snooze}}</p>\n")
        .expect("written");
    let templates = format!(
        "subject = \"Bestellung {{{{quantity}}}} x {{{{sku}}}}\", text = \"Wir bestellen: {{{{title}}}}\", html = {{ file = \"{}\" }}",
        html.display()
    );
    let handler = with(&templates).expect("handler");
    let hostile = Decision { title: Some("<i>x</i>\r\nBcc: v@example.net".into()), ..decision(1) };
    let mail = mail(&*handler, &hostile);
    for want in [
        "Subject: Bestellung 24 x TB-750\r\n",
        "Wir bestellen: <i>x</i> Bcc: v@example.net",
        "<p class=own><b>&lt;i&gt;x&lt;/i&gt; Bcc",
    ] {
        assert!(mail.contains(want), "{want} is missing in {mail}");
    }
    assert!(!mail.contains("\r\nBcc"), "{mail}");
}

#[test]
fn a_template_that_cannot_be_filled_fails_before_anything_is_sent_with_its_place_and_the_nearest_field() {
    for (templates, want) in [
        ("subject = \"{{qantity}}\"", ["templates.subject: line 1, column 1", "did you mean \"quantity\"?"]),
        ("text = \"a\\nb {{sku\"", ["templates.text: line 2, column 3", "not closed"]),
        ("html = \"{{#lines}}\"", ["templates.html", "{{/lines}}"]),
        ("subject = \"{{subject}}\"", ["templates.subject", "no field"]),
        ("html = \"{{links.aknowledge}}\"", ["templates.html", "links.acknowledge"]),
        ("html = { file = \"/gone.html\" }", ["templates.html", "/gone.html"]),
        ("html = 3", ["templates.html", "{ file = \"path\" }"]),
        ("body = \"x\"", ["templates", "body"]),
    ] {
        let told = with(templates).err().expect(templates);
        assert!(want.iter().all(|w| told.contains(w)), "{templates}: {told}");
    }
}

#[test]
fn what_is_sent_without_templates_leaves_out_what_is_not_known() {
    let handler = with("").expect("handler");
    let bare = Decision { sku: None, title: None, vendor: None, quantity: None, ..decision(1) };
    let mail = mail(&*handler, &bare);
    assert!(mail.contains("Subject: Order request: variant 9007199254740993\r\n"), "{mail}");
    assert!(
        !mail.contains("SKU:") && !mail.contains("Lasts for") && !mail.contains("{{") && !mail.contains("Acknowledge"),
        "{mail}"
    );
    assert!(mail.contains("Available: 4\r\nSeverity: warning\r\nWhy: fell to 4, below 10\r\n"), "{mail}");
}

#[test]
fn a_mail_holds_links_that_move_its_proposal_where_they_can_be_followed_and_only_there() {
    let vault = Vault::from_base64(&Vault::new_key().expect("randomness")).expect("key");
    let links = Links::new(LinkKey::new(&vault), "https://stock.example/");
    let build = |more: &str, links: Option<Links>| {
        let toml = format!("smtp_url = \"smtp://mail.example\"\nfrom = \"a@example.com\"\n{more}");
        let config = HandlerConfig { kind: "email".into(), table: toml::from_str(&toml).expect("toml") };
        let configs = BTreeMap::from([("mail".to_owned(), config)]);
        let handlers =
            Handlers::build_in(KINDS, &configs, &Surroundings { links, ..Surroundings::new(&Env::default()) }).expect("built");
        handlers.get("mail").expect("mail").handler.clone()
    };
    let text = mail(&*build("", Some(links.clone())), &decision(7)).replace("=\r\n", "");
    let token = |label: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(label)).unwrap_or_else(|| panic!("{label} is missing in {text}"));
        line.trim().strip_prefix("https://stock.example/links/").expect("an address of ours").to_owned()
    };
    let now = Utc::now().timestamp_millis();
    for (label, moved) in [("Acknowledge: ", Move::Acknowledge), ("Snooze for a day: ", Move::Snooze)] {
        let claim = LinkKey::new(&vault).open(&token(label), now).expect("opens");
        assert_eq!((claim.proposal_id, claim.moved), (decision(7).proposal_id, moved));
        assert_eq!((claim.by.as_str(), claim.via.as_str()), ("b@example.com", "mail"));
        assert!(claim.what.contains("TB-750") && claim.ends_at > now + LIFETIME_MS - 60_000);
    }
    for without in [build("", None), build("links = false", Some(links))] {
        assert!(!mail(&*without, &decision(7)).contains("/links/"));
    }
}
