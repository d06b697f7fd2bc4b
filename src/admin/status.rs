//! Whether log and store answer; for `stockwarden check`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, AdminError, blocking};
use crate::events::record::Topic;

const PROBE: Duration = Duration::from_secs(5);

impl Admin {
    pub(super) async fn status(&self) -> Result<Value, AdminError> {
        let log = self.log.clone();
        let probed = blocking(move || {
            log.probe(PROBE)?;
            // Topics that are not there yet are no fault: the first node makes them.
            let topics = match log.watermarks(Topic::Facts, 0) {
                Ok(_) => format!("{} partitions a topic", log.partitions()),
                Err(e) => format!("its topics cannot be read yet ({e}); the first serve makes them"),
            };
            Ok(format!("answers, {topics}"))
        })
        .await;
        let log = match probed {
            Ok(detail) => json!({ "ok": true, "detail": detail }),
            Err(e) => json!({ "ok": false, "detail": e.to_string() }),
        };
        let stored = async {
            let organisations = self.registry.organisations().await?.len();
            Ok::<_, AdminError>((organisations, self.registry.shops().await?))
        };
        let store = match tokio::time::timeout(PROBE, stored).await {
            Ok(Ok((organisations, shops))) => {
                // A master key that opens nothing shows here, and not at the first webhook.
                let shut = shops.iter().find_map(|s| {
                    s.webhook_secrets.iter().chain(&s.access_token).find_map(|sealed| self.vault.open(&s.shop, sealed).err())
                });
                match shut {
                    Some(e) => json!({ "ok": false, "detail": e.to_string() }),
                    None => json!({
                        "ok": true, "detail": format!("answers, {organisations} organisations, {} shops", shops.len()),
                    }),
                }
            }
            Ok(Err(e)) => json!({ "ok": false, "detail": e.to_string() }),
            Err(_) => json!({ "ok": false, "detail": format!("no answer within {} s", PROBE.as_secs()) }),
        };
        Ok(json!({ "log": log, "store": store }))
    }
}
