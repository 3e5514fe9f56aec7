//! `longhaul doctor`: what is there, what is missing, and what to do about it.
//!
//! Job: looks at each thing a run needs, in the way a run meets it. Never: starts a server or a run, changes anything,
//! prints a secret.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use longhaul_engine::probe::{Answer, Probes, Readiness, readiness};
use longhaul_supervise::FileLock;
use serde_json::{Value, json};

use super::screen::Paint;
use super::session::{Session, VERSION};
use super::table::Table;
use super::trouble::Trouble;
use crate::client::{ClientError, Starting};

/// Something is wrong that keeps runs from working.
const FOUND: u8 = 1;

/// How long all programs together may take to say their versions.
const PATIENCE: Duration = Duration::from_secs(20);

/// Free space below which there is a warning: 2 GiB, or this share of the disk.
const FREE_BYTES_MIN: u64 = 2 << 30;
const FREE_SHARE_MIN: u64 = 20;

/// Look at everything that runs need: agent programs, logins, data directory, disk, service manager, server
///
/// Agent programs are looked up as a run that is started from this shell finds them. The exit status is 1 if something
/// is wrong; a program that is not installed is not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warning,
    Wrong,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }
}

/// One finding.
#[derive(Debug)]
struct Check {
    name: &'static str,
    state: State,
    text: String,
    help: Option<String>,
}

fn check(name: &'static str, state: State, text: impl Into<String>) -> Check {
    Check { name, state, text: text.into(), help: None }
}

impl Check {
    fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

/// Does it.
///
/// # Errors
/// The output cannot be written.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let base = session.environment.captured();
    let harnesses = readiness(&Probes::default(), &base, PATIENCE).await;
    let (server, mut health) = server(session).await;
    let of_server = health.as_mut().and_then(|health| health["harnesses"].as_array_mut()).map(std::mem::take);
    let of_server = of_server.unwrap_or_default();
    let mut checks = vec![program(), config(session)];
    match session.data_dir() {
        Ok(dir) => checks.extend([data_dir(dir), disk(dir)]),
        Err(trouble) => checks.push(check("data", State::Wrong, trouble.what).help("name one: --data-dir DIR")),
    }
    checks.extend([systemd(session), cgroup(health.as_ref()), server]);
    checks.extend(session.config.upstreams().iter().map(|upstream| self::upstream(upstream, session)));
    let logins: Vec<Option<String>> = harnesses.iter().map(|harness| login(harness.harness, session)).collect();
    if args.json {
        session.screen.out(&format!("{:#}\n", report(&checks, &harnesses, &logins, &of_server)))?;
    } else {
        session.screen.out(&text(&checks, &harnesses, &logins, &of_server, session))?;
    }
    Ok(if checks.iter().any(|check| check.state == State::Wrong) { FOUND } else { 0 })
}

fn program() -> Check {
    let path = std::env::current_exe().map_or_else(|_| "an unknown path".to_owned(), |path| path.display().to_string());
    check("longhaul", State::Ok, format!("version {VERSION} at {path}"))
}

fn config(session: &Session) -> Check {
    let text = match &session.config.file {
        Some(file) => file.display().to_string(),
        None => "no file; the defaults hold".to_owned(),
    };
    check("config", State::Ok, text)
}

fn data_dir(dir: &Path) -> Check {
    let name = dir.display();
    let facts = match std::fs::metadata(dir) {
        Ok(facts) => facts,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return check("data", State::Ok, format!("{name} is made when a server starts"));
        }
        Err(error) => return check("data", State::Wrong, format!("{name}: {error}")),
    };
    let us = rustix::process::geteuid().as_raw();
    let writable = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    if !facts.is_dir() || !writable {
        return check("data", State::Wrong, format!("{name} cannot be written")).help("name another: --data-dir DIR");
    }
    if facts.uid() != us {
        return check("data", State::Wrong, format!("{name} belongs to user {}, this is user {us}", facts.uid()));
    }
    if facts.permissions().mode() & 0o077 != 0 {
        return check("data", State::Warning, format!("others can look into {name}")).help(format!("chmod 700 {name}"));
    }
    if let Err(error) = longhaul_store_embedded::can_open(dir.join("store")) {
        return check("data", State::Wrong, format!("{name}: {error}"));
    }
    check("data", State::Ok, name.to_string())
}

fn disk(dir: &Path) -> Check {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let Ok(disk) = rustix::fs::statvfs(there) else {
        return check("disk", State::Warning, format!("nobody knows how much is free at {}", there.display()));
    };
    let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    let text = format!("{:.1} GiB free of {:.1} GiB", gib(free), gib(all));
    if free < FREE_BYTES_MIN || free < all / FREE_SHARE_MIN {
        return check("disk", State::Warning, text).help("erase ended runs: longhaul prune --older-than 1d");
    }
    check("disk", State::Ok, text)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Whether something can look after a server: start it with the machine, outlive a logout.
fn systemd(session: &Session) -> Check {
    if !Path::new("/run/systemd/system").is_dir() {
        return check("systemd", State::Ok, "does not run here; a server in the background lives until it is stopped");
    }
    let user = session.environment.text("XDG_RUNTIME_DIR").map(|dir| Path::new(dir).join("systemd/private").exists());
    let text = if user == Some(true) { "runs, for this user too" } else { "runs, but not for this user's session" };
    check("systemd", State::Ok, text).help("have it look after the server: longhaul service install")
}

/// What the server found that control groups are good for; it alone may look, since it makes some for that.
fn cgroup(health: Option<&Value>) -> Check {
    let Some(found) = health.map(|health| &health["cgroup"]) else {
        return check("cgroup", State::Ok, "a server looks at its start whether it can use them");
    };
    let can = |name: &str| found[name] == true;
    let text = match (can("groups"), can("memory"), can("tasks")) {
        (false, ..) => "cannot be used here; processes are found by their parents and by a marker",
        (true, true, true) => "hold runs together, with limits of memory and tasks",
        (true, true, false) => "hold runs together, with limits of memory",
        (true, false, true) => "hold runs together, with limits of tasks",
        (true, false, false) => "hold runs together, without limits",
    };
    check("cgroup", State::Ok, text)
}

/// Whether an endpoint of `passthrough` has its key, as far as this shell can see; nobody is called.
fn upstream(upstream: &longhaul_harness::Upstream, session: &Session) -> Check {
    let text = format!("{}: {} at {}", upstream.name, upstream.dialect.as_str(), upstream.base_url);
    match &upstream.key_env {
        None => check("upstream", State::Ok, format!("{text}, without a key")),
        Some(name) if session.environment.value(name).is_some_and(|key| !key.trim().is_empty()) => {
            check("upstream", State::Ok, format!("{text}, key in {name}"))
        }
        Some(name) => check("upstream", State::Warning, format!("{text}; {name} is not set here"))
            .help(format!("set {name} in the environment of the server, and of this shell")),
    }
}

async fn server(session: &Session) -> (Check, Option<Value>) {
    let found = match session.finder.find(Starting::Refused).await {
        Ok(found) => found,
        Err(ClientError::NoServer { data_dir }) => {
            let held = FileLock::is_held(&data_dir.join("lock")).unwrap_or(false);
            let none = check("server", State::Ok, "none runs; longhaul run starts one");
            let deaf = check("server", State::Wrong, "one holds the data directory and does not answer");
            return (if held { deaf.help("what it says: longhaul server logs") } else { none }, None);
        }
        Err(error) => return (check("server", State::Wrong, error.to_string()), None),
    };
    let address = found.client.address().to_owned();
    match found.client.health().await {
        Ok(health) => {
            let version = health["version"].as_str().unwrap_or("unknown").to_owned();
            let check = if version == VERSION {
                check("server", State::Ok, format!("version {version} at {address}"))
            } else {
                check("server", State::Warning, format!("version {version} at {address}, this is {VERSION}"))
                    .help("bring it to what is installed: longhaul server upgrade (runs go on)")
            };
            (check, Some(health))
        }
        Err(error) => (check("server", State::Wrong, format!("{address}: {error}")), None),
    }
}

/// Where a login of this harness's program is, if there is a sign of one.
fn login(harness: &str, session: &Session) -> Option<String> {
    let login = longhaul_harness::login(harness)?;
    if let Some(name) = login.variables.iter().find(|name| session.environment.text(name).is_some()) {
        return Some(format!("variable {name}"));
    }
    let home = Path::new(session.environment.text("HOME")?);
    let file = login.files.iter().find(|file| home.join(file).is_file())?;
    Some(format!("file ~/{file}"))
}

/// What to do about a program, if anything.
fn remedy(harness: &Readiness, login: Option<&str>) -> Option<String> {
    match (harness.state(), &harness.answer) {
        ("missing", _) => harness.install.map(|install| format!("install: {install}")),
        ("untested", _) => Some(format!(
            "{} was tested; to have it: {}",
            harness.tested.unwrap_or("another version"),
            harness.install.unwrap_or("install it")
        )),
        (_, Some(Answer::Nothing(why))) => Some(why.clone()),
        _ if login.is_none() => {
            longhaul_harness::login(harness.harness).map(|login| format!("no login seen: {}", login.remedy))
        }
        _ => None,
    }
}

fn report(checks: &[Check], harnesses: &[Readiness], logins: &[Option<String>], of_server: &[Value]) -> Value {
    let checks: Vec<Value> = checks
        .iter()
        .map(|check| json!({ "name": check.name, "state": check.state.as_str(), "text": check.text, "help": check.help }))
        .collect();
    let harnesses: Vec<Value> = harnesses
        .iter()
        .zip(logins)
        .map(|(harness, login)| {
            let mut value = crate::http::readiness(harness);
            value["login"] = json!(login);
            value["install"] = json!(harness.install);
            value["help"] = json!(remedy(harness, login.as_deref()));
            value
        })
        .collect();
    json!({ "version": VERSION, "checks": checks, "harnesses": harnesses, "server_harnesses": of_server })
}

fn text(
    checks: &[Check],
    harnesses: &[Readiness],
    logins: &[Option<String>],
    of_server: &[Value],
    session: &Session,
) -> String {
    let (width, colour) = (session.screen.width, session.screen.out_colour);
    let paint = |state| match state {
        State::Ok => Paint::Green,
        State::Warning => Paint::Yellow,
        State::Wrong => Paint::Red,
    };
    let mut out = String::new();
    for check in checks {
        let _ = writeln!(
            out,
            "{:<10}{} {}",
            check.name,
            paint(check.state).on(colour, &format!("{:<8}", check.state.as_str())),
            check.text
        );
        if let Some(help) = &check.help {
            let _ = writeln!(out, "{:19}{}", "", Paint::Dim.on(colour, help));
        }
    }
    let mut table = Table::new(&["AGENT", "STATE", "VERSION", "LOGIN", "WHERE"]);
    for (harness, login) in harnesses.iter().zip(logins) {
        let paint = match harness.state() {
            "ready" => Paint::Green,
            "missing" => Paint::Dim,
            _ => Paint::Yellow,
        };
        let plain = |text: String| (text, Paint::Plain);
        table.row(vec![
            plain(harness.harness.to_owned()),
            (harness.state().to_owned(), paint),
            plain(harness.version().unwrap_or_default().to_owned()),
            plain(login.clone().unwrap_or_default()),
            plain(harness.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
        ]);
    }
    out += "\n";
    out += &table.show(width, colour);
    for (harness, login) in harnesses.iter().zip(logins) {
        if let Some(remedy) = remedy(harness, login.as_deref()) {
            let _ = writeln!(out, "{}: {}", harness.harness, Paint::Dim.on(colour, &remedy));
        }
    }
    // The server has another environment than this shell: runs that come over HTTP are started with that.
    for theirs in of_server {
        let ours = harnesses.iter().find(|harness| theirs["harness"] == harness.harness);
        if let Some(ours) = ours.filter(|ours| json!(ours.path) != theirs["path"]) {
            let there = theirs["path"].as_str().unwrap_or("nowhere");
            let _ = writeln!(out, "{}: a run over HTTP finds it {there}: the server has another PATH", ours.harness);
        }
    }
    out
}
