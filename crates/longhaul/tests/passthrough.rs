//! Calls of a model through the server: both dialects, refusals, broken streams, a killed server, and a key that is
//! nowhere but in the caller's environment.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use support::model_server::{Gate, ModelServer};
use support::{Server, assert_log, assert_no_process, processes_of, until};

/// The key, as an upstream gave it.
const KEY: &str = "sk-passthrough-0123456789";

/// A prompt that a careless program would take for something else.
const PROMPT: &str = "--version\n\"data: [DONE]\"\n\n$HOME ünïcode";

struct Stage {
    server: Server,
    model: ModelServer,
}

impl Stage {
    /// A server with the upstreams `oai` and `ant`, each with a script of its name, and some that go wrong.
    async fn new() -> Self {
        let model = ModelServer::start();
        let (oai, ant) = (model.script("oai", &json!([])).await, model.script("ant", &json!([])).await);
        let text = format!(
            "[passthrough.oai]\nkind = \"openai\"\nbase_url = \"{oai}/v1\"\nkey_env = \"PT_KEY\"\n\
             models = [\"first\", \"org/second\"]\n\
             [passthrough.ant]\nkind = \"anthropic\"\nbase_url = \"{ant}\"\nkey_env = \"PT_KEY\"\n\
             [passthrough.lacking]\nkind = \"openai\"\nbase_url = \"{oai}/v1\"\nkey_env = \"PT_NO_KEY\"\n\
             [passthrough.open]\nkind = \"openai\"\nbase_url = \"{oai}/v1\"\n\
             [passthrough.nobody]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n"
        );
        let mut server = Server::start_with(&[], &[("PT_KEY", KEY), ("NO_PROXY", "*"), ("no_proxy", "*")]).await;
        server.term();
        let file = server.dir.path().join("config.toml");
        fs::write(&file, text).unwrap();
        server.args = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        server.up().await;
        Self { server, model }
    }

    /// Scripts what an upstream says.
    async fn script(&self, name: &str, turns: Value) {
        self.model.script(name, &json!({ "turns": turns, "side": false })).await;
    }

    async fn start(&self, id: &str, model: &str) {
        let body = json!({
            "run_id": id, "harness": "passthrough", "model": model, "prompt": PROMPT, "system": "Be brief.",
        });
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Runs to the end: snapshot and log.
    async fn run(&self, id: &str, model: &str) -> (Value, Vec<Value>) {
        self.start(id, model).await;
        let run = self.server.end(id).await;
        let events = self.server.events(id).await;
        assert_log(&events);
        (run, events)
    }
}

/// The data of all events of a type.
fn data<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).map(|event| &event["data"]).collect()
}

fn texts(events: &[Value], kind: &str) -> Vec<String> {
    data(events, kind).iter().map(|data| data["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_either_dialect_becomes_events() {
    let stage = Stage::new().await;
    let turn = json!([{
        "reasoning": "I think so.", "text": ["One ", "two."],
        "usage": { "input": 1000, "output": 30, "cached": 400, "reasoning": 10 },
    }]);
    for (name, model, usage) in [
        ("oai", "oai/org/second", json!({ "cache_read_tokens": 400, "reasoning_tokens": 10 })),
        ("ant", "ant/second", json!({ "cache_read_tokens": 400, "cache_write_tokens": 0 })),
    ] {
        stage.script(name, turn.clone()).await;
        let (run, events) = stage.run(name, model).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("One two.")), "{run}");
        assert_eq!(texts(&events, "message.delta"), ["One ", "two."]);
        assert_eq!(texts(&events, "reasoning.delta").concat(), "I think so.");
        let sent = model.split_once('/').unwrap().1;
        let mut want = json!({ "scope": "run", "input_tokens": 600, "output_tokens": 30, "model": sent });
        want.as_object_mut().unwrap().extend(usage.as_object().unwrap().clone());
        assert_eq!(data(&events, "usage.reported"), [&want]);
        assert_eq!(data(&events, "verdict.reported"), [&json!({ "success": true })]);
        assert_eq!(data(&events, "output.line"), Vec::<&Value>::new(), "every line is understood");
        let asked = stage.model.bodies(name).await;
        assert_eq!(asked.len(), 1);
        assert!(asked[0]["auth"].as_str().unwrap().ends_with(KEY), "{}", asked[0]["auth"]);
        let body = &asked[0]["body"];
        assert_eq!((&body["model"], &body["stream"]), (&json!(sent), &json!(true)));
        assert!(body["messages"].as_array().unwrap().contains(&json!({ "role": "user", "content": PROMPT })), "{body}");
        assert!(body.to_string().contains("Be brief."), "{body}");
    }
    // Without a model the first that is configured, and no key where none is.
    stage.script("oai", turn.clone()).await;
    stage.run("default", "oai").await;
    stage.run("open", "open/x").await;
    let asked = stage.model.requests("oai").await;
    let seen = |at: usize| (asked[at]["model"].clone(), asked[at]["auth"].clone());
    assert_eq!(seen(0), (json!("first"), json!(format!("Bearer {KEY}"))));
    assert_eq!(seen(1), (json!("x"), Value::Null));
    // The other faces reach it too.
    let body = json!({ "model": "passthrough/ant/m", "messages": [{ "role": "user", "content": "Hi." }] });
    let (status, answer) = stage.server.post("/v1/chat/completions", &body).await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("One two.")), "{answer}");
    let (_, models) = stage.server.get("/v1/models").await;
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    for id in ["passthrough/oai/first", "passthrough/oai/org/second", "passthrough/oai", "passthrough/ant"] {
        assert!(ids.contains(&id), "{ids:?}");
    }
    assert!(!ids.contains(&"passthrough"), "{ids:?}");
    let (_, health) = stage.server.get("/health").await;
    let state =
        |name: &str| health["upstreams"].as_array().unwrap().iter().find(|u| u["name"] == name).unwrap().clone();
    assert_eq!(state("ant"), json!({ "name": "ant", "kind": "anthropic", "state": "ready" }));
    assert_eq!((&state("lacking")["state"], &state("open")["state"]), (&json!("no_key"), &json!("ready")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_called_is_refused_and_nothing_is_stored() {
    let stage = Stage::new().await;
    for (more, param, words) in [
        (json!({ "model": "oia/x" }), "model", "lacking, nobody, oai, open"),
        (json!({ "model": "ant" }), "model", "ant/MODEL"),
        (json!({ "model": "oai/two words" }), "model", "one word"),
        (json!({}), "model", "needs model"),
        (json!({ "model": "oai/x", "prompt": " " }), "prompt", "blank"),
        (json!({ "model": "oai/x", "effort": "high" }), "effort", "does not support effort"),
        (json!({ "model": "oai/x", "session_id": "s" }), "session_id", "does not support session_id"),
        (json!({ "model": "oai/x", "permissions": "full" }), "permissions", "does not support permissions"),
    ] {
        let mut body = json!({ "run_id": "no", "harness": "passthrough", "prompt": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
    assert_eq!(stage.server.stored().await, (vec![], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upstream_refuses_is_told_by_its_code() {
    let stage = Stage::new().await;
    for (id, model, turn, code, words, tries) in [
        ("400", "oai/x", json!({ "error": 400, "message": "bad field" }), "upstream", "oai: status 400: bad field", 1),
        ("401", "ant/x", json!({ "error": 401, "message": "who?" }), "not_logged_in", "set PT_KEY", 1),
        ("403", "oai/x", json!({ "error": 403 }), "not_logged_in", "set PT_KEY", 1),
        ("429", "oai/x", json!({ "error": 429, "retry_after": 0 }), "rate_limited", "status 429", 4),
        ("long", "ant/x", json!({ "error": 429, "retry_after": 3600 }), "rate_limited", "status 429", 1),
        (
            "500",
            "ant/x",
            json!({ "error": 500, "message": "down", "retry_after": 0 }),
            "upstream",
            "status 500: down",
            4,
        ),
    ] {
        let name = model.split_once('/').unwrap().0;
        stage.script(name, json!([turn])).await;
        let (run, events) = stage.run(id, model).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!(code)), "{id}: {run}");
        assert!(run["error"]["message"].as_str().unwrap().contains(words), "{id}: {run}");
        assert_eq!(stage.model.requests(name).await.len(), tries, "{id}");
        let warned = data(&events, "warning");
        assert_eq!(warned.iter().filter(|w| w["code"] == "retry").count(), tries - 1, "{id}: {warned:?}");
    }
    // One that comes to itself again.
    stage.script("oai", json!([{ "error": 503, "times": 2, "retry_after": 0 }, { "text": "Recovered." }])).await;
    let (run, events) = stage.run("recovers", "oai/x").await;
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("Recovered.")), "{run}");
    assert_eq!(data(&events, "warning").len(), 2);
    // Nobody there, and a variable that is not set: then nobody is asked.
    let (run, events) = stage.run("nobody", "nobody/x").await;
    assert_eq!(run["error"]["code"], "upstream", "{run}");
    assert_eq!(data(&events, "warning").len(), 3);
    let before = stage.model.requests("oai").await.len();
    let (run, _) = stage.run("lacking", "lacking/x").await;
    assert_eq!(run["error"]["code"], "not_logged_in", "{run}");
    assert!(run["error"]["message"].as_str().unwrap().contains("set PT_NO_KEY"), "{run}");
    assert_eq!(stage.model.requests("oai").await.len(), before);
    // The request's own variable will do.
    let body = json!({
        "run_id": "own", "harness": "passthrough", "model": "lacking/x", "prompt": "x", "env": { "PT_NO_KEY": "own-key" },
    });
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(stage.server.end("own").await["status"], "completed");
    assert_eq!(stage.model.requests("oai").await.last().unwrap()["auth"], "Bearer own-key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_is_a_failure_with_what_it_gave() {
    let stage = Stage::new().await;
    // Number of stream events after which the second piece was sent: before it stand one, and two of the other dialect.
    for (name, cut) in [("oai", 2), ("ant", 3)] {
        for (kind, turn) in [
            ("drop", json!({ "text": ["Part ", "two."], "drop": cut })),
            ("error", json!({ "text": "Part ", "error_event": "overloaded" })),
        ] {
            stage.script(name, json!([turn, { "text": "Never asked for." }])).await;
            let (run, events) = stage.run(&format!("{name}-{kind}"), &format!("{name}/x")).await;
            assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("upstream")), "{run}");
            assert_eq!(texts(&events, "message.delta"), ["Part "], "{name} {kind}");
            assert_eq!(stage.model.requests(name).await.len(), 1, "what began is never begun again");
        }
        stage.script(name, json!([{ "text": "" }])).await;
        let (run, _) = stage.run(&format!("{name}-empty"), &format!("{name}/x")).await;
        assert_eq!(run["error"]["code"], "empty_output", "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_its_server_and_every_piece_comes_once() {
    let mut stage = Stage::new().await;
    let words: Vec<String> = (0..40).map(|n| format!("w{n} ")).collect();
    let runs = [("oai", "oai/x"), ("ant", "ant/x")];
    let mut gates = vec![];
    for (name, model) in runs {
        let gate = Gate::new(&stage.server.dir.path().join(format!("gate-{name}")));
        stage.script(name, json!([{ "text": words, "gate": gate.dir() }])).await;
        stage.start(name, model).await;
        for event in 1..10 {
            gate.open(event);
        }
        gates.push(gate);
    }
    let mut pids = vec![];
    for (name, _) in runs {
        let pieces = async || texts(&stage.server.events(name).await, "message.delta").len();
        until("pieces of the answer", async || (pieces().await >= 3).then_some(())).await;
        let started = stage.server.events(name).await;
        pids.push(data(&started, "process.started")[0]["pid"].clone());
    }
    stage.server.kill9();
    // Half of the rest comes while there is no server.
    for gate in &gates {
        for event in 10..30 {
            gate.open(event);
        }
    }
    stage.server.up().await;
    for gate in &gates {
        gate.open_all();
    }
    for ((name, _), pid) in runs.into_iter().zip(pids) {
        let run = stage.server.end(name).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!(words.concat())), "{run}");
        let events = stage.server.events(name).await;
        assert_log(&events);
        assert_eq!(texts(&events, "message.delta"), words);
        assert_eq!(data(&events, "process.started").len(), 1);
        assert_eq!(data(&events, "process.started")[0]["pid"], pid);
        assert_eq!(stage.model.requests(name).await.len(), 1);
    }
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_call_at_once() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.server.dir.path().join("gate"));
    stage.script("oai", json!([{ "text": ["One ", "two ", "three."], "gate": gate.dir() }])).await;
    stage.start("c", "oai/x").await;
    gate.open(1);
    let pieces = async || texts(&stage.server.events("c").await, "message.delta").len();
    until("the first piece", async || (pieces().await == 1).then_some(())).await;
    let (status, run) = stage.server.post("/v1/runs/c/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!((status, &run["run"]["status"]), (200, &json!("cancelled")), "{run}");
    // The first rung of the ladder was enough: five seconds later comes KILL.
    let events = stage.server.events("c").await;
    let exited = data(&events, "process.exited")[0];
    assert_eq!((&exited["signal"], &exited["stop"]), (&json!(15), &json!("cancel")), "{exited}");
    assert_no_process(&stage.server.data()).await;
    gate.open_all();
    until("the upstream to see that nobody listens", async || {
        stage.model.requests("oai").await[0]["client_gone"].as_bool().filter(|gone| *gone)
    })
    .await;
}

/// Files below a directory that hold a text.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_in_the_caller_s_environment_and_nowhere_else() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.server.dir.path().join("gate"));
    // An upstream that repeats it in an answer and in a refusal.
    stage.script("oai", json!([{ "text": ["first ", format!("<{KEY}>"), " last"], "gate": gate.dir() }])).await;
    stage.script("ant", json!([{ "error": 401, "message": format!("incorrect key {KEY}") }])).await;
    let (run, _) = stage.run("refused", "ant/x").await;
    assert!(run["error"]["message"].as_str().unwrap().contains("incorrect key [key]"), "{run}");
    stage.start("live", "oai/x").await;
    gate.open(1);
    let pieces = async || texts(&stage.server.events("live").await, "message.delta").len();
    until("the first piece", async || (pieces().await == 1).then_some(())).await;
    let mut seen = false;
    for pid in processes_of(&stage.server.data()) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(KEY));
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        seen |= String::from_utf8_lossy(&environment).contains(&format!("PT_KEY={KEY}"));
    }
    assert!(seen, "the caller has it");
    assert_eq!(holding(stage.server.dir.path(), KEY), Vec::<String>::new(), "while it runs");
    gate.open_all();
    let run = stage.server.end("live").await;
    assert_eq!(run["output_text"], "first <[key]> last");
    let log = [stage.server.events("live").await, stage.server.events("refused").await].concat();
    assert!(!json!(log).to_string().contains(KEY));
    assert!(!stage.server.log().contains(KEY));
    assert_eq!(holding(stage.server.dir.path(), KEY), Vec::<String>::new(), "after its end");
}
