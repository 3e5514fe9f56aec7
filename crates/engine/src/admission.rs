//! Looking before leaping: everything about a request that can be refused before anything is stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longhaul_harness::{Harness, Plan, Program, Request};

use crate::error::DispatchError;
use crate::files;
use crate::sealed::Sealed;

/// Where programs are looked for if nothing says so.
pub(crate) const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// The harness's plan for a sealed request: in a new session of the source's, or in the one that is named. Its files are
/// for the run's own directory `tmp`.
pub(crate) fn plan(
    harness: &dyn Harness,
    sealed: &Sealed,
    resume: Option<&str>,
    tmp: &Path,
) -> Result<Plan, DispatchError> {
    let files_dir = files::dir(tmp);
    let turn = sealed.turn.as_deref().filter(|_| resume.is_some());
    let request = Request {
        model: sealed.model.as_deref(),
        prompt: turn.or(sealed.prompt.as_deref()),
        system: sealed.system.as_deref(),
        command: sealed.command.as_deref(),
        args: &sealed.args,
        stdin: sealed.stdin.as_deref().map(str::as_bytes),
        effort: sealed.effort.as_deref(),
        permissions: sealed.permissions,
        allowed_tools: &sealed.allowed_tools,
        turns_max: sealed.turns_max,
        cost_usd_max: sealed.budget.cost_usd_max,
        tokens_max: sealed.budget.tokens_max,
        new_session: &sealed.new_session,
        resume,
        schema: sealed.schema.as_ref(),
        mcp: sealed.mcp.as_ref(),
        files_dir: &files_dir.to_string_lossy(),
    };
    Ok(harness.plan(&request)?)
}

/// Whether the plan's program is there, for a harness whose program people must install.
pub(crate) fn installed(
    harness: &'static dyn Harness,
    plan: &Plan,
    sealed: &Sealed,
    server: &BTreeMap<String, String>,
) -> Result<(), DispatchError> {
    let Program::Path(program) = &plan.program else { return Ok(()) };
    if harness.install().is_none() {
        return Ok(());
    }
    let path = sealed
        .env
        .get("PATH")
        .or_else(|| sealed.captured_env.as_ref().unwrap_or(server).get("PATH"))
        .map_or(PATH_DEFAULT, String::as_str);
    if find(program, path).is_some() {
        return Ok(());
    }
    Err(DispatchError::HarnessMissing { harness: harness.name(), program: program.clone(), install: harness.install() })
}

/// The program's file, searched as `execvp` does.
pub fn find(program: &str, path: &str) -> Option<PathBuf> {
    let executable = |file: &Path| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| executable(file));
    }
    path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program)).find(|f| executable(f))
}
