//! Leases of lanes. Destinations fall into 256 buckets; each replica that lives owns its share of them, and with a
//! bucket the right to run the lanes of its destinations.
//!
//! A replica renews one row, its membership, whatever it owns. One that has not renewed in time is removed by
//! another, which frees its buckets in the same transaction; whatever the removed one would still settle looks for
//! its membership first, and finds none. All times are the database's.
//!
//! What this replica may do is known without asking: [`Leases::owns`] reads a few atomics. It says no once the
//! renewal is older than the lease, so that a process that stood still begins nothing before it has looked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::LeaseOptions;
use super::rows::{BUCKETS, bucket_of};
use crate::domain::id::DestinationId;

/// What this replica owns.
pub(super) struct Leases {
    options: Option<LeaseOptions>,
    /// The present membership; a new one after each loss.
    me: Mutex<Uuid>,
    owned: [AtomicU64; 4],
    base: Instant,
    /// Until when the leases hold, in milliseconds after `base`.
    valid_until: AtomicU64,
    company: AtomicBool,
}

impl Leases {
    pub(super) fn new(options: Option<LeaseOptions>) -> Self {
        Self {
            options,
            me: Mutex::new(Uuid::now_v7()),
            owned: Default::default(),
            base: Instant::now(),
            valid_until: AtomicU64::new(0),
            company: AtomicBool::new(true),
        }
    }

    /// Whether lanes are shared with other replicas at all.
    pub(super) const fn are_shared(&self) -> bool {
        self.options.is_some()
    }

    pub(super) const fn options(&self) -> Option<&LeaseOptions> {
        self.options.as_ref()
    }

    /// Whether other replicas may be there that want to hear news.
    pub(super) fn has_company(&self) -> bool {
        self.are_shared() && self.company.load(Ordering::Relaxed)
    }

    pub(super) fn set_company(&self, there_is: bool) {
        self.company.store(there_is, Ordering::Relaxed);
    }

    /// Under which name this replica owns and holds things.
    pub(super) fn holder(&self) -> Uuid {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes another name, since the old one was removed.
    pub(super) fn rename(&self) {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = Uuid::now_v7();
    }

    /// Whether this replica may run the lane of a destination now.
    pub(super) fn owns(&self, id: DestinationId) -> bool {
        !self.are_shared() || (self.has(bucket_of(id)) && self.are_valid())
    }

    /// Whether the lane of a destination is this replica's, even where the lease is about to lapse.
    pub(super) fn runs(&self, id: DestinationId) -> bool {
        !self.are_shared() || self.has(bucket_of(id))
    }

    /// Whether this replica does what one of all must do.
    pub(super) fn leads(&self) -> bool {
        !self.are_shared() || (self.has(0) && self.are_valid())
    }

    pub(super) fn are_valid(&self) -> bool {
        self.now() < self.valid_until.load(Ordering::Acquire)
    }

    /// A renewal that was asked for at this moment has succeeded. A part of the lease is kept as a reserve: what was
    /// begun in its last moment must not outlive it by much.
    pub(super) fn renewed(&self, asked_at: Instant, duration: Duration) {
        let holds = asked_at + duration - duration / 10;
        self.valid_until.store(millis(holds.saturating_duration_since(self.base)), Ordering::Release);
    }

    pub(super) fn expire(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    fn now(&self) -> u64 {
        millis(self.base.elapsed())
    }

    pub(super) fn has(&self, bucket: u8) -> bool {
        let word = self.owned.get(usize::from(bucket / 64));
        word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (bucket % 64)) != 0)
    }

    pub(super) fn add(&self, buckets: impl IntoIterator<Item = u8>) {
        for bucket in buckets {
            if let Some(word) = self.owned.get(usize::from(bucket / 64)) {
                word.fetch_or(1 << (bucket % 64), Ordering::AcqRel);
            }
        }
    }

    pub(super) fn remove(&self, buckets: impl IntoIterator<Item = u8>) {
        for bucket in buckets {
            if let Some(word) = self.owned.get(usize::from(bucket / 64)) {
                word.fetch_and(!(1 << (bucket % 64)), Ordering::AcqRel);
            }
        }
    }

    /// The buckets that this replica owns.
    pub(super) fn owned(&self) -> BTreeSet<u8> {
        (0..=u8::MAX).filter(|bucket| !self.are_shared() || self.has(*bucket)).collect()
    }

    /// The same as the database has them.
    pub(super) fn owned_buckets(&self) -> Vec<i16> {
        self.owned().into_iter().map(i16::from).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many buckets a replica should have more or less, with so many members: each has the same number, but for
/// the remainder. Few buckets move when a replica comes or goes.
pub(super) fn share(members: usize) -> usize {
    usize::from(BUCKETS).div_ceil(members.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Leases {
        let options = LeaseOptions { name: "a".into(), duration: Duration::from_secs(10) };
        Leases::new(Some(options))
    }

    fn id(last: u8) -> DestinationId {
        DestinationId::from_bytes([last; 16])
    }

    #[test]
    fn a_lane_is_ours_while_its_bucket_is_owned_and_the_lease_holds() {
        let leases = leases();
        leases.add([7, 200]);
        assert!(!leases.owns(id(7)), "nothing was renewed yet");
        leases.renewed(Instant::now(), Duration::from_secs(10));
        assert!(leases.owns(id(7)) && leases.owns(id(200)) && !leases.owns(id(8)) && !leases.leads());
        leases.remove([7]);
        assert!(!leases.owns(id(7)));
        // A renewal counts from when it was asked for, however late its answer came.
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        leases.renewed(long_ago, Duration::from_secs(10));
        assert!(!leases.owns(id(200)));
        assert_eq!(leases.owned_buckets(), [200]);
    }

    #[test]
    fn without_other_replicas_everything_is_ours() {
        let alone = Leases::new(None);
        assert!(alone.owns(id(3)) && alone.leads() && !alone.has_company());
        assert_eq!(alone.owned_buckets().len(), 256);
    }

    #[test]
    fn shares_are_even_and_a_newcomer_takes_no_more_than_its_own() {
        for members in 1..20 {
            let share = share(members);
            assert!(share * members >= 256 && (share - 1) * members < 256);
        }
    }
}
