//! For tests: the files of a store in memory, and what accidents make of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fastrand::Rng;
use tempfile::TempDir;

/// The variable that asks for more rounds than the ordinary tests have.
const ROUNDS: &str = "SIGNALPOST_TEST_ROUNDS";
/// The variable that repeats a run.
const SEED: &str = "SIGNALPOST_TEST_SEED";

/// sled's log.
const LOG: &str = "db";
/// The log's segments.
const SEGMENT_BYTES: usize = 512 << 10;

/// How many rounds are asked for.
pub(super) fn rounds(ordinarily: u64) -> u64 {
    variable(ROUNDS).unwrap_or(ordinarily)
}

/// A generator whose seed is printed.
pub(super) fn chance() -> Rng {
    let seed = variable(SEED).unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("{SEED}={seed}");
    Rng::with_seed(seed)
}

fn variable(name: &str) -> Option<u64> {
    let (_, value) = std::env::vars_os().find(|(one, _)| one == name)?;
    Some(value.to_str().unwrap().parse().unwrap())
}

/// The files of a folder, by name.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Files(pub(super) BTreeMap<String, Vec<u8>>);

impl Files {
    pub(super) fn read(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        // What is noted of the log is read before the log, as it is never ahead of it.
        let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
        files.sort_by_key(|path| path.ends_with(LOG));
        let named = |path: std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // One that is renamed meanwhile is there under its other name.
            Some((name, fs::read(path).ok()?))
        };
        Self(files.into_iter().filter_map(named).collect())
    }

    /// The same files in a folder of their own.
    pub(super) fn write(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, bytes) in &self.0 {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    /// What may be on the disk after a power cut: these files as they were fsynced, and what was written since (`later`)
    /// up to some place in the order of the log. Of what was under way at that place, any blocks are there.
    pub(super) fn cut(&self, later: &Files, chance: &mut Rng) -> Files {
        let block = if chance.bool() { 4096 } else { 512 };
        let mut image = self.clone();
        if let (Some(bytes), Some(later)) = (image.0.get_mut(LOG), later.0.get(LOG)) {
            let mut changed: Vec<usize> = (0..later.len().div_ceil(block))
                .filter(|number| part(later, *number, block) != part(bytes, *number, block))
                .collect();
            changed.sort_by_key(|number| (place_in_log(later, number * block), *number));
            let complete = chance.usize(..=changed.len());
            // What is written at once is of one segment.
            let rest = changed.get(complete..).unwrap_or_default();
            let segment = |number: &usize| number * block / SEGMENT_BYTES;
            let at_once = rest.iter().take_while(|number| segment(number) == segment(&rest[0]));
            let under_way: Vec<usize> = at_once.filter(|_| chance.bool()).copied().collect();
            for number in changed[..complete].iter().chain(&under_way) {
                let new = part(later, *number, block);
                let start = number * block;
                bytes.resize(bytes.len().max(start + new.len()), 0);
                bytes[start..start + new.len()].copy_from_slice(new);
            }
        }
        image
    }
}

fn part(bytes: &[u8], number: usize, block: usize) -> &[u8] {
    let rest = bytes.get(number * block..).unwrap_or_default();
    &rest[..rest.len().min(block)]
}

/// Where in the order of sled's log this place of its file comes: it stands in the head of each segment.
fn place_in_log(bytes: &[u8], place: usize) -> i64 {
    let head = place / SEGMENT_BYTES * SEGMENT_BYTES;
    let stored = bytes.get(head + 4..head + 12).map_or([0; 8], |stored| stored.try_into().unwrap());
    i64::from_le_bytes(stored) ^ i64::MAX
}

/// Some damage to a file that is not empty; says what was done.
pub(super) fn damage(bytes: &mut Vec<u8>, chance: &mut Rng) -> String {
    let place = chance.usize(..bytes.len());
    let mut over = |length: usize, fill: &mut dyn FnMut() -> u8| {
        let end = bytes.len().min(place + length);
        bytes[place..end].iter_mut().for_each(|byte| *byte = fill());
    };
    match chance.u8(..6) {
        0 => bytes[place] ^= 1 << chance.u8(..8),
        1 => over(1, &mut || 0xff),
        2 => over(16, &mut || chance.u8(..)),
        3 => over(512, &mut || 0),
        4 => over(4096, &mut || chance.u8(..)),
        _ => {
            bytes.truncate(place);
            return format!("cut off at {place}");
        }
    }
    format!("damaged at {place}")
}
