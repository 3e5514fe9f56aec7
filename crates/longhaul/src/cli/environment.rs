//! What the command line takes from the process around it: variables, directories, terminals.
//!
//! Job: the one place of the command line that reads the environment; everything else gets values.
//! Never: decides anything beyond where the data directory is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The variable that holds the bearer token; it is never passed on.
pub const TOKEN: &str = "LONGHAUL_TOKEN";

/// Variables of the invoking shell that say who and where we are.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    vars: BTreeMap<OsString, OsString>,
    /// The working directory, if it exists.
    pub cwd: Option<PathBuf>,
}

impl Environment {
    /// As it is now.
    pub fn capture() -> Self {
        Self { vars: std::env::vars_os().collect(), cwd: std::env::current_dir().ok() }
    }

    /// An environment made of these variables.
    #[cfg(test)]
    pub fn of<'a>(vars: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { vars: vars.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), cwd: None }
    }

    /// A variable that is set, not empty and text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.vars.get(std::ffi::OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    /// A variable as text, even if empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.vars.get(std::ffi::OsStr::new(name))?.to_str()
    }

    /// `LONGHAUL_SERVER`.
    pub fn server(&self) -> Option<&str> {
        self.text("LONGHAUL_SERVER")
    }

    /// `LONGHAUL_TOKEN`.
    pub fn token(&self) -> Option<&str> {
        self.text(TOKEN)
    }

    /// The run around us: `LONGHAUL_RUN_ID`.
    pub fn inside_run(&self) -> Option<&str> {
        self.text("LONGHAUL_RUN_ID")
    }

    /// The project of the run around us: `LONGHAUL_PROJECT`.
    pub fn project(&self) -> Option<&str> {
        self.text("LONGHAUL_PROJECT")
    }

    /// Whether `NO_COLOR` asks for none. Source: no-color.org.
    pub fn no_color(&self) -> bool {
        self.text("NO_COLOR").is_some() || self.text("TERM") == Some("dumb")
    }

    /// The data directory: `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/longhaul`, `~/.local/state/longhaul`.
    pub fn data_dir(&self) -> Option<PathBuf> {
        // systemd joins several directories with colons; ours is the first.
        if let Some(dirs) = self.text("STATE_DIRECTORY") {
            return dirs.split(':').next().map(PathBuf::from).filter(|dir| dir.is_absolute());
        }
        let state = self.absolute("XDG_STATE_HOME").or_else(|| Some(self.absolute("HOME")?.join(".local/state")))?;
        Some(state.join("longhaul"))
    }

    /// Configuration files, the strongest first.
    pub fn config_files(&self) -> Vec<PathBuf> {
        let user = self.absolute("XDG_CONFIG_HOME").or_else(|| Some(self.absolute("HOME")?.join(".config")));
        let user = user.map(|dir| dir.join("longhaul/config.toml"));
        user.into_iter().chain([PathBuf::from("/etc/longhaul/config.toml")]).collect()
    }

    /// Every variable that is text, without our own: the token, and what names a run or a server around us.
    pub fn captured(&self) -> BTreeMap<String, String> {
        self.vars
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
            .filter(|(name, _)| !name.is_empty() && !name.contains('=') && !name.starts_with("LONGHAUL_"))
            .collect()
    }

    fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_dir_follows_the_order() {
        let dir = |vars: &[(&str, &str)]| Environment::of(vars.iter().copied()).data_dir();
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a:/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Some("/a".into()));
        assert_eq!(dir(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Some("/x/longhaul".into()));
        assert_eq!(dir(&[("XDG_STATE_HOME", "rel"), ("HOME", "/h")]), Some("/h/.local/state/longhaul".into()));
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn the_token_is_not_captured() {
        let environment =
            Environment::of([("LONGHAUL_TOKEN", "t"), ("LONGHAUL_RUN_ID", "r"), ("PATH", "/bin"), ("E", "")]);
        let want = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned()), ("E".to_owned(), String::new())]);
        assert_eq!(environment.captured(), want);
    }
}
