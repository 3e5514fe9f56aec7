//! The command line of Gemini CLI.
//!
//! The prompt is its standard input, a file: so it may be long, begin with a hyphen, and is not seen by `ps`.
//! Source: real runs of 0.61.0 with prompts of 1 MiB, with a leading hyphen and with newlines.

use super::NAME;
use crate::plan::{ENV_BASE, Plan, Program, stop_by_term};
use crate::request::{Permissions, PlanError, Request, plain_word};

pub(super) const PROGRAM: &str = "gemini";

pub(super) const FIELDS: [&str; 4] = ["model", "prompt", "permissions", "session_id"];

const ENV_ALLOW: [&str; 18] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "GEMINI_*",
    "GOOGLE_*",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

pub(super) fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(NAME, &FIELDS)?;
    let prompt = request.prompt(NAME)?;
    let mut args = ["-o", "stream-json"].map(str::to_owned).to_vec();
    if let Some(model) = request.model {
        plain_word("model", model)?;
        args.extend(["-m".to_owned(), model.to_owned()]);
    }
    let mode = match request.permissions {
        // That the agent asks was refused before.
        Permissions::Cli | Permissions::Ask => None,
        Permissions::ReadOnly => Some("plan"),
        Permissions::Edit => Some("auto_edit"),
        Permissions::Full => Some("yolo"),
    };
    if let Some(mode) = mode {
        args.extend(["--approval-mode", mode].map(str::to_owned));
    }
    let session = match request.resume {
        Some(id) if is_uuid(id) => {
            args.extend(["--resume", id].map(str::to_owned));
            Some(id.to_owned())
        }
        Some(_) => {
            // Gemini takes `latest` and numbers too, which may be another session than the one that was meant.
            let message = "must be the UUID of a session of gemini".to_owned();
            return Err(PlanError::Invalid { field: "session_id", message });
        }
        None if request.new_session.is_empty() => None,
        None => {
            args.extend(["--session-id", request.new_session].map(str::to_owned));
            Some(request.new_session.to_owned())
        }
    };
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: Some(prompt.as_bytes().to_vec()),
        files: Vec::new(),
        channel: None,
        env: [
            ("NO_COLOR", "1"),
            // Else it starts itself once more, and the first process takes no signal.
            ("GEMINI_CLI_NO_RELAUNCH", "true"),
            // Else it refuses a directory that nobody has trusted at a terminal.
            ("GEMINI_CLI_TRUST_WORKSPACE", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop: stop_by_term(),
        source_session_id: session,
        warnings: Vec::new(),
    })
}

/// Whether `text` has the shape of a UUID.
fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| if hyphens.contains(&at) { b == b'-' } else { b.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn the_prompt_is_never_an_argument() {
        let request = Request { prompt: Some("--help\nme"), new_session: ID, ..Request::default() };
        let plan = plan(&request).unwrap();
        assert_eq!(plan.args, ["-o", "stream-json", "--session-id", ID]);
        assert_eq!(plan.stdin.as_deref(), Some(&b"--help\nme"[..]));
        assert_eq!(plan.source_session_id.as_deref(), Some(ID));
        let long = "x".repeat(1 << 20);
        assert!(super::plan(&Request { prompt: Some(&long), ..Request::default() }).is_ok());
    }

    #[test]
    fn a_session_to_go_on_with_takes_the_place_of_a_new_one() {
        let new = "99999999-2222-4333-8444-555555555555";
        let request = Request { prompt: Some("x"), new_session: new, resume: Some(ID), ..Request::default() };
        let plan = plan(&request).unwrap();
        assert_eq!(plan.args, ["-o", "stream-json", "--resume", ID]);
        assert_eq!(plan.source_session_id.as_deref(), Some(ID));
    }

    #[test]
    fn permissions_are_gemini_s_own_words() {
        let words = |permissions| {
            let request =
                Request { prompt: Some("x"), model: Some("gemini-2.5-pro"), permissions, ..Request::default() };
            plan(&request).unwrap().args[2..].join(" ")
        };
        assert_eq!(words(Permissions::Cli), "-m gemini-2.5-pro");
        assert_eq!(words(Permissions::ReadOnly), "-m gemini-2.5-pro --approval-mode plan");
        assert_eq!(words(Permissions::Edit), "-m gemini-2.5-pro --approval-mode auto_edit");
        assert_eq!(words(Permissions::Full), "-m gemini-2.5-pro --approval-mode yolo");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let x = Request { prompt: Some("x"), ..Request::default() };
        assert_eq!(field(Request::default()), "prompt");
        assert_eq!(field(Request { model: Some("-m"), ..x.clone() }), "model");
        assert_eq!(field(Request { system: Some("s"), ..x.clone() }), "system");
        assert_eq!(field(Request { effort: Some("high"), ..x.clone() }), "effort");
        assert_eq!(field(Request { turns_max: Some(3), ..x.clone() }), "turns_max");
        for id in ["latest", "5", "--yolo", "", "11111111-2222-4333-8444-55555555555g"] {
            assert_eq!(field(Request { resume: Some(id), ..x.clone() }), "session_id", "{id}");
        }
    }
}
