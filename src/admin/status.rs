//! Whether log and store answer; for `stockwarden check`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, AdminError, blocking};
use crate::ports::LogError;

const PROBE: Duration = Duration::from_secs(5);

impl Admin {
    pub(super) async fn status(&self) -> Result<Value, AdminError> {
        let log = self.log.clone();
        let probed = blocking(move || {
            // Topics that are not there yet are no fault: the first node makes them.
            let missing: Vec<_> = log.inspect(PROBE)?.iter().map(|t| t.default_name()).collect();
            Ok(match missing.is_empty() {
                true => format!("answers, {} partitions a topic", log.partitions()),
                false => format!("answers; the first stockwarden serve makes its topics {}", missing.join(", ")),
            })
        })
        .await;
        let log = match probed {
            Ok(detail) => json!({ "ok": true, "detail": detail }),
            // Says itself how to mend it.
            Err(e @ AdminError::Log(LogError::Misconfigured(_))) => json!({ "ok": false, "detail": e.to_string(), "mend": "" }),
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
