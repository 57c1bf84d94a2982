//! The ceiling of durable ingest: what the disk does with nothing but records appended to a file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::figures::per_second;

/// How long is measured at a time.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// How much is written at most.
const BYTES_MAX: usize = 1 << 30;

/// Records a second that are appended in groups, each group written and synced (`fdatasync`) at once.
///
/// A record is its length, a checksum and the data. The file is gone afterwards.
///
/// # Errors
/// The file can't be written.
pub fn measure(folder: &Path, data: &[u8], group: u32) -> io::Result<f64> {
    let path = folder.join("append");
    let measured = append(&path, data, group);
    std::fs::remove_file(&path)?;
    measured
}

fn append(path: &Path, data: &[u8], group: u32) -> io::Result<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut buffer = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < TIME_LIMIT && bytes < BYTES_MAX {
        buffer.clear();
        for _ in 0..group {
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
            buffer.extend_from_slice(data);
        }
        file.write_all(&buffer)?;
        file.sync_data()?;
        records += u64::from(group);
        bytes += buffer.len();
    }
    Ok(per_second(records, began.elapsed()))
}
