//! The command line of Kimi Code.
//!
//! The prompt is an argument, since Kimi reads none from its standard input: so it is bounded, and `ps` shows it.
//! Source: real runs of 2.1.0 with prompts of 120 KiB, with a leading hyphen and with newlines; the effort was read in
//! the request that reached the model.

use super::NAME;
use crate::plan::{ENV_BASE, Plan, Program, stop_by_term};
use crate::request::{Permissions, PlanError, Request, fits_argument, plain_word};

pub(super) const PROGRAM: &str = "kimi";

pub(super) const FIELDS: [&str; 5] = ["model", "prompt", "effort", "permissions", "session_id"];

const ENV_ALLOW: [&str; 18] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "KIMI_*",
    "MOONSHOT_*",
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
    fits_argument("prompt", prompt)?;
    let mut args = ["--output-format", "stream-json"].map(str::to_owned).to_vec();
    let mut env = [("NO_COLOR", "1"), ("KIMI_DISABLE_TELEMETRY", "1"), ("KIMI_CODE_NO_AUTO_UPDATE", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    if let Some(model) = request.model {
        plain_word("model", model)?;
        args.extend(["-m".to_owned(), model.to_owned()]);
    }
    if let Some(effort) = request.effort {
        plain_word("effort", effort)?;
        env.push(("KIMI_MODEL_THINKING_EFFORT".to_owned(), effort.to_owned()));
    }
    match request.permissions {
        // With a prompt on its command line Kimi runs everything unasked, and refuses every option that says otherwise.
        // That the agent asks was refused before.
        Permissions::Cli | Permissions::Full | Permissions::Ask => {}
        Permissions::ReadOnly | Permissions::Edit => {
            let message = "must be cli or full: kimi asks for nothing without a terminal".to_owned();
            return Err(PlanError::Invalid { field: "permissions", message });
        }
    }
    if let Some(id) = request.resume {
        plain_word("session_id", id)?;
        args.extend(["--session".to_owned(), id.to_owned()]);
    }
    // With `=`, so that the text may begin with a hyphen.
    args.push(format!("--prompt={prompt}"));
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: None,
        files: Vec::new(),
        channel: None,
        env,
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop: stop_by_term(),
        source_session_id: request.resume.map(str::to_owned),
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::limits::ARG_BYTES_MAX;

    #[test]
    fn each_field_has_its_option() {
        let request = Request {
            prompt: Some("--help\nme"),
            model: Some("kimi-code/k2"),
            effort: Some("high"),
            permissions: Permissions::Full,
            new_session: "ignored: kimi chooses",
            resume: Some("session_1"),
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        assert_eq!(
            plan.args,
            ["--output-format", "stream-json", "-m", "kimi-code/k2", "--session", "session_1", "--prompt=--help\nme"]
        );
        assert_eq!(plan.stdin, None);
        assert_eq!(plan.env.last(), Some(&("KIMI_MODEL_THINKING_EFFORT".to_owned(), "high".to_owned())));
        assert_eq!(plan.source_session_id.as_deref(), Some("session_1"));
    }

    #[test]
    fn a_new_session_is_kimi_s_own_to_name() {
        let request = Request { prompt: Some("x"), new_session: "ours", ..Request::default() };
        let plan = plan(&request).unwrap();
        assert_eq!((plan.args.len(), plan.source_session_id), (3, None));
    }

    #[test]
    fn a_prompt_that_no_argument_can_hold_is_refused() {
        let long = "x".repeat(ARG_BYTES_MAX);
        assert!(plan(&Request { prompt: Some(&long), ..Request::default() }).is_ok());
        let longer = format!("{long}x");
        let refused = plan(&Request { prompt: Some(&longer), ..Request::default() }).unwrap_err();
        assert!(matches!(refused, PlanError::TooLong { field: "prompt", .. }), "{refused}");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let x = Request { prompt: Some("x"), ..Request::default() };
        assert_eq!(field(Request::default()), "prompt");
        assert_eq!(field(Request { prompt: Some("a\0b"), ..Request::default() }), "prompt");
        assert_eq!(field(Request { model: Some("-m"), ..x.clone() }), "model");
        assert_eq!(field(Request { system: Some("s"), ..x.clone() }), "system");
        assert_eq!(field(Request { permissions: Permissions::ReadOnly, ..x.clone() }), "permissions");
        assert_eq!(field(Request { permissions: Permissions::Edit, ..x.clone() }), "permissions");
        assert_eq!(field(Request { resume: Some("--continue"), ..x.clone() }), "session_id");
    }
}
