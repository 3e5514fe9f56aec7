//! Who calls, as handlers see it.
//!
//! Job: the name that the scheduler counts by, the project and the directories that a token allows.

use std::path::PathBuf;
use std::sync::Arc;

use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::Origin;
use longhaul_model::ProjectId;

use super::reply::Failure;
use crate::access::Token;

/// Who calls.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// What the scheduler and repeated requests go by: a token's name, a digest of the server's token, or nothing.
    pub name: String,
    /// The token that was given, if it is one with bounds.
    pub(super) token: Option<Arc<Token>>,
}

impl Caller {
    /// A caller with a token.
    pub(super) fn bounded(token: Arc<Token>) -> Self {
        Self { name: format!("token:{}", token.name), token: Some(token) }
    }

    /// The project that a request is for: the token's, else the one it names, else the default.
    ///
    /// # Errors
    /// `forbidden_project`: it names another one than its token's.
    pub fn project(&self, named: Option<ProjectId>) -> Result<ProjectId, Failure> {
        let own = self.token.as_ref().and_then(|token| token.bounds.project.as_ref());
        match (own, named) {
            (None, named) => Ok(named.unwrap_or_else(ProjectId::default_project)),
            (Some(own), Some(named)) if named != *own => Err(forbidden_project(own, named.as_str())),
            (Some(own), _) => Ok(own.clone()),
        }
    }

    /// Directories below which the caller's runs may work; anywhere if there are none.
    pub fn allowed_roots(&self) -> Vec<PathBuf> {
        let token = self.token.iter();
        token.flat_map(|token| token.bounds.allowed_roots.iter().map(PathBuf::from)).collect()
    }

    /// How a run of this caller came to be.
    pub fn origin(&self, face: &str, anonymous: bool) -> Origin {
        let lane = self.token.as_ref().and_then(|token| token.bounds.lane);
        Origin { face: face.to_owned(), anonymous, caller: self.name.clone(), lane, ..Origin::default() }
    }
}

/// A token of one project was used for another.
pub(super) fn forbidden_project(own: &ProjectId, named: &str) -> Failure {
    Problem::new(ErrorCode::ForbiddenProject, format!("this token is for project {own}, the request names {named}"))
        .param("project")
        .fact("token_project", own.as_str())
        .fact("project", named)
        .into()
}
