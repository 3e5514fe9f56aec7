//! Files that are there whole or not at all, also after a power cut.
//!
//! Job: temp + fsync + rename + directory fsync, and bounded reads of small records.
//! Owns: the temp names `.<name>.new`. Never: interprets what it writes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one look for zeros.
const PIECE_BYTES: usize = 64 * 1024;

fn temp(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.new"))
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a private directory; it must not exist.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Writes a new private file and makes its content durable, not yet its name.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if bytes.is_empty() { Ok(()) } else { file.sync_all() }
}

/// Puts a file under its name in one step; returns when content and name are durable.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temp = temp(dir, name);
    write_synced(&temp, bytes)?;
    std::fs::rename(&temp, dir.join(name))?;
    sync_dir(dir)
}

/// A file whose blocks are held in advance, so that it can be written when the disk is full.
#[derive(Debug)]
pub(crate) struct Reserve {
    file: File,
    temp: PathBuf,
    bytes: usize,
}

impl Reserve {
    /// Opens the reserve of `name` as it was left, or makes one of `bytes` blanks.
    pub(crate) fn open(dir: &Path, name: &str, bytes: usize) -> io::Result<Self> {
        let temp = temp(dir, name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&temp)?;
        if file.metadata()?.len() < bytes as u64 {
            file.write_all_at(&vec![b' '; bytes], 0)?;
        }
        Ok(Self { file, temp, bytes })
    }

    /// Fills the reserve with JSON, padded with blanks, and puts it under its name in one step; returns when content
    /// and name are durable. May be called again after an error.
    pub(crate) fn commit(&self, dir: &Path, name: &str, json: &[u8]) -> io::Result<()> {
        let mut padded = json.to_vec();
        padded.resize(json.len().max(self.bytes - 1), b' ');
        padded.push(b'\n');
        self.file.write_all_at(&padded, 0)?;
        self.file.set_len(padded.len() as u64)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temp, dir.join(name))?;
        sync_dir(dir)
    }
}

/// Cuts off the zeros that a file ends in, durably; absent is fine.
pub(crate) fn cut_zeros(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    let mut piece = vec![0; PIECE_BYTES];
    let mut end = len;
    while end > 0 {
        let from = end.saturating_sub(PIECE_BYTES as u64);
        let bytes = &mut piece[..(end - from) as usize];
        file.read_exact_at(bytes, from)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            end = from + last as u64 + 1;
            break;
        }
        end = from;
    }
    if end < len {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Reads a small file whole; absent is `None`, larger than `bytes_max` an error.
pub(crate) fn read_small(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

/// Removes a file; absent is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
