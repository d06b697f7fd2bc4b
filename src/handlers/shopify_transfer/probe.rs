//! What Shopify is asked for `check`: whether each shop gives a token with the scopes for transfers, and has the locations that are named.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{ShopifyTransfer, input, location_variables};
use crate::handlers::probe::{bad_route, named_in};
use crate::ports::targets::{Finding, Scope};
use crate::shopify::documents::{self, Document};

/// Shops that are asked, and at a time: a check is no load.
const SHOPS: usize = 50;
const AT_ONCE: usize = 8;
const WRITE: &str = "write_inventory_transfers";
const READ: &str = "read_inventory_transfers";
const READ_LOCATIONS: &str = "read_locations";
const READ_INVENTORY: &str = "read_inventory";

/// Locations that are named, with the rules that do, and the shops in which they are looked for.
#[derive(Default)]
struct Wanted {
    shops: BTreeSet<String>,
    /// By gid.
    locations: BTreeMap<String, BTreeSet<String>>,
}

/// What a shop says.
struct Answer {
    shop: String,
    missing: Vec<&'static str>,
    /// The locations that it has, by gid, and whether they are active if that may be told. None: it may not be told at all.
    locations: Option<BTreeMap<String, Option<bool>>>,
}

impl ShopifyTransfer {
    pub(super) async fn ask_all(&self, scope: &Scope, now: DateTime<Utc>) -> Vec<Finding> {
        let (wanted, mut found) = self.wanted(scope);
        if wanted.shops.is_empty() {
            found.push(Finding::not_asked("shops", "no shop at Shopify is registered whose rules lead here"));
            return found;
        }
        let gids: Vec<String> = wanted.locations.keys().cloned().collect();
        let asked: Vec<_> = wanted.shops.iter().take(SHOPS).map(|shop| self.shop(shop, &gids, now)).collect();
        let answers: Vec<Result<Answer, Finding>> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let mut well = Vec::new();
        for answer in answers {
            match answer {
                Err(problem) => found.push(problem),
                Ok(Answer { shop, missing, .. }) if !missing.is_empty() => {
                    let scopes = missing.join(" and ");
                    found.push(Finding::problem(
                        format!("shop {shop}"),
                        format!("it takes the token, but has not granted {scopes}"),
                        format!("give the app the scope {scopes} and have {shop} approve it"),
                    ));
                }
                Ok(answer) => well.push(answer),
            }
        }
        if !well.is_empty() {
            let skipped = wanted.shops.len().saturating_sub(SHOPS);
            let rest = if skipped > 0 { format!("; {skipped} more were not asked") } else { String::new() };
            found.push(Finding::fine("shops", format!("{} take the token, with the scopes for transfers{rest}", well.len())));
            found.extend(wanted.locations.iter().map(|(gid, rules)| self.location(gid, rules, &well)));
        }
        found
    }

    /// Without routes, what the instance itself names.
    fn wanted(&self, scope: &Scope) -> (Wanted, Vec<Finding>) {
        let (mut wanted, mut wrong) = (Wanted::default(), Vec::new());
        for routed in &scope.routes {
            match input::named(&routed.route, &self.defaults) {
                Ok((origin, destination)) => {
                    wanted.shops.extend(routed.shops.iter().cloned());
                    for gid in [origin, destination].into_iter().flatten() {
                        wanted.locations.entry(gid).or_default().insert(routed.rule.clone());
                    }
                }
                Err(said) => wrong.push(bad_route(routed, said, "the route")),
            }
        }
        if scope.routes.is_empty() {
            wanted.shops.extend(scope.shops.iter().map(|(shop, _)| shop.clone()));
            let own = [&self.defaults.origin, &self.defaults.destination];
            wanted.locations.extend(own.into_iter().flatten().map(|gid| (gid.clone(), BTreeSet::new())));
        }
        (wanted, wrong)
    }

    async fn shop(&self, shop: &str, gids: &[String], now: DateTime<Utc>) -> Result<Answer, Finding> {
        let access = self.ask(shop, documents::ACCESS, json!({}), now).await?;
        let scopes = access["currentAppInstallation"]["accessScopes"].as_array();
        let granted: BTreeSet<&str> = scopes.into_iter().flatten().filter_map(|s| s["handle"].as_str()).collect();
        // Who may write may read.
        let has = |scope: &str| granted.contains(scope) || granted.contains(scope.replacen("read_", "write_", 1).as_str());
        let missing = [WRITE, READ].into_iter().filter(|scope| !has(scope)).collect();
        let locations = match gids.is_empty() || !(has(READ_LOCATIONS) || has(READ_INVENTORY)) {
            true => None,
            false => {
                let variables = location_variables(gids, has(READ_LOCATIONS));
                let answer = self.ask(shop, documents::LOCATIONS, variables, now).await?;
                let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
                let read = |node: &Value| Some((node["id"].as_str()?.to_owned(), node["isActive"].as_bool()));
                Some(nodes.iter().filter_map(read).collect())
            }
        };
        Ok(Answer { shop: shop.to_owned(), missing, locations })
    }

    async fn ask(&self, shop: &str, document: Document, variables: Value, now: DateTime<Utc>) -> Result<Value, Finding> {
        let request = json!({ "query": document.text, "variables": variables });
        match self.client.call(shop, request.to_string().as_bytes(), now).await {
            Ok(answer) => Ok(answer.data),
            Err(e) => {
                let mend = format!("see [handlers.{}] and the app's access to {shop}", self.name);
                Err(Finding::problem(format!("shop {shop}"), e.to_string(), mend))
            }
        }
    }

    /// A location belongs to one shop; the others need not know it.
    fn location(&self, gid: &str, wanted_by: &BTreeSet<String>, answers: &[Answer]) -> Finding {
        let about = format!("location {}", gid.rsplit('/').next().unwrap_or(gid));
        let place = named_in(&self.name, wanted_by);
        let told: Vec<_> = answers.iter().filter_map(|a| Some((&a.shop, a.locations.as_ref()?))).collect();
        let seen = told.iter().find_map(|(shop, locations)| Some((shop, locations.get(gid)?)));
        match seen {
            Some((shop, Some(false))) => {
                let mend = format!("activate it in {shop}, or correct origin and destination in {place}");
                Finding::problem(about, format!("it is deactivated in {shop}"), mend)
            }
            Some((shop, _)) => Finding::fine(about, format!("is there in {shop}")),
            None if told.len() < answers.len() => Finding::not_asked(
                about,
                format!("no shop could be asked that has it: that takes the scope {READ_LOCATIONS} or {READ_INVENTORY}"),
            ),
            None => {
                let said = format!("none of the {} shops asked has it", told.len());
                Finding::problem(about, said, format!("correct origin and destination in {place}"))
            }
        }
    }
}
