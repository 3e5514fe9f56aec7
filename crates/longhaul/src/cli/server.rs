//! `longhaul server`: the background server: start, stop, restart, status, logs.
//!
//! Never: ends a run; a server that stops lets go of its runs and the next one takes over.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use longhaul_supervise::FileLock;
use serde_json::Value;

use super::duration;
use super::screen::{Ink, Paint};
use super::session::Session;
use super::trouble::Trouble;
use crate::client::{ClientError, Listen, LocalServer, StartLock, launch, launch_under, local_server, log_path};

/// No server runs.
const NOT_RUNNING: u8 = 1;

/// How long a server may take to drain and exit.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How often a log or a lock is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Bytes of the log that are searched for its last lines.
const TAIL_BYTES: u64 = 1 << 20;

/// Look after the background server
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start it unless it runs
    Start {
        /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:4437, or a free port if that is taken]
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<String>,
    },
    /// Stop it; runs go on and the next server takes them over
    Stop,
    /// Stop it and start this version on the same address; runs go on
    Restart,
    /// Have another version take its place in the same process; runs go on and no connection is refused
    Upgrade {
        /// Program that takes over [default: what is installed where the server was started from]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Say where it is and how it does; status 1 if it does not run
    Status {
        /// Print the full report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print its log
    Logs {
        /// Go on as it grows
        #[arg(short, long)]
        follow: bool,
        /// This many of its last lines
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
        lines: usize,
    },
}

/// Does it.
///
/// # Errors
/// The server cannot be started or does not stop.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    match args.verb {
        Verb::Status { json } => status(session, json).await,
        Verb::Logs { follow, lines } => logs(session, follow, lines).await,
        Verb::Start { listen } => start(session, listen.as_deref()).await,
        Verb::Stop => stop(session).await,
        Verb::Restart => restart(session).await,
        Verb::Upgrade { binary } => upgrade(session, binary).await,
    }
}

async fn start(session: &Session, listen: Option<&str>) -> Result<u8, Trouble> {
    let data_dir = own_data_dir(session)?;
    let finder = &session.finder;
    let listen = listen.map_or_else(|| finder.listen(), Listen::Only);
    let (server, launched) = launch(data_dir, listen, finder.config.as_deref(), finder.token.clone()).await?;
    let how = if launched.is_some() { "started server" } else { "already running:" };
    session.screen.out(&format!("{how} pid {} at {}\n", server.info.pid, server.client.address()))?;
    Ok(0)
}

async fn stop(session: &Session) -> Result<u8, Trouble> {
    let data_dir = own_data_dir(session)?;
    let Some(server) = local_server(data_dir, session.finder.token.clone()).await? else {
        if FileLock::is_held(&data_dir.join("lock")).unwrap_or(false) {
            return Err(Trouble::new(format!("a server holds {} and does not answer", data_dir.display()))
                .help("what it says: longhaul server logs"));
        }
        session.screen.out("no server is running\n")?;
        return Ok(0);
    };
    let _lock = StartLock::take(data_dir).await.map_err(ClientError::from)?;
    end(data_dir, &server).await?;
    session.screen.out(&format!("stopped server pid {}; runs go on\n", server.info.pid))?;
    Ok(0)
}

async fn restart(session: &Session) -> Result<u8, Trouble> {
    let data_dir = own_data_dir(session)?;
    let token = session.finder.token.clone();
    // Commands that miss the server meanwhile wait for this lock instead of starting one themselves.
    let lock = StartLock::take(data_dir).await.map_err(ClientError::from)?;
    let old = local_server(data_dir, token.clone()).await?;
    if let Some(old) = &old {
        end(data_dir, old).await?;
    }
    let listen = old.as_ref().map_or_else(|| session.finder.listen(), |old| Listen::Rather(&old.info.address));
    let (server, _) = launch_under(&lock, data_dir, listen, session.finder.config.as_deref(), token).await?;
    let was = old.map(|old| format!(" (was pid {})", old.info.pid)).unwrap_or_default();
    let line = format!("started server pid {} at {}{was}\n", server.info.pid, server.client.address());
    session.screen.out(&line)?;
    Ok(0)
}

async fn upgrade(session: &Session, binary: Option<PathBuf>) -> Result<u8, Trouble> {
    let data_dir = own_data_dir(session)?;
    let binary = binary.map(std::path::absolute).transpose()?;
    // Nobody starts or stops a server meanwhile.
    let _lock = StartLock::take(data_dir).await.map_err(ClientError::from)?;
    let Some(server) = local_server(data_dir, session.finder.token.clone()).await? else {
        return Err(Trouble::new("no server is running").help("start it: longhaul server start"));
    };
    let epoch = |health: &Value| health["epoch"].as_u64().unwrap_or(0);
    let before = server.client.health().await?;
    let next = server.client.upgrade(binary.as_deref()).await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    let after = loop {
        match server.client.health().await {
            Ok(health) if epoch(&health) > epoch(&before) => break health,
            // A connection from before is closed in the middle of it.
            Ok(_) | Err(ClientError::Unreachable { .. }) if Instant::now() < deadline => {}
            Ok(_) => {
                return Err(Trouble::new(format!("nothing took over within {} s", STOP_PATIENCE.as_secs()))
                    .help("what it says: longhaul server logs"));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    };
    if let Some(why) = after["upgrade"]["failure"].as_str() {
        return Err(Trouble::new(format!("no upgrade: {why}; the server goes on as it was")));
    }
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    session.screen.out(&format!(
        "upgraded server pid {}: {} → {} ({})\n",
        server.info.pid,
        text(&before["version"]),
        text(&after["version"]),
        text(&next["binary"])
    ))?;
    Ok(0)
}

/// Asks a server to go and waits until its lock is free, which is the proof.
async fn end(data_dir: &Path, server: &LocalServer) -> Result<(), Trouble> {
    server.client.shutdown().await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while FileLock::is_held(&data_dir.join("lock")).unwrap_or(false) {
        if Instant::now() > deadline {
            return Err(Trouble::new(format!(
                "server pid {} still runs after {} s",
                server.info.pid,
                STOP_PATIENCE.as_secs()
            ))
            .help("what it says: longhaul server logs"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn status(session: &Session, json: bool) -> Result<u8, Trouble> {
    let client = match session.finder.find(crate::client::Starting::Refused).await {
        Ok(found) => found.client,
        Err(ClientError::NoServer { data_dir }) => {
            let held = FileLock::is_held(&data_dir.join("lock")).unwrap_or(false);
            let text =
                if held { "a server holds the data directory and does not answer" } else { "no server is running" };
            session.screen.out(&format!("{text}\n{}\n", row("data", &data_dir.display().to_string(), session)))?;
            return Ok(NOT_RUNNING);
        }
        Err(error) => return Err(error.into()),
    };
    let health = client.health().await?;
    if json {
        session.screen.out(&format!("{health}\n"))?;
        return Ok(0);
    }
    session.screen.out(&report(&health, client.address(), session))?;
    Ok(0)
}

fn report(health: &Value, address: &str, session: &Session) -> String {
    let number = |path: &str| health.pointer(path).and_then(Value::as_u64);
    let mut rows =
        vec![row("status", health["status"].as_str().unwrap_or("unknown"), session), row("address", address, session)];
    if let Some(pid) = number("/pid") {
        rows.push(row("process", &pid.to_string(), session));
    }
    if let Some(version) = health["version"].as_str() {
        rows.push(row("version", version, session));
    }
    if let Some(up) = number("/uptime_ms") {
        rows.push(row("up", &duration::show(Duration::from_millis(up)), session));
    }
    if let (Some(live), Some(places), Some(queued)) =
        (number("/runs/places_taken"), number("/runs/places"), number("/runs/queued"))
    {
        rows.push(row("runs", &format!("{live} of {places} places taken, {queued} queued"), session));
    }
    if let Some(recovered) = number("/recovery/recovered").filter(|n| *n > 0) {
        let part = |name: &str| number(&format!("/recovery/{name}")).unwrap_or(0);
        let parts = ["adopted", "finished", "requeued", "failed", "pending"]
            .into_iter()
            .filter(|name| part(name) > 0)
            .map(|name| format!("{} {name}", part(name)))
            .collect::<Vec<_>>();
        rows.push(row("recovered", &format!("{recovered} runs at its start: {}", parts.join(", ")), session));
    }
    if let (Some(free), Some(total)) = (number("/disk/free_bytes"), number("/disk/total_bytes")) {
        rows.push(row("disk", &format!("{} GiB free of {}", free >> 30, total >> 30), session));
    }
    if session.finder.named.is_none()
        && let Some(dir) = &session.finder.data_dir
    {
        rows.push(row("data", &dir.display().to_string(), session));
    }
    rows.join("\n") + "\n"
}

fn row(name: &str, value: &str, session: &Session) -> String {
    format!("{}{value}", Paint::Dim.on(session.screen.out_colour, &format!("{name:<11}")))
}

async fn logs(session: &Session, follow: bool, lines: usize) -> Result<u8, Trouble> {
    let path = log_path(own_data_dir(session)?);
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::new(format!("there is no {}", path.display()))
            .help("a server in the foreground or under systemd logs where it was told to"),
        _ => Trouble::new(format!("{}: {error}", path.display())),
    };
    let mut file = std::fs::File::open(&path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES))).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let from =
        bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines).map_or(0, |(at, _)| at + 1);
    session.screen.put(&[Ink::Out(bytes.split_off(from))])?;
    if !follow {
        return Ok(0);
    }
    loop {
        tokio::time::sleep(POLL * 5).await;
        let mut more = Vec::new();
        file.read_to_end(&mut more).map_err(unreadable)?;
        session.screen.put(&[Ink::Out(more)])?;
    }
}

/// The data directory, for verbs that look after its server: one that was named by address is looked after elsewhere.
fn own_data_dir(session: &Session) -> Result<&Path, Trouble> {
    if let Some((address, _)) = &session.finder.named {
        return Err(Trouble::new(format!(
            "the server was named by its address, {address}, and is not this host's to start or stop"
        ))
        .help("leave out --server and LONGHAUL_SERVER, or name its directory: --data-dir DIR"));
    }
    session.data_dir()
}
