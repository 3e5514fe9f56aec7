//! The verbs and the options they share.
//!
//! Job: the grammar, and from each verb to its file. Never: does what a verb does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use longhaul_model::event::Decision;

use super::environment::Environment;
use super::session::Session;
use super::trouble::{BAD_CONFIG, OWN, Trouble};
use super::{
    approve, attach, backup, bench, cancel, completions, config, doctor, drain, inspect, logs, prune, ps, restore,
    resume, rm, run, send, serve, server, service, sessions, share, token, verify, version, wait, why,
};

/// What a new user sees last.
const FIRST_STEPS: &str = "\
First steps:
  longhaul run demo                           a run that needs no agent, key or network
  longhaul run claude \"explain this project\"  a coding agent, in this directory
  longhaul run -- make test                   any command
  longhaul ps                                 what runs; longhaul attach comes back to it";

/// Keeps AI agent runs alive.
#[derive(Debug, Parser)]
#[command(
    name = "longhaul",
    version,
    about = "Keeps AI agent runs alive.",
    after_help = FIRST_STEPS,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Server, HOST:PORT [default: LONGHAUL_SERVER, the config file, or that of --data-dir]
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Global options")]
    pub server: Option<String>,
    /// Token for the server; LONGHAUL_TOKEN keeps it from other users' eyes
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Global options")]
    pub token: Option<String>,
    /// Where the server keeps everything [default: ~/.local/state/longhaul]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file [default: $XDG_CONFIG_HOME/longhaul/config.toml, else /etc/longhaul/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Project [default: the name of the git root, else default]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub project: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Ps(ps::Args),
    Attach(attach::Args),
    Logs(logs::Args),
    Wait(wait::Args),
    Send(send::Args),
    Approve(approve::Args),
    /// Refuse what an agent asks for
    Deny(approve::Args),
    Cancel(cancel::Args),
    Resume(Box<resume::Args>),
    Inspect(inspect::Args),
    Why(why::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Sessions(sessions::Args),
    Share(share::Args),
    Token(token::Args),
    Serve(Box<serve::Args>),
    Server(server::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Service(service::Args),
    Drain(drain::Args),
    Verify(verify::Args),
    Doctor(doctor::Args),
    Bench(Box<bench::Args>),
    Config(config::Args),
    /// Print the version
    Version,
    Completions(completions::Args),
}

/// Does what the command line says and gives the exit status.
pub fn main(words: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // A reader that left does not want to hear about it.
            let _ = error.print();
            return if wrong { OWN } else { 0 };
        }
    };
    let environment = Environment::capture();
    match cli.dispatch(environment) {
        Ok(status) => status,
        Err(trouble) => {
            if !trouble.what.is_empty() {
                let mut line = trouble.to_string();
                line.push('\n');
                let _ = rustix::io::write(std::io::stderr(), line.as_bytes());
            }
            trouble.status
        }
    }
}

impl Cli {
    fn dispatch(self, environment: Environment) -> Result<u8, Trouble> {
        // Of a client's verbs 78 could be the agent's own status.
        let of_server = matches!(self.verb, Verb::Serve(_) | Verb::Server(_) | Verb::Config(_));
        let bad = |trouble: Trouble| if of_server { trouble.status(BAD_CONFIG) } else { trouble };
        let session = Session::new(self.global, environment).map_err(bad)?;
        match self.verb {
            Verb::Serve(args) => return serve::run(*args, &session),
            Verb::Service(args) => return service::run(args, &session),
            Verb::Verify(args) => return verify::run(&args, &session),
            Verb::Config(args) => return config::run(&args, &session),
            Verb::Bench(args) => return bench::run(&args, &session),
            Verb::Version => return version::run(&session),
            Verb::Completions(args) => return completions::run(&args, &session),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Trouble::new(format!("could not start: {error}")))?;
        let status = runtime.block_on(self.verb.over_http(&session));
        // A read of stdin that never ends must not keep the process.
        runtime.shutdown_background();
        status
    }
}

impl Verb {
    async fn over_http(self, session: &Session) -> Result<u8, Trouble> {
        match self {
            Self::Run(args) => run::run(*args, session).await,
            Self::Ps(args) => ps::run(args, session).await,
            Self::Attach(args) => attach::run(args, session).await,
            Self::Logs(args) => logs::run(args, session).await,
            Self::Wait(args) => wait::run(args, session).await,
            Self::Send(args) => send::run(args, session).await,
            Self::Approve(args) => approve::run(args, Decision::Allow, session).await,
            Self::Deny(args) => approve::run(args, Decision::Deny, session).await,
            Self::Cancel(args) => cancel::run(args, session).await,
            Self::Resume(args) => resume::run(*args, session).await,
            Self::Inspect(args) => inspect::run(args, session).await,
            Self::Why(args) => why::run(args, session).await,
            Self::Rm(args) => rm::run(args, session).await,
            Self::Prune(args) => prune::run(args, session).await,
            Self::Sessions(args) => sessions::run(args, session).await,
            Self::Backup(args) => backup::run(args, session).await,
            Self::Restore(args) => restore::run(args, session).await,
            Self::Share(args) => share::run(args, session).await,
            Self::Token(args) => token::run(args, session).await,
            Self::Server(args) => server::run(args, session).await,
            Self::Drain(args) => drain::run(args, session).await,
            Self::Doctor(args) => doctor::run(args, session).await,
            Self::Serve(_)
            | Self::Service(_)
            | Self::Verify(_)
            | Self::Config(_)
            | Self::Bench(_)
            | Self::Version
            | Self::Completions(_) => Ok(OWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for words in [
            &["longhaul", "--server", "h:1", "ps"][..],
            &["longhaul", "ps", "--server", "h:1"],
            &["longhaul", "server", "status", "--server", "h:1"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.global.server.as_deref(), Some("h:1"), "{words:?}");
        }
    }
}
