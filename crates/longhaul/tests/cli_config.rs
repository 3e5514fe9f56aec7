//! The configuration: file, variables and options in their order, and every mistake with its place.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use support::Server;

/// A home without a configuration, and no server at its end.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("config/longhaul")).unwrap();
        fs::create_dir_all(dir.path().join("work/.git")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the file that is read without being named.
    fn config(&self, text: &str) -> PathBuf {
        let path = self.path("config/longhaul/config.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn with(&self, words: &[&str], vars: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("LONGHAUL_DISK_FREE_MIN_BYTES", "0")
            .env("LONGHAUL_DISK_FREE_MIN_PERCENT", "0")
            .envs(vars.iter().copied())
            .current_dir(self.path("work"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn longhaul(&self, words: &[&str]) -> Output {
        self.with(words, &[])
    }

    fn health(&self) -> Value {
        let asked = self.longhaul(&["server", "status", "--json"]);
        serde_json::from_slice(&asked.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&asked)))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.longhaul(&["server", "stop"]);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let home = Home::new();
    let file = home.config(
        "[server]\nlisten = \"nowhere\"\ndata_dir = \"rel\"\nlog = \"xml\"\nallowed_origins = [\n  \"*\",\n]\nport = 1\n\
         [limits]\nlive_max = 0\nqueue_max = \"many\"\n[sever]\nx = 1\n[client]\ntoken = 3\nserver = \"\"\n",
    );
    let vars = [("LONGHAUL_OUTPUT_LIMIT", "1GB"), ("LONGHAUL_ALLOWED_ORIGINS", "https://a.example,null")];
    for words in [&["config", "check"][..], &["config", "print"], &["serve"], &["server", "start"]] {
        let output = home.with(words, &vars);
        assert_eq!(output.status.code(), Some(78), "{words:?} {}", said(&output));
        let text = said(&output);
        let at = |line: usize, why: &str| format!("{}:{line}: {why}", file.display());
        for mistake in [
            at(2, "`server.listen` must be ADDR:PORT"),
            at(3, "`server.data_dir` must be an absolute path"),
            at(4, "`server.log` must be text or json"),
            at(5, "`server.allowed_origins` \"*\" cannot be allowed"),
            at(8, "there is no key `server.port`"),
            at(10, "`limits.live_max` must be a whole number from 1"),
            at(11, "`limits.queue_max` must be a whole number from 0"),
            at(12, "there is no table [sever]"),
            at(15, "`client.token` must be a text"),
            at(16, "`client.server` must not be empty"),
            "the variable LONGHAUL_OUTPUT_LIMIT: must be a whole number from 1".to_owned(),
            "the variable LONGHAUL_ALLOWED_ORIGINS: \"null\" cannot be allowed".to_owned(),
        ] {
            assert!(text.contains(&mistake), "{words:?}: {mistake}\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("  ")).count(), 13, "and nothing else: {text}");
    }
    // Of a run 78 could be the agent's own.
    assert_eq!(home.longhaul(&["run", "--", "true"]).status.code(), Some(125));
    assert!(!home.path("state").exists(), "nothing was begun");

    // What is no TOML, and a file that is not there.
    home.config("[server]\nlisten = \n");
    let output = home.longhaul(&["config", "check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).contains("config.toml:2: "), "{}", said(&output));
    let output = home.longhaul(&["config", "check", "--config", "absent.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(said(&output).contains("work/absent.toml: No such file"), "{}", said(&output));
}

#[test]
fn a_check_sees_what_a_start_would_stumble_over() {
    let home = Home::new();
    assert_eq!(out(&home.longhaul(&["config", "check"])), "there is no configuration file; all is well\n");
    let file = home.config("[server]\nlisten = \"0.0.0.0:0\"\n");
    let output = home.longhaul(&["config", "check"]);
    assert_eq!(output.status.code(), Some(78));
    let want = format!("{}:2: 0.0.0.0:0 can be reached from elsewhere and needs a token", file.display());
    assert!(said(&output).contains(&want), "{}", said(&output));
    let token = home.path("token");
    let text = format!("[server]\nlisten = \"0.0.0.0:0\"\ntoken_file = {token:?}\n");
    home.config(&text);
    let output = home.longhaul(&["config", "check"]);
    assert!(said(&output).contains("config.toml:3: ") && said(&output).contains("No such file"), "{}", said(&output));
    assert_eq!(home.longhaul(&["serve"]).status.code(), Some(78));
    fs::write(&token, "s3cret\n").unwrap();
    assert_eq!(out(&home.longhaul(&["config", "check"])), format!("{}: all is well\n", file.display()));
}

#[test]
fn print_names_each_value_s_source_and_no_secret() {
    let home = Home::new();
    let file = home.config("[limits]\nlive_max = 3\nqueue_max = 5\n[client]\ntoken = \"s3cret\"\nproject = \"mine\"\n");
    let vars = [("LONGHAUL_QUEUE_MAX", "7"), ("LONGHAUL_ALLOWED_ORIGINS", "https://a.example")];
    let text = out(&home.with(&["config", "print"], &vars));
    let from = |line: usize| format!("{}:{line}", file.display());
    for line in [
        format!("# {}", file.display()),
        format!("live_max = 3  # {}", from(2)),
        "queue_max = 7  # LONGHAUL_QUEUE_MAX".to_owned(),
        "output_limit = 1073741824  # default".to_owned(),
        "listen = \"127.0.0.1:4437\"  # default".to_owned(),
        "allowed_origins = [\"https://a.example\"]  # LONGHAUL_ALLOWED_ORIGINS".to_owned(),
        format!("data_dir = \"{}\"  # default", home.path("state/longhaul").display()),
        format!("# token is set and not shown  # {}", from(5)),
        format!("project = \"mine\"  # {}", from(6)),
        "# token_file is not set".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // What is printed is a configuration.
    let printed = home.path("printed.toml");
    fs::write(&printed, &text).unwrap();
    out(&home.longhaul(&["config", "check", "--config", printed.to_str().unwrap()]));
    let text = text + &out(&home.with(&["config", "print"], &[("LONGHAUL_TOKEN", "oth3r")]));
    assert!(!text.contains("s3cret") && !text.contains("oth3r"), "{text}");
    assert!(text.contains("# token is set and not shown  # LONGHAUL_TOKEN"), "{text}");

    // A named file is the only one.
    let other = home.path("other.toml");
    fs::write(&other, "[limits]\nlive_max = 9\n").unwrap();
    let text = out(&home.longhaul(&["config", "print", "--config", other.to_str().unwrap(), "--data-dir", "/d"]));
    assert!(text.contains("live_max = 9  # ") && text.contains("queue_max = 1000  # default"), "{text}");
    assert!(text.contains("data_dir = \"/d\"  # --data-dir"), "{text}");
}

#[test]
fn the_schema_has_every_key_and_allows_no_other() {
    let schema: Value = serde_json::from_str(&out(&Home::new().longhaul(&["config", "schema"]))).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let mut names = vec![];
    let mut tables = schema["properties"].as_object().unwrap().clone();
    let upstream = &tables.remove("passthrough").unwrap()["additionalProperties"];
    assert_eq!(upstream["additionalProperties"], false);
    let told: Vec<&str> = upstream["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys = longhaul::config::UPSTREAM_KEYS.map(|(name, _)| name);
    keys.sort_unstable();
    assert_eq!(told, keys);
    for (table, members) in &tables {
        assert_eq!(members["additionalProperties"], false, "{table}");
        names.extend(members["properties"].as_object().unwrap().keys().map(|name| format!("{table}.{name}")));
    }
    let mut want: Vec<&str> = longhaul::config::KEYS.iter().map(|key| key.name).collect();
    want.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, want);
}

#[test]
fn upstreams_are_tables_whose_mistakes_are_told_and_whose_keys_are_named_alone() {
    let home = Home::new();
    let file = home.config(
        "[passthrough.\"a b\"]\nkind = \"openai\"\nbase_url = \"https://a.example/v1\"\n\
         [passthrough.b]\nkind = \"gemini\"\nbase_url = \"https://user:pw@b.example\"\nkey_env = \"sk-1234\"\n\
         models = [\"two words\"]\nmax_tokens = 0\nkey = \"x\"\n\
         [passthrough.c]\nkey_env = \"LONGHAUL_TOKEN\"\n[passthrough]\nd = 1\n",
    );
    let output = home.longhaul(&["config", "check"]);
    assert_eq!(output.status.code(), Some(78));
    let text = said(&output);
    for mistake in [
        "1: `passthrough.a b`: a name is made of letters",
        "5: `passthrough.b.kind` must be openai or anthropic",
        "6: `passthrough.b.base_url` must be an address",
        "7: `passthrough.b.key_env` must be the name of a variable",
        "8: `passthrough.b.models` must be a list of texts",
        "9: `passthrough.b.max_tokens` must be a whole number from 1",
        "10: there is no key `passthrough.b.key`",
        "11: `passthrough.c` lacks `kind`",
        "11: `passthrough.c` lacks `base_url`",
        "12: `passthrough.c.key_env` must be the name of a variable",
        "14: `passthrough.d` must be a table",
    ] {
        assert!(text.contains(&format!("{}:{mistake}", file.display())), "{mistake}\n{text}");
    }
    assert!(!text.contains("pw@") && !text.contains("sk-1234"), "what could be a secret is not repeated: {text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("  ")).count(), 12, "these and the hint: {text}");

    home.config(
        "[passthrough.\"my.own\"]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\nkey_env = \"MY_KEY\"\n\
         models = [\"a\", \"org/b\"]\nmax_tokens = 9\n[passthrough.plain]\nkind = \"anthropic\"\n\
         base_url = \"https://b.example\"\n",
    );
    let vars = [("MY_KEY", "s3cret")];
    let text = out(&home.with(&["config", "print"], &vars));
    assert!(text.contains(&format!("[passthrough.\"my.own\"]  # {}:1\nkind = \"openai\"\n", file.display())), "{text}");
    assert!(text.contains("key_env = \"MY_KEY\"\nmodels = [\"a\", \"org/b\"]\nmax_tokens = 9\n"), "{text}");
    assert!(text.contains("[passthrough.plain]  # ") && !text.contains("s3cret"), "{text}");
    let printed = home.path("printed.toml");
    fs::write(&printed, &text).unwrap();
    assert_eq!(
        out(&home.with(&["config", "print", "--config", printed.to_str().unwrap()], &vars)).matches("base_url").count(),
        2
    );

    // The doctor sees whether each has its key, and calls nobody.
    let doctor = |vars: &[(&str, &str)]| {
        let report: Value = serde_json::from_slice(&home.with(&["doctor", "--json"], vars).stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["name"] == "upstream").map(|c| c["state"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(doctor(&vars), ["ok", "ok"]);
    assert_eq!(doctor(&[]), ["warning", "ok"]);
}

#[test]
fn a_background_server_serves_as_configured() {
    let home = Home::new();
    let (data, token) = (home.path("elsewhere"), home.path("token"));
    fs::write(&token, "s3cret\n").unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.2:0\"\ndata_dir = {data:?}\ntoken_file = {token:?}\nlog = \"json\"\n\
         [limits]\nlive_max = 3\n"
    );
    home.config(&text);
    assert_eq!(home.longhaul(&["run", "-q", "--", "true"]).status.code(), Some(0));
    let health = home.health();
    assert!(health["address"].as_str().unwrap().starts_with("127.0.0.2:"), "{health}");
    assert_eq!(health["runs"]["places"], 3);
    assert!(!home.path("state").exists() && data.join("server.json").exists());
    let log = fs::read_to_string(data.join("server.log")).unwrap();
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
    // Its token is needed, and is not sent to a server that was named by its address.
    let address = health["address"].as_str().unwrap();
    let output = home.longhaul(&["ps", "--server", address]);
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("wants a token"), "{}", said(&output));
    assert_eq!(home.longhaul(&["server", "stop"]).status.code(), Some(0));

    // A variable stands above the file, an option above both; a named file is named on to the server.
    let named = home.path("named.toml");
    fs::write(&named, format!("[server]\ndata_dir = {data:?}\n[limits]\nlive_max = 5\n")).unwrap();
    let words = ["server", "start", "--listen", "127.0.0.3:0", "--config", named.to_str().unwrap()];
    out(&home.with(&words, &[]));
    let health = home.health();
    assert_eq!(health["runs"]["places"], 5);
    assert!(health["address"].as_str().unwrap().starts_with("127.0.0.3:"), "{health}");
    assert_eq!(home.longhaul(&["server", "stop"]).status.code(), Some(0));
    out(&home.with(&["server", "start"], &[("LONGHAUL_LIVE_MAX", "4")]));
    assert_eq!(home.health()["runs"]["places"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_the_foreground_takes_limits_origins_and_token_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, token) = (dir.path().join("config.toml"), dir.path().join("token"));
    fs::write(&token, "of-the-file\n").unwrap();
    let limits = "[limits]\nlive_max = 1\nqueue_max = 1\noutput_limit = 1000\n";
    let origins = "allowed_origins = [\"https://a.example\"]\n";
    fs::write(&file, format!("[server]\n{origins}{limits}")).unwrap();
    let file = file.to_str().unwrap();
    let mut server = Server::start_with(&["--config", file], &[]).await;
    server.sh("big", "yes | head -c 100000; sleep 600").await;
    assert_eq!(server.end("big").await["error"]["code"], "output_limit");
    server.sh("live", "exec sleep 600").await;
    server.status("live", "running").await;
    server.sh("next", "true").await;
    let (status, body) = server.post("/v1/runs", &json!({ "run_id": "late", "command": "/bin/true" })).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("queue_full")), "{body}");
    server.post("/v1/runs/live/cancel?wait_ms=30000", &json!({})).await;
    server.end("next").await;
    let answer = server.http.get(server.url("/livez")).header("origin", "https://a.example").send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://a.example");

    // An option stands above the file, and a token that was given above a file of one.
    server.term();
    fs::write(file, format!("[server]\ntoken_file = {token:?}\n{origins}")).unwrap();
    server.args.extend(["--allowed-origins".to_owned(), "https://b.example".to_owned()]);
    for (env, right) in [(None, "of-the-file"), (Some("given"), "given")] {
        server.env = env.iter().map(|value| ("LONGHAUL_TOKEN".to_owned(), (*value).to_owned())).collect();
        server.up().await;
        for given in ["of-the-file", "given"] {
            let status = if given == right { 200 } else { 401 };
            let asked = server.http.get(server.url("/v1/runs")).bearer_auth(given).send().await.unwrap();
            assert_eq!(asked.status(), status, "{given} where {right} is right");
        }
        for (origin, allowed) in [("https://a.example", false), ("https://b.example", true)] {
            let answer = server.http.get(server.url("/livez")).header("origin", origin).send().await.unwrap();
            assert_eq!(answer.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
        }
        server.term();
    }
}
