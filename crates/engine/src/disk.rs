//! Room on the disk: new runs are refused while there is too little of it.
//!
//! Job: the bound, and whether the disk of the data directory is under it. Owns: nothing. Never: touches a run that was
//! accepted: it goes on, and the room that is kept is for it.

use std::path::Path;

/// What must be free for a new run; zero switches a bound off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFloor {
    /// Bytes.
    pub bytes: u64,
    /// Of the whole disk, from 0 to 99.
    pub percent: u64,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that an ordinary user can have.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that must be free for a new run.
    pub min_free_bytes: u64,
    /// The key of the configuration that the bound comes from.
    pub key: &'static str,
}

/// There is too little room for a new run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of the data directory has {} free, a new run needs {}: make room, or lower {} (0 switches it off)",
    mebibytes(.0.free_bytes), mebibytes(.0.min_free_bytes), .0.key
)]
pub struct DiskLow(pub Disk);

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

impl DiskFloor {
    /// Looks at the disk of a directory; `None` if it cannot be told.
    #[must_use]
    pub fn look(self, dir: &Path) -> Option<Disk> {
        let found = rustix::fs::statvfs(dir).ok()?;
        let (free, total) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
        Some(self.judge(free, total))
    }

    /// # Errors
    /// [`DiskLow`].
    pub(crate) fn check(self, dir: &Path) -> Result<(), DiskLow> {
        if self == Self::default() {
            return Ok(());
        }
        match self.look(dir) {
            Some(disk) if disk.is_low() => Err(DiskLow(disk)),
            _ => Ok(()),
        }
    }

    fn judge(self, free_bytes: u64, total_bytes: u64) -> Disk {
        let part = total_bytes / 100 * self.percent;
        let (min_free_bytes, key) = if part > self.bytes {
            (part, "limits.disk_free_min_percent")
        } else {
            (self.bytes, "limits.disk_free_min_bytes")
        };
        Disk { free_bytes, total_bytes, min_free_bytes, key }
    }
}

impl Disk {
    /// Whether new runs are refused.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.free_bytes < self.min_free_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_bound_counts_and_zero_is_none() {
        let gib = 1 << 30;
        for (bytes, percent, free, low, key) in [
            (2 * gib, 5, 3 * gib, false, "bytes"),
            (2 * gib, 5, 2 * gib - 1, true, "bytes"),
            (2 * gib, 50, 3 * gib, true, "percent"),
            (0, 5, 0, true, "percent"),
            (2 * gib, 0, gib, true, "bytes"),
            (0, 0, 0, false, "bytes"),
        ] {
            let disk = DiskFloor { bytes, percent }.judge(free, 20 * gib);
            assert_eq!((disk.is_low(), disk.key), (low, &*format!("limits.disk_free_min_{key}")), "{disk:?}");
        }
    }
}
