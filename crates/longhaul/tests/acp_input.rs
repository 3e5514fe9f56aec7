//! Messages to real agent programs that speak ACP while they work, through the real server and its kills: each is told
//! once, in order, and takes no turn away.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use support::acp::{SPEAKER, Subject};
use support::model_server::ModelServer;
use support::{Server, assert_log, assert_no_process, until};

const ONE: &str = "Then look \"around\",\nif you can.";
const TWO: &str = "And be brief.";

struct Stage {
    server: Server,
    model: ModelServer,
}

/// A tool call that says that it runs, and goes on until it is let go.
struct Tool(PathBuf);

impl Tool {
    fn new(dir: &Path, name: &str) -> Self {
        Self(dir.join(name))
    }

    fn call(&self) -> Value {
        let file = self.0.display();
        json!({ "shell": format!("touch {file}-runs; while ! [ -e {file}-goes ]; do sleep 0.1; done") })
    }

    async fn runs(&self) {
        let runs = format!("{}-runs", self.0.display());
        until("the tool to run", async || Path::new(&runs).exists().then_some(())).await;
    }

    fn let_go(&self) {
        std::fs::write(format!("{}-goes", self.0.display()), "").unwrap();
    }
}

impl Stage {
    async fn new() -> Self {
        Self { server: Server::start().await, model: ModelServer::start() }
    }

    /// Starts a run whose model says `turns`, each by what was said before it; whether the program is there.
    async fn start(&self, subject: Subject, id: &str, turns: &Value) -> bool {
        // Some ask more of their model than their turns, and that is to take none.
        let url = self.model.script(id, &json!({ "turns": turns, "by": "history" })).await;
        let Some(body) = subject.request(id, self.server.dir.path(), &url, "Do your work.", "full") else {
            return false;
        };
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        true
    }

    async fn say(&self, id: &str, text: &str) -> Value {
        let (status, answer) = self.server.post(&format!("/v1/runs/{id}/input"), &json!({ "text": text })).await;
        assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
        answer["input_id"].clone()
    }

    /// Waits for a run's end, and sees that it was told these messages in this order, each once.
    async fn ends_with(&self, id: &str, text: &str, messages: [Value; 2]) {
        let run = self.server.end(id).await;
        let told = [&run["status"], &run["reason"], &run["output_text"], &run["error"], &run["unknown_lines"]];
        assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!(text), &Value::Null, &json!(0)], "{run}");
        let events = self.server.events(id).await;
        assert_log(&events);
        for kind in ["input.accepted", "input.delivered"] {
            let of = events.iter().filter(|event| event["type"] == kind);
            let ids: Vec<&Value> = of.map(|event| &event["data"]["input_id"]).collect();
            assert_eq!(ids, messages.iter().collect::<Vec<_>>(), "{kind}");
        }
        assert_no_process(&self.server.data()).await;
    }
}

/// Two messages are sent into a turn that waits in its tool. The server is killed there, and again in the turn of the first
/// message: no turn is cut off, and each message is told once, in a turn of its own.
async fn messages_have_turns_of_their_own(subject: Subject) {
    let mut stage = Stage::new().await;
    let (first, second) = (Tool::new(stage.server.dir.path(), "first"), Tool::new(stage.server.dir.path(), "second"));
    let turns = json!([
        { "text": "I wait.", "tools": [first.call()] }, { "text": "Done.", "usage": { "output": 5 } },
        { "text": "I look.", "tools": [second.call()] }, { "text": "Looked.", "usage": { "output": 7 } },
        { "text": "Brief." }, { "text": "Never." },
    ]);
    if !stage.start(subject, "input", &turns).await {
        return;
    }
    first.runs().await;
    let messages = [stage.say("input", ONE).await, stage.say("input", TWO).await];
    stage.server.kill9();
    first.let_go();
    stage.server.up().await;
    second.runs().await;
    stage.server.kill9();
    second.let_go();
    stage.server.up().await;
    stage.ends_with("input", "I wait.\n\nDone.\n\nI look.\n\nLooked.\n\nBrief.", messages).await;
    let run = stage.server.run("input").await;
    if subject != Subject::Kimi {
        // Kimi tells none.
        assert_eq!(run["usage"]["output_tokens"], 20 + 5 + 20 + 7 + 20, "of all its turns: {run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_copilot_have_turns_of_their_own() {
    messages_have_turns_of_their_own(Subject::Copilot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_gemini_have_turns_of_their_own() {
    messages_have_turns_of_their_own(Subject::Gemini).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_kimi_have_turns_of_their_own() {
    messages_have_turns_of_their_own(Subject::Kimi).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_qwen_have_turns_of_their_own() {
    messages_have_turns_of_their_own(Subject::Qwen).await;
}

/// Whether a file below `dir` holds this text.
fn holds(dir: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds(&path, text),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                bytes.windows(text.len()).any(|window| window == text.as_bytes())
            }
            _ => false,
        }
    })
}

/// `OpenCode` takes them into the turn that it is in: its model is told both with the tool's result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_takes_messages_into_its_turn() {
    let mut stage = Stage::new().await;
    let tool = Tool::new(stage.server.dir.path(), "tool");
    let turns = json!([{ "text": "I wait.", "tools": [tool.call()] }, { "text": "All done." }, { "text": "Never." }]);
    if !stage.start(Subject::OpenCode, "input", &turns).await {
        return;
    }
    tool.runs().await;
    let messages = [stage.say("input", ONE).await, stage.say("input", TWO).await];
    stage.server.kill9();
    stage.server.up().await;
    // It has a message when that is in its own store.
    let home = stage.server.dir.path().join("home-input");
    until("it to have the messages", async || holds(&home, TWO).then_some(())).await;
    tool.let_go();
    stage.ends_with("input", "I wait.\n\nAll done.", messages).await;
    let bodies = stage.model.bodies("input").await;
    let told = bodies.iter().map(|one| one["body"].to_string()).filter(|body| body.contains(TWO));
    let told: Vec<_> = told.map(|body| (body.matches("Then look").count(), body.matches(TWO).count())).collect();
    assert_eq!(told, [(1, 1)]);
}

/// An agent that answers its prompt when the file `go` is there, and then does what its argument says with a message.
const FICKLE: &str = r#"
def tell(text):
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    say({"method": "session/update", "params": {"sessionId": "s1", "update": update}})
prompts = 0
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        say({"id": message["id"], "result": {"protocolVersion": 1, "agentCapabilities": {}}})
    elif method == "session/new":
        say({"id": message["id"], "result": {"sessionId": "s1"}})
    elif method == "session/prompt":
        prompts += 1
        while not os.path.exists("go"):
            time.sleep(0.01)
        if prompts == 2 and sys.argv[1] == "goes":
            sys.exit(0)
        tell("Answer %d." % prompts)
        if prompts == 2 and sys.argv[1] == "breaks":
            sys.exit(0)
        if prompts == 2 and sys.argv[1] == "fails":
            say({"id": message["id"], "error": {"code": 500, "message": "the provider is gone"}})
        else:
            say({"id": message["id"], "result": {"stopReason": "end_turn"}})
"#;

/// What was said of the first turn is no word on a message's turn; what no agent has is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_did_not_end_is_no_success() {
    let server = Server::start().await;
    for (way, status, code, settled) in [
        ("breaks", "failed", json!("no_verdict"), ["delivered", "undelivered"]),
        ("fails", "failed", json!("upstream"), ["delivered", "undelivered"]),
        ("goes", "completed", Value::Null, ["undelivered", "undelivered"]),
    ] {
        let cwd = server.dir.path().join(way);
        std::fs::create_dir(&cwd).unwrap();
        let body = json!({
            "run_id": way, "harness": "acp", "command": "python3", "args": ["-c", format!("{SPEAKER}{FICKLE}"), way], "prompt": "x", "cwd": cwd,
        });
        assert_eq!(server.post("/v1/runs", &body).await.0, 201);
        for text in [ONE, TWO] {
            let (status, answer) = server.post(&format!("/v1/runs/{way}/input"), &json!({ "text": text })).await;
            assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
        }
        std::fs::write(cwd.join("go"), "").unwrap();
        let run = server.end(way).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!(status), &code), "{run}");
        let events = server.events(way).await;
        assert_log(&events);
        let kinds = events.iter().filter_map(|event| event["type"].as_str()?.strip_prefix("input."));
        let kinds: Vec<&str> = kinds.filter(|kind| *kind != "accepted").collect();
        assert_eq!(kinds, settled, "{way}");
    }
    assert_no_process(&server.data()).await;
}
