//! What each route asks of whoever calls it.
//!
//! Job: one table. A route that is not in it can be used by nobody but the operator, so that one that was forgotten is
//! closed and not open; a test names those that were forgotten.

use axum::http::Method;
use longhaul_api::Scope;

/// Where a request names its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// In the parameter `project`.
    Query,
    /// In its body: the handler asks its caller for the project.
    Body,
    /// Nowhere: it is about no project.
    Nothing,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// The narrowest scope that suffices.
    pub(super) scope: Scope,
    /// Where the project is named.
    pub(super) names: Names,
    /// Whether a share may open it, if it is about the run that is shared.
    pub(super) shared: bool,
    /// Whether a run may do it to itself.
    pub(super) own: bool,
    /// Whether the processes of runs may do it as anybody may, so that nobody looks whose the caller is.
    pub(super) agents: bool,
}

const fn need(scope: Scope, names: Names) -> Need {
    Need { scope, names, shared: false, own: false, agents: false }
}

/// Looking at a run.
const LOOK: Need = Need { shared: true, ..need(Scope::Read, Names::Query) };

/// Writing to a stream: data for whoever reads it. It starts nothing, and looking up each caller's process would cost
/// more than the append.
const WRITE: Need = Need { agents: true, ..need(Scope::Run, Names::Query) };

/// By method and path, as the router has them. Routes of versions to come are here already where it is known what they
/// do: whoever adds one finds it closed to those who may not use it.
const TABLE: &[(Method, &str, Need)] = &[
    (Method::GET, "/v1/runs", need(Scope::Read, Names::Query)),
    (Method::POST, "/v1/runs", need(Scope::Run, Names::Body)),
    (Method::GET, "/v1/runs/{id}", LOOK),
    (Method::GET, "/v1/runs/{id}/events", LOOK),
    (Method::GET, "/v1/runs/{id}/log", LOOK),
    (Method::GET, "/v1/runs/{id}/why", need(Scope::Read, Names::Query)),
    (Method::DELETE, "/v1/runs/{id}", need(Scope::Operate, Names::Query)),
    (Method::POST, "/v1/runs/{id}/cancel", Need { own: true, ..need(Scope::Run, Names::Query) }),
    (Method::POST, "/v1/runs/{id}/input", need(Scope::Run, Names::Query)),
    (Method::POST, "/v1/runs/{id}/resume", need(Scope::Run, Names::Query)),
    (Method::POST, "/v1/runs/{id}/share", need(Scope::Operate, Names::Query)),
    (Method::GET, "/v1/runs/{id}/approvals", need(Scope::Read, Names::Query)),
    (Method::GET, "/v1/runs/{id}/approvals/{approval_id}", need(Scope::Read, Names::Query)),
    (Method::POST, "/v1/runs/{id}/approvals/{approval_id}", need(Scope::Operate, Names::Query)),
    (Method::POST, "/v1/runs/{id}/settle", need(Scope::Operate, Names::Query)),
    (Method::GET, "/v1/sessions", need(Scope::Read, Names::Query)),
    (Method::GET, "/v1/sessions/{id}", need(Scope::Read, Names::Query)),
    (Method::DELETE, "/v1/sessions/{id}", need(Scope::Operate, Names::Query)),
    (Method::GET, "/v1/sessions/{id}/transcript", need(Scope::Read, Names::Query)),
    (Method::GET, "/v1/sessions/{id}/events", need(Scope::Read, Names::Query)),
    (Method::GET, "/v1/events", need(Scope::Read, Names::Query)),
    (Method::POST, "/v1/chat/completions", need(Scope::Run, Names::Body)),
    (Method::POST, "/v1/responses", need(Scope::Run, Names::Body)),
    (Method::GET, "/v1/responses/{id}", need(Scope::Read, Names::Query)),
    (Method::DELETE, "/v1/responses/{id}", need(Scope::Operate, Names::Query)),
    (Method::POST, "/v1/responses/{id}/cancel", need(Scope::Run, Names::Query)),
    (Method::GET, "/v1/stream", need(Scope::Read, Names::Query)),
    (Method::GET, "/v1/stream/runs/{id}", LOOK),
    (Method::GET, "/v1/stream/{*path}", need(Scope::Read, Names::Query)),
    (Method::PUT, "/v1/stream/{*path}", WRITE),
    (Method::POST, "/v1/stream/{*path}", WRITE),
    (Method::DELETE, "/v1/stream/{*path}", need(Scope::Operate, Names::Query)),
    (Method::GET, "/v1/models", need(Scope::Read, Names::Nothing)),
    (Method::POST, "/v1/prune", need(Scope::Operate, Names::Query)),
    (Method::GET, "/v1/tokens", need(Scope::Admin, Names::Nothing)),
    (Method::POST, "/v1/tokens", need(Scope::Admin, Names::Nothing)),
    (Method::DELETE, "/v1/tokens/{id}", need(Scope::Admin, Names::Nothing)),
    (Method::POST, "/v1/backup", need(Scope::Admin, Names::Nothing)),
    (Method::POST, "/v1/drain", need(Scope::Admin, Names::Nothing)),
    (Method::DELETE, "/v1/drain", need(Scope::Admin, Names::Nothing)),
    (Method::POST, "/v1/shutdown", need(Scope::Admin, Names::Nothing)),
    (Method::POST, "/v1/upgrade", need(Scope::Admin, Names::Nothing)),
    (Method::GET, "/health", need(Scope::Read, Names::Nothing)),
    (Method::GET, "/livez", need(Scope::Read, Names::Nothing)),
    (Method::GET, "/readyz", need(Scope::Read, Names::Nothing)),
    (Method::GET, "/metrics", need(Scope::Read, Names::Nothing)),
    (Method::GET, "/openapi.json", need(Scope::Read, Names::Nothing)),
];

fn find(method: &Method, path: &str) -> Option<Need> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|(m, p, _)| m == method && *p == path).map(|(_, _, need)| *need)
}

/// What a request asks for; `path` is the router's pattern, nothing where no route matched.
pub(super) fn of(method: &Method, path: Option<&str>) -> Need {
    let found = path.and_then(|path| find(method, path));
    // What only looks and leads nowhere, or to an answer about the route itself.
    let harmless = path.is_none() && method.is_safe() || *method == Method::OPTIONS;
    found.unwrap_or(need(if harmless { Scope::Read } else { Scope::Admin }, Names::Nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_says_what_it_asks_for() {
        for (path, methods) in crate::http::ROUTES {
            for method in *methods {
                let method: Method = method.to_uppercase().parse().unwrap();
                let found = find(&method, path).unwrap_or_else(|| panic!("{method} {path} has no row"));
                assert!(method.is_safe() || found.scope > Scope::Read, "{method} {path} changes something");
                let about_a_run = path.starts_with("/v1/runs/") || path.starts_with("/v1/sessions");
                assert!(!about_a_run || found.names == Names::Query, "{method} {path} names a project");
            }
        }
    }

    #[test]
    fn processes_of_runs_may_write_streams_and_nothing_else() {
        let open: Vec<_> = TABLE.iter().filter(|(_, _, need)| need.agents).map(|(m, p, _)| (m.as_str(), *p)).collect();
        assert_eq!(open, [("PUT", "/v1/stream/{*path}"), ("POST", "/v1/stream/{*path}")]);
    }

    #[test]
    fn what_was_forgotten_is_closed() {
        assert_eq!(of(&Method::POST, Some("/v1/new")).scope, Scope::Admin);
        assert_eq!(of(&Method::GET, Some("/v1/new")).scope, Scope::Admin);
        assert_eq!(of(&Method::PUT, None).scope, Scope::Admin);
        assert_eq!(of(&Method::HEAD, Some("/v1/tokens")).scope, Scope::Admin);
        assert_eq!(of(&Method::GET, None).scope, Scope::Read);
    }
}
