//! `longhaul config`: check the configuration, print it with its sources, or print its schema.
//!
//! Never: prints a token.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::Subcommand;
use longhaul_engine::Retention;

use super::duration;
use super::session::Session;
use super::trouble::{BAD_CONFIG, Trouble};
use crate::client::token_file;
use crate::config::{ConfigError, KEYS, Kind, Value, schema, show_upstream};
use crate::serve::{LISTEN_DEFAULT, live_max_default};
use crate::traces::Target;

/// Look at the configuration
///
/// The file is that of --config, else $XDG_CONFIG_HOME/longhaul/config.toml, else /etc/longhaul/config.toml. Variables
/// stand above it, options above both. The exit status is 78 if it cannot be used.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say every mistake in it, with file and line
    Check,
    /// Print each value and where it comes from; never a secret
    Print,
    /// Print the JSON Schema of the file
    Schema,
}

/// Does it.
///
/// # Errors
/// The configuration cannot be used.
pub fn run(args: &Args, session: &Session) -> Result<u8, Trouble> {
    match args.verb {
        Verb::Check => check(session),
        Verb::Print => print(session),
        Verb::Schema => {
            session.screen.out(&format!("{:#}\n", schema()))?;
            Ok(0)
        }
    }
}

/// The session has read it all and refused mistakes; what is left is what only a start would show.
fn check(session: &Session) -> Result<u8, Trouble> {
    let config = &session.config;
    let mut mistakes = Vec::new();
    let mut token = session.finder.token.is_some();
    if let Some((Value::Text(file), source)) = config.get("server.token_file") {
        match token_file(file.as_ref()) {
            Ok(_) => token = true,
            Err(error) => mistakes.push(format!("{source}: {error}")),
        }
    }
    if let Some((Value::Text(listen), source)) = config.get("server.listen")
        && listen.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_loopback())
        && !token
    {
        mistakes.push(format!("{source}: {listen} can be reached from elsewhere and needs a token: set token_file"));
    }
    if let Err(mistake) = Target::of(config) {
        mistakes.push(mistake.to_string());
    }
    if !mistakes.is_empty() {
        return Err(Trouble::from(ConfigError(mistakes)).status(BAD_CONFIG));
    }
    let what = match &config.file {
        Some(path) => format!("{}: all is well\n", path.display()),
        None => "there is no configuration file; all is well\n".to_owned(),
    };
    session.screen.out(&what)?;
    Ok(0)
}

fn print(session: &Session) -> Result<u8, Trouble> {
    let mut out = match &session.config.file {
        Some(path) => format!("# {}\n", path.display()),
        None => "# there is no configuration file\n".to_owned(),
    };
    let mut table = "";
    for key in KEYS {
        let Some((of, name)) = key.name.split_once('.') else { continue };
        if of != table {
            table = of;
            let _ = writeln!(out, "\n[{table}]");
        }
        let _ = match (session.config.get(key.name), default(key.name, session)) {
            _ if key.name == "server.data_dir" && session.data_dir_named => {
                writeln!(out, "{name} = {}  # --data-dir", data_dir(session))
            }
            (Some((_, source)), _) if key.kind == Kind::Secret => {
                writeln!(out, "# {name} is set and not shown  # {source}")
            }
            (Some((value, source)), _) => writeln!(out, "{name} = {value}  # {source}"),
            (None, Some(value)) => writeln!(out, "{name} = {value}  # default"),
            (None, None) => writeln!(out, "# {name} is not set"),
        };
    }
    for upstream in session.config.upstreams() {
        let source = session.config.upstream_source(&upstream.name).map(|source| format!("  # {source}"));
        let table = show_upstream(&upstream).replacen('\n', &format!("{}\n", source.unwrap_or_default()), 1);
        let _ = write!(out, "\n{table}");
    }
    session.screen.out(&out)?;
    Ok(0)
}

/// What holds where nothing is said.
fn default(name: &str, session: &Session) -> Option<Value> {
    use longhaul_model::limits;
    Some(match name {
        "server.listen" => Value::Text(LISTEN_DEFAULT.to_owned()),
        "server.data_dir" => session.finder.data_dir.as_ref().map(|_| data_dir(session))?,
        "server.cgroup" => Value::Text("own".to_owned()),
        "server.log" => Value::Text("text".to_owned()),
        "server.allowed_origins" => Value::List(vec![]),
        "limits.live_max" => Value::Number(live_max_default() as u64),
        "limits.queue_max" => Value::Number(limits::QUEUE_MAX as u64),
        "limits.harness_max" | "limits.reserve" => Value::List(vec![]),
        "limits.keep_output" => Value::Text(duration::show(Retention::default().output)),
        "limits.keep_events" => Value::Text(duration::show(Retention::default().events)),
        "limits.keep_bytes" => Value::Number(Retention::default().bytes_max),
        "limits.disk_free_min_bytes" => Value::Number(limits::DISK_FREE_MIN_BYTES),
        "limits.disk_free_min_percent" => Value::Number(limits::DISK_FREE_MIN_PERCENT),
        "limits.output_limit" => Value::Number(limits::SPOOL_BYTES_MAX),
        "telemetry.service_name" => Value::Text("longhaul".to_owned()),
        _ => return None,
    })
}

fn data_dir(session: &Session) -> Value {
    let dir = session.finder.data_dir.as_deref().map(|dir| dir.display().to_string());
    Value::Text(dir.unwrap_or_default())
}
