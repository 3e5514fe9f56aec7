//! `longhaul token`: tokens with a scope, a project, directories and an end.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use longhaul_api::{Scope, TokenInfo, TokenRequest};
use longhaul_model::Timestamp;

use super::duration;
use super::escape::one_line;
use super::screen::Paint;
use super::session::Session;
use super::table::Table;
use super::trouble::Trouble;
use super::why::now;

/// Make, list and revoke tokens
///
/// A token lets its holder do what its scope says and no more. Give one to a program, or to a run that is to start
/// others: longhaul run --env LONGHAUL_TOKEN=TOKEN …
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and print it, once
    Create(Create),
    /// List tokens and shares, without their secrets
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke tokens or shares; streams that they opened end
    Revoke {
        /// Ids, as `longhaul token list` shows them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// How far it reaches
    #[arg(long, value_enum)]
    scope: Reach,
    /// For every project, not only this one; always so with scope admin
    #[arg(short = 'A', long, conflicts_with = "project")]
    all_projects: bool,
    /// Its runs may work in this directory and below only; may be given for several
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
    /// Its runs with a process at once [default: what the server allows a client]
    #[arg(long, value_name = "COUNT")]
    lane: Option<std::num::NonZeroUsize>,
    /// How long it is good for [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// A name for it; runs of tokens of one name count as one client's
    #[arg(long)]
    name: Option<String>,
    /// Print all about it as JSON
    #[arg(long)]
    json: bool,
}

/// The scopes as options have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reach {
    /// Look
    Read,
    /// Start runs, send them input, cancel them
    Run,
    /// Approve, settle, erase and share as well
    Operate,
    /// Make tokens and stop the server as well
    Admin,
}

impl From<Reach> for Scope {
    fn from(reach: Reach) -> Self {
        match reach {
            Reach::Read => Self::Read,
            Reach::Run => Self::Run,
            Reach::Operate => Self::Operate,
            Reach::Admin => Self::Admin,
        }
    }
}

/// Does it.
///
/// # Errors
/// The server refuses. Tokens named before that are revoked.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    match args.verb {
        Verb::Create(args) => create(args, session).await,
        Verb::List { json } => list(session, json).await,
        Verb::Revoke { ids } => revoke(session, &ids).await,
    }
}

async fn create(args: Create, session: &Session) -> Result<u8, Trouble> {
    let scope = Scope::from(args.scope);
    let mut allowed_roots = Vec::with_capacity(args.root.len());
    for root in &args.root {
        let real = root.canonicalize().map_err(|error| Trouble::new(format!("--root {}: {error}", root.display())))?;
        let text = real.into_os_string().into_string();
        allowed_roots.push(text.map_err(|_| Trouble::new(format!("--root {}: it is not UTF-8", root.display())))?);
    }
    let everywhere = args.all_projects || scope == Scope::Admin;
    let request = TokenRequest {
        scope,
        project: (!everywhere).then(|| session.project.clone()),
        allowed_roots,
        lane: args.lane.map(Into::into),
        ttl_ms: args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        name: args.name,
    };
    let token = session.client().await?.create_token(&request).await?;
    if args.json {
        let text = serde_json::to_string(&token).unwrap_or_default();
        session.screen.out(&format!("{text}\n"))?;
        return Ok(0);
    }
    session.screen.out(&format!("{}\n", token.token.as_deref().unwrap_or_default()))?;
    session.screen.note(&format!(
        "{}; it is shown this once.  revoke it: longhaul token revoke {}",
        about(&token),
        token.id
    ));
    Ok(0)
}

fn about(token: &TokenInfo) -> String {
    let place =
        token.project.as_ref().map_or_else(|| "every project".to_owned(), |project| format!("project {project}"));
    format!("scope {}, {place}, good until {}", token.scope, token.expires_at)
}

async fn list(session: &Session, json: bool) -> Result<u8, Trouble> {
    let tokens = session.client().await?.tokens().await?;
    if json {
        let text = serde_json::to_string(&tokens).unwrap_or_default();
        session.screen.out(&format!("{text}\n"))?;
        return Ok(0);
    }
    if tokens.data.is_empty() {
        session.screen.hint("there are no tokens");
        return Ok(0);
    }
    let mut table = Table::new(&["ID", "SCOPE", "PROJECT", "GOOD FOR", "NAME"]);
    let now = now();
    for token in &tokens.data {
        let cell = |text: String| (text, Paint::Plain);
        let scope = if token.run_id.is_some() { "share".to_owned() } else { token.scope.to_string() };
        let project = token.project.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        table.row(vec![
            cell(token.id.clone()),
            cell(scope),
            cell(project),
            left(token.expires_at, now),
            cell(one_line(&token.name)),
        ]);
    }
    session.screen.out(&table.show(session.screen.width, session.screen.out_colour))?;
    Ok(0)
}

fn left(until: Timestamp, now: Timestamp) -> (String, Paint) {
    match u64::try_from(until.unix_ms().saturating_sub(now.unix_ms())) {
        Ok(ms) if ms > 0 => (duration::show(Duration::from_millis(ms)), Paint::Plain),
        _ => ("expired".to_owned(), Paint::Dim),
    }
}

async fn revoke(session: &Session, ids: &[String]) -> Result<u8, Trouble> {
    let client = session.client().await?;
    for id in ids {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Trouble::new("a token is revoked by its id, which has letters and digits only")
                .help("ids: longhaul token list"));
        }
        client.revoke_token(id).await?;
        session.screen.out(&format!("{id}  revoked\n"))?;
    }
    Ok(0)
}
