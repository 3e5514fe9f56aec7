//! The real programs that speak while they work, through the real server: a message reaches a turn that runs, questions
//! are answered, over killed servers.

mod support;

use serde_json::{Value, json};

use support::model_server::{Agent, Gate, ModelServer};
use support::{Server, assert_log, assert_no_process, until};

struct Stage {
    server: Server,
    model: ModelServer,
}

impl Stage {
    async fn new() -> Self {
        Self { server: Server::start().await, model: ModelServer::start() }
    }

    /// Starts a run whose model says `turns`; `None` if the program is not there.
    async fn start(&self, agent: Agent, id: &str, turns: &Value, more: &Value) -> Option<Value> {
        let url = self.model.script(id, turns).await;
        let mut body = agent.request(id, self.server.dir.path(), &url, "Do your work.")?;
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        Some(answer)
    }

    /// Waits until the run asks its question of this number.
    async fn asked(&self, id: &str, number: &str) -> Value {
        until("a question", async || {
            let run = self.server.run(id).await;
            assert!(!support::is_terminal(&run), "it ended before it asked: {run}");
            run["approvals"].as_array().unwrap().iter().find(|one| one["approval_id"] == number).cloned()
        })
        .await
    }

    async fn answer(&self, id: &str, number: &str, decision: &str) {
        let path = format!("/v1/runs/{id}/approvals/{number}");
        let (status, answer) = self.server.post(&path, &json!({ "decision": decision })).await;
        assert_eq!((status, &answer["decision"]), (200, &json!(decision)), "{answer}");
    }

    async fn say(&self, id: &str, text: &str) {
        let (status, answer) = self.server.post(&format!("/v1/runs/{id}/input"), &json!({ "text": text })).await;
        assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
    }

    /// Whether some agent printed this text so many times.
    fn printed(&self, text: &str, times: usize) -> Option<()> {
        let runs = std::fs::read_dir(self.server.data().join("runs")).unwrap();
        let found = |run: std::path::PathBuf| {
            let bytes = std::fs::read(run.join("a1/stdout")).unwrap_or_default();
            bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
        };
        runs.flatten().any(|run| found(run.path()) >= times).then_some(())
    }

    /// Whether each request to the model had this text.
    async fn told(&self, id: &str, text: &str) -> Vec<bool> {
        self.model.bodies(id).await.iter().map(|one| one["body"].to_string().contains(text)).collect()
    }
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["type"] == kind).count()
}

/// A tool call that goes on until `file` is there.
fn wait_for(agent: Agent, file: &std::path::Path) -> Value {
    agent.shell(&format!("while ! [ -e {} ]; do sleep 0.1; done", file.display()))
}

/// A message is sent into a turn that waits in its tool, while the server is killed: the model is told it once, with the
/// tool's result.
async fn it_takes_a_message_while_it_works(agent: Agent) {
    let mut stage = Stage::new().await;
    let go = stage.server.dir.path().join("go");
    let turns =
        json!([{ "text": "I wait.", "tools": [wait_for(agent, &go)] }, { "text": "Both." }, { "text": "Never." }]);
    if stage.start(agent, "input", &turns, &json!({})).await.is_none() {
        return;
    }
    let called = async |server: &Server| (server.run("input").await["tool_calls"] == 1).then_some(());
    until("the call to be told", async || called(&stage.server).await).await;
    stage.say("input", "Also say \"please\",\nif you can.").await;
    stage.server.kill9();
    stage.server.up().await;
    // The call ends only once its agent has answered the message.
    let (answer, times) = match agent {
        Agent::Pi => ("\"command\":\"prompt\"", 2),
        _ => ("{\"id\":\"input/", 1),
    };
    until("the message to be with the agent", async || stage.printed(answer, times)).await;
    std::fs::write(&go, "").unwrap();
    let run = stage.server.end("input").await;
    let told = [&run["status"], &run["reason"], &run["output_text"], &run["unknown_lines"]];
    assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!("I wait.\n\nBoth."), &json!(0)], "{run}");
    assert_eq!(stage.told("input", "Also say").await, [false, true]);
    let events = stage.server.events("input").await;
    assert_log(&events);
    assert_eq!((count(&events, "input.accepted"), count(&events, "input.delivered")), (1, 1));
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_takes_a_message_while_it_works() {
    it_takes_a_message_while_it_works(Agent::Codex).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_takes_a_message_while_it_works() {
    it_takes_a_message_while_it_works(Agent::Pi).await;
}

/// A message that comes with Pi's last word is answered after it; one by one, and each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_pis_last_word_are_answered_after_it() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.server.dir.path().join("gate"));
    let turns = json!([
        { "text": ["Slow", "ly."], "gate": gate.dir() }, { "text": "One." }, { "text": "Two." }, { "text": "Never." },
    ]);
    if stage.start(Agent::Pi, "late", &turns, &json!({})).await.is_none() {
        return;
    }
    until("the model to be asked", async || (!stage.model.requests("late").await.is_empty()).then_some(())).await;
    stage.say("late", "The first.").await;
    stage.say("late", "The second.").await;
    gate.open_all();
    let run = stage.server.end("late").await;
    let told = [&run["status"], &run["output_text"], &run["unknown_lines"], &run["exit"]];
    assert_eq!(
        told,
        [&json!("completed"), &json!("Slowly.\n\nOne.\n\nTwo."), &json!(0), &json!({ "code": 0 })],
        "{run}"
    );
    assert_eq!(stage.told("late", "The first.").await, [false, true, true]);
    assert_eq!(stage.told("late", "The second.").await, [false, false, true]);
    let events = stage.server.events("late").await;
    assert_log(&events);
    assert_eq!((count(&events, "input.accepted"), count(&events, "input.delivered")), (2, 2));
    assert_no_process(&stage.server.data()).await;
}

/// A message that comes while Codex answers takes the place of that answer: what was shown of it is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_takes_the_place_of_codexs_answer() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.server.dir.path().join("gate"));
    // The third event is the first piece of text.
    (1..=4).for_each(|number| gate.open(number));
    let turns = json!([
        { "text": ["Slow", "ly", " I", " go", " on."], "gate": gate.dir() }, { "text": "More." }, { "text": "Never." },
    ]);
    if stage.start(Agent::Codex, "late", &turns, &json!({})).await.is_none() {
        return;
    }
    until("it to say something", async || (stage.server.run("late").await["output_text"] != "").then_some(())).await;
    stage.say("late", "And more.").await;
    let run = stage.server.end("late").await;
    gate.open_all();
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("More.")), "{run}");
    assert_eq!(stage.told("late", "And more.").await, [false, true]);
    let events = stage.server.events("late").await;
    assert_log(&events);
    assert_eq!((count(&events, "message.discarded"), count(&events, "input.delivered")), (1, 1));
    assert_no_process(&stage.server.data()).await;
}

/// A message into a turn whose answer has a form leaves it the form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_leaves_codexs_answer_its_form() {
    let stage = Stage::new().await;
    let go = stage.server.dir.path().join("go");
    let turns = json!([{ "text": "I wait.", "tools": [wait_for(Agent::Codex, &go)] }, { "text": "{\"n\":2}" }]);
    let properties = json!({ "n": { "type": "integer" } });
    let schema =
        json!({ "type": "object", "properties": properties, "required": ["n"], "additionalProperties": false });
    let form = json!({ "type": "json_schema", "json_schema": { "name": "answer", "strict": true, "schema": schema } });
    let more = json!({ "response_format": form });
    if stage.start(Agent::Codex, "form", &turns, &more).await.is_none() {
        return;
    }
    until("the call", async || (stage.server.run("form").await["tool_calls"] == 1).then_some(())).await;
    stage.say("form", "Make it two.").await;
    until("the message to be with the agent", async || stage.printed("{\"id\":\"input/", 1)).await;
    std::fs::write(&go, "").unwrap();
    let run = stage.server.end("form").await;
    assert_eq!(run["status"], "completed", "{run}");
    let asked = stage.model.bodies("form").await;
    let forms: Vec<&Value> = asked.iter().map(|one| &one["body"]["text"]["format"]["schema"]).collect();
    assert_eq!(forms, [&schema, &schema]);
    assert_eq!(stage.told("form", "Make it two.").await, [false, true]);
}

/// Commands and edits are asked about; an answer over a killed server is delivered, and what is refused is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_asks_and_does_what_it_is_allowed_over_a_killed_server() {
    let mut stage = Stage::new().await;
    let edit = "apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: edited\n+hello\n*** End Patch\nEOF";
    let turns = json!([
        { "text": "One.", "tools": [Agent::Codex.shell("touch allowed")] },
        { "text": "Two.", "tools": [Agent::Codex.shell("touch refused")] },
        { "text": "Three.", "tools": [Agent::Codex.shell(edit)] },
        { "text": "Done." },
    ]);
    let ask = json!({ "permissions": "ask" });
    let Some(created) = stage.start(Agent::Codex, "ask", &turns, &ask).await else { return };
    let cwd = std::path::PathBuf::from(created["cwd"].as_str().unwrap());
    let question = stage.asked("ask", "1").await;
    assert_eq!(question["tool"], "command_execution");
    stage.server.kill9();
    stage.server.up().await;
    assert_eq!(stage.asked("ask", "1").await, question, "the next server has the same question");
    assert!(!cwd.join("allowed").exists());
    let (_, list) = stage.server.get("/v1/runs/ask/approvals").await;
    let arguments = json!({ "command": "/bin/bash -lc 'touch allowed'", "cwd": cwd });
    assert_eq!(list["data"][0]["arguments"], arguments);
    stage.answer("ask", "1", "allow").await;
    stage.asked("ask", "2").await;
    assert!(cwd.join("allowed").exists(), "what was allowed is done");
    stage.answer("ask", "2", "deny").await;
    let question = stage.asked("ask", "3").await;
    assert_eq!(question["tool"], "file_change");
    let (_, list) = stage.server.get("/v1/runs/ask/approvals").await;
    assert_eq!(list["data"][2]["arguments"]["changes"], json!([{ "kind": "add", "path": cwd.join("edited") }]));
    stage.answer("ask", "3", "allow").await;
    let run = stage.server.end("ask").await;
    let told = [&run["status"], &run["output_text"], &run["unknown_lines"]];
    assert_eq!(told, [&json!("completed"), &json!("One.\n\nTwo.\n\nThree.\n\nDone."), &json!(0)], "{run}");
    assert!(!cwd.join("refused").exists(), "what was refused is not done");
    assert_eq!(std::fs::read_to_string(cwd.join("edited")).unwrap(), "hello\n");
    let events = stage.server.events("ask").await;
    assert_log(&events);
    let failed: Vec<_> =
        events.iter().filter(|e| e["type"] == "tool.completed").map(|e| e["data"]["is_error"].clone()).collect();
    assert_eq!(failed, [false, true, false]);
    let counts = ["approval.requested", "approval.answered", "approval.delivered", "approval.withdrawn"];
    assert_eq!(counts.map(|kind| count(&events, kind)), [3, 3, 3, 0]);
    assert_no_process(&stage.server.data()).await;
}

/// A cancel takes an open question along, by the agent's own interrupt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_interrupts_codex_while_it_asks() {
    let stage = Stage::new().await;
    let turns = json!([{ "text": "One.", "tools": [Agent::Codex.shell("touch never")] }, { "text": "Never." }]);
    let ask = json!({ "permissions": "ask" });
    let Some(created) = stage.start(Agent::Codex, "ask", &turns, &ask).await else { return };
    stage.asked("ask", "1").await;
    assert_eq!(stage.server.post("/v1/runs/ask/cancel?wait_ms=30000", &json!({})).await.0, 200);
    let run = stage.server.run("ask").await;
    // INT would have ended it with 1.
    assert_eq!((&run["status"], &run["exit"]), (&json!("cancelled"), &json!({ "code": 0 })), "{run}");
    assert!(!std::path::Path::new(created["cwd"].as_str().unwrap()).join("never").exists());
    let events = stage.server.events("ask").await;
    assert_eq!((count(&events, "approval.withdrawn"), count(&events, "approval.delivered")), (1, 0));
    assert_eq!(stage.model.requests("ask").await.len(), 1);
    assert_no_process(&stage.server.data()).await;
}

/// Who has no channel is told with the next turn of the session, and the answer says so.
async fn it_is_told_with_the_next_turn(agent: Agent) {
    let stage = Stage::new().await;
    let go = stage.server.dir.path().join("go");
    let runs = stage.server.dir.path().join("runs");
    let wait = format!("touch {}; while ! [ -e {} ]; do sleep 0.1; done", runs.display(), go.display());
    let turns = json!([{ "text": "I wait.", "tools": [agent.shell(&wait)] }, { "text": "Done." }]);
    if stage.start(agent, "one", &turns, &json!({ "session_id": "s" })).await.is_none() {
        return;
    }
    until("the tool to run", async || runs.exists().then_some(())).await;
    let (status, answer) = stage.server.post("/v1/runs/one/input", &json!({ "text": "Mind the gap." })).await;
    assert_eq!((status, &answer["delivery"]), (202, &json!("next_turn")), "{answer}");
    std::fs::write(&go, "").unwrap();
    let run = stage.server.end("one").await;
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("I wait.\n\nDone.")), "{run}");
    assert!(!stage.told("one", "Mind the gap.").await.contains(&true));
    // In the home that has the session, whose model is the same.
    let url = stage.model.script("one", &json!([{ "text": "Again." }])).await;
    let mut body = agent.request("one", stage.server.dir.path(), &url, "Go on.").unwrap();
    (body["run_id"], body["session_id"]) = (json!("two"), json!("s"));
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    let run = stage.server.end("two").await;
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("Again.")), "{run}");
    assert!(stage.told("one", "Mind the gap.\\n\\nGo on.").await.contains(&true));
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_is_told_with_the_next_turn() {
    it_is_told_with_the_next_turn(Agent::Gemini).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_is_told_with_the_next_turn() {
    it_is_told_with_the_next_turn(Agent::Kimi).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_is_told_with_the_next_turn() {
    it_is_told_with_the_next_turn(Agent::OpenCode).await;
}
