//! The witness: one small file that says how far the journal was acknowledged.
//!
//! Job: written after each group's fsync and never synced itself, it is never ahead of what is durable; if it says more
//! than the journal holds, acknowledged commits are missing. After a power cut it may be old, which is fine.
//! Owns: the file `tail`. Never: holds anything that is not in the journal as well.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

use crate::error::{At, Result};
use crate::sqlite::sync_dir;

/// Its name in the directory.
pub(crate) const NAME: &str = "tail";
const BYTES: usize = 32;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Testimony {
    /// There is no file: the store was never finished, or was copied without it.
    Absent,
    /// It is empty or zero, as a power cut leaves a file that was never synced.
    Blank,
    /// Its checksum does not hold.
    Damaged,
    /// The journal of this store was acknowledged up to this row.
    Says { store: Uuid, acknowledged: u64 },
}

/// The open file.
pub(crate) struct Witness {
    file: File,
    store: Uuid,
}

impl Witness {
    pub(crate) fn read(dir: &Path) -> Result<Testimony> {
        let bytes = match std::fs::read(dir.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Testimony::Absent),
            Err(error) => return Err(error).at(NAME),
        };
        if bytes.iter().all(|b| *b == 0) {
            return Ok(Testimony::Blank);
        }
        let Ok(bytes) = <[u8; BYTES]>::try_from(bytes) else { return Ok(Testimony::Damaged) };
        let (mut store, mut acknowledged, mut crc) = ([0; 16], [0; 8], [0; 4]);
        store.copy_from_slice(&bytes[..16]);
        acknowledged.copy_from_slice(&bytes[16..24]);
        crc.copy_from_slice(&bytes[24..28]);
        if crc32fast::hash(&bytes[..24]) != u32::from_le_bytes(crc) || bytes[28..] != [0; 4] {
            return Ok(Testimony::Damaged);
        }
        Ok(Testimony::Says { store: Uuid::from_bytes(store), acknowledged: u64::from_le_bytes(acknowledged) })
    }

    /// Opens or makes the file; that it is there is durable, what it says is not.
    pub(crate) fn open(dir: &Path, store: Uuid, acknowledged: u64) -> Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(NAME)).at(NAME)?;
        let witness = Self { file, store };
        witness.file.set_len(BYTES as u64).at(NAME)?;
        witness.write(acknowledged)?;
        witness.file.sync_all().at(NAME)?;
        sync_dir(dir).at(NAME)?;
        Ok(witness)
    }

    pub(crate) fn write(&self, acknowledged: u64) -> Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(self.store.as_bytes());
        bytes[16..24].copy_from_slice(&acknowledged.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, 0).at(NAME)
    }
}
