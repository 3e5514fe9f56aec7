//! What configuration files say to a client.
//!
//! Job: the `[client]` table of the configuration file, and the project named by a `longhaul.toml` above the working
//! directory. Never: takes a server or a token from a `longhaul.toml`, since whoever wrote a
//! repository could then send a user's prompts and variables elsewhere.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::Config;

/// The largest file that is read; a client's settings are a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[client] server`, with the file it comes from.
    pub server: Option<(String, PathBuf)>,
    /// `[client] token`, or the content of `[client] token_file`.
    pub token: Option<String>,
    /// `project` of the nearest `longhaul.toml`, else `[client] project`.
    pub project: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct SettingsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Settings {
    /// What the configuration file says, then the nearest `longhaul.toml` at or above `cwd`. Variables are not asked
    /// here: they stand above both.
    ///
    /// # Errors
    /// [`SettingsError`]; an absent `longhaul.toml` is no error.
    pub fn load(config: &Config, cwd: Option<&Path>) -> Result<Self, SettingsError> {
        let own = |name| config.text_of_file(name).map(str::to_owned);
        let token = match (own("client.token"), own("client.token_file")) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => Some(token_file(Path::new(&file))?),
            (None, None) => None,
        };
        let server = own("client.server").zip(config.file.clone());
        let mut settings = Self { server, token, project: own("client.project") };
        for dir in cwd.into_iter().flat_map(Path::ancestors) {
            let path = dir.join("longhaul.toml");
            if let Some(table) = read(&path)? {
                settings.project = text(&path, &table, "project")?.or(settings.project);
                break;
            }
        }
        Ok(settings)
    }
}

/// The token in a file: its content without the white space around it.
///
/// # Errors
/// The file cannot be read or holds nothing.
pub fn token_file(path: &Path) -> Result<String, SettingsError> {
    let token = std::fs::read_to_string(path).map_err(|error| wrong(path, &error.to_string()))?;
    match token.trim() {
        "" => Err(wrong(path, "the file is empty; it must hold a token")),
        token => Ok(token.to_owned()),
    }
}

fn read(path: &Path) -> Result<Option<Table>, SettingsError> {
    match std::fs::metadata(path) {
        Ok(facts) if facts.len() > FILE_BYTES_MAX => return Err(wrong(path, "the file is over 1 MiB")),
        Ok(facts) if facts.is_file() => {}
        Ok(_) | Err(_) => return Ok(None),
    }
    let content = std::fs::read_to_string(path).map_err(|error| wrong(path, &error.to_string()))?;
    content.parse::<Table>().map(Some).map_err(|error| wrong(path, error.to_string().trim_end()))
}

fn text(path: &Path, table: &Table, key: &str) -> Result<Option<String>, SettingsError> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(wrong(path, &format!("`{key}` must be a text that is not empty"))),
    }
}

fn wrong(path: &Path, why: &str) -> SettingsError {
    SettingsError { path: path.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_names_its_project_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("config.toml");
        let inner = dir.path().join("repo/src");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(dir.path().join("token"), " s3cret\n").unwrap();
        let token_file = dir.path().join("token");
        let client = format!("[client]\nserver = \"10.0.0.1:1\"\ntoken_file = {token_file:?}\nproject = \"mine\"\n");
        std::fs::write(&user, client).unwrap();
        std::fs::write(dir.path().join("repo/longhaul.toml"), "project = \"p\"\n[client]\nserver = \"evil:1\"\n")
            .unwrap();
        let config = Config::load(Some(&user), &[], |_| None).unwrap();
        let settings = Settings::load(&config, Some(&inner)).unwrap();
        assert_eq!(
            settings,
            Settings {
                server: Some(("10.0.0.1:1".into(), user)),
                token: Some("s3cret".into()),
                project: Some("p".into())
            }
        );
    }

    #[test]
    fn a_mistake_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("longhaul.toml");
        for bad in ["project = 1", "project = \"\"", "[project"] {
            std::fs::write(&path, bad).unwrap();
            let error = Settings::load(&Config::default(), Some(dir.path())).unwrap_err();
            assert_eq!(error.path, path, "{bad}");
        }
    }
}
