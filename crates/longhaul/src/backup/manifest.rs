//! What a backup says of itself: version, store, cut, and the sum of each file.
//!
//! Job: `manifest.json`, written last and checked first. Never: takes a file that it does not name.

use std::io::{self, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use longhaul_model::Timestamp;
use longhaul_store_embedded::Cut;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BackupError;

/// Its name.
pub const MANIFEST: &str = "manifest.json";

/// The version of a backup's form.
pub(super) const FORMAT: u32 = 1;

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the backup's form.
    pub format: u32,
    /// The program that made it.
    pub version: String,
    /// When.
    pub made_at: Timestamp,
    /// The id of the store that it was made of.
    pub store_id: String,
    /// The last commit in it.
    pub position: u64,
    /// The last stream id that was given.
    pub streams_made: u64,
    /// Runs in it.
    pub runs: u64,
    /// Runs that were not over.
    pub live: u64,
    /// Whether the output of ended runs is in it.
    pub output: bool,
    /// Every file.
    pub files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the backup.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its sum, hex.
    pub sha256: String,
}

impl Manifest {
    /// Sums up every file of a backup in the making.
    pub(super) fn of(dir: &Path, cut: Cut, output: bool, at: Timestamp) -> Result<Self, BackupError> {
        let mut paths = Vec::new();
        walk(dir, dir, &mut paths).map_err(|source| BackupError::Io { path: dir.to_owned(), source })?;
        paths.sort();
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let full = dir.join(&path);
            let (bytes, sha256) =
                pass(&full, &mut io::sink()).map_err(|source| BackupError::Io { path: full.clone(), source })?;
            files.push(Entry { path: path.to_string_lossy().into_owned(), bytes, sha256 });
        }
        Ok(Self {
            format: FORMAT,
            version: crate::VERSION.to_owned(),
            made_at: at,
            store_id: cut.store.to_string(),
            position: cut.position,
            streams_made: cut.streams_made,
            runs: cut.runs,
            live: cut.live,
            output,
            files,
        })
    }

    /// Makes everything else durable, then the manifest.
    pub(super) fn write(&self, dir: &Path) -> Result<(), BackupError> {
        let path = dir.join(MANIFEST);
        let written = || -> io::Result<()> {
            rustix::fs::syncfs(std::fs::File::open(dir)?)?;
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::File::open(dir)?.sync_all()
        };
        written().map_err(|source| BackupError::Io { path: path.clone(), source })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl Entry {
    /// Where it is in a directory; `None` if the path leads out of it.
    pub(super) fn below(&self, dir: &Path) -> Option<PathBuf> {
        let path = Path::new(&self.path);
        let plain = !self.path.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| dir.join(path))
    }
}

/// Reads a file to its end and writes it on: its length and its sum.
pub(super) fn pass(path: &Path, to: &mut impl io::Write) -> io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    Ok((bytes, sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn walk(root: &Path, dir: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            walk(root, &path, out)?;
        } else if let Ok(below) = path.strip_prefix(root) {
            out.push(below.to_owned());
        }
    }
    Ok(())
}
