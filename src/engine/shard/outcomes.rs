//! Outcomes: what became of attempts, for their deliveries, their destination, and who is told.

use std::sync::Arc;

use super::serving::STORE_RETRY;
use super::{Done, Shard};
use crate::domain::attempt::Attempt;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::destination::{CircuitChange, DestinationHealth, DisabledReason};
use crate::domain::event::NewEvent;
use crate::domain::id::{DestinationId, EventKey};
use crate::domain::operational::OperationalEvent;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::announce::{is_operational, routed};
use crate::engine::disable::disable_destination;
use crate::engine::gate::Ended;
use crate::engine::item::Item;
use crate::engine::worker::{Attempted, conclude, give_up};
use crate::policy::retry::disables;
use crate::store::{Settlement, Stage, StoreError};

/// What is known when an attempt has ended.
struct Conclusion<'a> {
    id: DestinationId,
    policy: &'a EffectivePolicy,
    attempt: &'a Attempt,
    now: Timestamp,
    /// One draw for the request: a batch that fails keeps its order.
    draw: f64,
}

impl Shard {
    pub(super) fn attempted(&mut self, id: DestinationId, attempted: Attempted) {
        let (now, draw) = (self.clock.now(), fastrand::f64());
        self.ledger.add(attempted.gone.iter().map(|item| give_up(id, item, EndReason::EventGone, now)));
        let mut finished: Vec<_> = attempted.gone.into_iter().map(|item| (item, None)).collect();
        let keys: Vec<EventKey> = attempted.spared.iter().map(|item| item.key).collect();
        self.end_flight(id, &keys);
        self.slot(id).lane.spare(attempted.spared, attempted.spared_until.unwrap_or(now));
        let Some(attempt) = attempted.attempt else {
            self.slot(id).lane.finished(finished, None);
            return;
        };
        let policy = Arc::clone(self.slot(id).lane.policy());
        let tells = attempted.items.iter().any(|item| !item.event.as_deref().is_some_and(is_operational));
        let conclusion = Conclusion { id, policy: &policy, attempt: &attempt, now, draw };
        finished.extend(self.conclude_all(&conclusion, attempted.items));
        let ended = Ended { success: attempt.outcome.is_success(), took: attempt.round_trip, at: now, draw };
        // What goes wrong on our side says nothing about the receiver.
        let ended = (!attempt.outcome.is_fault()).then_some(ended);
        self.slot(id).lane.finished(finished, ended);
        if ended.is_some() {
            self.note_health(&conclusion, tells);
        }
    }

    /// What the attempt means for each of its items, and when each waits again, if it does.
    fn conclude_all(
        &mut self,
        conclusion: &Conclusion<'_>,
        items: Vec<Item>,
    ) -> Vec<(Item, Option<Timestamp>)> {
        let Conclusion { id, policy, attempt, now, draw } = *conclusion;
        let mut finished = Vec::with_capacity(items.len());
        let mut after = now;
        for (position, mut item) in (1..).zip(items) {
            let (mut again, mut settlement) =
                conclude(id, policy, &mut item, attempt.at_position(position), (now, draw));
            // At a stop, what is in memory alone gets one more attempt and no retry: there is no later.
            if self.rules.stopping && again.is_some() && item.stage == Stage::InMemory {
                again = None;
                settlement.state = DeliveryState::Discarded { at: now, reason: EndReason::Stopped };
            }
            // One with fewer attempts behind it has a shorter delay, but must not overtake the others.
            if policy.ordered
                && let Some(due) = again.as_mut()
            {
                after = after.max(*due);
                *due = after;
                settlement.state = DeliveryState::Waiting { due: after };
            }
            settlement.told = self.told_of_dead_letter(&item, &settlement).map(Box::new);
            self.ledger.add([settlement]);
            finished.push((item, again));
        }
        finished
    }

    /// `tells`: whether more than operational events were sent, so that others may hear of what it means.
    fn note_health(&mut self, conclusion: &Conclusion<'_>, tells: bool) {
        let Conclusion { id, policy, attempt, now, .. } = *conclusion;
        let slot = self.slot(id);
        let circuit = slot.lane.circuit();
        let Some(entry) = slot.entry.clone() else { return };
        let mut change = None;
        let health = entry.status.update_health(|health| {
            match attempt.outcome.error() {
                None => health.succeeded(now),
                Some(error) => health.failed(now, error),
            }
            change = if tells { health.circuit_became(circuit, now) } else { None };
        });
        let told = change.and_then(|change| self.told_of_circuit(id, &health, change));
        let too_long = health
            .failing_since
            .zip(policy.disable_after)
            .is_some_and(|(since, limit)| now.since(since) >= limit);
        self.ledger.note_health(id, health, told);
        if disables(policy, &attempt.outcome) {
            self.disable(id, DisabledReason::Gone, now);
        } else if too_long {
            self.disable(id, DisabledReason::Failing, now);
        }
    }

    fn disable(&mut self, id: DestinationId, reason: DisabledReason, now: Timestamp) {
        let store = Arc::clone(&self.worker.store);
        let change =
            async move { Done::Disabled(id, reason, disable_destination(&*store, id, reason, now).await) };
        self.running.spawn(change);
    }

    /// The change is stored, or there was none to make.
    pub(super) fn disabled(id: DestinationId, reason: DisabledReason, result: Result<bool, StoreError>) {
        match result {
            Ok(true) => {
                tracing::info!(destination.id = %id, reason = reason.as_sentence(), "destination disabled");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(destination.id = %id, %error, "destination could not be disabled");
            }
        }
    }

    pub(super) fn attempt_failed(&mut self, id: DestinationId, items: Vec<Item>, error: &StoreError) {
        tracing::error!(destination.id = %id, %error, "events could not be read for an attempt");
        let due = self.clock.now() + STORE_RETRY;
        let keys: Vec<EventKey> = items.iter().map(|item| item.key).collect();
        self.end_flight(id, &keys);
        self.slot(id).lane.put_back(items, due);
    }

    // === Who is told ===

    /// What tells the organization of a new dead letter; nothing where the delivery itself told something.
    fn told_of_dead_letter(&self, item: &Item, settlement: &Settlement) -> Option<NewEvent> {
        let DeliveryState::DeadLettered { reason, .. } = settlement.state else { return None };
        let event = item.event.as_deref().filter(|event| !is_operational(event))?;
        let last_error = settlement.attempt.as_ref().and_then(|attempt| attempt.outcome.error());
        let told = OperationalEvent::DeliveryDeadLettered {
            delivery_id: settlement.id,
            event_id: event.id.clone(),
            reason,
            attempt_count: settlement.attempt.as_ref().map_or(0, |attempt| attempt.number),
            last_error: last_error.unwrap_or_default(),
            cycle_started_at: settlement.cycle.started_at,
        };
        routed(self.rules.store.directory(), &event.organization_id, &told)
    }

    fn told_of_circuit(
        &self,
        id: DestinationId,
        health: &DestinationHealth,
        change: CircuitChange,
    ) -> Option<NewEvent> {
        let told = match change {
            CircuitChange::Opened { at } => OperationalEvent::DestinationCircuitOpened {
                destination_id: id,
                consecutive_failures: health.consecutive_failures,
                last_error: health.last_error.clone().unwrap_or_default(),
                opened_at: at,
            },
            CircuitChange::Recovered { opened_at } => {
                OperationalEvent::DestinationRecovered { destination_id: id, opened_at }
            }
        };
        tracing::info!(destination.id = %id, event.r#type = told.event_type(), "the circuit has changed");
        let directory = self.rules.store.directory();
        let organization_id = directory.destination(id)?.destination.organization_id.clone();
        routed(directory, &organization_id, &told)
    }
}
