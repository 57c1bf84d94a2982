//! Denied calls on their way to the audit log. An attacker must not be able to fill the disk, so few are
//! written one by one: the first of a kind at once, the others of a minute as one entry with their number,
//! and no more entries than so many a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::auth::denial::{Denial, DenialListener, DenialReason, LogDenials};
use crate::clock::SharedClock;
use crate::domain::audit::{AuditChange, AuditDenial, AuditEntry, AuditOutcome};
use crate::domain::id::AuditEntryId;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// How long denied calls are counted before their number is written.
const WINDOW: Duration = Duration::from_secs(60);
/// How many kinds of denied calls are counted apart; those of further kinds are counted together.
const KINDS_MAX: usize = 1000;
/// How many denied calls wait to be counted; further ones are only counted.
const QUEUE: usize = 1024;

/// What makes denied calls of one kind: the same caller from the same address, for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    principal: String,
    address: Option<IpAddr>,
    method: String,
    organization_id: String,
    reason: &'static str,
}

impl Kind {
    fn of(denial: &Denial) -> Self {
        Self {
            principal: denial.caller.subject().to_owned(),
            address: denial.caller.peer().map(|peer| peer.ip()),
            method: denial.method.clone(),
            organization_id: denial.organization_id.clone().unwrap_or_default(),
            reason: denial.reason.as_str(),
        }
    }
}

/// Decides which entries denied calls leave. Pure.
#[derive(Debug)]
pub struct DenialBook {
    per_minute: u32,
    /// How many entries may still be written in this window.
    left: u32,
    counted: HashMap<Kind, (Denial, u64)>,
    others: u64,
}

impl DenialBook {
    /// An empty book that leaves at most so many entries a minute, and one more with the number of the rest.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, left: per_minute, counted: HashMap::new(), others: 0 }
    }

    /// Takes a denied call, and answers the entry that is to be written at once, if one is.
    pub fn take(&mut self, denial: Denial, now: Timestamp, random: [u8; 10]) -> Option<AuditEntry> {
        let kind = Kind::of(&denial);
        if let Some((_, count)) = self.counted.get_mut(&kind) {
            *count += 1;
            return None;
        }
        if self.counted.len() >= KINDS_MAX {
            self.others += 1;
            return None;
        }
        let written = self.spend();
        let entry = written.then(|| entry_of(&denial, 1, now, random));
        self.counted.insert(kind, (denial, u64::from(!written)));
        entry
    }

    /// Counts denied calls of which nothing else is known.
    pub fn take_others(&mut self, count: u64) {
        self.others += count;
    }

    /// Ends the window: the entries for what was counted in it. The next one begins.
    pub fn close(&mut self, now: Timestamp, mut random: impl FnMut() -> [u8; 10]) -> Vec<AuditEntry> {
        self.left = self.per_minute;
        let mut counted: Vec<_> = self.counted.drain().map(|(_, one)| one).filter(|(_, n)| *n > 0).collect();
        // What happened most often is told first.
        counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut entries = Vec::new();
        for (denial, count) in counted {
            // Half is left for what is new in the next window.
            if self.left * 2 > self.per_minute && self.spend() {
                entries.push(entry_of(&denial, count, now, random()));
            } else {
                self.others += count;
            }
        }
        if self.others > 0 {
            entries.push(others(std::mem::take(&mut self.others), now, random()));
        }
        entries
    }

    fn spend(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

fn entry_of(denial: &Denial, count: u64, at: Timestamp, random: [u8; 10]) -> AuditEntry {
    let caller = &denial.caller;
    AuditEntry {
        id: AuditEntryId::make(at, random),
        at,
        organization_id: denial.organization_id.clone().unwrap_or_default(),
        principal: caller.subject().to_owned(),
        remote_address: caller.peer(),
        method: denial.method.clone(),
        resource_id: String::new(),
        outcome: AuditOutcome::Denied(reason_of(denial.reason)),
        request_id: caller.request_id().unwrap_or_default().to_owned(),
        change: AuditChange::default(),
        count,
        description: description_of(denial.reason),
    }
}

fn others(count: u64, at: Timestamp, random: [u8; 10]) -> AuditEntry {
    AuditEntry {
        id: AuditEntryId::make(at, random),
        at,
        organization_id: String::new(),
        principal: String::new(),
        remote_address: None,
        method: String::new(),
        resource_id: String::new(),
        outcome: AuditOutcome::Denied(AuditDenial::CredentialsInvalid),
        request_id: String::new(),
        change: AuditChange::default(),
        count,
        description: "denied calls of several kinds, too many to be told apart".to_owned(),
    }
}

const fn reason_of(reason: DenialReason) -> AuditDenial {
    match reason {
        DenialReason::CredentialsMissing => AuditDenial::CredentialsMissing,
        DenialReason::CredentialsInvalid => AuditDenial::CredentialsInvalid,
        DenialReason::RoleMissing(_) => AuditDenial::RoleMissing,
    }
}

fn description_of(reason: DenialReason) -> String {
    match reason {
        DenialReason::CredentialsMissing => "the call had no credentials".to_owned(),
        DenialReason::CredentialsInvalid => "the credentials were not accepted".to_owned(),
        DenialReason::RoleMissing(role) => format!("the caller has not got the role {role} there"),
    }
}

/// Takes denied calls without waiting, for [`DenialWriter`] to write them.
pub struct DenialRecorder {
    queue: mpsc::Sender<Denial>,
    missed: Arc<AtomicU64>,
}

/// What writes denied calls.
pub struct DenialWriter {
    queue: mpsc::Receiver<Denial>,
    missed: Arc<AtomicU64>,
    book: DenialBook,
    store: Arc<dyn Store>,
    clock: SharedClock,
}

impl DenialRecorder {
    /// One end that is told, and one that writes.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, per_minute: u32) -> (Self, DenialWriter) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let book = DenialBook::new(per_minute);
        let writer = DenialWriter { queue, missed: Arc::clone(&missed), book, store, clock };
        (Self { queue: sender, missed }, writer)
    }
}

impl DenialListener for DenialRecorder {
    fn denied(&self, denial: Denial) {
        if self.queue.try_send(denial).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl DenialWriter {
    /// Writes until it is stopped, and then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut windows = tokio::time::interval(WINDOW);
        windows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                denial = self.queue.recv() => match denial {
                    Some(denial) => self.take(denial).await,
                    None => break,
                },
                _ = windows.tick() => self.close().await,
                () = stop.cancelled() => break,
            }
        }
        while let Ok(denial) = self.queue.try_recv() {
            self.take(denial).await;
        }
        self.close().await;
    }

    async fn take(&mut self, denial: Denial) {
        let now = self.clock.now();
        if let Some(entry) = self.book.take(denial.clone(), now, draw()) {
            LogDenials.denied(denial);
            self.write(vec![entry]).await;
        }
    }

    async fn close(&mut self) {
        self.book.take_others(self.missed.swap(0, Ordering::Relaxed));
        let entries = self.book.close(self.clock.now(), draw);
        if !entries.is_empty() {
            self.write(entries).await;
        }
    }

    async fn write(&self, entries: Vec<AuditEntry>) {
        let calls: u64 = entries.iter().map(|entry| entry.count).sum();
        match self.store.record_audit(entries).await {
            Ok(()) => {}
            Err(StoreError::Busy | StoreError::Full { .. }) => {
                tracing::warn!(
                    calls,
                    "denied calls are not in the audit log: the store has no room for them"
                );
            }
            Err(error) => tracing::warn!(%error, calls, "denied calls are not in the audit log"),
        }
    }
}

/// Tells ids apart; nothing depends on it that is a secret.
fn draw() -> [u8; 10] {
    std::array::from_fn(|_| fastrand::u8(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Caller, Role};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn denial(address: &str, method: &str) -> Denial {
        Denial {
            caller: Caller::anonymous().calling_from(Some(address.parse().unwrap()), Some("req-1".into())),
            method: method.into(),
            organization_id: Some("acme".into()),
            reason: DenialReason::CredentialsMissing,
        }
    }

    fn take(book: &mut DenialBook, denial: Denial) -> Option<AuditEntry> {
        book.take(denial, at(0), [0; 10])
    }

    #[test]
    fn the_first_of_a_kind_is_written_at_once_and_the_others_as_one_with_their_number() {
        let mut book = DenialBook::new(10);
        let first = take(&mut book, denial("192.0.2.1:1", "m")).unwrap();
        assert_eq!((first.count, first.principal.as_str()), (1, "anonymous"));
        assert_eq!((first.request_id.as_str(), first.organization_id.as_str()), ("req-1", "acme"));
        assert_eq!(first.outcome, AuditOutcome::Denied(AuditDenial::CredentialsMissing));
        for port in 2..9 {
            assert!(take(&mut book, denial(&format!("192.0.2.1:{port}"), "m")).is_none());
        }
        let role = Denial { reason: DenialReason::RoleMissing(Role::Admin), ..denial("192.0.2.1:1", "m") };
        let other = take(&mut book, role).unwrap();
        assert_eq!(other.outcome, AuditOutcome::Denied(AuditDenial::RoleMissing));
        let counts: Vec<u64> = book.close(at(1), || [1; 10]).iter().map(|entry| entry.count).collect();
        assert_eq!(counts, [7]);
        assert!(book.close(at(2), || [2; 10]).is_empty(), "nothing happened since");
        assert!(take(&mut book, denial("192.0.2.1:1", "m")).is_some(), "a new window");
    }

    #[test]
    fn no_flood_leaves_more_entries_than_allowed_and_every_call_is_counted() {
        let mut book = DenialBook::new(10);
        let (mut entries, mut counted) = (0_u64, 0_u64);
        for window in 0..5_u64 {
            for call in 0..10_000_u64 {
                let address = format!("[2001:db8::{:x}]:1", call % 3000);
                if let Some(entry) = take(&mut book, denial(&address, &format!("m{}", call % 7))) {
                    entries += 1;
                    counted += entry.count;
                }
            }
            let closed = book.close(at(0), || [0; 10]);
            entries += closed.len() as u64;
            counted += closed.iter().map(|entry| entry.count).sum::<u64>();
            assert!(entries <= (window + 1) * 11 + 10, "{entries} after {window}");
        }
        assert_eq!(counted, 50_000);
    }
}
