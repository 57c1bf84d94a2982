//! The pool: who keeps connections open, and who has to let go of them.
//!
//! Each receiver has a client of its own, which keeps its connections. What all of them have opened together is
//! counted (`sockets`). Where no more may be opened, the one that was idle for longest is dropped, and its
//! connections with it; the request at hand goes over a connection that is closed after the answer. So there are
//! never more connections than may be kept, and one besides for each request in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Client;
use tokio::time::Instant;
use url::Url;

use super::sockets::{Allowance, Opened};

/// A client has opened so many connections more than twice what it needed at once: others close them, and it
/// is replaced, so that what is closed is no longer counted.
const REOPENED: usize = 8;

/// A receiver, as far as a connection is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Receiver {
    host: Arc<str>,
    port: u16,
    tls: bool,
    any_certificate: bool,
}

impl Receiver {
    pub(super) fn of(url: &Url, any_certificate: bool) -> Self {
        Self {
            host: url.host_str().unwrap_or_default().into(),
            port: url.port_or_known_default().unwrap_or(0),
            tls: url.scheme() == "https",
            any_certificate,
        }
    }
}

/// The client of one receiver.
#[derive(Debug)]
struct Keeper {
    client: Client,
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Entry {
    keeper: Arc<Keeper>,
    in_flight: usize,
    /// The most requests that there were at once.
    peak: usize,
    /// The number and the time of its last use.
    used: (u64, Instant),
}

#[derive(Debug, Default)]
struct Entries {
    by_receiver: HashMap<Receiver, Entry>,
    /// Receivers without requests in flight by the number of their last use, the oldest first.
    idle: BTreeMap<u64, Receiver>,
    next_number: u64,
}

/// Clients by receiver.
#[derive(Debug)]
pub(super) struct Pool {
    most: usize,
    idle_timeout: Duration,
    allowance: Arc<Allowance>,
    entries: Mutex<Entries>,
}

impl Pool {
    /// Keeps so many connections, each for so long.
    pub(super) fn new(most: usize, idle_timeout: Duration) -> Self {
        Self { most, idle_timeout, allowance: Allowance::new(most), entries: Mutex::default() }
    }

    /// The client of a receiver, made by `make` where there is none; `None` where nothing is kept, or `make`
    /// made none.
    pub(super) async fn lend(
        &self,
        receiver: Receiver,
        make: impl FnOnce(&Arc<Opened>) -> Option<Client>,
    ) -> Option<Loan<'_>> {
        if self.most == 0 {
            return None;
        }
        let (loan, dropped) = self.begin(receiver, make, Instant::now());
        close(dropped).await;
        loan
    }

    fn begin(
        &self,
        receiver: Receiver,
        make: impl FnOnce(&Arc<Opened>) -> Option<Client>,
        now: Instant,
    ) -> (Option<Loan<'_>>, Vec<Arc<Keeper>>) {
        let mut entries = self.lock();
        let mut dropped = Vec::new();
        dropped.extend(entries.take_expired(now, self.idle_timeout));
        dropped.extend(entries.take_reopened(&receiver));
        if !entries.by_receiver.contains_key(&receiver) {
            let opened = Opened::none_of(&self.allowance);
            let Some(client) = make(&opened) else { return (None, dropped) };
            entries.add(receiver.clone(), Arc::new(Keeper { client, opened }), now);
        }
        if entries.by_receiver.len() > self.most {
            dropped.extend(entries.take_oldest());
        }
        let keeper = entries.begin(&receiver, now);
        (keeper.map(|keeper| Loan { pool: self, receiver, keeper }), dropped)
    }

    /// Closes the connections of whoever has not used them for longest, if anybody does without.
    pub(super) async fn make_room(&self) {
        let oldest = self.lock().take_oldest();
        close(oldest.into_iter().collect()).await;
    }

    /// How many connections are kept, those included over which requests go: at most so many, since nobody hears of
    /// one that a receiver closes.
    pub(super) fn kept(&self, now: Instant) -> usize {
        let expired = |entry: &Entry| {
            entry.in_flight == 0 && now.saturating_duration_since(entry.used.1) > self.idle_timeout
        };
        let entries = self.lock();
        let open = entries.by_receiver.values().filter(|entry| !expired(entry));
        open.map(|entry| entry.keeper.opened.count()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of clients that nobody uses. Their connections close when their own tasks run; until then they count.
async fn close(keepers: Vec<Arc<Keeper>>) {
    if keepers.is_empty() {
        return;
    }
    let opened: Vec<Arc<Opened>> = keepers.iter().map(|keeper| Arc::clone(&keeper.opened)).collect();
    drop(keepers);
    tokio::task::yield_now().await;
    drop(opened);
}

impl Entries {
    fn add(&mut self, receiver: Receiver, keeper: Arc<Keeper>, now: Instant) {
        self.by_receiver.insert(receiver, Entry { keeper, in_flight: 0, peak: 0, used: (0, now) });
    }

    fn begin(&mut self, receiver: &Receiver, now: Instant) -> Option<Arc<Keeper>> {
        let entry = self.by_receiver.get_mut(receiver)?;
        if entry.in_flight == 0 {
            self.idle.remove(&entry.used.0);
        }
        entry.in_flight += 1;
        entry.peak = entry.peak.max(entry.in_flight);
        entry.used.1 = now;
        Some(Arc::clone(&entry.keeper))
    }

    fn end(&mut self, receiver: &Receiver, keeper: &Arc<Keeper>, now: Instant) {
        // It may have been replaced meanwhile.
        let entry = self.by_receiver.get_mut(receiver).filter(|entry| Arc::ptr_eq(&entry.keeper, keeper));
        let Some(entry) = entry else { return };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        if entry.in_flight == 0 {
            self.next_number += 1;
            entry.used = (self.next_number, now);
            self.idle.insert(self.next_number, receiver.clone());
        }
    }

    /// The one that was idle for longest, if it was for so long that its connections are closed.
    fn take_expired(&mut self, now: Instant, idle_timeout: Duration) -> Option<Arc<Keeper>> {
        let entry = self.by_receiver.get(self.idle.values().next()?)?;
        if now.duration_since(entry.used.1) > idle_timeout { self.take_oldest() } else { None }
    }

    /// The one of this receiver, if others closed most of what it has opened.
    fn take_reopened(&mut self, receiver: &Receiver) -> Option<Arc<Keeper>> {
        let entry = self.by_receiver.get(receiver)?;
        if entry.keeper.opened.count() < 2 * entry.peak + REOPENED {
            return None;
        }
        self.idle.remove(&entry.used.0);
        self.by_receiver.remove(receiver).map(|entry| entry.keeper)
    }

    /// The one that was idle for longest.
    fn take_oldest(&mut self) -> Option<Arc<Keeper>> {
        let (_, receiver) = self.idle.pop_first()?;
        self.by_receiver.remove(&receiver).map(|entry| entry.keeper)
    }
}

/// A client in use, by one request.
#[derive(Debug)]
pub(super) struct Loan<'a> {
    pool: &'a Pool,
    receiver: Receiver,
    keeper: Arc<Keeper>,
}

impl Loan<'_> {
    pub(super) fn client(&self) -> &Client {
        &self.keeper.client
    }

    /// The request has ended. Where its client was replaced meanwhile, and this was the last, the client goes.
    pub(super) async fn give_back(self) {
        let keeper = Arc::clone(&self.keeper);
        drop(self);
        if Arc::strong_count(&keeper) == 1 {
            close(vec![keeper]).await;
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.pool.lock().end(&self.receiver, &self.keeper, Instant::now());
    }
}
