//! The harnesses of this build, by name.

use crate::acp;
use crate::claude::Claude;
use crate::codex::Codex;
use crate::demo::Demo;
use crate::exec::Exec;
use crate::gemini::GEMINI;
use crate::harness::Harness;
use crate::kimi::KIMI;
use crate::opencode::OPENCODE;
use crate::passthrough::Passthrough;
use crate::pi::Pi;

static ALL: [&dyn Harness; 12] =
    [&acp::ANY, &Claude, &Codex, &acp::COPILOT, &Demo, &Exec, &GEMINI, &KIMI, &OPENCODE, &Passthrough, &Pi, &acp::QWEN];

/// Every harness, by name in order.
pub fn all() -> &'static [&'static dyn Harness] {
    &ALL
}

/// The harness with this name.
pub fn find(name: &str) -> Option<&'static dyn Harness> {
    ALL.into_iter().find(|h| h.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_harness_is_found_by_its_name() {
        let names: Vec<_> = all().iter().map(|h| h.name()).collect();
        assert_eq!(
            names,
            [
                "acp",
                "claude",
                "codex",
                "copilot",
                "demo",
                "exec",
                "gemini",
                "kimi",
                "opencode",
                "passthrough",
                "pi",
                "qwen"
            ]
        );
        for name in names {
            assert_eq!(find(name).map(Harness::name), Some(name));
        }
        assert!(find("Claude").is_none());
        assert!(find("").is_none());
    }
}
