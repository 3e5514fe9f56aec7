//! The files of a plan: what an agent is told of and no command line may hold.
//!
//! Job: write them before a launch. Owns: `files/` in a run's private directory, which goes with the run's secrets.
//! Never: leaves one readable for others, or goes on with what an earlier attempt left: they are made anew each time.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use longhaul_harness::PlanFile;

/// Where the files of a run with the private directory `tmp` are.
pub(crate) fn dir(tmp: &Path) -> PathBuf {
    tmp.join("files")
}

/// Writes `files` anew, 0600 in a directory of 0700. `tmp` is there and is ours. Nothing is synced: after a power cut no
/// agent is left that would read them, and the next attempt writes them again.
///
/// # Errors
/// Of the file system. Some may be written.
pub(crate) fn write(tmp: &Path, files: &[PlanFile]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let dir = dir(tmp);
    match fs::symlink_metadata(&dir) {
        // The last attempt's agent could write here: whatever it left is not followed.
        Ok(found) if found.is_dir() => fs::remove_dir_all(&dir)?,
        Ok(_) => fs::remove_file(&dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    for file in files {
        debug_assert!(Path::new(&file.name).components().count() == 1 && !file.name.contains('/'), "{}", file.name);
        let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(&file.name))?;
        to.write_all(&file.bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn they_are_private_and_made_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| [PlanFile { name: "mcp.json".to_owned(), bytes: bytes.to_vec() }];
        write(tmp.path(), &[]).unwrap();
        assert!(!dir(tmp.path()).exists());
        write(tmp.path(), &file(b"one, longer")).unwrap();
        write(tmp.path(), &file(b"two")).unwrap();
        let path = dir(tmp.path()).join("mcp.json");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir(tmp.path()))), (0o600, 0o700));
        // A link in the place of the directory leads nowhere.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::remove_dir_all(dir(tmp.path())).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir(tmp.path())).unwrap();
        write(tmp.path(), &file(b"three")).unwrap();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        assert_eq!(fs::read(&path).unwrap(), b"three");
    }
}
