//! The scripted model server, and what the real agent programs need to use it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// Where programs are, beside the agent's own directory.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A model on loopback whose answers are written by the test.
pub struct ModelServer {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl ModelServer {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/scripted_model.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(["--port", "0", "--max-seconds", "300"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs the scripted model server");
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned(), http: reqwest::Client::new() }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.url
    }

    /// Sets what the model says under a name, and gives the address to say it at.
    pub async fn script(&self, name: &str, turns: &Value) -> String {
        let url = format!("{}/s/{name}", self.url);
        let answer = self.http.put(&url).body(turns.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        url
    }

    /// What was asked under a name, without the bodies.
    pub async fn requests(&self, name: &str) -> Vec<Value> {
        self.http.get(format!("{}/s/{name}", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// The same with the bodies.
    pub async fn bodies(&self, name: &str) -> Vec<Value> {
        self.http.get(format!("{}/s/{name}?bodies=1", self.url)).send().await.unwrap().json().await.unwrap()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real agent program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Claude,
    Codex,
    Gemini,
    Kimi,
    OpenCode,
    Pi,
}

impl Agent {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
            Self::Kimi => "kimi",
            Self::OpenCode => "opencode",
            Self::Pi => "pi",
        }
    }

    /// A run of this agent against the model at `url`, with a home of its own below `dir`; `None` if it is not installed.
    pub fn request(self, id: &str, dir: &Path, url: &str, prompt: &str) -> Option<Value> {
        let program = super::tool(self.name())?;
        let home = dir.join(format!("home-{id}"));
        std::fs::create_dir_all(&home).unwrap();
        let path = format!("{}:{PATH}", program.parent().unwrap().display());
        let env = match self {
            Self::Claude => json!({
                "PATH": path, "HOME": home, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "dummy-key",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
                "CLAUDE_CODE_MAX_RETRIES": "1",
            }),
            Self::Codex => {
                let config = format!(
                    "model = \"scripted\"\nmodel_provider = \"local\"\ncheck_for_update_on_startup = false\n\
                     [features]\nplugins = false\n\
                     [model_providers.local]\nname = \"local\"\nbase_url = \"{url}/v1\"\nwire_api = \"responses\"\n\
                     env_key = \"LOCAL_KEY\"\nrequest_max_retries = 1\nstream_max_retries = 1\n"
                );
                std::fs::write(home.join("config.toml"), config).unwrap();
                json!({ "PATH": path, "HOME": home, "CODEX_HOME": home, "LOCAL_KEY": "dummy-key" })
            }
            Self::Gemini => {
                let settings = json!({
                    "security": { "auth": { "selectedType": "gemini-api-key" } },
                    "general": { "enableAutoUpdate": false, "maxAttempts": 1 },
                    "privacy": { "usageStatisticsEnabled": false },
                });
                std::fs::create_dir_all(home.join(".gemini")).unwrap();
                std::fs::write(home.join(".gemini/settings.json"), settings.to_string()).unwrap();
                json!({
                    "PATH": path, "HOME": home, "GEMINI_API_KEY": "dummy-key", "GOOGLE_GEMINI_BASE_URL": url,
                })
            }
            Self::Kimi => {
                let config = format!(
                    "default_model = \"local/scripted\"\ntelemetry = false\n\
                     [providers.local]\ntype = \"kimi\"\nbase_url = \"{url}/v1\"\napi_key = \"dummy-key\"\n\
                     [models.\"local/scripted\"]\nprovider = \"local\"\nmodel = \"scripted\"\n\
                     max_context_size = 100000\ncapabilities = [\"thinking\", \"tool_use\"]\n\
                     [loop_control]\nmax_attempts_per_step = 2\n"
                );
                std::fs::write(home.join("config.toml"), config).unwrap();
                json!({ "PATH": path, "HOME": home, "KIMI_CODE_HOME": home })
            }
            Self::OpenCode => {
                let config = opencode_config(url).to_string();
                json!({
                    "PATH": path, "HOME": home, "OPENCODE_CONFIG_CONTENT": config,
                    "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
                })
            }
            Self::Pi => {
                let model = json!({
                    "id": "scripted", "name": "scripted", "reasoning": true, "input": ["text"],
                    "contextWindow": 100_000, "maxTokens": 8_000,
                    "cost": { "input": 1, "output": 2, "cacheRead": 0.1, "cacheWrite": 0 },
                });
                let provider = json!({
                    "baseUrl": format!("{url}/v1"), "apiKey": "dummy-key", "api": "openai-completions",
                    "models": [model],
                });
                std::fs::create_dir_all(home.join(".pi/agent")).unwrap();
                let models = json!({ "providers": { "local": provider } }).to_string();
                std::fs::write(home.join(".pi/agent/models.json"), models).unwrap();
                json!({ "PATH": path, "HOME": home, "PI_OFFLINE": "1" })
            }
        };
        let mut request =
            json!({ "run_id": id, "harness": self.name(), "prompt": prompt, "permissions": "full", "env": env });
        match self {
            // Without one it asks a model which one to take.
            Self::Gemini => request["model"] = json!("gemini-2.5-flash"),
            Self::OpenCode | Self::Pi => request["model"] = json!("local/scripted"),
            Self::Claude | Self::Codex | Self::Kimi => {}
        }
        Some(request)
    }

    /// A turn's tool call that runs a shell command.
    pub fn shell(self, command: &str) -> Value {
        match self {
            Self::Claude | Self::Gemini | Self::Kimi | Self::OpenCode | Self::Pi => json!({ "shell": command }),
            // Without it codex goes on after ten seconds although the command still runs.
            Self::Codex => json!({ "name": "exec_command", "args": { "cmd": command, "yield_time_ms": 30_000 } }),
        }
    }
}

/// What OpenCode needs to know of the model at `url`.
fn opencode_config(url: &str) -> Value {
    let model = json!({
        "name": "scripted", "reasoning": true, "tool_call": true,
        "limit": { "context": 100_000, "output": 8_000 }, "cost": { "input": 1, "output": 2 },
    });
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible", "name": "local",
        "options": { "baseURL": format!("{url}/v1"), "apiKey": "dummy-key" }, "models": { "scripted": model },
    });
    json!({
        "autoupdate": false, "share": "disabled", "model": "local/scripted", "small_model": "local/scripted",
        "enabled_providers": ["local"], "provider": { "local": provider },
    })
}

/// Lets a gated answer of the model go on, step by step.
pub struct Gate(PathBuf);

impl Gate {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Self(dir.to_owned())
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Lets stream event `number` go.
    pub fn open(&self, number: usize) {
        std::fs::write(self.0.join(number.to_string()), "").unwrap();
    }

    /// Lets all go.
    pub fn open_all(&self) {
        std::fs::write(self.0.join("all"), "").unwrap();
    }
}
