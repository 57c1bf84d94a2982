//! Handing over what was accepted, to lanes that this replica owns: its own events out of memory, those of other
//! replicas out of the store, all in order of their keys and each once.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::Core;
use super::connect::query;
use super::fault::Fault;
use super::rows::{self, of_key};
use crate::domain::event::{Event, Route};
use crate::domain::id::{DeliveryId, EventKey};
use crate::store::DueEntry;
use crate::store::record::EventHead;

/// How many events are read at once.
const PAGE: i64 = 1000;

/// Everything up to this key was handed over.
pub(super) struct Conveyor {
    seen: Mutex<EventKey>,
}

impl Conveyor {
    pub(super) fn behind(key: EventKey) -> Self {
        Self { seen: Mutex::new(key) }
    }

    /// Hands nothing over for as long as this is held.
    pub(super) async fn stop(&self) -> MutexGuard<'_, EventKey> {
        self.seen.lock().await
    }
}

impl Core {
    /// Tells of deliveries that wait again, in their order among what is handed over.
    pub(super) async fn tell_requeued(&self, entries: &[DueEntry]) {
        let _still = self.conveyor.stop().await;
        let is_mine = |entry: &&DueEntry| self.leases.runs(entry.id.destination_id);
        let mine: Vec<DueEntry> = entries.iter().filter(is_mine).copied().collect();
        if !mine.is_empty() {
            self.tell(|listener| listener.requeued(&mine));
        }
    }

    /// Tells of deliveries that have ended.
    pub(super) async fn tell_ended(&self, ids: &[DeliveryId]) {
        let _still = self.conveyor.stop().await;
        let is_mine = |id: &&DeliveryId| self.leases.runs(id.destination_id);
        let mine: Vec<DeliveryId> = ids.iter().filter(is_mine).copied().collect();
        if !mine.is_empty() {
            self.tell(|listener| listener.ended(&mine));
        }
    }

    /// Tells of accepted events, as far as they concern lanes that are ours at this moment. It is decided here and not
    /// when a lane hears of it: a lane that is gained meanwhile begins with what waits in the store, in order.
    fn tell_accepted(&self, events: &[Arc<Event>]) {
        let mine: Vec<Arc<Event>> = events.iter().filter_map(|event| self.for_our_lanes(event)).collect();
        if !mine.is_empty() {
            self.tell(|listener| listener.accepted(&mine));
        }
    }

    /// The event with those of its routes that lead to our lanes, if any do.
    fn for_our_lanes(&self, event: &Arc<Event>) -> Option<Arc<Event>> {
        let runs = |route: &&Route| self.leases.runs(route.destination_id);
        let ours = event.routes.iter().filter(runs).count();
        if ours == event.routes.len() {
            return Some(Arc::clone(event));
        }
        let routes = event.routes.iter().filter(runs).copied().collect();
        (ours > 0).then(|| Arc::new(Event { routes, ..event.as_ref().clone() }))
    }

    /// Hands over a group of our own that was just committed; the last key before it was `before`.
    pub(super) async fn hand_over(&self, before: EventKey, events: &[Arc<Event>]) {
        let mut seen = self.conveyor.seen.lock().await;
        if *seen < before
            && let Err(fault) = self.read_up_to(&mut seen, before).await
        {
            tracing::warn!(%fault, "what others accepted could not be read; it is read again soon");
            self.lease_call.notify_one();
            return;
        }
        // What was read from the store meanwhile was handed over then.
        let news: Vec<_> = events.iter().filter(|event| event.key > *seen).cloned().collect();
        if let Some(last) = news.last() {
            *seen = last.key;
            self.tell_accepted(&news);
        }
    }

    /// Hands over what was committed up to this key.
    pub(super) async fn catch_up(&self, to: EventKey) -> Result<(), Fault> {
        let mut seen = self.conveyor.seen.lock().await;
        self.read_up_to(&mut seen, to).await
    }

    /// Hands over whatever was committed.
    pub(super) async fn catch_up_with_all(&self) -> Result<(), Fault> {
        let client = self.reads.get().await?;
        let rows = query(&client, "SELECT last_key FROM sequencer", &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        self.catch_up(rows::key(row.get(0))).await
    }

    /// Begins behind whatever was committed: what came before is read with the backlog of each lane.
    pub(super) async fn skip_to_end(&self) -> Result<(), Fault> {
        let mut seen = self.conveyor.seen.lock().await;
        let client = self.reads.get().await?;
        let rows = query(&client, "SELECT last_key FROM sequencer", &[]).await?;
        if let Some(row) = rows.first() {
            *seen = rows::key(row.get(0)).max(*seen);
        }
        Ok(())
    }

    async fn read_up_to(&self, seen: &mut EventKey, to: EventKey) -> Result<(), Fault> {
        while *seen < to {
            let owned = self.leases.owned_buckets();
            let client = self.reads.get().await?;
            let rows = query(&client, BETWEEN, &[&of_key(*seen), &of_key(to), &owned, &PAGE]).await?;
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                let key = rows::key(row.get(0));
                match rows::event(key, row.get(1)) {
                    Ok(event) => events.push(Arc::new(event)),
                    // Its lane finds it in the store, too, and says what becomes of it.
                    Err(error) => tracing::error!(%error, "an accepted event can't be read"),
                }
            }
            let is_last = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            let last = rows.last().map(|row| rows::key(row.get(0)));
            self.heads.add(events.iter().map(|event| EventHead::from(event.as_ref())));
            self.tell_accepted(&events);
            *seen = if is_last { to } else { last.unwrap_or(to) };
        }
        Ok(())
    }
}

pub(super) const BETWEEN: &str = "SELECT event_key, record FROM events
    WHERE event_key > $1 AND event_key <= $2 AND (bucket IS NULL OR bucket = ANY($3::smallint[]))
    ORDER BY event_key LIMIT $4";
