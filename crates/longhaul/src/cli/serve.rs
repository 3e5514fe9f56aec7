//! `longhaul serve`: the server, in the foreground or let go of by whoever started it.

use std::path::PathBuf;

use clap::ValueEnum;

use super::session::Session;
use super::trouble::Trouble;
use crate::client::token_file;
use crate::http::Origin;
use crate::serve;

/// Bad configuration. Source: sysexits.h, `EX_CONFIG`.
const BAD_CONFIG: u8 = 78;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Log {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Run the server in the foreground
///
/// The exit status is 75 if the data directory or the address is held by another, 78 if the configuration is bad.
/// Ending it does not end a run; the next server takes over.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// File with the token that requests must carry; needed for any address but loopback
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Origins whose pages may use the server from a browser, as https://app.example; never `*`
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    pub allowed_origins: Option<Vec<String>>,
    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t)]
    pub log: Log,
    /// Runs with a process at once [default: twice the cores, at least 4]
    #[arg(long, value_name = "COUNT")]
    pub live_max: Option<std::num::NonZeroUsize>,
    /// Runs that may wait for a place; the next one is refused [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub queue_max: Option<usize>,
    /// Output of one run, stdout and stderr together, after which it is stopped [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub output_limit: Option<std::num::NonZeroU64>,
    /// Leave the session, the terminal and the umask of whoever starts this
    #[arg(long, hide = true)]
    pub background: bool,
}

/// Serves until it is told to stop.
///
/// # Errors
/// The options make no sense.
pub fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let bad = |trouble: Trouble| trouble.status(BAD_CONFIG);
    let data_dir = session.data_dir().map_err(bad)?.to_owned();
    let token = match &args.token_file {
        Some(file) => Some(token_file(file).map_err(|error| bad(error.into()))?),
        None => session.finder.token.clone(),
    };
    let origins = args.allowed_origins.unwrap_or_default();
    let allowed_origins = origins.iter().map(|text| Origin::parse(text)).collect::<Result<_, _>>();
    let allowed_origins = allowed_origins.map_err(|error| bad(Trouble::new(format!("--allowed-origins: {error}"))))?;
    if args.background {
        detach();
    }
    Ok(serve::run(serve::Options {
        data_dir,
        listen: args.listen,
        token,
        allowed_origins,
        log_json: args.log == Log::Json,
        live_max: args.live_max.map(Into::into),
        queue_max: args.queue_max,
        output_limit: args.output_limit.map(Into::into),
    }))
}

/// Whoever starts a server in the background gives it null, a log and the root directory; the rest it does itself.
fn detach() {
    // Fails only for the leader of a process group, which then has a session of its own already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}
