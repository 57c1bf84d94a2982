//! The worker: one attempt from the items of a lane to what becomes of each of them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crate::domain::attempt::{Attempt, Outcome, Refusal, Trigger};
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason};
use crate::domain::destination::Destination;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::caught::caught;
use crate::engine::item::Item;
use crate::policy::host_rate::HostKey;
use crate::policy::retry::{Facts, Verdict, judge};
use crate::store::{Settlement, Store, StoreError};
use crate::transport::courier::{Courier, Order};
use crate::transport::turn::{HeldBack, Turn};

/// What the record says of a fault of ours; the details are in the log.
const FAULT: &str = "an internal error of Signalpost kept this event from being sent; its log says which";

/// What an attempt needs besides its items.
#[derive(Clone)]
pub struct Worker {
    /// Where events are read from that are no longer in memory.
    pub store: Arc<dyn Store>,
    /// Who makes the attempt.
    pub courier: Arc<Courier>,
}

/// What an attempt came to.
#[derive(Debug, Default)]
pub struct Attempted {
    /// The items that were sent.
    pub items: Vec<Item>,
    /// Items whose events are no longer stored.
    pub gone: Vec<Item>,
    /// Items that were not sent: they shared the request with some that can't be, or their host has enough.
    pub spared: Vec<Item>,
    /// Until when those wait; absent: they need not.
    pub spared_until: Option<Timestamp>,
    /// The attempt; `None` when nothing was left to send.
    pub attempt: Option<Attempt>,
}

impl Worker {
    /// Makes one attempt for all items together. It counts for the hosts in `counted` already.
    ///
    /// # Errors
    /// [`StoreError`] when events could not be read; nothing was sent then, and the items come back.
    pub async fn attempt(
        &self,
        destination: &Destination,
        policy: &EffectivePolicy,
        items: Vec<Item>,
        counted: &[HostKey],
    ) -> Result<Attempted, (Vec<Item>, StoreError)> {
        let (items, gone) = match self.with_events(items).await {
            Ok(split) => split,
            Err(failed) => return Err(failed),
        };
        let (items, beyond) = within_bytes(items, policy);
        let Some(first) = items.first() else {
            return Ok(Attempted { gone, ..Attempted::default() });
        };
        let turn = match self.courier.take_turn(destination, policy, counted).await {
            Ok(turn) => turn,
            // Where it leads was not known before; now it is, and the lane waits where it has to.
            Err(HeldBack { until, .. }) => {
                return Ok(Attempted {
                    gone,
                    spared: items.into_iter().chain(beyond).collect(),
                    spared_until: Some(until),
                    ..Attempted::default()
                });
            }
        };
        let events: Vec<Arc<Event>> = items.iter().filter_map(|item| item.event.clone()).collect();
        let number = first.attempt_count.saturating_add(1);
        let order = Order { destination, policy, events: &events, number, trigger: trigger_of(first.cycle) };
        let attempt = self.make(turn, order).await;
        // An ordered lane sends nothing past an event that can't be sent.
        let (items, mut spared) = match &attempt.outcome {
            Outcome::NotSent { refusal: Refusal::NotRenderable | Refusal::Fault, .. } if !policy.ordered => {
                self.single_out(order, items)
            }
            _ => (items, Vec::new()),
        };
        spared.extend(beyond);
        Ok(Attempted { items, gone, spared, spared_until: None, attempt: Some(attempt) })
    }

    /// Makes the attempt. A panic is a fault of ours that stays with these events: it is their outcome, on
    /// the record, and does not end the process, which would meet the same events again after each start.
    async fn make(&self, turn: Turn, order: Order<'_>) -> Attempt {
        let started_at = self.courier.clock.now();
        caught(self.courier.attempt(turn, order)).await.unwrap_or_else(|panic| {
            tracing::error!(destination.id = %order.destination.id, panic, "an attempt has panicked");
            let attempt = Attempt {
                number: order.number,
                started_at,
                round_trip: self.courier.clock.now().since(started_at),
                trigger: order.trigger,
                outcome: Outcome::NotSent { refusal: Refusal::Fault, detail: FAULT.into() },
                batch_size: u32::try_from(order.events.len()).unwrap_or(u32::MAX),
                batch: None,
                remote_address: None,
            };
            self.courier.account.close(order, &attempt, None);
            attempt
        })
    }

    /// Those items of a batch which can't be sent, and the others; all of them where that makes no
    /// difference.
    fn single_out(&self, order: Order<'_>, items: Vec<Item>) -> (Vec<Item>, Vec<Item>) {
        let can_be_sent = |item: &Item| {
            let alone = Order { events: item.event.as_slice(), ..order };
            let check = AssertUnwindSafe(|| self.courier.check(alone).is_ok());
            std::panic::catch_unwind(check).unwrap_or(false)
        };
        let (spared, culprits): (Vec<Item>, Vec<Item>) = items.into_iter().partition(can_be_sent);
        if culprits.is_empty() { (spared, culprits) } else { (culprits, spared) }
    }

    /// Reads events; a damaged one is as good as gone, and must not hold up the others.
    async fn load(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        match self.store.load_events(keys.clone()).await {
            Err(StoreError::Corrupt(_)) => {}
            loaded => return loaded,
        }
        let mut events = Vec::with_capacity(keys.len());
        for key in keys {
            match self.store.load_events(vec![key]).await {
                Ok(loaded) => events.extend(loaded),
                Err(StoreError::Corrupt(problem)) => {
                    tracing::error!(event.key = %key, problem, "a damaged event can't be delivered");
                    events.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }

    /// Reads the events that are not in memory and sorts out the items whose event is gone.
    async fn with_events(
        &self,
        mut items: Vec<Item>,
    ) -> Result<(Vec<Item>, Vec<Item>), (Vec<Item>, StoreError)> {
        let missing: Vec<_> = items.iter().filter(|item| item.event.is_none()).map(|item| item.key).collect();
        if missing.is_empty() {
            return Ok((items, Vec::new()));
        }
        let loaded = match self.load(missing).await {
            Ok(loaded) => loaded,
            Err(error) => return Err((items, error)),
        };
        let mut loaded = loaded.into_iter();
        for item in items.iter_mut().filter(|item| item.event.is_none()) {
            item.event = loaded.next().flatten().filter(|event| event.erased_at.is_none());
            item.data_bytes = item.event.as_ref().map(|event| event.data.as_bytes().len());
        }
        Ok(items.into_iter().partition(|item| item.event.is_some()))
    }
}

/// What fits into one request, and the rest: how large some of it is shows only when it was read.
fn within_bytes(items: Vec<Item>, policy: &EffectivePolicy) -> (Vec<Item>, Vec<Item>) {
    let most = usize::try_from(policy.max_batch_bytes).unwrap_or(usize::MAX);
    let mut bytes = 0_usize;
    let fitting = items.iter().take_while(|item| {
        bytes = bytes.saturating_add(item.bytes());
        bytes <= most
    });
    let count = fitting.count().max(1).min(items.len());
    let mut items = items;
    let beyond = items.split_off(count);
    (items, beyond)
}

fn trigger_of(cycle: Cycle) -> Trigger {
    match (cycle.attempts, cycle.cause) {
        (0, CycleCause::Routed) => Trigger::Routed,
        (0, CycleCause::Resend) => Trigger::Resend,
        (0, CycleCause::Replay) => Trigger::Replay,
        _ => Trigger::Retry,
    }
}

/// What an attempt means for one of its items: when it waits again, if it does, and what goes on record.
#[must_use]
pub fn conclude(
    destination_id: DestinationId,
    policy: &EffectivePolicy,
    item: &mut Item,
    attempt: Attempt,
    (now, draw): (Timestamp, f64),
) -> (Option<Timestamp>, Settlement) {
    item.attempt_count = item.attempt_count.saturating_add(1);
    item.cycle.attempts = item.cycle.attempts.saturating_add(1);
    let (created_at, guarantee) = (item.key.made_at(), item.guarantee_in(policy));
    let outcome = &attempt.outcome;
    let verdict = judge(Facts { policy, guarantee, cycle: item.cycle, created_at, outcome, now, draw });
    let (again, state) = match verdict {
        Verdict::Succeeded => (None, DeliveryState::Succeeded { at: now }),
        Verdict::Retry(due) => (Some(due), DeliveryState::Waiting { due }),
        Verdict::DeadLetter(reason) => (None, DeliveryState::DeadLettered { at: now, reason }),
        Verdict::Discard(reason) => (None, DeliveryState::Discarded { at: now, reason }),
    };
    let attempt = Attempt { number: item.attempt_count, ..attempt };
    (again, settlement(destination_id, item, Some(attempt), state))
}

/// The record of an item that is given up without an attempt.
#[must_use]
pub fn give_up(destination_id: DestinationId, item: &Item, reason: EndReason, at: Timestamp) -> Settlement {
    settlement(destination_id, item, None, DeliveryState::Discarded { at, reason })
}

fn settlement(
    destination_id: DestinationId,
    item: &Item,
    attempt: Option<Attempt>,
    state: DeliveryState,
) -> Settlement {
    Settlement {
        id: DeliveryId::new(item.key, destination_id),
        stage: item.stage,
        guarantee: item.guarantee,
        attempt,
        cycle: item.cycle,
        state,
        told: None,
    }
}
