//! Real agent programs confined by bubblewrap: what they need to answer is there, and what they run stays inside.
#![allow(missing_docs)]

mod support;

use std::path::Path;

use longhaul_supervise::confine::try_out;
use serde_json::{Value, json};
use support::model_server::{Agent, ModelServer};
use support::{Server, assert_log, assert_no_process};

/// Whether runs can be confined here.
fn can_confine() -> bool {
    let here = ["/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap"].map(Path::new).into_iter().find(|p| p.exists());
    let can = here.is_some_and(|bwrap| try_out(bwrap, true).is_ok());
    if !can {
        println!("skipped: nothing can be confined here; the tests of confinement say why");
    }
    can
}

/// A directory that a cell shows: `/tmp` is another one inside.
fn shown() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What the model makes the agent do: write inside and outside, and look at the server.
fn attempts(work: &Path, outside: &Path, server: &Server) -> String {
    format!(
        "echo x > {}/inside && echo wrote-inside; echo x > {}/outside && echo wrote-outside; \
         echo x > $HOME/stray && echo wrote-home; cat {}/server.json && echo read-server; \
         echo x > $TMPDIR/t && echo wrote-tmpdir; echo over",
        work.display(),
        outside.display(),
        server.data().display()
    )
}

/// The result of the run's one call.
fn result(events: &[Value]) -> String {
    events.iter().find(|event| event["type"] == "tool.completed").unwrap()["data"]["result"].to_string()
}

/// The agent answers, its tool writes where it may and nowhere else, and its session is there for the next turn.
async fn it_answers_and_stays_inside(agent: Agent) {
    if !can_confine() {
        return;
    }
    let (server, model) = (Server::start().await, ModelServer::start());
    let (place, outside) = (shown(), shown());
    let work = place.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let tool = attempts(&work, outside.path(), &server);
    let turns = json!([{ "text": "I run it.", "tools": [agent.shell(&tool)] }, { "text": "Done." }]);
    let url = model.script("cell", &turns).await;
    let Some(mut body) = agent.request("cell", place.path(), &url, "Do your work.") else { return };
    let home = place.path().join("home-cell");
    if agent == Agent::Claude {
        // As a login leaves them: what is not there cannot be shown.
        std::fs::create_dir(home.join(".claude")).unwrap();
        std::fs::write(home.join(".claude.json"), "{}").unwrap();
    }
    body["confine"] = json!("write");
    body["cwd"] = json!(work);
    body["session_id"] = json!("s");
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = server.end("cell").await;
    let events = server.events("cell").await;
    assert_log(&events);
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("I run it.\n\nDone.")), "{run}");
    let result = result(&events);
    for (word, there) in [
        ("wrote-inside", true),
        ("wrote-tmpdir", true),
        ("over", true),
        ("wrote-outside", false),
        ("wrote-home", agent == Agent::Codex),
        ("read-server", false),
    ] {
        assert_eq!(result.contains(word), there, "{word}: {result}");
    }
    assert!(work.join("inside").exists());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // What it keeps of the session was kept outside of its cell.
    let url = model.script("again", &json!([{ "text": "Again." }])).await;
    let mut again = agent.request("cell", place.path(), &url, "Who am I?").unwrap();
    (again["run_id"], again["session_id"], again["confine"]) = (json!("again"), json!("s"), json!("write"));
    let (status, answer) = server.post("/v1/runs", &again).await;
    assert_eq!(status, 201, "{answer}");
    let second = server.end("again").await;
    assert_eq!((&second["status"], &second["output_text"]), (&json!("completed"), &json!("Again.")), "{second}");
    assert_eq!(second["source_session_id"], run["source_session_id"]);
    assert!(json!(model.bodies("again").await).to_string().contains("I run it."), "it goes on with what was said");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_answers_and_stays_inside() {
    it_answers_and_stays_inside(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_answers_and_stays_inside() {
    // Its state is all of the home that the test gives it.
    it_answers_and_stays_inside(Agent::Codex).await;
}

/// There is no network in a closed cell: the program starts, reaches no model, and the run says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_reaches_no_model_from_a_closed_cell() {
    if !can_confine() {
        return;
    }
    let (server, model) = (Server::start().await, ModelServer::start());
    let place = shown();
    let work = place.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let url = model.script("cell", &json!([{ "text": "never said" }])).await;
    let Some(mut body) = Agent::Claude.request("cell", place.path(), &url, "Do your work.") else { return };
    body["confine"] = json!("full");
    body["cwd"] = json!(work);
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = server.end("cell").await;
    assert_log(&server.events("cell").await);
    let told = [&run["status"], &run["error"]["code"], &run["output_text"]];
    assert_eq!(told, [&json!("failed"), &json!("upstream"), &json!("")], "{run}");
    assert_eq!(model.requests("cell").await.len(), 0);
    assert_no_process(&server.data()).await;
}
