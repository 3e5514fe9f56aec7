//! The project a command works in when none is named.
//!
//! Job: the name of the git root's directory, made into an id. Never: asks git or reads what is in the repository.

use std::path::Path;

use longhaul_model::{ProjectId, limits};

/// The project of a directory: the name of the nearest directory at or above it that has a `.git`, else `default`.
pub fn of_directory(cwd: Option<&Path>) -> ProjectId {
    let root = cwd.into_iter().flat_map(Path::ancestors).find(|dir| dir.join(".git").exists());
    let name = root.and_then(Path::file_name).map(|name| sanitise(&name.to_string_lossy()));
    name.and_then(|name| ProjectId::parse(&name).ok()).unwrap_or_else(ProjectId::default_project)
}

/// A name as an id: every run of characters that an id may not hold becomes one `-`, none at the ends.
fn sanitise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        let allowed = c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '~' | '@' | '-');
        if allowed {
            out.push(c);
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    let trimmed = out.trim_matches('-');
    trimmed[..trimmed.len().min(limits::ID_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_ids() {
        for (name, want) in [
            ("longhaul", "longhaul"),
            ("my project (2)", "my-project-2"),
            ("käse brot", "k-se-brot"),
            ("--x--", "x"),
            ("日本", ""),
            ("a.b_c~d@e", "a.b_c~d@e"),
        ] {
            assert_eq!(sanitise(name), want, "{name}");
        }
        assert_eq!(sanitise(&"x".repeat(300)).len(), 255);
    }

    #[test]
    fn the_git_root_names_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("My Repo/src/deep");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir(dir.path().join("My Repo/.git")).unwrap();
        assert_eq!(of_directory(Some(&deep)).as_str(), "My-Repo");
        assert_eq!(of_directory(None).as_str(), "default");
    }
}
