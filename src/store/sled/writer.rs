//! The one thread that writes: it takes whatever waits, commits it as one group, and answers.
//!
//! A group is applied, flushed and fsynced before the directory changes, the listener hears of it and
//! callers are answered, in this order. A group of settlements only is applied and answered, and becomes
//! durable with the next group or soon after. Any failure of sled and any panic end the thread and fail
//! the store: its memory can't be trusted any more.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use sled::Db;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::accept::Submission;
use super::audit::AuditCommand;
use super::backup::Writes;
use super::disk::{SyncHandle, Watermark};
use super::erase::Doomed;
use super::group::{Effect, Finished, Group, Tally};
use super::mark::Mark;
use super::replay::{ReplayCommand, Running};
use super::retention::Found;
use super::young::{Nursery, begun_by};
use super::{Shared, keys, open, unavailable};
use crate::clock::SharedClock;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::Acceptance;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;
use crate::metrics::StoreMetrics;
use crate::store::keyring::Keyring;
use crate::store::record::{EventHead, Seals};
use crate::store::retention::{Cuts, EraseFrom, ErasedEvent, RemovedEarly, Swept};
use crate::store::riders::Riders;
use crate::store::{DestinationQuota, DueEntry, Settlement, StoreError, lifecycle};

/// Settlements become durable after this long at the latest; the trait promises half a second.
const SYNC_AFTER: Duration = Duration::from_millis(400);
/// A step of a commit that takes so long is worth a line in the log.
const SLOW: Duration = Duration::from_millis(20);
/// A group takes no further call once it has so many bytes or keys: from here on groups get no faster,
/// and all reads wait while one is applied.
const GROUP_BYTES: usize = 1024 * 1024;
const GROUP_KEYS: usize = 512;
/// How many deliveries that linger get keys in one commit, where it brings no more new ones.
const INDEXED_AT_ONCE: usize = 256;
/// How many heads of events are remembered, so that settling reads no events. They are small.
const HEADS_KEPT: usize = 4096;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the writer.
pub(super) enum Command {
    Accept(Vec<Submission>, Reply<Vec<Acceptance>>),
    Settle(Vec<Settlement>, Vec<(DestinationId, DestinationHealth)>, Reply<()>),
    Requeue(Vec<DeliveryId>, (CycleCause, Timestamp), Reply<Vec<DueEntry>>),
    End(Vec<DeliveryId>, (StateKind, DeliveryState), Reply<Vec<DeliveryId>>),
    CreateDestination(Box<Destination>, Option<DestinationQuota>, Reply<Arc<Destination>>),
    UpdateDestination(Box<Destination>, u64, Reply<Arc<Destination>>),
    DeleteDestination(DestinationId, Option<u64>, Reply<()>),
    CreateOrganization(Organization, Reply<Arc<Organization>>),
    UpdateOrganization(Organization, u64, Reply<Arc<Organization>>),
    Replay(ReplayCommand),
    Sweep(Arc<Cuts>, Box<Found>, Reply<Swept>),
    EraseEvent(EventKey, Timestamp, Reply<Option<ErasedEvent>>),
    BeginErasure(OrganizationId, Option<u64>, Reply<Vec<DestinationId>>),
    EraseRows(OrganizationId, Box<Doomed>, Reply<Option<EraseFrom>>),
    Reseal(Vec<DestinationId>, Reply<Seals>),
    Audit(AuditCommand),
    Close(Reply<()>),
}

/// A command, and what rides on what it changes.
type Called = (Command, Riders);

/// A command with its place in the queue, which is free again when the command is taken.
pub(super) struct Queued {
    pub(super) command: Command,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) riders: Riders,
}

impl Queued {
    /// Takes the command out and frees its place.
    fn command(self) -> Called {
        drop(self.place);
        (self.command, self.riders)
    }
}

/// All that writing needs; owned by the thread.
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) sync: SyncHandle,
    /// Numbers commits.
    pub(super) mark: Mark,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: SharedClock,
    pub(super) metrics: StoreMetrics,
    pub(super) watermark: Watermark,
    pub(super) folder: PathBuf,
    pub(super) group_events: usize,
    pub(super) last_key: EventKey,
    pub(super) heads: Heads,
    /// The latest events, whose fresh deliveries have no keys of their own yet.
    pub(super) nursery: Nursery,
    /// How much waits, as of the last commit.
    pub(super) tally: Tally,
    /// As of the group that is being built; the directory is as of the last commit.
    pub(super) destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub(super) organizations: BTreeMap<OrganizationId, Arc<Organization>>,
    pub(super) running_replays: BTreeMap<ReplayId, Running>,
    pub(super) erasing: BTreeSet<OrganizationId>,
    /// Seals secrets and opens them.
    pub(super) keyring: Arc<Keyring>,
    /// Since when something is applied but not durable.
    pub(super) unsynced_since: Option<Instant>,
    /// How many bytes are stored, as of the last commit.
    pub(super) stored_bytes: u64,
    /// As of the group that is being built.
    pub(super) removed_early: Option<RemovedEarly>,
    /// Tells what this process holds in memory from what an earlier one did.
    pub(super) opening: u64,
}

impl Writer {
    /// Works until the store is closed or dropped, or fails.
    pub(super) fn run(mut self, commands: Receiver<Queued>) {
        let shared = Arc::clone(&self.shared);
        match catch_unwind(AssertUnwindSafe(|| self.work(&commands))) {
            Ok(Ok(())) => shared.condition.close(),
            Ok(Err(StoreError::Unavailable(problem))) => shared.condition.fail(problem),
            Ok(Err(error)) => shared.condition.fail(error.to_string()),
            Err(panic) => {
                shared.condition.fail(format!("its writer panicked: {}", panic_text(panic.as_ref())));
            }
        }
        // Only now, so that callers whose commands are dropped find the reason.
        drop(commands);
    }

    fn work(&mut self, commands: &Receiver<Queued>) -> Result<(), StoreError> {
        loop {
            let first = match self.wait(commands) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.make_durable()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            };
            let mut group = self.group();
            let mut closing = self.take(&mut group, first)?;
            while closing.is_none() && self.has_room(&group) {
                let Ok(next) = commands.try_recv() else { break };
                closing = self.take(&mut group, next.command())?;
            }
            self.commit(group)?;
            if let Some(reply) = closing {
                self.close()?;
                drop(reply.send(Ok(())));
                return Ok(());
            }
        }
    }

    pub(super) fn group(&self) -> Group {
        Group::new((*self.db).clone(), Arc::clone(&self.shared), self.last_key, self.opening)
    }

    fn wait(&self, commands: &Receiver<Queued>) -> Result<Called, RecvTimeoutError> {
        let queued = match self.unsynced_since {
            Some(since) => commands.recv_timeout(SYNC_AFTER.saturating_sub(since.elapsed())),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        queued.map(Queued::command)
    }

    fn has_room(&self, group: &Group) -> bool {
        let (events, bytes, keys) = group.size();
        events < self.group_events && bytes < GROUP_BYTES && keys < GROUP_KEYS
    }

    /// Takes a command into the group; answers the reply of a command to close.
    fn take(
        &mut self,
        group: &mut Group,
        (command, riders): Called,
    ) -> Result<Option<Reply<()>>, StoreError> {
        let Riders { entry, told } = riders;
        group.begin(entry.map(|entry| *entry));
        let closing = self.perform(group, command)?;
        if group.has_changed() && self.tell(group, told)? {
            group.keep(true)?;
        }
        Ok(closing)
    }

    fn perform(&mut self, group: &mut Group, command: Command) -> Result<Option<Reply<()>>, StoreError> {
        match command {
            Command::Accept(submissions, reply) => {
                let result = self.accept(group, submissions);
                join(group, true, result, reply)?;
            }
            Command::Settle(settlements, health, reply) => {
                let result = self.settle(group, settlements, health);
                // Nobody may get an event before it is durable.
                let told = matches!(result, Ok(true));
                join(group, told, result.map(drop), reply)?;
            }
            Command::Requeue(ids, begin, reply) => {
                let result = self.requeue(group, &ids, begin);
                group.counts(result.as_ref().map_or(0, Vec::len));
                join(group, true, result, reply)?;
            }
            Command::End(ids, change, reply) => {
                let result = self.end(group, &ids, change);
                group.counts(result.as_ref().map_or(0, Vec::len));
                join(group, true, result, reply)?;
            }
            Command::CreateDestination(destination, quota, reply) => {
                let result = self.create_destination(group, *destination, quota);
                join(group, true, result, reply)?;
            }
            Command::UpdateDestination(destination, expected, reply) => {
                let result = self.update_destination(group, *destination, expected);
                join(group, true, result, reply)?;
            }
            Command::DeleteDestination(id, expected, reply) => {
                let result = self.delete_destination(group, id, expected);
                join(group, true, result, reply)?;
            }
            Command::CreateOrganization(organization, reply) => {
                let result = self.create_organization(group, organization);
                join(group, true, result, reply)?;
            }
            Command::UpdateOrganization(organization, expected, reply) => {
                let result = self.update_organization(group, organization, expected);
                join(group, true, result, reply)?;
            }
            Command::Reseal(ids, reply) => {
                let result = self.reseal(group, &ids);
                join(group, true, result, reply)?;
            }
            Command::Replay(command) => self.take_replay(group, command)?,
            Command::Audit(command) => self.take_audit(group, command)?,
            Command::Close(reply) => return Ok(Some(reply)),
            removal => self.take_removal(group, removal)?,
        }
        Ok(None)
    }

    fn take_removal(&mut self, group: &mut Group, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Sweep(cuts, found, reply) => {
                let result = self.sweep(group, &cuts, *found);
                join(group, false, result, reply)
            }
            Command::EraseEvent(key, now, reply) => {
                let result = self.erase_event(group, key, now);
                join(group, true, result, reply)
            }
            Command::BeginErasure(id, expected, reply) => {
                let result = self.begin_erasure(group, &id, expected);
                join(group, true, result, reply)
            }
            Command::EraseRows(id, doomed, reply) => {
                // The end of it must be durable before the id is given to somebody else.
                let ends = doomed.next.is_none();
                let result = self.erase_rows(group, &id, *doomed);
                join(group, ends, result, reply)
            }
            // `take` has the others.
            _ => Ok(()),
        }
    }

    pub(super) fn commit(&mut self, group: Group) -> Result<(), StoreError> {
        let finished = group.finish()?;
        let Finished { writes, grows_by, durable, events, born, gone, tally, effects, answers } = finished;
        let (began, changes) = (Instant::now(), writes.is_some());
        if let Some(mut writes) = writes {
            self.stored_bytes = self.stored_bytes.saturating_add_signed(grows_by);
            self.shared.stored_bytes.store(self.stored_bytes, Ordering::Relaxed);
            self.mark.number(&mut writes, self.stored_bytes);
            let old = self.index_what_lingers(&mut writes, &gone, born.len());
            // Whoever reads meanwhile finds a delivery in both orders rather than in neither.
            self.shared.young.add(&born);
            self.apply(writes)?;
            self.shared.young.remove(&gone);
            self.shared.young.remove(&old);
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        note_slow("applying", began);
        if durable || self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER) {
            self.make_durable()?;
        }
        if changes {
            self.metrics.committed(events, began.elapsed());
            self.metrics.moved(tally.waiting, tally.dead_letters);
            self.tally.merge(tally);
        }
        let mut changed = Vec::new();
        for effect in effects {
            self.publish(effect, &mut changed);
        }
        if !changed.is_empty() {
            self.shared.changes.publish(changed);
        }
        for answer in answers {
            answer();
        }
        Ok(())
    }

    /// Gives keys to the oldest young deliveries that still wait, and answers which these are.
    fn index_what_lingers(
        &mut self,
        writes: &mut Writes,
        gone: &[DeliveryId],
        born: usize,
    ) -> Vec<DeliveryId> {
        let Some((last, mut old)) = self.nursery.grow_up(born.max(INDEXED_AT_ONCE)) else {
            return Vec::new();
        };
        let gone: HashSet<&DeliveryId> = gone.iter().collect();
        old.retain(|id| self.shared.young.contains(*id) && !gone.contains(id));
        for id in &old {
            writes.insert(keys::by_destination(keys::FRESH, *id), &[]);
        }
        writes.insert(keys::INDEXED_KEY, last.as_bytes());
        old
    }

    /// Applies the writes of a commit, and notes them for the backup that is being made.
    fn apply(&self, writes: Writes) -> Result<(), StoreError> {
        let mut journal = self.shared.journal.lock();
        let noted = journal.is_on().then(|| writes.clone());
        self.db.apply_batch(writes.into_batch()).map_err(|error| unavailable(&error))?;
        noted.into_iter().for_each(|writes| journal.note(writes));
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let whole = began;
        self.db.flush().map_err(|error| unavailable(&error))?;
        note_slow("flushing", began);
        let began = Instant::now();
        let synced = self.sync.sync().and_then(|()| self.mark.note());
        synced.map_err(|error| StoreError::Unavailable(format!("fsync failed: {error}")))?;
        note_slow("syncing", began);
        self.metrics.fsynced(whole.elapsed());
        self.unsynced_since = None;
        self.shared.set_durable_key(self.last_key);
        Ok(())
    }

    fn publish(&mut self, effect: Effect, changed: &mut Vec<Delivery>) {
        let shared = Arc::clone(&self.shared);
        let (directory, listener) = (&shared.directory, shared.listener.get());
        match effect {
            Effect::Changed(delivery) => {
                self.metrics.became(delivery.state.kind(), delivery.state.reason());
                changed.push(*delivery);
                None
            }
            Effect::Accepted(events) => {
                for event in &events {
                    self.nursery.take(event.key, begun_by(event).collect());
                }
                changed.extend(events.iter().flat_map(|event| lifecycle::begun(event)));
                listener.inspect(|listener| listener.accepted(&events))
            }
            Effect::Requeued(entries) => listener.inspect(|listener| listener.requeued(&entries)),
            Effect::Ended(ids) => listener.inspect(|listener| listener.ended(&ids)),
            Effect::DestinationPut(destination) => {
                let id = destination.id;
                directory.put_destination(destination, DestinationHealth::default());
                listener.inspect(|listener| listener.destination_changed(id))
            }
            Effect::DestinationRemoved(id) => {
                directory.remove_destination(id);
                listener.inspect(|listener| listener.destination_changed(id))
            }
            Effect::ReplayChanged(id) => listener.inspect(|listener| listener.replay_changed(id)),
            Effect::ErasureBegun(id) => {
                directory.begin_erasure(id);
                None
            }
            Effect::ErasureEnded(id) => {
                directory.end_erasure(&id);
                None
            }
            Effect::RemovedEarly(early) => {
                *self.shared.removed_early.lock().unwrap_or_else(PoisonError::into_inner) = Some(early);
                None
            }
            Effect::OrganizationPut(organization) => {
                directory.put_organization(organization);
                None
            }
        };
    }

    /// Leaves a mark that nothing was under way.
    fn close(&mut self) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        // Another value with each end; see `open::note_closed`.
        batch.insert(keys::CLEAN_KEY, &self.opening.to_be_bytes());
        batch.insert(keys::SIZE_KEY, &self.stored_bytes.to_be_bytes());
        batch.insert(keys::TALLY_KEY, self.tally.encode());
        self.db.apply_batch(batch).map_err(|error| unavailable(&error))?;
        self.make_durable()?;
        let noted = open::note_closed(&self.folder, &self.db);
        noted.map_err(|error| StoreError::Unavailable(format!("its end can't be noted: {error}")))
    }
}

/// Takes the writes of a call into the group, or none of them, and answers after the commit.
pub(super) fn join<T: Send + 'static>(
    group: &mut Group,
    durable: bool,
    result: Result<T, StoreError>,
    reply: Reply<T>,
) -> Result<(), StoreError> {
    match &result {
        Ok(_) => group.keep(durable)?,
        // sled itself failed, so the store has; the caller learns it from the dropped reply.
        Err(StoreError::Unavailable(problem)) => return Err(StoreError::Unavailable(problem.clone())),
        Err(_) => group.discard(),
    }
    // The caller may have gone; what it asked for is done all the same.
    group.answer(move || drop(reply.send(result)));
    Ok(())
}

/// Everybody waits meanwhile, so an operator who asks why events were late finds it in the log.
fn note_slow(step: &str, began: Instant) {
    let took = began.elapsed();
    if took >= SLOW {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(step, took_ms, "a slow commit");
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// The heads of the events that were accepted or settled last.
#[derive(Default)]
pub(super) struct Heads {
    by_key: HashMap<EventKey, EventHead>,
    order: VecDeque<EventKey>,
}

impl Heads {
    pub(super) fn get(&self, key: EventKey) -> Option<EventHead> {
        self.by_key.get(&key).cloned()
    }

    pub(super) fn remove(&mut self, key: EventKey) {
        self.by_key.remove(&key);
    }

    pub(super) fn insert(&mut self, head: EventHead) {
        let key = head.key;
        if self.by_key.insert(key, head).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > HEADS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}
