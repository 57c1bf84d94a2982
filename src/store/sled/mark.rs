//! How far the store has come, noted outside of sled.
//!
//! sled recovers from a damaged log by forgetting what is behind the damage, and says nothing: as if the process had been
//! killed earlier. So each commit has a number, which is in the tree together with its writes and, once they are
//! fsynced, in a file of its own. A store with a lower number than was noted has lost commits. The file itself is not
//! fsynced again: after a power cut it may be behind the tree, and never ahead. With the number goes how much is stored
//! (`size`), so that this is exact after a crash, too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sled::Db;

use super::backup::Writes;
use super::disk::sync_folder;
use super::keys;

/// The file. Without it, the store is taken as it is.
pub(super) const MARK_FILE: &str = "signalpost.mark";
/// The number and its checksum.
const BYTES: usize = 12;

/// The number of the last commit, and where it is noted.
pub(super) struct Mark {
    file: File,
    number: u64,
}

impl Mark {
    /// Goes on from what the tree has, which was checked.
    pub(super) fn open(folder: &Path, db: &Db) -> io::Result<Self> {
        let number = number_in(db).map_err(io::Error::other)?;
        let path = folder.join(MARK_FILE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mark = Self { file, number };
        mark.note()?;
        mark.file.sync_all()?;
        sync_folder(folder)?;
        Ok(mark)
    }

    /// Numbers a commit, after which so many bytes are stored.
    pub(super) fn number(&mut self, writes: &mut Writes, stored_bytes: u64) {
        self.number += 1;
        writes.insert(keys::COMMIT_KEY, commit(self.number, stored_bytes));
    }

    /// Notes that all commits so far are durable.
    pub(super) fn note(&self) -> io::Result<()> {
        self.file.write_all_at(&encode(self.number), 0)
    }
}

/// How many commits are missing in the tree that were durable.
pub(super) fn missing(folder: &Path, db: &Db) -> io::Result<u64> {
    let noted = match std::fs::read(folder.join(MARK_FILE)) {
        Ok(stored) => decode(&stored),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let Some(noted) = noted else {
        tracing::warn!(
            file = MARK_FILE,
            "the mark of how far the store has come is unreadable; it is written anew"
        );
        return Ok(0);
    };
    Ok(noted.saturating_sub(number_in(db).map_err(io::Error::other)?))
}

/// How many bytes are stored, as the last commit says.
pub(super) fn stored_bytes(db: &Db) -> sled::Result<Option<u64>> {
    let stored = db.get(keys::COMMIT_KEY)?;
    Ok(stored.and_then(|stored| stored.last_chunk().copied()).map(u64::from_be_bytes))
}

fn number_in(db: &Db) -> sled::Result<u64> {
    let stored = db.get(keys::COMMIT_KEY)?;
    Ok(stored.and_then(|stored| stored.first_chunk().copied()).map_or(0, u64::from_be_bytes))
}

/// What is in the tree: both numbers, big-endian.
pub(super) fn commit(number: u64, stored_bytes: u64) -> Vec<u8> {
    [number.to_be_bytes(), stored_bytes.to_be_bytes()].concat()
}

fn encode(number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (head, checksum) = bytes.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    checksum.copy_from_slice(&crc32fast::hash(head).to_be_bytes());
    bytes
}

fn decode(stored: &[u8]) -> Option<u64> {
    let (number, checksum) = stored.split_first_chunk::<8>()?;
    let is_right = *checksum == crc32fast::hash(number).to_be_bytes();
    is_right.then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_and_what_is_damaged_does_not() {
        for number in [0, 1, u64::MAX] {
            let stored = encode(number);
            assert_eq!(decode(&stored), Some(number));
            for place in 0..BYTES {
                let mut damaged = stored;
                damaged[place] ^= 4;
                assert_eq!(decode(&damaged), None);
            }
        }
        assert_eq!((decode(&[]), decode(&[0; 11])), (None, None));
    }
}
