//! What the disk does beside a measurement: a record is appended to a file and synced, over and over.
//!
//! A server that syncs before it answers can't be faster than that. Where an event was late, this tells
//! whether the disk was.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinHandle;

/// Rare enough not to be a load itself.
const EVERY: Duration = Duration::from_millis(50);
/// About what one event makes the store write.
const RECORD: [u8; 2048] = [0x5a; 2048];

/// A probe that runs until it is asked for its times.
pub struct DiskProbe {
    stop: Arc<AtomicBool>,
    running: JoinHandle<io::Result<Vec<Duration>>>,
}

impl DiskProbe {
    /// Begins, with a file of its own in this folder.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let (path, stop) = (folder.join("probe"), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        Self { stop, running: tokio::task::spawn_blocking(move || probe(&path, &stopped)) }
    }

    /// Ends it; hands back how long each append with its sync took, rising.
    ///
    /// # Errors
    /// The file can't be written.
    pub async fn end(self) -> anyhow::Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.running.await?.context("the probe of the disk")?;
        times.sort_unstable();
        Ok(times)
    }
}

fn probe(path: &Path, stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut times = Vec::new();
    // However soon it is ended, there is one time to tell.
    while times.is_empty() || !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all(&RECORD)?;
        file.sync_data()?;
        times.push(began.elapsed());
        std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_probe_measures_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let probe = DiskProbe::start(folder.path());
        assert!(!probe.end().await.unwrap().is_empty());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
