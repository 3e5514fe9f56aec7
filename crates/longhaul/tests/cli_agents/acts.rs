//! What every agent is put through, each with its own words.

use serde_json::{Value, json};

use super::stage::{PROMPT, Stage, assert_completed, form, said, tells_open_calls};
use super::support;
use super::support::little::{Little, SECRET};
use super::support::model_server::Agent;
use super::support::proc::{shim_of, signal, start_time};
use super::support::{Server, assert_log, assert_no_process, until};

/// The requests that offered tools: opencode asks for a title besides.
pub async fn turns_asked(stage: &Stage, id: &str) -> Vec<Value> {
    let asked = stage.model.bodies(id).await;
    asked.into_iter().map(|mut one| one["body"].take()).filter(|body| body["tools"].is_array()).collect()
}

/// A provider's error is a failure with the program's own words, whatever its exit status.
pub async fn a_provider_fails(agent: Agent, status_of_exit: i32, messages: [&str; 2]) {
    let stage = Stage::new().await;
    for ((status, text), message) in
        [(500, "the provider broke"), (400, "your request is bad")].into_iter().zip(messages)
    {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": text }]);
        let Some((run, events)) = stage.run(agent, &id, &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"]];
        assert_eq!(
            told,
            [&json!("failed"), &json!("upstream"), &json!(""), &json!({ "code": status_of_exit })],
            "{run}"
        );
        let said_message = run["error"]["message"].as_str().unwrap();
        assert!(said_message.starts_with(message), "{said_message}");
        let said = said(&events);
        let verdict = json!({ "success": false, "error": { "code": "upstream", "message": said_message } });
        assert_eq!(said.last(), Some(&json!(["verdict.reported", verdict])));
        assert!(said.contains(&json!(["warning", { "code": "upstream", "message": said_message }])));
        let retried = said.iter().any(|event| event[1]["code"] == "retry");
        assert_eq!(retried, status == 500, "the program's retries are told: {said:?}");
    }
}

/// What the harness plans for a session to go on with is what the program takes.
pub async fn it_goes_on_with_its_session(agent: Agent, good: &str) {
    let stage = Stage::new().await;
    let turns = json!([{ "text": "Hello Ada." }]);
    let Some((run, _)) = stage.run(agent, "first", &turns).await else { return };
    let session = run["source_session_id"].as_str().unwrap();
    let url = stage.model.script("again", &json!([{ "text": "You are Ada." }])).await;
    let dir = stage.server.dir.path();
    let told = agent.request("first", dir, &url, "").unwrap();
    let request = longhaul_harness::Request {
        model: told["model"].as_str(),
        prompt: Some("Who am I?"),
        resume: Some(session),
        ..longhaul_harness::Request::default()
    };
    let plan = longhaul_harness::find(agent.name()).unwrap().plan(&request).unwrap();
    assert_eq!(plan.source_session_id.as_deref(), Some(session));
    let env = told["env"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap()));
    std::fs::write(dir.join("prompt"), plan.stdin.as_deref().unwrap_or_default()).unwrap();
    let mut command = std::process::Command::new(support::tool(agent.name()).unwrap());
    command.args(&plan.args).env_clear().envs(env).envs(plan.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(run["cwd"].as_str().unwrap()).stdin(std::fs::File::open(dir.join("prompt")).unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(good) && printed.contains(session), "{printed}");
    let asked = stage.model.bodies("again").await;
    let body = asked[0]["body"].to_string();
    for text in [json!(PROMPT.trim_end()).to_string().trim_matches('"'), "Hello Ada.", "Who am I?"] {
        assert!(body.contains(text), "the model is not told {text}: {body}");
    }
}

/// A cancel in a tool call reaches the tool, which has left the agent's process group and session.
pub async fn a_cancel_reaches_the_tool(agent: Agent, exit: Value) {
    let stage = Stage::new().await;
    let marker = stage.server.dir.path().join("marker");
    let tool = format!("echo $$ > {}; sleep 1000; echo woke", marker.display());
    let turns = json!([{ "text": "I sleep.", "tools": [agent.shell(&tool)] }, { "text": "never said" }]);
    if !stage.start(agent, "cancel", &turns).await {
        return;
    }
    let server = &stage.server;
    let tool: i32 = until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
    if tells_open_calls(agent) {
        until("the call to be told", async || (server.run("cancel").await["tool_calls"] == 1).then_some(())).await;
    } else {
        until("the text to be told", async || (server.run("cancel").await["output_text"] != "").then_some(())).await;
    }
    assert!(start_time(tool).is_some());
    let (status, answer) = server.post("/v1/runs/cancel/cancel?wait_ms=30000", &json!({ "reason": "enough" })).await;
    assert_eq!((status, &answer["terminal"], &answer["requested"]), (200, &json!(true), &json!(true)), "{answer}");
    assert_eq!(start_time(tool), None, "when the cancel is proven the tool is gone");
    let run = server.run("cancel").await;
    let told = [&run["status"], &run["reason"], &run["exit"], &run["error"], &run["output_text"]];
    assert_eq!(told, [&json!("cancelled"), &json!("api"), &exit, &Value::Null, &json!("I sleep.")], "{run}");
    let events = server.events("cancel").await;
    assert_log(&events);
    let exited = events.iter().find(|e| e["type"] == "process.exited").unwrap();
    assert_eq!((&exited["data"]["stop"], exited["data"].get("unkilled")), (&json!("cancel"), None));
    assert_eq!(turns_asked(&stage, "cancel").await.len(), 1, "the model is not asked again");
    assert_no_process(&server.data()).await;
}

/// A run of the real claude that asks; `None` if it is not installed.
pub async fn it_asks(stage: &Stage, id: &str, turns: &Value) -> Option<Value> {
    let url = stage.model.script(id, turns).await;
    let mut body = Agent::Claude.request(id, stage.server.dir.path(), &url, PROMPT)?;
    body["permissions"] = json!("ask");
    let (status, answer) = stage.server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    Some(answer)
}

/// Waits until the run asks its question of this number.
pub async fn asked(server: &Server, id: &str, number: &str) -> Value {
    until("a question", async || {
        let run = server.run(id).await;
        assert!(!support::is_terminal(&run), "it ended before it asked: {run}");
        run["approvals"].as_array().unwrap().iter().find(|one| one["approval_id"] == number).cloned()
    })
    .await
}

/// Kills the supervisor or the program itself inside a tool call: the run goes on in a second attempt, which says how, and
/// that nobody knows what became of the call.
pub async fn it_goes_on_after_a_loss(agent: Agent, rung: &str, tool: Option<&str>) {
    let stage = Stage::new().await;
    for (id, supervisor) in [("agent", false), ("shim", true)] {
        let marker = stage.server.dir.path().join(format!("marker-{id}"));
        let command = format!("echo $$ > {}; sleep 1000", marker.display());
        let turns = json!([{ "text": "I run it.", "tools": [agent.shell(&command)] }, { "text": "Done." }]);
        let url = stage.model.script(id, &turns).await;
        let Some(mut body) = agent.request(id, stage.server.dir.path(), &url, PROMPT) else { return };
        body["on_lost"] = json!("resume");
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        let server = &stage.server;
        let sleeper: i32 =
            until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
        if tool.is_some() {
            until("the call to be told", async || (server.run(id).await["tool_calls"] == 1).then_some(())).await;
        }
        let pid = i32::try_from(server.run(id).await["pid"].as_i64().unwrap()).unwrap();
        signal(if supervisor { shim_of(&server.data(), pid) } else { pid }, rustix::process::Signal::KILL);
        let run = server.end(id).await;
        let told = [&run["status"], &run["attempts"], &run["error"]];
        assert_eq!(told, [&json!("completed"), &json!(2), &Value::Null], "{run}");
        assert!(run["output_text"].as_str().unwrap().ends_with("Done."), "{run}");
        assert_eq!(start_time(sleeper), None, "the tool of the lost attempt is gone");
        let events = server.events(id).await;
        assert_log(&events);
        let second = &events.iter().rfind(|e| e["type"] == "run.attempt_started").unwrap()["data"];
        let cause = if supervisor { "supervisor_lost" } else { "killed_by_signal" };
        assert_eq!((&second["cause"], &second["rung"]), (&json!(cause), &json!(rung)));
        let lost: Vec<_> =
            second["lost"]["tools"].as_array().into_iter().flatten().map(|t| t["name"].clone()).collect();
        assert_eq!(lost, tool.map(Value::from).into_iter().collect::<Vec<_>>(), "{second}");
        let asked = turns_asked(&stage, id).await;
        assert_eq!(asked.len(), 2);
        let body = asked[1].to_string();
        for text in [json!(PROMPT.trim_end()).to_string().trim_matches('"'), "Your process was interrupted"] {
            assert!(body.contains(text), "the model is not told {text}: {body}");
        }
        assert_no_process(&server.data()).await;
    }
}

/// A run that was killed and is over goes on in a new one, through the program's own session.
pub async fn an_ended_run_goes_on(agent: Agent, rung: &str) {
    let stage = Stage::new().await;
    let marker = stage.server.dir.path().join("marker");
    let command = format!("echo $$ > {}; sleep 1000", marker.display());
    let turns = json!([{ "text": "I run it.", "tools": [agent.shell(&command)] }, { "text": "Done." }]);
    if !stage.start(agent, "ended", &turns).await {
        return;
    }
    let server = &stage.server;
    until("the tool to run", async || std::fs::read_to_string(&marker).ok().filter(|text| !text.is_empty())).await;
    until("the call to be told", async || (server.run("ended").await["tool_calls"] == 1).then_some(())).await;
    let pid = i32::try_from(server.run("ended").await["pid"].as_i64().unwrap()).unwrap();
    signal(pid, rustix::process::Signal::KILL);
    let ended = server.end("ended").await;
    assert_eq!(ended["error"]["code"], "killed_by_signal", "{ended}");
    let url = format!("{}/s/ended", stage.model.address());
    let told = agent.request("ended", server.dir.path(), &url, "").unwrap();
    let body = json!({ "run_id": "new", "prompt": "And now?", "env": told["env"], "permissions": "full" });
    let (status, answer) = server.post("/v1/runs/ended/resume", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = server.end("new").await;
    assert_completed(&run, "Done.");
    let told = [&run["source_session_id"], &run["cwd"], &run["attempt_log"][0]["rung"]];
    assert_eq!(told, [&ended["source_session_id"], &ended["cwd"], &json!(rung)], "{run}");
    let asked = stage.model.bodies("ended").await;
    let body = asked.last().unwrap()["body"].to_string();
    assert!(body.contains("I run it.") && body.contains("And now?"), "{body}");
    assert_no_process(&server.data()).await;
}

/// The answer is the JSON that was asked for, or the run has failed: whatever the program says of itself.
pub async fn it_answers_in_form(agent: Agent, good: &Value, bad: &[Value]) {
    let stage = Stage::new().await;
    let turns = std::iter::once(good).chain(bad);
    for (at, turns) in turns.enumerate() {
        let id = format!("form{at}");
        let url = stage.model.script(&id, turns).await;
        let Some(mut body) = agent.request(&id, stage.server.dir.path(), &url, PROMPT) else { return };
        body["response_format"] = form();
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        let run = stage.server.end(&id).await;
        assert_log(&stage.server.events(&id).await);
        if at == 0 {
            assert_eq!(run["status"], "completed", "{run}");
            assert_eq!(run["output_text"], r#"{"answer":"yes","n":2}"#);
        } else {
            assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("format_not_met")), "{run}");
        }
    }
    // The same form as Responses has it; the answer is the last message there as well.
    let url = stage.model.script("face", good).await;
    let mut body = agent.request("face", stage.server.dir.path(), &url, PROMPT).unwrap();
    let members = body.as_object_mut().unwrap();
    let (prompt, harness) = (members.remove("prompt").unwrap(), members.remove("harness").unwrap());
    members.extend([("input".to_owned(), prompt), ("model".to_owned(), harness)]);
    let mut format = form()["json_schema"].clone();
    format["type"] = json!("json_schema");
    body["text"] = json!({ "format": format });
    let (status, response) = stage.server.post("/v1/responses", &body).await;
    assert_eq!((status, &response["status"]), (200, &json!("completed")), "{response}");
    let said = |item: &Value| item["type"] == "message";
    let said: Vec<&Value> = response["output"].as_array().unwrap().iter().filter(|item| said(item)).collect();
    assert_eq!(said.len(), 1, "{response}");
    assert_eq!(said[0]["content"][0]["text"], r#"{"answer":"yes","n":2}"#);
    assert_no_process(&stage.server.data()).await;
}

/// The server is listed and called, lives through a crash of ours, and its secret is nowhere afterwards.
pub async fn it_calls_a_server_of_tools(agent: Agent, call: Value, name: &str) {
    let mut stage = Stage::new().await;
    let little = Little::new(stage.server.dir.path());
    let url = stage.model.script("mcp", &little.turns(|command| agent.shell(command), call)).await;
    let Some(body) = agent.request("mcp", stage.server.dir.path(), &url, PROMPT) else { return };
    little.it_is_called(&mut stage.server, body, name).await;
    let asked = stage.model.bodies("mcp").await;
    assert!(!json!(asked).to_string().contains(SECRET), "the model does not see it either");
}
