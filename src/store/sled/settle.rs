//! Settling, requeueing and ending deliveries.
//!
//! A waiting delivery is in one order: `W` while it is fresh and has no record, `R` when it waits for a
//! due time, none when it is best effort and in memory only. A dead letter is in `X`.

use super::group::{Effect, Group};
use super::keys::{self, DEAD, DELIVERY, FRESH};
use super::replay::count_for_replay;
use super::writer::Writer;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::DestinationHealth;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::changes::slim;
use crate::store::record::{
    EventHead, decode_delivery, decode_head, encode_delivery, encode_due, encode_health,
};
use crate::store::{DueEntry, Settlement, Stage, StoreError, lifecycle};

/// In which order a delivery is before a change.
#[derive(Clone, Copy)]
pub(super) enum Order {
    Fresh,
    Due(Timestamp),
    Dead,
    Unlisted,
}

impl Order {
    /// The order of a delivery that has a record.
    pub(super) const fn of(state: &DeliveryState) -> Self {
        match state {
            DeliveryState::Waiting { due } => Order::Due(*due),
            DeliveryState::DeadLettered { .. } => Order::Dead,
            DeliveryState::Succeeded { .. }
            | DeliveryState::Discarded { .. }
            | DeliveryState::Cancelled { .. } => Order::Unlisted,
        }
    }
}

impl Writer {
    /// Answers whether something is told of it.
    pub(super) fn settle(
        &mut self,
        group: &mut Group,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<bool, StoreError> {
        let mut tells = false;
        for mut settlement in settlements {
            let told = settlement.told.take();
            if self.settle_one(group, settlement)? {
                tells |= self.tell(group, told.map(|event| *event))?;
            }
        }
        for (id, health) in health {
            // A lane may settle its last attempts after its destination was deleted.
            if self.destinations.contains_key(&id) {
                group.put(keys::health(id), encode_health(&health));
            }
        }
        Ok(tells)
    }

    /// Answers whether the delivery has the state now that the settlement says.
    fn settle_one(&mut self, group: &mut Group, settlement: Settlement) -> Result<bool, StoreError> {
        let (id, stage) = (settlement.id, settlement.stage);
        if settlement.attempt.is_some() && !settlement.state.is_finished() {
            self.metrics.retried();
        }
        let Some((mut delivery, order)) = self.settled_from(group, &settlement)? else {
            return forget(group, id, stage).map(|()| false);
        };
        if lifecycle::settle(&mut delivery, settlement) {
            count_for_replay(group, &mut delivery)?;
            place(group, order, &delivery, stage != Stage::InMemory)?;
            Ok(true)
        } else {
            // A caller's cycle goes on counting where this attempt has ended.
            if let DeliveryState::Waiting { due } = &delivery.state {
                group.rewrite(keys::due(id, *due), encode_due(delivery.attempt_count, &delivery.cycle))?;
            }
            group.put(keys::by_destination(DELIVERY, id), encode_delivery(&delivery));
            Ok(false)
        }
    }

    /// The delivery before a settlement. A fresh one needs a look at its `W` key only: where that is
    /// gone, a caller has ended or requeued it, and there is a record.
    fn settled_from(
        &mut self,
        group: &Group,
        settlement: &Settlement,
    ) -> Result<Option<(Delivery, Order)>, StoreError> {
        let id = settlement.id;
        let is_fresh =
            settlement.stage == Stage::Fresh && group.contains(&keys::by_destination(FRESH, id))?;
        if !is_fresh {
            match stored(group, id) {
                Ok(Some(delivery)) => {
                    let order = Order::of(&delivery.state);
                    return Ok(Some((delivery, order)));
                }
                // Outcomes go on; what was damaged is written anew, without its earlier attempts.
                Err(StoreError::Corrupt(problem)) => tracing::error!(problem, "delivery record replaced"),
                Err(error) => return Err(error),
                Ok(None) => {}
            }
        }
        let order = match settlement.stage {
            Stage::Fresh if is_fresh => Order::Fresh,
            Stage::Due(due) => Order::Due(due),
            Stage::Fresh | Stage::InMemory => Order::Unlisted,
        };
        let head = self.head(group, id.event_key)?;
        Ok(head.map(|head| (lifecycle::fresh(&head, id.destination_id, settlement.guarantee), order)))
    }

    pub(super) fn requeue(
        &mut self,
        group: &mut Group,
        ids: &[DeliveryId],
        begin: (CycleCause, Timestamp),
    ) -> Result<Vec<DueEntry>, StoreError> {
        let mut entries = Vec::with_capacity(ids.len());
        for id in lifecycle::distinct(ids) {
            let Some((mut delivery, order)) = self.present(group, id)? else { continue };
            if !Self::is_sendable(group, id.event_key)? {
                continue;
            }
            entries.push(lifecycle::requeue(&mut delivery, begin.0, begin.1));
            place(group, order, &delivery, true)?;
        }
        if !entries.is_empty() {
            group.effect(Effect::Requeued(entries.clone()));
        }
        Ok(entries)
    }

    pub(super) fn end(
        &mut self,
        group: &mut Group,
        ids: &[DeliveryId],
        (from, into): (StateKind, DeliveryState),
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let mut ended = Vec::with_capacity(ids.len());
        for id in lifecycle::distinct(ids) {
            let present = self.present(group, id)?.filter(|(delivery, _)| delivery.state.kind() == from);
            let Some((mut delivery, order)) = present else { continue };
            delivery.state = into.clone();
            count_for_replay(group, &mut delivery)?;
            place(group, order, &delivery, true)?;
            ended.push(id);
        }
        if !ended.is_empty() {
            group.effect(Effect::Ended(ended.clone()));
        }
        Ok(ended)
    }

    /// The delivery as a caller means it: with a record, or fresh.
    pub(super) fn present(
        &mut self,
        group: &Group,
        id: DeliveryId,
    ) -> Result<Option<(Delivery, Order)>, StoreError> {
        if let Some(delivery) = stored(group, id)? {
            let order = Order::of(&delivery.state);
            return Ok(Some((delivery, order)));
        }
        if !group.contains(&keys::by_destination(FRESH, id))? {
            return Ok(None);
        }
        let head = self.head(group, id.event_key)?;
        let fresh = |head| lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce);
        Ok(head.map(|head| (fresh(head), Order::Fresh)))
    }

    /// What a delivery repeats of its event; mostly without a read.
    pub(super) fn head(&mut self, group: &Group, key: EventKey) -> Result<Option<EventHead>, StoreError> {
        if let Some(head) = self.heads.get(key) {
            return Ok(Some(head));
        }
        let Some(stored) = group.get(&keys::event(key))? else { return Ok(None) };
        match decode_head(key, &stored) {
            Ok(head) => {
                self.heads.insert(head.clone());
                Ok(Some(head))
            }
            Err(StoreError::Corrupt(problem)) => {
                tracing::error!(problem, "outcomes of an unreadable event are not recorded");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn stored(group: &Group, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let key = keys::by_destination(DELIVERY, id);
    group.get(&key)?.map(|stored| decode_delivery(id, &key, &stored)).transpose()
}

/// Writes the record and moves the delivery from the order it was in to the one of its new state.
pub(super) fn place(
    group: &mut Group,
    from: Order,
    delivery: &Delivery,
    durable: bool,
) -> Result<(), StoreError> {
    let id = delivery.id;
    if delivery.guarantee == Guarantee::BestEffort {
        hold(group, delivery, !durable)?;
    }
    match from {
        Order::Fresh => group.remove(keys::by_destination(FRESH, id)),
        // Best-effort ones wait with a record, too, but in memory.
        Order::Due(due) if delivery.guarantee == Guarantee::BestEffort => {
            group.remove_if_present(keys::due(id, due))?;
        }
        Order::Due(due) => group.remove(keys::due(id, due)),
        Order::Dead => group.remove(keys::by_destination(DEAD, id)),
        Order::Unlisted => {}
    }
    match &delivery.state {
        DeliveryState::Waiting { due } if durable => {
            group.put(keys::due(id, *due), encode_due(delivery.attempt_count, &delivery.cycle));
        }
        DeliveryState::DeadLettered { .. } => group.put(keys::by_destination(DEAD, id), Vec::new()),
        DeliveryState::Waiting { .. }
        | DeliveryState::Succeeded { .. }
        | DeliveryState::Discarded { .. }
        | DeliveryState::Cancelled { .. } => {}
    }
    group.put(keys::by_destination(DELIVERY, id), encode_delivery(delivery));
    group.effect(Effect::Changed(Box::new(slim(delivery))));
    Ok(())
}

/// Notes whether a delivery waits in memory, so that whoever opens the store next knows that it is lost.
fn hold(group: &mut Group, delivery: &Delivery, in_memory: bool) -> Result<(), StoreError> {
    let key = keys::held(group.opening, delivery.id);
    let waits = in_memory && !delivery.state.is_finished();
    match (group.contains(&key)?, waits) {
        (false, true) => group.put(key, Vec::new()),
        (true, false) => group.remove(key),
        (true, true) | (false, false) => {}
    }
    Ok(())
}

/// The event is gone, so there is nothing to record; the delivery must not wait for ever.
fn forget(group: &mut Group, id: DeliveryId, stage: Stage) -> Result<(), StoreError> {
    match stage {
        Stage::Fresh => group.remove_if_present(keys::by_destination(FRESH, id)),
        Stage::Due(due) => group.remove_if_present(keys::due(id, due)),
        Stage::InMemory => Ok(()),
    }
}
