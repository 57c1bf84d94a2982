//! What deliveries repeat of their events, remembered so that settling reads no events.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::domain::id::EventKey;
use crate::store::record::EventHead;

/// How many are remembered. They are small.
const KEPT: usize = 16_384;

/// The latest heads.
#[derive(Default)]
pub(super) struct Heads {
    inner: Mutex<(HashMap<EventKey, EventHead>, VecDeque<EventKey>)>,
}

impl Heads {
    pub(super) fn add(&self, heads: impl IntoIterator<Item = EventHead>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for head in heads {
            let key = head.key;
            if inner.0.insert(key, head).is_none() {
                inner.1.push_back(key);
            }
            if inner.1.len() > KEPT
                && let Some(oldest) = inner.1.pop_front()
            {
                inner.0.remove(&oldest);
            }
        }
    }

    /// An event is gone, and what it was must not be told any more.
    pub(super) fn forget(&self, keys: &[EventKey]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, order) = &mut *inner;
        if keys.iter().filter(|key| map.remove(key).is_some()).count() > 0 {
            order.retain(|key| map.contains_key(key));
        }
    }

    /// The heads of these events that are known.
    pub(super) fn get(&self, keys: impl IntoIterator<Item = EventKey>) -> HashMap<EventKey, EventHead> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        keys.into_iter().filter_map(|key| Some((key, inner.0.get(&key)?.clone()))).collect()
    }
}
