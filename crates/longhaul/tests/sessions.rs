//! Sessions: a conversation over several runs of the real agent programs, one run after another, whatever happens to the
//! server between them.

mod support;

use serde_json::{Value, json};

use support::model_server::{Agent, ModelServer};
use support::{Server, is_terminal, until};

struct Stage {
    server: Server,
    model: ModelServer,
    url: String,
    agent: Agent,
}

impl Stage {
    async fn new(agent: Agent, turns: &Value) -> Self {
        let (server, model) = (Server::start().await, ModelServer::start());
        let url = model.script("talk", turns).await;
        Self { server, model, url, agent }
    }

    /// A turn of session `s`; every turn has the same home.
    fn turn(&self, id: &str, prompt: &str) -> Option<Value> {
        let mut body = self.agent.request("home", self.server.dir.path(), &self.url, prompt)?;
        body["run_id"] = json!(id);
        body["session_id"] = json!("s");
        Some(body)
    }

    async fn accept(&self, body: &Value) {
        let (status, answer) = self.server.post("/v1/runs", body).await;
        assert_eq!(status, 201, "{answer}");
    }
}

/// Two answers, whatever is asked.
fn two() -> Value {
    json!([{ "text": "one" }, { "text": "two" }])
}

async fn goes_on_after_a_kill(agent: Agent) {
    let mut stage = Stage::new(agent, &two()).await;
    let Some(first) = stage.turn("first", "remember the word plum") else { return };
    stage.accept(&first).await;
    let one = stage.server.end("first").await;
    assert_eq!((&one["status"], &one["session_id"]), (&json!("completed"), &json!("s")), "{one}");
    let bound = stage.server.events("first").await.into_iter().find(|e| e["type"] == "session.bound").unwrap();
    assert_eq!(bound["data"]["session_id"], "s");
    stage.server.kill9();
    stage.server.up().await;
    let (_, session) = stage.server.get("/v1/sessions/s").await;
    assert_eq!(session["source_session_id"], one["source_session_id"], "{session}");
    assert_eq!((&session["turns"], &session["live_run"]), (&json!(1), &Value::Null));

    let mut second = stage.turn("second", "ignored").unwrap();
    second.as_object_mut().unwrap().remove("prompt");
    second["messages"] = json!([
        { "role": "user", "content": "this was said before" },
        { "role": "assistant", "content": "one" },
        { "role": "user", "content": "which word was it" },
    ]);
    stage.accept(&second).await;
    let two = stage.server.end("second").await;
    // Who has heard the end is not told that the run is live, though the server may still tidy after it.
    assert_eq!(stage.server.get("/v1/sessions/s").await.1["live_run"], Value::Null);
    assert_eq!((&two["status"], &two["output_text"]), (&json!("completed"), &json!("two")), "{two}");
    assert_eq!([&two["source_session_id"], &two["cwd"]], [&one["source_session_id"], &one["cwd"]]);
    let asked = stage.model.bodies("talk").await;
    let last = asked.last().unwrap()["body"].to_string();
    assert!(last.contains("remember the word plum"), "the agent has its own memory: {last}");
    assert!(last.contains("which word was it"), "{last}");
    assert!(!last.contains("this was said before"), "only what is new is sent: {last}");

    // The retry of the first turn is still the first run.
    let (status, again) = stage.server.post("/v1/runs", &first).await;
    assert_eq!((status, &again["id"], &again["output_text"]), (200, &json!("first"), &json!("one")));
    let (_, session) = stage.server.get("/v1/sessions/s").await;
    assert_eq!((&session["turns"], &session["last_run"]), (&json!(2), &json!("second")));
    let (status, list) = stage.server.get("/v1/sessions?limit=1").await;
    assert_eq!((status, &list["data"], &list["has_more"]), (200, &json!([session]), &json!(false)));

    // Another session of the same id is another identity.
    let mut other = first.clone();
    other["session_id"] = json!("t");
    assert_eq!(stage.server.post("/v1/runs", &other).await.0, 409);

    // Deleted, it leaves no directory, and the id may be used again.
    let cwd = session["cwd"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&cwd).is_dir());
    let gone = stage.server.http.delete(stage.server.url("/v1/sessions/s")).send().await.unwrap();
    assert_eq!(gone.status(), 200);
    assert!(!std::path::Path::new(&cwd).exists());
    assert_eq!(stage.server.get("/v1/sessions/s").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_goes_on_with_its_session_after_the_server_was_killed() {
    goes_on_after_a_kill(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_goes_on_with_its_session_after_the_server_was_killed() {
    goes_on_after_a_kill(Agent::Codex).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_harness_model_or_directory_is_refused_with_both_values() {
    let stage = Stage::new(Agent::Claude, &two()).await;
    let Some(mut first) = stage.turn("first", "hello") else { return };
    first["model"] = json!("sonnet");
    stage.accept(&first).await;
    stage.server.end("first").await;
    let (_, session) = stage.server.get("/v1/sessions/s").await;
    for (field, value, expected) in [
        ("harness", "codex", json!("claude")),
        ("model", "opus", json!("sonnet")),
        ("cwd", "/", session["cwd"].clone()),
    ] {
        let mut body = stage.turn("refused", "hello").unwrap();
        body[field] = json!(value);
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        let error = &answer["error"];
        assert_eq!((status, &error["code"], &error["param"]), (409, &json!("session_conflict"), &json!(field)));
        assert_eq!([&error["expected"], &error["received"]], [&expected, &json!(value)], "{error}");
    }
    assert_eq!(stage.server.get("/v1/runs/refused").await.0, 404);
    // What is left out is the session's.
    let mut second = stage.turn("second", "hello again").unwrap();
    second.as_object_mut().unwrap().remove("harness");
    stage.accept(&second).await;
    let second = stage.server.end("second").await;
    let inherited = [&second["harness"], &second["model"], &second["cwd"]];
    assert_eq!(inherited, [&json!("claude"), &json!("sonnet"), &session["cwd"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_go_one_after_another_in_order_over_a_restart() {
    let turns = json!([
        { "tools": [{ "shell": "touch ready; while [ ! -e go ]; do sleep 0.05; done" }] },
        { "text": "one" }, { "text": "two" }, { "text": "three" },
    ]);
    let mut stage = Stage::new(Agent::Claude, &turns).await;
    let Some(first) = stage.turn("r0", "first") else { return };
    stage.accept(&first).await;
    let (_, session) = stage.server.get("/v1/sessions/s").await;
    let cwd = std::path::PathBuf::from(session["cwd"].as_str().unwrap());
    until("the tool to run", async || cwd.join("ready").exists().then_some(())).await;
    for at in 1..=16 {
        stage.accept(&stage.turn(&format!("r{at}"), "next").unwrap()).await;
    }
    let (status, answer) = stage.server.post("/v1/runs", &stage.turn("r17", "next").unwrap()).await;
    let error = &answer["error"];
    let told = (status, &error["code"], &error["dispatch"]);
    assert_eq!(told, (429, &json!("session_queue_full"), &json!("not_started")));
    let (_, why) = stage.server.get("/v1/runs/r2/why").await;
    assert_eq!(why["cause"], "waits for run r0 of session s");
    let (_, health) = stage.server.get("/health").await;
    let busy = stage.server.http.delete(stage.server.url("/v1/sessions/s")).send().await.unwrap();
    assert_eq!(busy.status(), 409, "{health}");

    stage.server.kill9();
    stage.server.up().await;
    let (_, why) = stage.server.get("/v1/runs/r2/why").await;
    assert_eq!(why["cause"], "waits for run r0 of session s", "the live process keeps the lane");
    // A run that waits can be cancelled.
    for at in 3..=16 {
        let (_, answer) = stage.server.post(&format!("/v1/runs/r{at}/cancel"), &json!({})).await;
        assert_eq!(answer["run"]["status"], "cancelled", "{answer}");
    }
    std::fs::write(cwd.join("go"), "").unwrap();
    let mut texts = vec![];
    let mut spans = vec![];
    for id in ["r0", "r1", "r2"] {
        let run = stage.server.end(id).await;
        assert!(is_terminal(&run));
        texts.push(run["output_text"].clone());
        let events = stage.server.events(id).await;
        let at = |name: &str| events.iter().find(|e| e["type"] == name).unwrap()["ts"].as_str().unwrap().to_owned();
        spans.push((at("process.started"), at("process.exited")));
    }
    assert_eq!(texts, ["one", "two", "three"]);
    assert!(spans.windows(2).all(|two| two[0].1 <= two[1].0), "no two at once: {spans:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_a_turn_of_the_session_that_its_header_names() {
    let stage = Stage::new(Agent::Claude, &two()).await;
    let Some(first) = stage.turn("first", "remember the word plum") else { return };
    stage.accept(&first).await;
    let messages = json!([
        { "role": "user", "content": "this was said before" },
        { "role": "assistant", "content": "one" },
        { "role": "user", "content": "which word was it" },
    ]);
    let body = json!({ "model": "claude", "messages": messages, "env": first["env"], "permissions": "full" });
    let chat = stage.server.http.post(stage.server.url("/v1/chat/completions")).header("x-session-id", "s");
    let answer: Value = chat.body(body.to_string()).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "two", "{answer}");
    let last = stage.model.bodies("talk").await.pop().unwrap()["body"].to_string();
    assert!(last.contains("remember the word plum") && !last.contains("this was said before"), "{last}");
    assert_eq!(stage.server.get("/v1/sessions/s").await.1["turns"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_goes_on_from_the_last_one_of_its_conversation_alone() {
    let stage = Stage::new(Agent::Claude, &two()).await;
    let Some(home) = stage.turn("first", "") else { return };
    let ask = async |more: Value| {
        let mut body = json!({ "model": "claude", "env": home["env"], "permissions": "full" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stage.server.post("/v1/responses", &body).await
    };
    let first = json!({ "run_id": "one", "input": "remember the word plum", "conversation": "s" });
    let (status, one) = ask(first).await;
    assert_eq!((status, &one["id"], &one["conversation"]["id"]), (200, &json!("resp_one"), &json!("s")), "{one}");
    let second = json!({ "run_id": "two", "input": "which word was it", "previous_response_id": "resp_one" });
    let (status, two) = ask(second.clone()).await;
    assert_eq!((status, &two["output"][0]["content"][0]["text"]), (200, &json!("two")), "{two}");
    assert_eq!((&two["conversation"]["id"], &two["previous_response_id"]), (&json!("s"), &json!("resp_one")));
    let last = stage.model.bodies("talk").await.pop().unwrap()["body"].to_string();
    assert!(last.contains("remember the word plum"), "{last}");
    // The same again is the same run; another one cannot go on from a turn that is not the last.
    assert_eq!(ask(second).await, (200, two));
    let (status, refused) = ask(json!({ "input": "x", "previous_response_id": "resp_one" })).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("session_conflict")), "{refused}");
    assert_eq!(refused["error"]["param"], "previous_response_id");
    assert_eq!((&refused["error"]["expected"], &refused["error"]["received"]), (&json!("two"), &json!("one")));
    let erased = stage.server.http.delete(stage.server.url("/v1/sessions/s")).send().await.unwrap();
    assert_eq!(erased.status(), 200);
    let (status, refused) = ask(json!({ "input": "x", "previous_response_id": "resp_two" })).await;
    assert_eq!((status, &refused["error"]["expected"]), (409, &Value::Null), "{refused}");
    assert_eq!(stage.server.get("/v1/sessions/s").await.0, 404, "nothing refused is stored");
}
