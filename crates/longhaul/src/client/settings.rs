//! What configuration files say to a client.
//!
//! Job: the `[client]` table of the user's and the host's `config.toml`, and the project named by a `longhaul.toml`
//! above the working directory. Never: takes a server or a token from a `longhaul.toml`, since whoever wrote a
//! repository could then send a user's prompts and variables elsewhere.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

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
    /// Reads `files`, the first one that says something winning, then the nearest `longhaul.toml` at or above `cwd`.
    ///
    /// # Errors
    /// [`SettingsError`]; an absent file is no error.
    pub fn load(files: &[PathBuf], cwd: Option<&Path>) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        for path in files {
            if let Some(table) = read(path)? {
                settings.add(path, &table)?;
            }
        }
        for dir in cwd.into_iter().flat_map(Path::ancestors) {
            let path = dir.join("longhaul.toml");
            if let Some(table) = read(&path)? {
                settings.project = text(&path, &table, "project")?.or(settings.project);
                break;
            }
        }
        Ok(settings)
    }

    fn add(&mut self, path: &Path, table: &Table) -> Result<(), SettingsError> {
        let client = match table.get("client") {
            None => return Ok(()),
            Some(Value::Table(client)) => client,
            Some(_) => return Err(wrong(path, "`client` must be a table")),
        };
        if self.server.is_none() {
            self.server = text(path, client, "server")?.map(|server| (server, path.to_owned()));
        }
        if self.token.is_none() {
            self.token = match (text(path, client, "token")?, text(path, client, "token_file")?) {
                (Some(token), _) => Some(token),
                (None, Some(file)) => Some(token_file(Path::new(&file))?),
                (None, None) => None,
            };
        }
        if self.project.is_none() {
            self.project = text(path, client, "project")?;
        }
        Ok(())
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
        let host = dir.path().join("host.toml");
        let inner = dir.path().join("repo/src");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(dir.path().join("token"), " s3cret\n").unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&user, format!("[client]\ntoken_file = {token_file:?}\nproject = \"mine\"\n[server]\nx = 1\n"))
            .unwrap();
        std::fs::write(&host, "[client]\nserver = \"10.0.0.1:1\"\ntoken = \"other\"\n").unwrap();
        std::fs::write(dir.path().join("repo/longhaul.toml"), "project = \"p\"\n[client]\nserver = \"evil:1\"\n")
            .unwrap();
        let settings = Settings::load(&[user, host.clone()], Some(&inner)).unwrap();
        assert_eq!(
            settings,
            Settings {
                server: Some(("10.0.0.1:1".into(), host)),
                token: Some("s3cret".into()),
                project: Some("p".into())
            }
        );
    }

    #[test]
    fn a_mistake_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for bad in ["client = 1", "[client]\nserver = 3", "[client]\ntoken = \"\"", "[client"] {
            std::fs::write(&path, bad).unwrap();
            let error = Settings::load(std::slice::from_ref(&path), None).unwrap_err();
            assert_eq!(error.path, path, "{bad}");
        }
        assert_eq!(Settings::load(&[dir.path().join("absent")], None).unwrap(), Settings::default());
    }
}
