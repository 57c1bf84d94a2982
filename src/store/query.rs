//! What is asked of the store about deliveries, and what it answers.

use crate::domain::delivery::{Delivery, StateKind};
use crate::domain::event::EventType;
use crate::domain::id::{DeliveryId, DestinationId, OrganizationId};
use crate::domain::time::Timestamp;

/// Some rows, and whether there are more after the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows, in the order that the call promises.
    pub rows: Vec<T>,
    /// Whether reading on after the last row would find more.
    pub more: bool,
}

/// Some deliveries of a list, and where the list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    /// The rows; there may be none although the list goes on.
    pub rows: Vec<Delivery>,
    /// The `after` of the next page; `None` at the end of the list. It need not be a delivery that fits the
    /// query.
    pub next: Option<DeliveryId>,
}

/// Which deliveries to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Of these destinations; the caller names all of the organization's where it means all.
    pub destination_ids: Vec<DestinationId>,
    /// In one of these states; empty means any.
    pub states: Vec<StateKind>,
    /// Of one of these types; empty means any.
    pub event_types: Vec<EventType>,
    /// Of events accepted at or after this; where dead letters alone are asked for, that became one then.
    pub from: Option<Timestamp>,
    /// Of events accepted before this, or that became a dead letter before.
    pub until: Option<Timestamp>,
    /// Only deliveries that come after this one in the list.
    pub after: Option<DeliveryId>,
    /// The most rows.
    pub limit: usize,
}

/// What waits in the store for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// How many deliveries wait; at most the cap of the call.
    pub count: usize,
    /// Whether counting stopped at the cap.
    pub capped: bool,
    /// When the event of the oldest fresh delivery was accepted.
    pub oldest: Option<Timestamp>,
    /// How many dead letters there are; at most the cap of the call.
    pub dead_letters: usize,
}
