//! What the mail server is asked for `check`: connection, encryption and login, and never with a mail. Whether it takes a recipient, only
//! a mail to that one tells.

use super::Email;
use crate::handlers::probe::{bad_route, reason};
use crate::ports::targets::{Finding, Scope};

impl Email {
    pub(super) async fn ask_all(&self, scope: &Scope) -> Vec<Finding> {
        let about = format!("mail server {}:{}", self.server.host, self.server.port);
        let server = match self.server.greet().await {
            Ok(said) => Finding::fine(about, said),
            Err(verdict) => {
                let mend = format!("see smtp_url, ca_file, username and password of [handlers.{}]", self.name);
                Finding::problem(about, reason(verdict), mend)
            }
        };
        let wrong = scope.routes.iter().filter_map(|routed| {
            let said = self.recipients(&routed.route).err()?;
            Some(bad_route(routed, said, "the route's address"))
        });
        std::iter::once(server).chain(wrong).collect()
    }
}
