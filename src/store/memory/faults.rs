//! What tests have the store do wrong, as one that fails for a while or that others share would.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::domain::id::DestinationId;
use crate::store::StoreError;

/// Set by tests; the default is none.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    refusals: AtomicUsize,
    refused: AtomicUsize,
    follows: AtomicBool,
    foreign: Mutex<HashSet<DestinationId>>,
}

impl Faults {
    /// Refuses so many groups of settlements from here on.
    pub(crate) fn refuse_settlements(&self, count: usize) {
        self.refusals.store(count, Ordering::SeqCst);
    }

    /// How many were refused so far.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Another replica leads from here on.
    pub(crate) fn follow(&self) {
        self.follows.store(true, Ordering::SeqCst);
    }

    /// The lane of a destination is another replica's, or is ours again.
    pub(crate) fn set_foreign(&self, id: DestinationId, foreign: bool) {
        let mut all = self.foreign.lock().unwrap();
        if foreign {
            all.insert(id)
        } else {
            all.remove(&id)
        };
    }

    pub(super) fn owns(&self, id: DestinationId) -> bool {
        !self.foreign.lock().unwrap().contains(&id)
    }

    pub(super) fn leads(&self) -> bool {
        !self.follows.load(Ordering::SeqCst)
    }

    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let less = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err() {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Unavailable("planted".into()))
    }
}
