//! One use of the command line: options, environment, screen, and the way to a server.
//!
//! Job: what every verb needs, resolved in the order of DESIGN 9. Owns: what is said once about a server on the way to
//! it (that it was started, that its version differs). Never: knows a verb.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use longhaul_model::ProjectId;

use super::args::Global;
use super::environment::Environment;
use super::project;
use super::screen::Screen;
use super::trouble::Trouble;
use crate::client::{Client, Finder, Launched, Origin, Settings, Starting, token_file};
use crate::config::Config;

/// The version of this program.
pub const VERSION: &str = crate::VERSION;

/// What a verb works with.
#[derive(Debug)]
pub struct Session {
    /// Variables and the working directory.
    pub environment: Environment,
    /// The output streams.
    pub screen: Screen,
    /// What file and variables say.
    pub config: Config,
    /// Whether the token is an option's or a variable's, which stands above every file.
    pub token_given: bool,
    /// Whether the data directory is an option's.
    pub data_dir_named: bool,
    /// How a server is found.
    pub finder: Finder,
    /// The project, and whether it was named by an option.
    pub project: ProjectId,
    skew_said: Cell<bool>,
}

impl Session {
    /// From options and environment.
    ///
    /// # Errors
    /// A configuration file or an option cannot be used.
    pub fn new(global: Global, environment: Environment) -> Result<Self, Trouble> {
        let named = global.config.as_deref().map(|file| absolute(file, &environment)).transpose()?;
        let config = Config::load(named.as_deref(), &environment.config_files(), |name| environment.text(name))?;
        let settings = Settings::load(&config, environment.cwd.as_deref())?;
        let named = global.project.as_deref().or(environment.project()).or(settings.project.as_deref());
        let project = match named {
            Some(name) => ProjectId::parse(name).map_err(|error| Trouble::new(format!("project {name:?}: {error}")))?,
            None => project::of_directory(environment.cwd.as_deref()),
        };
        let finder = finder(&global, &config, &settings, &environment)?;
        let token_given = global.token.is_some() || environment.token().is_some();
        let data_dir_named = global.data_dir.is_some();
        Ok(Self {
            config,
            token_given,
            data_dir_named,
            screen: Screen::look(&environment),
            finder,
            project,
            environment,
            skew_said: Cell::new(false),
        })
    }

    /// The data directory.
    ///
    /// # Errors
    /// Nothing says where it is.
    pub fn data_dir(&self) -> Result<&Path, Trouble> {
        Ok(self.finder.data_dir()?)
    }

    /// A path as this directory sees it.
    ///
    /// # Errors
    /// It is relative, and the working directory is gone.
    pub fn absolute(&self, path: &Path) -> Result<PathBuf, Trouble> {
        absolute(path, &self.environment)
    }

    /// A server that answers, started if need be.
    ///
    /// # Errors
    /// None can be found or started.
    pub async fn client(&self) -> Result<Client, Trouble> {
        let found = self.finder.find(Starting::Allowed).await?;
        if let Some(launched) = &found.launched {
            self.say_launched(launched);
        }
        if let Some(version) = found.version.as_deref().filter(|version| *version != VERSION)
            && !self.skew_said.replace(true)
        {
            self.screen.note(&skew(version, found.client.address()));
        }
        Ok(found.client.in_trace(self.environment.text("TRACEPARENT"), self.environment.text("TRACESTATE")))
    }

    /// The same for a verb that only looks: where nothing was ever stored there is nothing to see and no reason to
    /// start a server. `None` says so.
    ///
    /// # Errors
    /// None can be found or started.
    pub async fn client_if_any(&self) -> Result<Option<Client>, Trouble> {
        if self.finder.named.is_none() && !self.data_dir()?.join("server.json").exists() {
            let stored = std::fs::read_dir(self.data_dir()?).is_ok_and(|mut entries| entries.next().is_some());
            if !stored {
                return Ok(None);
            }
        }
        self.client().await.map(Some)
    }

    /// The one line about a server that was started.
    pub fn say_launched(&self, launched: &Launched) {
        self.screen.note(&format!("started server pid {} at http://{}", launched.pid, launched.address));
    }
}

/// The one line about two versions that meet.
fn skew(server: &str, address: &str) -> String {
    let number = |version: &str| -> Option<Vec<u64>> {
        version.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    let remedy = match (number(server), number(VERSION)) {
        (Some(theirs), Some(ours)) if theirs < ours => "bring it up to date: longhaul server restart (runs go on)",
        (Some(_), Some(_)) => "update this client",
        _ => "install the same version of both",
    };
    format!("longhaul: this is version {VERSION}, the server at {address} is {server}; {remedy}")
}

fn finder(global: &Global, config: &Config, settings: &Settings, environment: &Environment) -> Result<Finder, Trouble> {
    let data_dir = match &global.data_dir {
        Some(dir) => Some(absolute(dir, environment)?),
        None => config.text("server.data_dir").map(PathBuf::from).or_else(|| environment.data_dir()),
    };
    // An explicit data directory names its server, whatever the surroundings say.
    let surroundings = global.data_dir.is_none();
    let named = if let Some(address) = &global.server {
        Some((address.clone(), Origin::Flag))
    } else if let Some(address) = environment.server().filter(|_| surroundings) {
        Some((address.to_owned(), Origin::Variable))
    } else {
        settings.server.clone().filter(|_| surroundings).map(|(address, file)| (address, Origin::File(file)))
    };
    let token = global.token.clone().or_else(|| environment.token().map(ToOwned::to_owned));
    let token = token.or_else(|| settings.token.clone());
    // The token of our own server is nobody else's.
    let of_server = || config.text("server.token_file").filter(|_| named.is_none()).map(Path::new);
    let token = token.or_else(|| of_server().and_then(|file| token_file(file).ok()));
    Ok(Finder {
        token,
        named,
        data_dir,
        inside_run: environment.inside_run().map(ToOwned::to_owned),
        listen: config.text("server.listen").map(ToOwned::to_owned),
        config: config.file.clone().filter(|_| config.named),
    })
}

fn absolute(dir: &Path, environment: &Environment) -> Result<PathBuf, Trouble> {
    match &environment.cwd {
        _ if dir.is_absolute() => Ok(dir.to_owned()),
        Some(cwd) => Ok(cwd.join(dir)),
        None => Err(Trouble::new(format!("{} is relative, and the working directory is gone", dir.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_server_wins_in_order() {
        let named = |server: Option<&str>, dir: Option<&str>, env: Option<&str>| {
            let global = Global { server: server.map(Into::into), data_dir: dir.map(Into::into), ..Global::default() };
            let environment = Environment::of(env.map(|address| ("LONGHAUL_SERVER", address)));
            let settings = Settings { server: Some(("file:1".into(), "/c".into())), ..Settings::default() };
            finder(&global, &Config::default(), &settings, &environment).unwrap().named.map(|(address, _)| address)
        };
        assert_eq!(named(Some("flag:1"), Some("/d"), Some("env:1")).as_deref(), Some("flag:1"));
        assert_eq!(named(None, None, Some("env:1")).as_deref(), Some("env:1"));
        assert_eq!(named(None, None, None).as_deref(), Some("file:1"));
        assert_eq!(named(None, Some("/d"), Some("env:1")), None);
    }

    #[test]
    fn a_skew_has_a_remedy() {
        assert!(skew("0.0.9", "h").ends_with("longhaul server restart (runs go on)"));
        assert!(skew("99.0.0", "h").ends_with("update this client"));
        assert!(skew("weird", "h").ends_with("the same version of both"));
    }
}
