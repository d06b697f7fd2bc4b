//! What Jira is asked for `check`: whether it knows the account, and whether it has the projects and issue types of the routes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde::Deserialize;

use super::Jira;
use crate::handlers::probe::{about_route, bad_route, named_in, reason};
use crate::ports::targets::{Finding, Found, Scope};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(default)]
    display_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Project {
    key: String,
    #[serde(default)]
    issue_types: Vec<IssueType>,
}

#[derive(Deserialize)]
struct IssueType {
    id: String,
    name: String,
    #[serde(default)]
    subtask: bool,
}

/// Issue types that are wanted, and the rules that want them; by project.
type Wanted = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

impl Jira {
    pub(super) async fn ask_all(&self, scope: &Scope, now: DateTime<Utc>) -> Vec<Finding> {
        let account = self.account(now).await;
        let known = account.result == Found::Fine;
        let (wanted, mut found) = self.wanted(scope);
        found.insert(0, account);
        if known {
            let projects = wanted.iter().map(|(project, types)| self.project(project, types, now));
            found.extend(join_all(projects).await.into_iter().flatten());
        }
        found
    }

    async fn account(&self, now: DateTime<Utc>) -> Finding {
        match self.read("/rest/api/3/myself", now).await {
            Ok(Account { display_name }) => Finding::fine("account", format!("Jira knows it as \"{display_name}\"")),
            Err(said) => Finding::problem("account", said, format!("see base_url, email and token of [handlers.{}]", self.name)),
        }
    }

    async fn read<T: for<'de> Deserialize<'de>>(&self, path: &str, now: DateTime<Utc>) -> Result<T, String> {
        let answer = self.api.get(path, None, now).await.map_err(|failure| reason(failure.verdict))?;
        answer.read().map_err(reason)
    }

    /// What routes want, and what is wrong with them; without routes, what the instance itself names.
    fn wanted(&self, scope: &Scope) -> (Wanted, Vec<Finding>) {
        let (mut wanted, mut wrong) = (Wanted::new(), Vec::new());
        for routed in &scope.routes {
            match self.settings.of(&routed.route) {
                Err(said) => wrong.push(bad_route(routed, said, "the route")),
                Ok(route) => match route.project {
                    None => {
                        let mend = format!("set project on the route or in [handlers.{}]", self.name);
                        wrong.push(Finding::problem(about_route(routed), "it names no project to make an issue in", mend));
                    }
                    Some(project) => {
                        let types = wanted.entry(project).or_default();
                        types.entry(route.issue_type).or_default().insert(routed.rule.clone());
                    }
                },
            }
        }
        if let (true, Some(project)) = (scope.routes.is_empty(), &self.settings.project) {
            wanted.entry(project.clone()).or_default().entry(self.settings.issue_type.clone()).or_default();
        }
        (wanted, wrong)
    }

    async fn project(&self, key: &str, types: &BTreeMap<String, BTreeSet<String>>, now: DateTime<Utc>) -> Vec<Finding> {
        let about = format!("project {key}");
        let wanted_by = named_in(&self.name, types.values().flatten());
        // Keys and ids; nothing else may come into the path.
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let said = format!("\"{key}\" is neither a project's key, such as REP, nor its id");
            return vec![Finding::problem(about, said, format!("correct project in {wanted_by}"))];
        }
        let project: Project = match self.read(&format!("/rest/api/3/project/{key}"), now).await {
            Ok(project) => project,
            Err(said) => {
                let mend = format!("correct project in {wanted_by}, or let the account see it and make issues in it");
                return vec![Finding::problem(about, said, mend)];
            }
        };
        let has: Vec<&IssueType> = project.issue_types.iter().filter(|t| !t.subtask).collect();
        let unknown = types.iter().filter(|(name, _)| !has.iter().any(|t| t.id == **name || t.name.eq_ignore_ascii_case(name)));
        let mut found: Vec<Finding> = unknown
            .map(|(name, rules)| {
                let all = has.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
                Finding::problem(
                    format!("issue type {name}"),
                    format!("project {} has no such type; it has: {all}", project.key),
                    format!("correct issue_type in {}", named_in(&self.name, rules)),
                )
            })
            .collect();
        if found.is_empty() {
            let names = types.keys().cloned().collect::<Vec<_>>().join(", ");
            found.push(Finding::fine(about, format!("is there, with the issue type {names}")));
        }
        found
    }
}
