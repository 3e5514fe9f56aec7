//! Looking before leaping: everything about a request that can be refused before anything is stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longhaul_harness::{Harness, Plan, Program, Request, Upstream};

use crate::error::DispatchError;
use crate::files;
use crate::sealed::Sealed;

/// Where programs are looked for if nothing says so.
pub(crate) const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a plan takes from the server and the run's own directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    /// The upstreams of the configuration.
    pub(crate) upstreams: &'a [Upstream],
    /// The run's own directory of temporary files; the plan's files are for it.
    pub(crate) tmp: &'a Path,
}

/// What an attempt that goes on with something says otherwise than the request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Again<'a> {
    /// The source's own session to go on with, instead of a new one.
    pub(crate) resume: Option<&'a str>,
    /// Instead of the request's prompt.
    pub(crate) prompt: Option<&'a str>,
    /// Instead of the id that was chosen for a new session.
    pub(crate) new_session: Option<&'a str>,
}

/// The harness's plan for a sealed request.
pub(crate) fn plan(
    harness: &dyn Harness,
    sealed: &Sealed,
    again: Again<'_>,
    around: Around<'_>,
) -> Result<Plan, DispatchError> {
    let Again { resume, prompt, new_session } = again;
    let Around { upstreams, tmp } = around;
    let files_dir = files::dir(tmp);
    let turn = sealed.turn.as_deref().filter(|_| resume.is_some());
    let request = Request {
        model: sealed.model.as_deref(),
        prompt: prompt.or(turn).or(sealed.prompt.as_deref()),
        system: sealed.system.as_deref(),
        command: sealed.command.as_deref(),
        args: &sealed.args,
        stdin: sealed.stdin.as_deref().map(str::as_bytes),
        effort: sealed.effort.as_deref(),
        permissions: sealed.permissions,
        allowed_tools: &sealed.allowed_tools,
        turns_max: sealed.turns_max,
        cwd: &sealed.cwd.to_string_lossy(),
        cost_usd_max: sealed.budget.cost_usd_max,
        tokens_max: sealed.budget.tokens_max,
        new_session: new_session.unwrap_or(&sealed.new_session),
        resume,
        upstreams,
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
