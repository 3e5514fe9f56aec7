//! Where a CLI keeps its login: names alone.
//!
//! Job: for each harness the variables and the files below the home directory in which its CLI looks for a login first.
//! Never: looks at any of them. That one is there does not prove that it is still good: only the provider knows.

/// Where to look for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// Variables that hold a key or a token.
    pub variables: &'static [&'static str],
    /// Files, relative to the home directory.
    pub files: &'static [&'static str],
    /// What a person does to log in.
    pub remedy: &'static str,
}

/// Where the CLI of the harness with this name keeps its login; `None` where there is none to keep.
pub fn login(harness: &str) -> Option<Login> {
    let login = |variables, files, remedy| Some(Login { variables, files, remedy });
    match harness {
        "claude" => login(
            &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"],
            &[".claude/.credentials.json"],
            "run claude once and log in, or set ANTHROPIC_API_KEY",
        ),
        "codex" => {
            login(&["CODEX_API_KEY", "OPENAI_API_KEY"], &[".codex/auth.json"], "run codex login, or set CODEX_API_KEY")
        }
        "copilot" => login(
            &["COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"],
            &[".copilot/config.json"],
            "run copilot once and log in, or set COPILOT_GITHUB_TOKEN",
        ),
        "gemini" => login(
            &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
            &[".gemini/oauth_creds.json"],
            "run gemini once and log in, or set GEMINI_API_KEY",
        ),
        "kimi" => login(&[], &[".kimi-code/config.toml", ".kimi/config.toml"], "run kimi once and log in"),
        "opencode" => login(&[], &[".local/share/opencode/auth.json"], "run opencode auth login"),
        "pi" => login(&[], &[".pi/agent/auth.json"], "run pi once and log in"),
        "qwen" => {
            login(&["OPENAI_API_KEY"], &[".qwen/oauth_creds.json"], "run qwen once and log in, or set OPENAI_API_KEY")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_harness_that_people_install_has_a_login() {
        for harness in crate::all() {
            assert_eq!(login(harness.name()).is_some(), harness.install().is_some(), "{}", harness.name());
        }
    }
}
