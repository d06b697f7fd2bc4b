//! Whether sends to the handlers' targets would succeed; for `stockwarden check`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, AdminError};
use crate::domain::rules::Rule;
use crate::ports::registry::ShopKind;
use crate::ports::targets::{Routed, Scope};

impl Admin {
    pub(super) async fn ask_targets(&self, within: Duration) -> Result<Value, AdminError> {
        let (scope, routes_unknown) = match tokio::time::timeout(within, self.scope()).await {
            Ok(Ok(scope)) => (scope, None),
            Ok(Err(e)) => (Scope::default(), Some(e.to_string())),
            Err(_) => (Scope::default(), Some(format!("the rules were not read within {} s", within.as_secs()))),
        };
        let findings = self.targets.ask(scope, within).await;
        Ok(json!({ "findings": findings, "routes_unknown": routes_unknown }))
    }

    /// The routes of all rules that hold, and the shops at Shopify.
    async fn scope(&self) -> Result<Scope, AdminError> {
        let shops = self.registry.shops().await?.into_iter().filter(|s| s.kind == ShopKind::Shopify);
        let shops: Vec<(String, String)> = shops.map(|s| (s.shop, s.organisation)).collect();
        let mut routes = Vec::new();
        for organisation in self.registry.organisations().await? {
            let shown = self.rules_show(&organisation).await?;
            for rule in shown["rules"].as_array().into_iter().flatten() {
                let rule: Rule = serde_json::from_value(rule.clone())
                    .map_err(|e| AdminError::Internal(format!("a rule of \"{organisation}\" cannot be read: {e}")))?;
                let taken = shops.iter().filter(|(shop, of)| *of == organisation && rule.select.takes_shop(shop));
                let taken: Vec<String> = taken.map(|(shop, _)| shop.clone()).collect();
                routes.extend(rule.routes.into_iter().map(|route| Routed {
                    organisation: organisation.clone(),
                    rule: rule.id.clone(),
                    shops: taken.clone(),
                    route,
                }));
            }
        }
        Ok(Scope { routes, shops })
    }
}
