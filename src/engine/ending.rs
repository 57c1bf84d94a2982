//! The end of a delivery that comes while it waits: what goes on the record, and who is told.

use crate::domain::delivery::{Cycle, Delivery, EndReason};
use crate::domain::event::NewEvent;
use crate::domain::id::DeliveryId;
use crate::domain::operational::{OPERATIONAL_PREFIX, OperationalEvent};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::engine::announce::routed;
use crate::policy::retry::Ending;
use crate::store::{Settlement, Stage, Store};

/// A delivery that waits and has come to its end.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// Which.
    pub id: DeliveryId,
    /// How it waited.
    pub stage: Stage,
    /// What it was promised.
    pub guarantee: Guarantee,
    /// Its present cycle.
    pub cycle: Cycle,
}

/// What goes on the record. Its history is read for the words that tell of a dead letter; where it can't be
/// read, the delivery ends all the same.
pub async fn settle_waited(store: &dyn Store, waited: Waited, ending: Ending, at: Timestamp) -> Settlement {
    let Waited { id, stage, guarantee, cycle } = waited;
    let told = match ending {
        Ending::DeadLetter(reason) => told_of(store, id, reason).await.map(Box::new),
        Ending::Discard(_) => None,
    };
    Settlement { id, stage, guarantee, attempt: None, cycle, state: ending.at(at), told }
}

async fn told_of(store: &dyn Store, id: DeliveryId, reason: EndReason) -> Option<NewEvent> {
    let delivery = store.delivery(id).await.unwrap_or_else(|error| {
        tracing::warn!(delivery.id = %id, %error, "a dead letter is not told of");
        None
    })?;
    // What becomes of an operational event is told to nobody.
    if delivery.event_type.as_str().starts_with(OPERATIONAL_PREFIX) {
        return None;
    }
    let Delivery { event_id, attempt_count, cycle, .. } = &delivery;
    let told = OperationalEvent::DeliveryDeadLettered {
        delivery_id: id,
        event_id: event_id.clone(),
        reason,
        attempt_count: *attempt_count,
        last_error: delivery.last_error().unwrap_or_default(),
        cycle_started_at: cycle.started_at,
    };
    routed(store.directory(), &delivery.organization_id, &told)
}
