//! The environment of an agent: an allowlist, what the request names, and our own few variables.
//!
//! Job: one pure function. Never: lets the server's secrets through; reads the environment itself.

use std::collections::BTreeMap;
use std::path::Path;

use longhaul_harness::Plan;
use longhaul_model::RunKey;
use longhaul_model::event::Driver;

use crate::homes;
use crate::sealed::Sealed;

/// Names that are ours to set and nobody's to pass on.
const OURS: &str = "LONGHAUL_";

/// Whether `name` is allowed by one of `rules`: a name, or a prefix that ends in `*`.
fn allowed(name: &str, rules: &[&str]) -> bool {
    rules.iter().any(|rule| match rule.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *rule == name,
    })
}

/// What the agent's environment is made of.
pub(crate) struct Source<'a> {
    pub(crate) key: &'a RunKey,
    pub(crate) driver: Driver,
    pub(crate) plan: &'a Plan,
    pub(crate) sealed: &'a Sealed,
    /// The server's own environment.
    pub(crate) server: &'a BTreeMap<String, String>,
    /// The server's address, for an inner client.
    pub(crate) address: &'a str,
    /// A private directory for temporary files, for agents.
    pub(crate) tmp: Option<&'a str>,
    /// Its managed home, if it has one.
    pub(crate) home: Option<&'a Path>,
}

/// The variables, by name.
///
/// A command started from a shell gets that shell's variables, all of them; an agent gets those its harness needs; a
/// command that came over HTTP gets those that any program needs.
pub(crate) fn build(source: &Source<'_>) -> Vec<(String, String)> {
    let base = source.sealed.captured_env.as_ref().unwrap_or(source.server);
    let all = source.driver == Driver::Exec && source.sealed.captured_env.is_some();
    let mut env: BTreeMap<String, String> = base
        .iter()
        .filter(|(name, _)| !name.starts_with(OURS) && (all || allowed(name, source.plan.env_allow)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for name in source.plan.keys.iter().filter(|name| !name.starts_with(OURS)) {
        if let Some(value) = base.get(name).or_else(|| source.server.get(name)) {
            env.insert(name.clone(), value.clone());
        }
    }
    if let Some(tmp) = source.tmp {
        env.insert("TMPDIR".to_owned(), tmp.to_owned());
    }
    if let Some(home) = source.home {
        env.retain(|name, _| !homes::rules(name));
        env.extend(homes::variables(home));
    }
    env.extend(source.plan.env.iter().cloned());
    if let Some(trace) = &source.sealed.trace {
        env.insert("TRACEPARENT".to_owned(), trace.traceparent());
        // That of the shell belongs to the shell's own trace.
        env.remove("TRACESTATE");
        env.extend(trace.state.iter().map(|state| ("TRACESTATE".to_owned(), state.clone())));
    }
    env.extend(source.sealed.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.insert("LONGHAUL_RUN_ID".to_owned(), source.key.run.to_string());
    env.insert("LONGHAUL_PROJECT".to_owned(), source.key.project.to_string());
    env.insert("LONGHAUL_SERVER".to_owned(), format!("http://{}", source.address));
    env.into_iter().collect()
}

/// What a run of an agent gets from the variables `base` and its plan alone, without anything of one run.
pub(crate) fn inherited(base: &BTreeMap<String, String>, plan: &Plan) -> Vec<(String, String)> {
    let mut env: BTreeMap<String, String> = base
        .iter()
        .filter(|(name, _)| !name.starts_with(OURS) && allowed(name, plan.env_allow))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    env.extend(plan.env.iter().cloned());
    env.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_names_and_prefixes() {
        let rules = ["PATH", "LC_*"];
        assert!(allowed("PATH", &rules) && allowed("LC_ALL", &rules));
        assert!(!allowed("PATHS", &rules) && !allowed("GH_TOKEN", &rules));
    }
}
