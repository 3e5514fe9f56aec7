//! A real server for a test: its own directory, its own port, and nothing left behind.
//!
//! Every test binary uses a part of this.
#![allow(dead_code, missing_docs, clippy::missing_panics_doc)]

pub mod acp;
pub mod collector;
pub mod little;
pub mod live;
pub mod model_server;
pub mod proc;
pub mod proxy;
pub mod sdk;
pub mod sse;
pub mod streams;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for a fact before it says that the fact does not come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub const LONGHAUL: &str = env!("CARGO_BIN_EXE_longhaul");

/// Variables for every server that a test starts: tests run on disks of any size.
pub const ANY_DISK: [(&str, &str); 2] =
    [("LONGHAUL_DISK_FREE_MIN_BYTES", "0"), ("LONGHAUL_DISK_FREE_MIN_PERCENT", "0")];

/// Waits until `check` gives something.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server with its data directory.
pub struct Server {
    pub dir: TempDir,
    child: Option<Child>,
    pub base: String,
    pub pid: i32,
    pub http: reqwest::Client,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// How many files it may open, if not as many as the test may.
    pub descriptors: Option<u64>,
}

impl Server {
    /// A server on a new directory and a free port.
    pub async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// The same with more arguments and variables.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut server = Self::down(args, env);
        server.up().await;
        server
    }

    /// A server on a new directory that `prepare` has seen before.
    pub async fn start_prepared(prepare: impl FnOnce(&Path)) -> Self {
        let mut server = Self::down(&[], &[]);
        prepare(server.dir.path());
        server.up().await;
        server
    }

    /// A server that may open so many files and no more.
    pub async fn start_with_descriptors(descriptors: u64, args: &[&str]) -> Self {
        let mut server = Self::down(args, &[]);
        server.descriptors = Some(descriptors);
        server.up().await;
        server
    }

    fn down(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("lh-test-").tempdir().unwrap(),
            child: None,
            base: String::new(),
            pid: 0,
            http: reqwest::Client::new(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            descriptors: None,
        }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server again on the same directory; on a new port if the old one is gone.
    pub async fn up(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server is up");
        let listen = self.base.strip_prefix("http://").unwrap_or("127.0.0.1:0").to_owned();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("server.log")).unwrap();
        let mut command = match self.descriptors {
            None => Command::new(LONGHAUL),
            Some(count) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("ulimit -n {count}; exec \"$0\" \"$@\"")).arg(LONGHAUL);
                shell
            }
        };
        let child = command
            .arg("serve")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen", &listen])
            .args(&self.args)
            .envs(ANY_DISK)
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.pid = child.id().cast_signed();
        self.child = Some(child);
    }

    /// Waits until the process that was started serves.
    pub async fn ready(&mut self) {
        let path = self.data().join("server.json");
        let pid = self.pid;
        let base = until("the server to be ready", async || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.log());
            }
            let info: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            (info["pid"] == pid).then(|| format!("http://{}", info["address"].as_str().unwrap()))
        })
        .await;
        self.base = base;
    }

    /// SIGKILL, and its end awaited.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the server is up");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and its end awaited.
    pub fn term(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the server is up");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap()
    }

    /// Waits for the end of a server that was told to stop by other means.
    pub fn exited(&mut self) -> std::process::ExitStatus {
        self.child.take().expect("the server was up").wait().unwrap()
    }

    pub fn is_up(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// POST with a JSON body: status and JSON.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.http.post(self.url(path)).body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// What is stored: the ids of all runs, newest first, and how many directories there are for them.
    pub async fn stored(&self) -> (Vec<String>, usize) {
        let (status, list) = self.get("/v1/runs?limit=100").await;
        assert_eq!((status, &list["has_more"]), (200, &json!(false)), "{list}");
        let ids = list["data"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
        (ids, std::fs::read_dir(self.data().join("runs")).unwrap().count())
    }

    /// GET: status and JSON.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(self.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Starts a shell script as a run.
    pub async fn sh(&self, id: &str, script: &str) -> Value {
        let (status, body) =
            self.post("/v1/runs", &json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script] })).await;
        assert!(status == 201 || status == 200, "{status} {body}");
        body
    }

    pub async fn run(&self, id: &str) -> Value {
        let (status, body) = self.get(&format!("/v1/runs/{id}")).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits for a run's end and gives its snapshot.
    pub async fn end(&self, id: &str) -> Value {
        until(&format!("run {id} to end"), async || {
            let (status, body) = self.get(&format!("/v1/runs/{id}?wait_ms=5000")).await;
            assert_eq!(status, 200, "{body}");
            is_terminal(&body).then_some(body)
        })
        .await
    }

    /// Waits until a run is in a status.
    pub async fn status(&self, id: &str, status: &str) -> Value {
        until(&format!("run {id} to be {status}"), async || {
            let body = self.run(id).await;
            (body["status"] == status).then_some(body)
        })
        .await
    }

    /// All events of a run, as stored.
    pub async fn events(&self, id: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let (status, page) = self.get(&format!("/v1/runs/{id}/events?after={after}&limit=1000")).await;
            assert_eq!(status, 200, "{page}");
            let data = page["data"].as_array().unwrap();
            all.extend(data.iter().cloned());
            after = page["next"].as_u64().unwrap();
            if page["has_more"] == false {
                return all;
            }
        }
    }

    /// The raw spool of a run's last attempt.
    pub async fn spool(&self, id: &str, stream: &str) -> Vec<u8> {
        let answer = self.http.get(self.url(&format!("/v1/runs/{id}/log?stream={stream}"))).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Whatever still runs belongs to this directory: end the shims, and their agents with them.
        for pid in processes_of(&self.data()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Their control groups go with them.
        for group in groups_of(&self.data()) {
            let _ = longhaul_supervise::Group::of(&group).end(Duration::from_secs(5));
        }
        // Temporary files of agents that were ended here and not by their server.
        for name in run_dirs(&self.data()) {
            let tail = &name[name.len().saturating_sub(12)..];
            let _ = std::fs::remove_dir_all(Path::new("/tmp").join(format!("longhaul-{tail}")));
        }
    }
}

pub fn is_terminal(snapshot: &Value) -> bool {
    ["completed", "failed", "cancelled"].contains(&snapshot["status"].as_str().unwrap_or_default())
}

/// Asserts what holds of every log: dense from 1, one end, nothing after it.
pub fn assert_log(events: &[Value]) {
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], at as u64 + 1, "the log is dense");
    }
    let ends = |e: &Value| ["run.completed", "run.failed", "run.cancelled"].contains(&e["type"].as_str().unwrap());
    let last = events.iter().position(ends);
    assert!(last.is_none_or(|at| at == events.len() - 1), "nothing follows the end");
}

/// The bytes of one stream that a log's `output.line` events reproduce.
pub fn output_of(events: &[Value], stream: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events.iter().filter(|e| e["type"] == "output.line" && e["data"]["stream"] == stream) {
        let line: longhaul_model::event::OutputLine = serde_json::from_value(event["data"].clone()).unwrap();
        out.extend(line.bytes().unwrap());
        if line.eol {
            out.push(b'\n');
        }
    }
    out
}

/// The names of a data directory's run directories.
fn run_dirs(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir.join("runs"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The control groups that the attempts of a data directory name.
pub fn groups_of(dir: &Path) -> Vec<longhaul_supervise::GroupSpec> {
    let runs = run_dirs(dir).into_iter().map(|name| dir.join("runs").join(name));
    let attempts = runs.flat_map(|run| std::fs::read_dir(run).into_iter().flatten().flatten());
    let spec = |path: PathBuf| longhaul_supervise::AttemptDir::open(&path).ok()?.read_spec().ok()??.group;
    attempts.filter_map(|entry| spec(entry.path())).collect()
}

/// Processes whose command line or environment names a directory: shims by their argument, agents by their marker's
/// run directory.
pub fn processes_of(dir: &Path) -> Vec<i32> {
    let dirs = run_dirs(dir);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse::<i32>().ok()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        let text = [String::from_utf8_lossy(&command), String::from_utf8_lossy(&environment)].concat();
        if dirs.iter().any(|name| text.contains(name.as_str())) {
            found.push(pid);
        }
    }
    found
}

/// Waits until nothing of a directory's runs is alive.
pub async fn assert_no_process(dir: &Path) {
    until("every process of the runs to be gone", async || processes_of(dir).is_empty().then_some(())).await;
}

/// A program that a test needs and that `./dev test` installs; without it the test says so and ends.
pub fn tool(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dev-tools");
    let path = match name {
        "codex" => root.join("node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex"),
        "claude" => root.join("node_modules/@anthropic-ai/claude-code-linux-x64/claude"),
        "gemini" => root.join("node_modules/.bin/gemini"),
        "kimi" => root.join("node_modules/.bin/kimi"),
        "opencode" => root.join("node_modules/opencode-linux-x64/bin/opencode"),
        "copilot" => root.join("node_modules/@github/copilot-linux-x64/copilot"),
        "pi" => root.join("node_modules/.bin/pi"),
        "qwen" => root.join("node_modules/.bin/qwen"),
        "python" => root.join("venv/bin/python"),
        "node-openai" => root.join("node_modules/openai"),
        "conformance" => root.join("node_modules/@durable-streams/server-conformance-tests"),
        "playwright" => root.join("node_modules/playwright-core"),
        "chromium" => PathBuf::from("/usr/bin/chromium"),
        other => panic!("no tool is called {other}"),
    };
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {name} is not at {}; ./dev test installs it", path.display());
    assert!(std::env::var_os("CI").is_none(), "{name} must be there in CI");
    None
}
