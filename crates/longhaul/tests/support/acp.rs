//! Real agent programs that speak ACP, the Agent Client Protocol.

use std::path::Path;

use serde_json::{Value, json};

use super::model_server::Agent;

/// How a small agent in Python begins: it can say a message.
pub const SPEAKER: &str = r#"
import json, os, sys, time
def say(message):
    message["jsonrpc"] = "2.0"
    print(json.dumps(message), flush=True)
"#;

/// A program that speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Copilot,
    Gemini,
    Kimi,
    OpenCode,
    Qwen,
}

impl Subject {
    /// A run of it against the model at `url`, with a home of its own below `dir`; `None` if it is not installed.
    pub fn request(self, id: &str, dir: &Path, url: &str, prompt: &str, permissions: &str) -> Option<Value> {
        let mut body = match self {
            Self::Copilot => {
                let program = super::tool("copilot")?;
                let home = dir.join(format!("home-{id}"));
                std::fs::create_dir_all(&home).unwrap();
                let path = format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display());
                // A provider of one's own needs no login.
                let env = json!({
                    "PATH": path, "HOME": home, "COPILOT_HOME": home, "COPILOT_OFFLINE": "true",
                    "COPILOT_PROVIDER_BASE_URL": format!("{url}/v1"), "COPILOT_PROVIDER_API_KEY": "dummy-key",
                    "COPILOT_MODEL": "scripted",
                });
                json!({ "run_id": id, "prompt": prompt, "env": env })
            }
            Self::Gemini => {
                let mut body = Agent::Gemini.request(id, dir, url, prompt)?;
                body["env"]["GEMINI_CLI_NO_RELAUNCH"] = json!("true");
                body["env"]["GEMINI_CLI_TRUST_WORKSPACE"] = json!("true");
                body["command"] = json!("gemini");
                body["args"] = json!(["--acp", "-m", "gemini-2.5-flash"]);
                body.as_object_mut().unwrap().remove("model");
                body
            }
            Self::Kimi => {
                let mut body = Agent::Kimi.request(id, dir, url, prompt)?;
                body["command"] = json!("kimi");
                body["args"] = json!(["acp"]);
                body
            }
            Self::OpenCode => {
                let mut body = Agent::OpenCode.request(id, dir, url, prompt)?;
                body["command"] = json!("opencode");
                body["args"] = json!(["acp"]);
                body.as_object_mut().unwrap().remove("model");
                body
            }
            Self::Qwen => {
                let program = super::tool("qwen")?;
                let home = dir.join(format!("home-{id}"));
                std::fs::create_dir_all(home.join(".qwen")).unwrap();
                let settings = json!({
                    "security": { "auth": { "selectedType": "openai" }, "folderTrust": { "enabled": false } },
                    "general": { "enableAutoUpdate": false },
                    "privacy": { "usageStatisticsEnabled": false },
                });
                std::fs::write(home.join(".qwen/settings.json"), settings.to_string()).unwrap();
                let path = format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display());
                let env = json!({
                    "PATH": path, "HOME": home, "OPENAI_API_KEY": "dummy-key", "OPENAI_BASE_URL": format!("{url}/v1"),
                });
                json!({ "run_id": id, "prompt": prompt, "model": "scripted", "env": env })
            }
        };
        body["harness"] = json!(match self {
            Self::Copilot => "copilot",
            Self::Gemini | Self::Kimi | Self::OpenCode => "acp",
            Self::Qwen => "qwen",
        });
        body["permissions"] = json!(permissions);
        Some(body)
    }
}
