//! The request: what a decision says, as Shopify's input. Pure; what it makes is frozen.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::nth_key;
use crate::events::decision::{Decision, Kind, Route};
use crate::handlers::Job;
use crate::shopify::documents;

/// Namespace of idempotency keys. Fixed for ever: a key that changed would make a second transfer.
const NAMESPACE: Uuid = Uuid::from_u128(0x9a41_33c8_0b52_5d7e_8f60_7a1c_94d2_e3b5);
/// Shortest limit that Shopify has for a tag anywhere; ours fit exactly, with UUIDs written without hyphens.
const TAG_MAX: usize = 40;
/// Before the UUID of the effect, in the tag that one transfer alone has.
const EFFECT_TAG: &str = "effect-";
const NOTE_MAX: usize = 500;

/// What routes need not say.
pub(super) struct Defaults {
    pub origin: Option<String>,
    pub destination: Option<String>,
    ready: bool,
}

impl Defaults {
    pub(super) fn new(origin: Option<&Value>, destination: Option<&Value>, ready: bool) -> Result<Defaults, String> {
        Ok(Defaults {
            origin: origin.map(|v| location("origin", v)).transpose()?,
            destination: destination.map(|v| location("destination", v)).transpose()?,
            ready,
        })
    }
}

/// The frozen bytes: a GraphQL request as JSON. The error says what is to be mended.
pub(super) fn request(job: &Job, defaults: &Defaults, now: DateTime<Utc>) -> Result<Vec<u8>, String> {
    let d = &job.decision;
    let quantity = quantity(d)?;
    let item = d.inventory_item_id.ok_or_else(|| no_item(d))?;
    let ready = setting(job, "ready", Value::as_bool, "true or false")?.unwrap_or(defaults.ready);
    let (origin, destination) = locations(job, defaults, ready)?;
    let key = Uuid::new_v5(&NAMESPACE, job.key().as_bytes());
    let mut input = Map::new();
    input.insert("lineItems".to_owned(), json!([{ "inventoryItemId": gid("InventoryItem", item.0), "quantity": quantity }]));
    input.insert("referenceName".to_owned(), json!(reference_name(d)));
    input.insert("note".to_owned(), json!(note(d)));
    input.insert("tags".to_owned(), json!(tags(job, key)?));
    input.insert("dateCreated".to_owned(), json!(now.to_rfc3339_opts(SecondsFormat::Secs, true)));
    for (name, place) in [("originLocationId", origin), ("destinationLocationId", destination)] {
        if let Some(place) = place {
            input.insert(name.to_owned(), json!(place));
        }
    }
    let document = if ready { documents::TRANSFER_CREATE_READY } else { documents::TRANSFER_CREATE };
    let request = json!({ "query": document.text, "variables": { "input": input, "key": key } });
    Ok(request.to_string().into_bytes())
}

/// GraphQL's `Int` is 32 bits.
fn quantity(d: &Decision) -> Result<i32, String> {
    match d.quantity {
        None if d.kind == Kind::Warning => Err(format!(
            "a warning orders nothing, so there is nothing to transfer: give the rule \"{}\" a quantity, or take this route out of it",
            d.rule_id
        )),
        None => Err(format!("the decision of the rule \"{}\" has no quantity to transfer", d.rule_id)),
        Some(n) if n < 1 => Err(format!("a transfer of {n} units cannot be made")),
        Some(n) => i32::try_from(n)
            .map_err(|_| format!("a transfer of {n} units cannot be made: the most is {}; set a maximum", i32::MAX)),
    }
}

fn no_item(d: &Decision) -> String {
    match &d.sku {
        Some(sku) if d.shop.is_none() => format!(
            "the decision is for the SKU \"{sku}\" of all shops together and names no inventory item of one: route rules of scope sku to \
             another handler, or use scope location or shop here"
        ),
        _ => "the decision names no inventory item: has the product of this variant reached Stockwarden yet?".to_owned(),
    }
}

/// Origin and destination, as far as the route or the handler names them.
pub(super) fn named(route: &Route, defaults: &Defaults) -> Result<(Option<String>, Option<String>), String> {
    let own = |name: &str| route.settings.get(name).map(|v| location(&format!("the route's {name}"), v)).transpose();
    let origin = own("origin")?.or_else(|| defaults.origin.clone());
    Ok((origin, own("destination")?.or_else(|| defaults.destination.clone())))
}

/// Origin and destination. The destination is the location that ran low, unless somebody says otherwise.
fn locations(job: &Job, defaults: &Defaults, ready: bool) -> Result<(Option<String>, Option<String>), String> {
    let (origin, destination) = named(&job.route, defaults)?;
    let destination = destination.or_else(|| job.decision.location_id.map(|l| gid("Location", l.0)));
    match (&origin, &destination) {
        (None, None) => Err("a transfer needs a location: give the route an origin or a destination, or the rule the scope location".to_owned()),
        (Some(o), Some(d)) if o == d => Err(format!("origin and destination are the same location, {o}: change one of the route's")),
        (None, _) | (_, None) if ready => Err(
            "a transfer that is ready to ship needs both an origin and a destination: give the route the missing one, or ready = false"
                .to_owned(),
        ),
        _ => Ok((origin, destination)),
    }
}

/// `gid://shopify/Location/1`, `"1"` or `1`, as a gid.
fn location(name: &str, value: &Value) -> Result<String, String> {
    let id = match value {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => text.strip_prefix("gid://shopify/Location/").unwrap_or(text).parse().ok(),
        _ => None,
    };
    id.filter(|id| *id > 0)
        .map(|id| gid("Location", id))
        .ok_or_else(|| format!("{name} = {value} is not a location such as \"gid://shopify/Location/82211110001\""))
}

fn gid(kind: &str, id: u64) -> String {
    format!("gid://shopify/{kind}/{id}")
}

fn setting<'j, T>(job: &'j Job, name: &str, read: impl Fn(&'j Value) -> Option<T>, what: &str) -> Result<Option<T>, String> {
    match job.route.settings.get(name) {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| format!("the route's {name} = {value} is not {what}")),
    }
}

/// Ours: the program, the proposal, and the effect, by which the transfer is found again. Then the route's.
fn tags(job: &Job, key: Uuid) -> Result<Vec<String>, String> {
    let mut tags = vec![
        "stockwarden".to_owned(),
        format!("reorder-{}", job.decision.proposal_id.simple()),
        format!("{EFFECT_TAG}{}", key.simple()),
    ];
    for tag in setting(job, "tags", Value::as_array, "a list of texts")?.into_iter().flatten() {
        let text = tag.as_str().map(str::trim).unwrap_or_default();
        if text.is_empty() || text.contains(',') || text.chars().count() > TAG_MAX {
            return Err(format!("the route's tag {tag} is not a text of 1 to {TAG_MAX} characters without a comma"));
        }
        tags.push(text.to_owned());
    }
    Ok(tags)
}

/// Short enough to be read out; the tag has the whole id.
fn reference_name(d: &Decision) -> String {
    let id = d.proposal_id.simple().to_string();
    format!("RO-{}", &id[..12])
}

fn note(d: &Decision) -> String {
    let title = d.title.as_deref().map(|t| format!("{t}: ")).unwrap_or_default();
    let note = format!("{title}{} ({} available). Rule {}, proposal {}.", d.reason, d.available, d.rule_id, d.proposal_id);
    note.chars().filter(|c| !c.is_control()).take(NOTE_MAX).collect()
}

/// A frozen request, as far as it has to be understood to be sent.
pub(super) struct Frozen {
    bytes: Vec<u8>,
    key: Uuid,
    pub tag: String,
    pub made_at: DateTime<Utc>,
}

impl Frozen {
    pub(super) fn read(bytes: &[u8]) -> Result<Frozen, String> {
        let broken = |what: &str| format!("the frozen request cannot be read: {what}");
        let request: Value = serde_json::from_slice(bytes).map_err(|e| broken(&e.to_string()))?;
        let text = |path: &str| request.pointer(path).and_then(Value::as_str);
        let key = text("/variables/key").and_then(|k| k.parse().ok()).ok_or_else(|| broken("it has no key"))?;
        let tags = request.pointer("/variables/input/tags").and_then(Value::as_array);
        let tag = tags.into_iter().flatten().filter_map(Value::as_str).find(|t| t.starts_with(EFFECT_TAG));
        let made_at = text("/variables/input/dateCreated").and_then(|t| t.parse().ok());
        Ok(Frozen {
            bytes: bytes.to_vec(),
            key,
            tag: tag.ok_or_else(|| broken("it has no tag of its own"))?.to_owned(),
            made_at: made_at.ok_or_else(|| broken("it has no date"))?,
        })
    }

    /// What is sent under the effect's `n`-th key: the frozen bytes, with that key in place of the frozen one.
    pub(super) fn body(&self, n: usize) -> Vec<u8> {
        if n == 0 {
            return self.bytes.clone();
        }
        let mut request: Value = serde_json::from_slice(&self.bytes).expect("it was read when this was made");
        request["variables"]["key"] = json!(nth_key(self.key, n));
        request.to_string().into_bytes()
    }
}

/// Variables of the question after locations.
pub fn location_variables(ids: &[String], details: bool) -> Value {
    json!({ "ids": ids, "details": details })
}

/// Variables of the search for a tag. Ours are letters, digits and hyphens, so nothing has to be quoted.
pub fn search_variables(tag: &str) -> Value {
    json!({ "query": format!("tag:{tag}") })
}
