//! The yardstick: what the disk itself takes for a small durable append.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use super::limits::{DISK_BYTES, DISK_SAMPLES};
use super::sample::Tally;

/// Median time of a write of [`DISK_BYTES`] at the end of a file and its `fdatasync`, in milliseconds.
///
/// # Errors
/// The file could not be written.
pub fn measure(dir: &Path) -> io::Result<f64> {
    let path = dir.join("yardstick");
    let file = File::create(&path)?;
    let (mut tally, block) = (Tally::default(), [b'x'; DISK_BYTES]);
    for n in 0..DISK_SAMPLES {
        let began = Instant::now();
        file.write_all_at(&block, (n * DISK_BYTES) as u64)?;
        file.sync_data()?;
        tally.time(began.elapsed());
    }
    drop(file);
    fs::remove_file(&path)?;
    Ok(tally.percentile_ms(500).unwrap_or_default())
}

/// Whether what is written there is in memory only. Source: statfs(2), `TMPFS_MAGIC`, `RAMFS_MAGIC`.
pub fn is_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|fs| matches!(fs.f_type, 0x0102_1994 | 0x8584_58f6))
}
