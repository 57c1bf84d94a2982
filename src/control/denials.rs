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

use crate::auth::CallerKind;
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
/// How many denied calls of each sort wait to be counted; further ones are only counted.
const QUEUE: usize = 1024;
/// All callers with valid credentials together leave so many times the entries of one.
pub const NAMED_SHARES: u32 = 10;

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
            principal: denial.caller.principal().to_owned(),
            address: denial.caller.peer().map(|peer| peer.ip()),
            method: denial.method.clone(),
            organization_id: denial.organization_id.clone().unwrap_or_default(),
            reason: denial.reason.as_str(),
        }
    }
}

/// Decides which entries denied calls leave. Pure.
///
/// Callers who have proved who they are have a part of their own, so that nobody without credentials can keep their
/// denied calls out of the log; and each of them has a share of it.
#[derive(Debug)]
pub struct DenialBook {
    anonymous: Part,
    named: Part,
}

/// The denied calls of one sort of callers.
#[derive(Debug)]
struct Part {
    /// How many entries a minute it may leave, and each caller of it.
    per_minute: u32,
    per_caller: u32,
    /// How many may still be written in this window.
    left: u32,
    written: HashMap<String, u32>,
    counted: HashMap<Kind, (Denial, u64)>,
    others: u64,
    /// What those are that are counted together.
    together: Others,
}

/// Why calls that are counted together were denied, and what they are.
type Others = (AuditDenial, &'static str);

impl DenialBook {
    /// An empty book that leaves at most so many entries a minute of calls without valid credentials, as many of each
    /// caller with them and [`NAMED_SHARES`] times as many of all those together, and of each sort one more with the
    /// number of the rest.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        let anonymous = "denied calls without valid credentials of several kinds, too many to be told apart";
        let named =
            "denied calls of callers with valid credentials of several kinds, too many to be told apart";
        let all_named = per_minute.saturating_mul(NAMED_SHARES);
        Self {
            anonymous: Part::new(per_minute, per_minute, (AuditDenial::CredentialsInvalid, anonymous)),
            named: Part::new(all_named, per_minute, (AuditDenial::RoleMissing, named)),
        }
    }

    /// Takes a denied call, and answers the entry that is to be written at once, if one is.
    pub fn take(&mut self, denial: Denial, now: Timestamp, random: [u8; 10]) -> Option<AuditEntry> {
        self.part(Sort::of(&denial)).take(denial, now, random)
    }

    /// Counts denied calls of which nothing else is known, or which are not on the record after all.
    fn take_others(&mut self, sort: Sort, count: u64) {
        self.part(sort).others += count;
    }

    /// Ends the window: the entries for what was counted in it. The next one begins.
    pub fn close(&mut self, now: Timestamp, mut random: impl FnMut() -> [u8; 10]) -> Vec<AuditEntry> {
        let mut entries = self.named.close(now, &mut random);
        entries.extend(self.anonymous.close(now, &mut random));
        entries
    }

    fn part(&mut self, sort: Sort) -> &mut Part {
        match sort {
            Sort::Anonymous => &mut self.anonymous,
            Sort::Named => &mut self.named,
        }
    }
}

/// Whether a caller has proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Anonymous,
    Named,
}

impl Sort {
    fn of(denial: &Denial) -> Self {
        if denial.caller.kind() == CallerKind::Anonymous { Sort::Anonymous } else { Sort::Named }
    }
}

impl Part {
    fn new(per_minute: u32, per_caller: u32, together: Others) -> Self {
        let (written, counted) = (HashMap::new(), HashMap::new());
        Self { per_minute, per_caller, left: per_minute, written, counted, others: 0, together }
    }

    fn take(&mut self, denial: Denial, now: Timestamp, random: [u8; 10]) -> Option<AuditEntry> {
        let kind = Kind::of(&denial);
        if let Some((_, count)) = self.counted.get_mut(&kind) {
            *count += 1;
            return None;
        }
        if self.counted.len() >= KINDS_MAX {
            self.others += 1;
            return None;
        }
        let written = self.spend(&kind.principal);
        let entry = written.then(|| entry_of(&denial, 1, now, random));
        self.counted.insert(kind, (denial, u64::from(!written)));
        entry
    }

    fn close(&mut self, now: Timestamp, random: &mut impl FnMut() -> [u8; 10]) -> Vec<AuditEntry> {
        self.left = self.per_minute;
        self.written.clear();
        let mut counted: Vec<_> = self.counted.drain().map(|(_, one)| one).filter(|(_, n)| *n > 0).collect();
        // What happened most often is told first.
        counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut entries = Vec::new();
        for (denial, count) in counted {
            // Half is left for what is new in the next window.
            if self.left * 2 > self.per_minute && self.spend(denial.caller.principal()) {
                entries.push(entry_of(&denial, count, now, random()));
            } else {
                self.others += count;
            }
        }
        if self.others > 0 {
            entries.push(others(std::mem::take(&mut self.others), self.together, now, random()));
        }
        entries
    }

    fn spend(&mut self, principal: &str) -> bool {
        let written = self.written.get(principal).copied().unwrap_or(0);
        if self.left == 0 || written >= self.per_caller {
            return false;
        }
        self.left -= 1;
        self.written.insert(principal.to_owned(), written + 1);
        true
    }
}

fn entry_of(denial: &Denial, count: u64, at: Timestamp, random: [u8; 10]) -> AuditEntry {
    let caller = &denial.caller;
    AuditEntry {
        id: AuditEntryId::make(at, random),
        at,
        organization_id: denial.organization_id.clone().unwrap_or_default(),
        principal: caller.principal().to_owned(),
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

fn others(count: u64, (denial, words): Others, at: Timestamp, random: [u8; 10]) -> AuditEntry {
    AuditEntry {
        id: AuditEntryId::make(at, random),
        at,
        organization_id: String::new(),
        principal: String::new(),
        remote_address: None,
        method: String::new(),
        resource_id: String::new(),
        outcome: AuditOutcome::Denied(denial),
        request_id: String::new(),
        change: AuditChange::default(),
        count,
        description: words.to_owned(),
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
    anonymous: Inlet,
    named: Inlet,
}

/// Where denied calls of one sort go in, so that none is in another one's way …
struct Inlet {
    queue: mpsc::Sender<Denial>,
    missed: Arc<AtomicU64>,
}

/// … and where they come out.
struct Outlet {
    queue: mpsc::Receiver<Denial>,
    missed: Arc<AtomicU64>,
}

/// What writes denied calls.
pub struct DenialWriter {
    anonymous: Outlet,
    named: Outlet,
    book: DenialBook,
    store: Arc<dyn Store>,
    clock: SharedClock,
}

fn pipe() -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let missed = Arc::new(AtomicU64::new(0));
    (Inlet { queue: sender, missed: Arc::clone(&missed) }, Outlet { queue: receiver, missed })
}

impl DenialRecorder {
    /// One end that is told, and one that writes.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, per_minute: u32) -> (Self, DenialWriter) {
        let ((anonymous, from_anonymous), (named, from_named)) = (pipe(), pipe());
        let book = DenialBook::new(per_minute);
        let writer = DenialWriter { anonymous: from_anonymous, named: from_named, book, store, clock };
        (Self { anonymous, named }, writer)
    }
}

impl DenialListener for DenialRecorder {
    fn denied(&self, denial: Denial) {
        let inlet = match Sort::of(&denial) {
            Sort::Anonymous => &self.anonymous,
            Sort::Named => &self.named,
        };
        if inlet.queue.try_send(denial).is_err() {
            inlet.missed.fetch_add(1, Ordering::Relaxed);
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
                Some(denial) = self.named.queue.recv() => self.take(denial).await,
                Some(denial) = self.anonymous.queue.recv() => self.take(denial).await,
                _ = windows.tick() => self.close().await,
                () = stop.cancelled() => break,
                else => break,
            }
        }
        while let Ok(denial) = self.named.queue.try_recv() {
            self.take(denial).await;
        }
        while let Ok(denial) = self.anonymous.queue.try_recv() {
            self.take(denial).await;
        }
        self.close().await;
    }

    async fn take(&mut self, denial: Denial) {
        let now = self.clock.now();
        if let Some(entry) = self.book.take(denial.clone(), now, draw()) {
            let sort = Sort::of(&denial);
            LogDenials.denied(denial);
            if !self.write(vec![entry]).await {
                self.book.take_others(sort, 1);
            }
        }
    }

    async fn close(&mut self) {
        let missed = |outlet: &Outlet| outlet.missed.swap(0, Ordering::Relaxed);
        self.book.take_others(Sort::Named, missed(&self.named));
        self.book.take_others(Sort::Anonymous, missed(&self.anonymous));
        let (named, anonymous): (Vec<_>, Vec<_>) =
            self.book.close(self.clock.now(), draw).into_iter().partition(is_named);
        for (sort, entries) in [(Sort::Named, named), (Sort::Anonymous, anonymous)] {
            let calls = entries.iter().map(|entry| entry.count).sum();
            if calls > 0 && !self.write(entries).await {
                self.book.take_others(sort, calls);
            }
        }
    }

    /// Whether the entries are on the record. If not, the next window has their number.
    async fn write(&self, entries: Vec<AuditEntry>) -> bool {
        let calls: u64 = entries.iter().map(|entry| entry.count).sum();
        match self.store.record_audit(entries).await {
            Ok(()) => return true,
            Err(StoreError::Busy | StoreError::Full { .. }) => {
                tracing::warn!(
                    calls,
                    "denied calls are not in the audit log yet: the store has no room for them"
                );
            }
            Err(error) => tracing::warn!(%error, calls, "denied calls are not in the audit log yet"),
        }
        false
    }
}

/// Whether an entry tells of callers with valid credentials.
fn is_named(entry: &AuditEntry) -> bool {
    entry.outcome == AuditOutcome::Denied(AuditDenial::RoleMissing)
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

    #[test]
    fn a_flood_without_credentials_keeps_no_caller_out_of_the_log_and_callers_have_a_share_each() {
        let mut book = DenialBook::new(10);
        for call in 0..10_000 {
            take(&mut book, denial("192.0.2.1:1", &format!("m{call}")));
        }
        let of = |caller: usize, method: usize| Denial {
            caller: Caller::with_grants(&format!("caller-{caller}"), "viewer@acme"),
            reason: DenialReason::RoleMissing(Role::Admin),
            ..denial("192.0.2.1:1", &format!("m{method}"))
        };
        let written = |book: &mut DenialBook, caller: usize| {
            (0..50).filter_map(|method| take(book, of(caller, method))).count()
        };
        for caller in 0..10 {
            assert_eq!(written(&mut book, caller), 10, "{caller}");
        }
        assert_eq!(written(&mut book, 10), 0, "all of them together are bounded, too");
        let closed = book.close(at(1), || [1; 10]);
        let together = |denial: AuditDenial| {
            let of = closed.iter().filter(|entry| entry.outcome == AuditOutcome::Denied(denial));
            of.filter(|entry| entry.principal.is_empty()).map(|entry| entry.count).collect::<Vec<_>>()
        };
        assert_eq!(together(AuditDenial::CredentialsInvalid).len(), 1);
        assert_eq!(together(AuditDenial::RoleMissing).len(), 1);
        let counted: u64 = closed.iter().map(|entry| entry.count).sum();
        assert_eq!(counted, 10_000 - 10 + 11 * 50 - 100);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_counted_until_it_is() {
        let clock: SharedClock = Arc::new(crate::clock::SystemClock);
        let store: Arc<dyn Store> = Arc::new(crate::store::memory::MemoryStore::new(Arc::clone(&clock)));
        let (recorder, mut writer) = DenialRecorder::new(Arc::clone(&store), clock, 1);
        for call in 0..2 * QUEUE {
            recorder.denied(denial("192.0.2.1:1", &format!("m{call}")));
        }
        // As if the store had refused what was to be written.
        writer.book.take_others(Sort::Named, 7);
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(stop).await;
        let query = crate::store::AuditQuery { limit: 100, ..crate::store::AuditQuery::default() };
        let rows = store.audit(query).await.unwrap().rows;
        assert_eq!(rows.iter().map(|entry| entry.count).sum::<u64>(), 2 * QUEUE as u64 + 7);
    }
}
