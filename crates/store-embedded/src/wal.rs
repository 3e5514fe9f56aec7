//! A walk over a SQLite write-ahead log before SQLite opens it.
//!
//! Job: tell a torn end, which a power cut leaves and which holds nothing acknowledged, from damage with committed
//! transactions behind it, which SQLite's own recovery would drop without a word. Owns: nothing. Never: writes.
//! Source: <https://sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use crate::error::{At, Fault, Result};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// What a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Walk {
    /// Frames up to the last one whose checksum holds.
    pub(crate) frames: u64,
    /// Frames up to the last commit mark among them: what recovery will take.
    pub(crate) committed: u64,
}

/// Walks the log beside a database file; a log that is not there is empty.
pub(crate) fn walk(database: &Path) -> Result<Walk> {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let path = Path::new(&path);
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Walk::default()),
        Err(error) => return Err(error).at(&name),
    };
    let bytes = file.metadata().at(&name)?.len();
    Walker { input: BufReader::with_capacity(256 << 10, file), name, bytes }.walk()
}

struct Walker {
    input: BufReader<File>,
    name: String,
    bytes: u64,
}

struct Frame {
    /// It carries the salts of this log; frames of the log's earlier rounds carry others.
    ours: bool,
    commit: bool,
    /// Its checksum follows from the frame before.
    sound: bool,
    sum: (u32, u32),
}

impl Frame {
    fn read(bytes: &[u8], salts: &[u8], sum: (u32, u32), big: bool) -> Self {
        let sum = checksum(checksum(sum, &bytes[..8], big), &bytes[FRAME_HEADER_BYTES..], big);
        let ours = &bytes[8..16] == salts;
        let sound = ours && be(bytes, 0) != 0 && sum == (be(bytes, 16), be(bytes, 20));
        Self { ours, commit: be(bytes, 4) != 0, sound, sum }
    }
}

impl Walker {
    fn walk(mut self) -> Result<Walk> {
        if self.bytes < HEADER_BYTES as u64 {
            // The header is the first write of a new log and is synced before any frame.
            return Ok(Walk::default());
        }
        let mut header = [0; HEADER_BYTES];
        self.input.read_exact(&mut header).at(&self.name)?;
        if header == [0; HEADER_BYTES] {
            return self.only_zeros();
        }
        let magic = be(&header, 0);
        let page_bytes = be(&header, 8) as usize;
        let big = magic == MAGIC | 1;
        let mut sum = checksum((0, 0), &header[..24], big);
        let sound = magic & !1 == MAGIC
            && be(&header, 4) == 3_007_000
            && page_bytes.is_power_of_two()
            && (512..=65_536).contains(&page_bytes)
            && sum == (be(&header, 24), be(&header, 28));
        if !sound {
            if self.bytes == HEADER_BYTES as u64 {
                return Ok(Walk::default());
            }
            let behind = self.bytes - HEADER_BYTES as u64;
            return Err(Fault::corrupt(
                format!("{}, header at byte 0", self.name),
                format!("the log's header is damaged, {behind} bytes of frames stand behind it"),
            ));
        }
        let salts = &header[16..24];
        let frame_bytes = FRAME_HEADER_BYTES + page_bytes;
        let mut buffer = vec![0; frame_bytes];
        let mut walk = Walk::default();
        let total = (self.bytes - HEADER_BYTES as u64) / frame_bytes as u64;
        let mut number = 0;
        let broken = loop {
            if number == total {
                return Ok(walk);
            }
            self.input.read_exact(&mut buffer).at(&self.name)?;
            number += 1;
            let frame = Frame::read(&buffer, salts, sum, big);
            if !frame.sound {
                break frame;
            }
            walk.frames = number;
            if frame.commit {
                walk.committed = number;
            }
            sum = frame.sum;
        };
        // A commit mark of this log and then more of this log: the transaction of the mark was synced before the next
        // one began, so what is broken is not the torn end of the last transaction.
        let mut marked = broken.ours && broken.commit;
        for _ in number..total {
            self.input.read_exact(&mut buffer).at(&self.name)?;
            let frame = Frame::read(&buffer, salts, sum, big);
            if marked && frame.ours {
                let offset = HEADER_BYTES as u64 + (number - 1) * frame_bytes as u64;
                return Err(Fault::corrupt(
                    format!("{}, frame {number} at byte {offset}", self.name),
                    "the frame is damaged and committed transactions stand behind it",
                ));
            }
            marked = frame.ours && frame.commit;
        }
        Ok(walk)
    }

    fn only_zeros(mut self) -> Result<Walk> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.input.read(&mut buffer).at(&self.name)?;
            if read == 0 {
                return Ok(Walk::default());
            }
            if buffer[..read].iter().any(|b| *b != 0) {
                return Err(Fault::corrupt(
                    format!("{}, header at byte 0", self.name),
                    "the log's header is empty and frames stand behind it",
                ));
            }
        }
    }
}

fn be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's running checksum over words of 32 bits, in pairs.
fn checksum(sum: (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let word = |w: &[u8]| {
        let w = [w[0], w[1], w[2], w[3]];
        if big { u32::from_be_bytes(w) } else { u32::from_le_bytes(w) }
    };
    bytes.chunks_exact(8).fold(sum, |(a, b), pair| {
        let a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        (a, b.wrapping_add(word(&pair[4..])).wrapping_add(a))
    })
}
