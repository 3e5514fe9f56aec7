//! A little server of tools, by the Model Context Protocol, and the test of an agent that is given it for a run.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Server, assert_log, assert_no_process, until};

/// What nobody but the server of tools and its agent may see.
pub const SECRET: &str = "s3cr3t-tw1tter";

/// Its one tool tells how long its secret is and which command lines show it.
const LITTLE: &str = r#"
import glob, json, os, sys
secret = os.environ.get("LITTLE_SECRET", "")
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer = {}
    if asked["method"] == "initialize":
        version = asked["params"].get("protocolVersion", "2025-06-18")
        answer = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "little", "version": "1"}}
    elif asked["method"] == "tools/list":
        answer = {"tools": [{"name": "whisper", "description": "whispers", "inputSchema": {"type": "object"}}]}
    elif asked["method"] == "tools/call":
        shown = 0
        for name in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                shown += secret.encode() in open(name, "rb").read()
            except OSError:
                pass
        text = "%d letters, on %d command lines" % (len(secret), shown)
        answer = {"content": [{"type": "text", "text": text}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"#;

/// Where it lies, and what its agent waits for before it calls it.
pub struct Little(PathBuf);

impl Little {
    pub fn new(dir: &Path) -> Self {
        std::fs::write(dir.join("little.py"), LITTLE).unwrap();
        Self(dir.to_owned())
    }

    /// The model waits by a shell command, makes the call, and ends.
    pub fn turns(&self, shell: impl Fn(&str) -> Value, call: Value) -> Value {
        let (waits, go) = (self.0.join("waits"), self.0.join("go"));
        let wait = format!("touch {}; while ! [ -e {} ]; do sleep 0.1; done", waits.display(), go.display());
        json!([
            { "text": "I wait.", "tools": [shell(&wait)] },
            { "text": "I call.", "tools": [call] },
            { "text": "Done." },
        ])
    }

    /// The run of `body` calls the tool by this name over a crash of `server`, and the secret is nowhere afterwards.
    pub async fn it_is_called(&self, server: &mut Server, mut body: Value, name: &str) {
        let env = json!({ "LITTLE_SECRET": SECRET });
        let script = self.0.join("little.py");
        body["mcp"] = json!({ "servers": { "little": { "command": "python3", "args": [script], "env": env } } });
        let (status, answer) = server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        until("the first call", async || self.0.join("waits").exists().then_some(())).await;
        let runs = std::fs::read_dir(server.data().join("runs")).unwrap().flatten();
        let dir = runs.map(|entry| entry.file_name().into_string().unwrap()).next().unwrap();
        let tmp = PathBuf::from(format!("/tmp/longhaul-{}", &dir[dir.len() - 12..]));
        let held = files_with(&tmp, SECRET);
        assert_eq!(held.len(), 1, "{held:?}");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&held[0]), mode(held[0].parent().unwrap()), mode(&tmp)), (0o600, 0o700, 0o700));
        server.kill9();
        server.up().await;
        std::fs::write(self.0.join("go"), "").unwrap();
        let run = server.end("mcp").await;
        let told = [&run["status"], &run["output_text"], &run["unknown_lines"]];
        assert_eq!(told, [&json!("completed"), &json!("I wait.\n\nI call.\n\nDone."), &json!(0)], "{run}");
        let events = server.events("mcp").await;
        assert_log(&events);
        let calls: Vec<_> =
            events.iter().filter(|event| event["type"].as_str().unwrap().starts_with("tool.")).collect();
        assert_eq!(calls[2]["data"]["name"], name, "{calls:?}");
        let told = format!("{} letters, on 0 command lines", SECRET.len());
        assert!(calls[3]["data"]["result"].to_string().contains(&told), "{calls:?}");
        assert!(!json!(events).to_string().contains(SECRET) && !run.to_string().contains(SECRET));
        until("the secrets to be gone", async || {
            let kept = files_with(&server.data(), SECRET);
            (kept.is_empty() && !tmp.exists()).then_some(())
        })
        .await;
        assert!(!server.log().contains(SECRET));
        assert_no_process(&server.data()).await;
    }
}

/// Every file below `dir` that holds `secret`.
fn files_with(dir: &Path, secret: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_with(&path, secret)),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}
