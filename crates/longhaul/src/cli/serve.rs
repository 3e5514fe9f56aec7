//! `longhaul serve`: the server, in the foreground or let go of by whoever started it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use longhaul_engine::{DiskFloor, Retention};
use longhaul_model::limits;
use longhaul_supervise::Where;

use super::duration;
use super::session::Session;
use super::trouble::{BAD_CONFIG, Trouble};
use crate::client::token_file;
use crate::http::Origin;
use crate::serve;
use crate::traces::Target;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Log {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Run the server in the foreground
///
/// The exit status is 75 if the data directory or the address is held by another, 78 if the configuration is bad.
/// What no option says is taken from variables, then from the configuration file: longhaul config print.
/// Ending it does not end a run; the next server takes over.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// File with the token that requests must carry; needed for any address but loopback
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where others reach the server, as https://example.org: webhooks call back there [default: as it was called]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Origins whose pages may use the server from a browser, as https://app.example; never `*`
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    pub allowed_origins: Option<Vec<String>>,
    /// Milliseconds that a long poll of a stream waits for data before it is answered with nothing [default: 30000]
    #[arg(long, value_name = "MS")]
    pub long_poll_timeout: Option<std::num::NonZeroU64>,
    /// Milliseconds that a request's head may take; its body, an idle connection and an answer that is not taken have a
    /// multiple of it [default: 30000]
    #[arg(long, value_name = "MS")]
    pub client_timeout: Option<std::num::NonZeroU64>,
    /// Connections at once; the next one is refused [default: three quarters of the descriptors, at most 100000]
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<std::num::NonZeroUsize>,
    /// Form of the log on stderr [default: text]
    #[arg(long, value_enum)]
    pub log: Option<Log>,
    /// Runs with a process at once [default: twice the cores, at least 4]
    #[arg(long, value_name = "COUNT")]
    pub live_max: Option<std::num::NonZeroUsize>,
    /// Runs that may wait for a place; the next one is refused [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub queue_max: Option<usize>,
    /// Runs of one harness with a process at once; may be given for several
    #[arg(long, value_name = "HARNESS=COUNT", value_parser = share)]
    pub harness_max: Vec<(String, usize)>,
    /// Runs of one client, a token in a project, with a process at once
    #[arg(long, value_name = "COUNT")]
    pub client_max: Option<std::num::NonZeroUsize>,
    /// Places of --live-max that are kept for a project and never lent; may be given for several
    #[arg(long, value_name = "PROJECT=COUNT", value_parser = share)]
    pub reserve: Vec<(String, usize)>,
    /// Output of one run, stdout and stderr together, after which it is stopped [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub output_limit: Option<std::num::NonZeroU64>,
    /// How long the files of a run's output are kept after its end [default: 7d]
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pub keep_output: Option<std::time::Duration>,
    /// How long an ended run is kept with its events [default: 30d]
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pub keep_events: Option<std::time::Duration>,
    /// Bytes of files of ended runs; the oldest are erased first [default: 10 GiB]
    #[arg(long, value_name = "BYTES")]
    pub keep_bytes: Option<u64>,
    /// Where control groups for runs are made: own (below the server's own), off, or a directory of cgroup v2
    /// [default: own]
    #[arg(long, value_name = "WHERE", value_parser = cgroup)]
    pub cgroup: Option<Where>,
    /// Bytes that must be free on the disk for a new run; 0 is no bound [default: 2 GiB]
    #[arg(long, value_name = "BYTES")]
    pub disk_free_min_bytes: Option<u64>,
    /// Per cent of the disk that must be free for a new run; 0 is no bound [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub disk_free_min_percent: Option<u64>,
    /// Leave the session, the terminal and the umask of whoever starts this
    #[arg(long, hide = true)]
    pub background: bool,
    /// Say whether this program could take the place of the one that serves now, and touch nothing
    #[arg(long, hide = true)]
    pub preflight: bool,
}

/// What the options say, else the configuration, which was checked when it was read.
fn shares(given: Vec<(String, usize)>, configured: Option<&[String]>) -> BTreeMap<String, usize> {
    if !given.is_empty() {
        return given.into_iter().collect();
    }
    configured.unwrap_or_default().iter().filter_map(|text| share(text).ok()).collect()
}

/// Where control groups are made: `own`, `off` or an absolute path.
///
/// # Errors
/// What it must be.
pub(crate) fn cgroup(text: &str) -> Result<Where, String> {
    match text {
        "own" => Ok(Where::Own),
        "off" => Ok(Where::Nowhere),
        path if path.starts_with('/') => Ok(Where::Dir(path.into())),
        other => Err(format!("must be own, off or an absolute path, {other:?} is not")),
    }
}

/// A name and how many places it has: `NAME=COUNT`.
///
/// # Errors
/// What it must be.
pub(crate) fn share(text: &str) -> Result<(String, usize), String> {
    let (name, count) = text.split_once('=').ok_or("must be NAME=COUNT")?;
    if name.is_empty() {
        return Err("must be NAME=COUNT".to_owned());
    }
    let count = count.parse().map_err(|_| format!("{count:?} is not a count"))?;
    Ok((name.to_owned(), count))
}

/// Serves until it is told to stop.
///
/// # Errors
/// The options make no sense.
pub fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let bad = |trouble: Trouble| trouble.status(BAD_CONFIG);
    let data_dir = session.data_dir().map_err(bad)?.to_owned();
    let config = &session.config;
    let configured = config.text("server.token_file").map(Path::new).filter(|_| !session.token_given);
    let token = match args.token_file.as_deref().or(configured) {
        Some(file) => Some(token_file(file).map_err(|error| bad(error.into()))?),
        None => session.finder.token.clone(),
    };
    let hidden = hidden(args.token_file.as_deref(), session);
    let origins = args.allowed_origins.as_deref().or(config.list("server.allowed_origins")).unwrap_or_default();
    let allowed_origins = origins.iter().map(|text| Origin::parse(text)).collect::<Result<_, _>>();
    let allowed_origins = allowed_origins.map_err(|error| bad(Trouble::new(format!("--allowed-origins: {error}"))))?;
    let public_url = args.public_url.as_deref().or(config.text("server.public_url")).map(Origin::parse).transpose();
    let public_url = public_url.map_err(|error| bad(Trouble::new(format!("--public-url: {error}"))))?;
    let number = |name| config.number(name);
    let kept = Retention::default();
    let age = |name| config.text(name).and_then(|text| duration::parse(text).ok());
    let options = serve::Options {
        data_dir,
        listen: args.listen.or_else(|| config.text("server.listen").map(str::to_owned)),
        token,
        allowed_origins,
        public_url,
        long_poll: args
            .long_poll_timeout
            .map(Into::into)
            .or_else(|| number("server.long_poll_timeout"))
            .map_or(limits::STREAM_LONG_POLL, std::time::Duration::from_millis)
            .min(limits::STREAM_LONG_POLL_MAX),
        client_timeout: args
            .client_timeout
            .map(Into::into)
            .or_else(|| number("server.client_timeout"))
            .map_or(limits::CLIENT_TIMEOUT, std::time::Duration::from_millis)
            .clamp(limits::CLIENT_TIMEOUT_MIN, limits::CLIENT_TIMEOUT_MAX),
        connections_max: args
            .connections_max
            .map(Into::into)
            .or_else(|| number("limits.connections_max").map(|n| n as usize)),
        log_json: args.log.map_or(config.text("server.log") == Some("json"), |log| log == Log::Json),
        live_max: args.live_max.map(Into::into).or_else(|| number("limits.live_max").map(|n| n as usize)),
        queue_max: args.queue_max.or_else(|| number("limits.queue_max").map(|n| n as usize)),
        harness_max: shares(args.harness_max, config.list("limits.harness_max")),
        client_max: args.client_max.map(Into::into).or_else(|| number("limits.client_max").map(|n| n as usize)),
        reserved: shares(args.reserve, config.list("limits.reserve")),
        retention: Retention {
            output: args.keep_output.or_else(|| age("limits.keep_output")).unwrap_or(kept.output),
            events: args.keep_events.or_else(|| age("limits.keep_events")).unwrap_or(kept.events),
            bytes_max: args.keep_bytes.or_else(|| number("limits.keep_bytes")).unwrap_or(kept.bytes_max),
            ..kept
        },
        hidden,
        upstreams: config.upstreams(),
        traces: Target::of(config),
        cgroup: args.cgroup.or_else(|| cgroup(config.text("server.cgroup")?).ok()).unwrap_or_default(),
        disk: DiskFloor {
            bytes: args
                .disk_free_min_bytes
                .or_else(|| number("limits.disk_free_min_bytes"))
                .unwrap_or(limits::DISK_FREE_MIN_BYTES),
            percent: args
                .disk_free_min_percent
                .or_else(|| number("limits.disk_free_min_percent"))
                .unwrap_or(limits::DISK_FREE_MIN_PERCENT),
        },
        output_limit: args.output_limit.map(Into::into).or_else(|| number("limits.output_limit")),
    };
    if args.preflight {
        return Ok(serve::preflight(&options));
    }
    if args.background {
        detach();
    }
    Ok(serve::run(options))
}

/// The files that hold or name a token, wherever they are: confined runs see none of them.
fn hidden(token_file: Option<&Path>, session: &Session) -> Vec<PathBuf> {
    let named = ["server.token_file", "client.token_file"].map(|name| session.config.text(name).map(PathBuf::from));
    // The directories of the configuration, and not only the one file that was read.
    let config = session.config.file.clone();
    let its_dir = config.as_deref().and_then(Path::parent).filter(|dir| dir.ends_with("longhaul")).map(Path::to_owned);
    let usual = [config, its_dir, Some("/etc/longhaul".into())];
    token_file.map(Path::to_owned).into_iter().chain(named.into_iter().chain(usual).flatten()).collect()
}

/// Whoever starts a server in the background gives it null, a log and the root directory; the rest it does itself.
fn detach() {
    // Fails only for the leader of a process group, which then has a session of its own already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}
