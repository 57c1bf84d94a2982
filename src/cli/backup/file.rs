//! The file of a backup: a first line, then frames, then a digest of all that is before it.
//!
//! A frame is its length, its checksum (both four bytes, big-endian) and a `BackUpStoreResponse`. The first one is the
//! header, which says what the backup is of; the last one is the summary. Behind it stand 32 bytes of SHA-256.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::grpc::proto::v1;
use crate::grpc::proto::v1::back_up_store_response::Part;
use crate::store::unfinished::{Held, sweep};

/// What every backup of this form begins with.
const FIRST_LINE: &[u8] = b"signalpost backup 1\n";
/// What the name of a file ends with that is not whole yet.
const SUFFIX: &str = ".partial";
/// No frame is larger: the server sends parts of about 256 KiB, and what changes meanwhile in smaller ones.
const FRAME_MAX: usize = 128 * 1024 * 1024;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    /// It can't be read or written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is something else.
    #[error("it is no backup of Signalpost")]
    Foreign,
    /// It is of a later form.
    #[error("it has a newer form than this version of Signalpost reads; use the version that made it")]
    Newer,
    /// It ends too early or was changed.
    #[error("it is damaged: {0}; use another backup")]
    Damaged(&'static str),
}

/// A backup that is being written, beside its place. Dropped before [`Writing::finish`], it leaves nothing.
pub(super) struct Writing {
    path: PathBuf,
    file: BufWriter<tempfile::NamedTempFile>,
    digest: Context,
    pub(super) bytes: u64,
    _held: Held,
}

impl Writing {
    /// Begins, and removes what a backup to the same place left that was killed.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!(".{name}.");
        sweep(folder, &prefix, SUFFIX);
        let file = tempfile::Builder::new().prefix(&prefix).suffix(SUFFIX).tempfile_in(folder)?;
        let mut writing = Self {
            path: path.to_owned(),
            _held: Held::at(file.path())?,
            file: BufWriter::new(file),
            digest: Context::new(&SHA256),
            bytes: 0,
        };
        writing.put(FIRST_LINE)?;
        Ok(writing)
    }

    pub(super) fn frame(&mut self, part: &v1::BackUpStoreResponse) -> io::Result<()> {
        let bytes = part.encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.put(&length.to_be_bytes())?;
        self.put(&crc32fast::hash(&bytes).to_be_bytes())?;
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Makes it durable and puts it in its place, unless a file is there by now; the digest in hexadecimal.
    pub(super) fn finish(self) -> io::Result<String> {
        let digest = self.digest.finish();
        let mut file = self.file;
        file.write_all(digest.as_ref())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(hex::encode(digest.as_ref()))
    }
}

/// A backup that is being read.
pub(super) struct Reading {
    file: BufReader<File>,
    digest: Context,
    entries: i64,
}

impl Reading {
    pub(super) fn open(path: &Path) -> Result<Self, Damage> {
        let mut reading =
            Self { file: BufReader::new(File::open(path)?), digest: Context::new(&SHA256), entries: 0 };
        let mut line = vec![0; FIRST_LINE.len()];
        reading.fill(&mut line).map_err(|_| Damage::Foreign)?;
        match line.as_slice() {
            FIRST_LINE => Ok(reading),
            line if line.starts_with(b"signalpost backup ") => Err(Damage::Newer),
            _ => Err(Damage::Foreign),
        }
    }

    /// The header, which comes first.
    pub(super) fn header(&mut self) -> Result<v1::BackupHeader, Damage> {
        match self.frame()? {
            Part::Header(header) => Ok(header),
            Part::Entries(_) | Part::Summary(_) => Err(Damage::Damaged("its header is missing")),
        }
    }

    /// Entries, or the summary once all is checked.
    pub(super) fn next(&mut self) -> Result<Part, Damage> {
        let part = self.frame()?;
        match &part {
            Part::Entries(entries) => {
                self.entries += i64::try_from(entries.entries.len()).unwrap_or(i64::MAX)
            }
            Part::Summary(summary) if summary.entry_count != self.entries => {
                return Err(Damage::Damaged("entries are missing"));
            }
            Part::Summary(_) => self.check_digest()?,
            Part::Header(_) => return Err(Damage::Damaged("it has two headers")),
        }
        Ok(part)
    }

    fn frame(&mut self) -> Result<Part, Damage> {
        let (mut length, mut checksum) = ([0; 4], [0; 4]);
        self.fill(&mut length)?;
        self.fill(&mut checksum)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(Damage::Damaged("a length in it can't be right"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        if crc32fast::hash(&bytes) != u32::from_be_bytes(checksum) {
            return Err(Damage::Damaged("a checksum does not fit"));
        }
        let part = v1::BackUpStoreResponse::decode(bytes.as_slice()).ok().and_then(|response| response.part);
        part.ok_or(Damage::Damaged("a part of it can't be read"))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Damage> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Damage::Damaged("its end is missing"),
            _ => Damage::File(error),
        })?;
        self.digest.update(bytes);
        Ok(())
    }

    fn check_digest(&mut self) -> Result<(), Damage> {
        let expected = self.digest.clone().finish();
        let mut noted = [0; SHA256_OUTPUT_LEN];
        self.file.read_exact(&mut noted).map_err(|_| Damage::Damaged("its end is missing"))?;
        let more = self.file.read(&mut [0])? > 0;
        match (noted.as_slice() == expected.as_ref(), more) {
            (true, false) => Ok(()),
            _ => Err(Damage::Damaged("its digest does not fit")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part: Part) -> v1::BackUpStoreResponse {
        v1::BackUpStoreResponse { part: Some(part) }
    }

    fn entries() -> Part {
        let entry = |key: &'static str, value| v1::BackupEntry { key: key.into(), value };
        let entries = vec![entry("a", Some("1".into())), entry("b", None)];
        Part::Entries(v1::BackupEntries { entries })
    }

    fn written(folder: &Path) -> Vec<u8> {
        let path = folder.join("backup");
        let mut writing = Writing::begin(&path).unwrap();
        let summary = v1::BackupSummary { entry_count: 2, consistent_time: None };
        for one in [Part::Header(v1::BackupHeader::default()), entries(), Part::Summary(summary)] {
            writing.frame(&part(one)).unwrap();
        }
        assert!(!path.exists(), "not before it is whole");
        writing.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        bytes
    }

    fn read(folder: &Path, bytes: &[u8]) -> Result<usize, Damage> {
        let path = folder.join("read");
        std::fs::write(&path, bytes).unwrap();
        let mut reading = Reading::open(&path)?;
        reading.header()?;
        let mut count = 0;
        loop {
            match reading.next()? {
                Part::Entries(entries) => count += entries.entries.len(),
                _ => return Ok(count),
            }
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(folder.path());
        assert_eq!(read(folder.path(), &bytes).unwrap(), 2);
    }

    #[test]
    fn no_byte_can_be_missing_or_changed_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(folder.path());
        for length in 0..bytes.len() {
            assert!(read(folder.path(), &bytes[..length]).is_err(), "cut at {length}");
        }
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            assert!(read(folder.path(), &changed).is_err(), "changed at {position}");
        }
        assert!(read(folder.path(), &[bytes.as_slice(), b"x"].concat()).is_err(), "something behind it");
    }

    #[test]
    fn a_backup_that_is_dropped_half_way_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writing = Writing::begin(&folder.path().join("backup")).unwrap();
        writing.frame(&part(entries())).unwrap();
        drop(writing);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_backup_left_is_removed_by_the_next_one_and_a_running_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        std::fs::write(folder.path().join(".backup.killed.partial"), "some of it").unwrap();
        let running = Writing::begin(&path).unwrap();
        let second = Writing::begin(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the two that run");
        running.finish().unwrap();
        assert!(second.finish().is_err(), "the place is taken");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
