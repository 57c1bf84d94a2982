//! Replays: start, read, list, cancel. Who goes on with them is the engine, told by the store.

use std::sync::Arc;

use super::audit::{Act, Action};
use super::delivery::DeliveryFilter;
use super::{Condition, Control, Error, Listing, PageRequest, Resource, random};
use crate::auth::{Caller, Role};
use crate::contract;
use crate::domain::audit::AuditChange;
use crate::domain::event::EventType;
use crate::domain::id::{EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::replay::{
    PER_SECOND_DEFAULT, PER_SECOND_MAX, PER_SECOND_MIN, Replay, ReplayKind, ReplayScope, ReplayState,
    ReplayStateKind,
};
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};
use crate::store::{CoverQuery, ReplayQuery, Wants};

/// How many deliveries are counted at a time.
const PAGE: usize = 5000;

/// How a replay is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayOrder {
    /// The pace; [`PER_SECOND_DEFAULT`] where the caller does not say.
    pub per_second: Option<u32>,
    /// Checks and counts, and starts nothing.
    pub validate_only: bool,
}

/// Which events or deliveries of a destination are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRange {
    /// Succeeded or missed.
    pub kind: ReplayKind,
    /// Events accepted at or after this.
    pub from: Timestamp,
    /// Events accepted before this; absent: now.
    pub until: Option<Timestamp>,
    /// Of one of these types; empty means any.
    pub event_types: Vec<EventType>,
}

/// A page of replays.
pub type Replays = Listing<Replay, ReplayId>;

impl Control {
    /// Starts a replay of the dead letters that fit; the default filter means all. Of a check alone the
    /// counts are right, and nothing has its id.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] or [`Error::Precondition`] where the filter names a
    /// destination that can't be sent to, or where nothing is delivered at all; [`Error::ReplayRunning`].
    pub async fn replay_dead_letters(
        &self,
        caller: &Caller,
        organization_id: &str,
        filter: DeliveryFilter,
        order: ReplayOrder,
    ) -> Result<Replay, Error> {
        let id = self.enter_known(caller, Role::Admin, organization_id)?;
        if !self.settings.delivery_enabled {
            return Err(Error::not_available(super::DELIVERY_SETTING, id));
        }
        check_range(filter.from, filter.until, "filter.end_time")?;
        if !filter.states.is_empty() {
            return Err(Error::invalid("filter.states", "must be empty: only dead letters are meant"));
        }
        let destination_id = match &filter.destination_id {
            Some(text) => {
                let destination_id = self.find_destination(&id, text)?.destination.id;
                self.check_receptive(&id, destination_id)?;
                Some(destination_id)
            }
            None => None,
        };
        let event_key = match &filter.event_id {
            Some(text) => Some(self.key_of(&id, text).await?),
            None => None,
        };
        let scope = ReplayScope {
            kind: ReplayKind::DeadLetters,
            destination_id,
            event_types: filter.event_types,
            event_key,
            from: filter.from,
            until: filter.until,
        };
        self.start(Act::new(caller, Action::ReplayDeadLetters), id, scope, order).await
    }

    /// Starts a replay of a destination's succeeded deliveries, or of what it missed.
    ///
    /// # Errors
    /// As [`Control::replay_dead_letters`]; [`Error::RetentionExceeded`] where something would be left out.
    pub async fn replay_deliveries(
        &self,
        caller: &Caller,
        organization_id: &str,
        destination_id: &str,
        (range, order): (ReplayRange, ReplayOrder),
    ) -> Result<Replay, Error> {
        let id = self.enter_known(caller, Role::Admin, organization_id)?;
        check_range(Some(range.from), range.until, "end_time")?;
        let destination_id = self.find_destination(&id, destination_id)?.destination.id;
        self.check_receptive(&id, destination_id)?;
        self.check_retained(&id, range.from)?;
        let scope = ReplayScope {
            kind: range.kind,
            destination_id: Some(destination_id),
            event_types: range.event_types,
            event_key: None,
            from: Some(range.from),
            // What comes later is routed by itself.
            until: Some(range.until.unwrap_or_else(|| self.clock.now())),
        };
        self.start(Act::new(caller, Action::ReplayDeliveries), id, scope, order).await
    }

    async fn start(
        &self,
        act: Act<'_>,
        organization_id: OrganizationId,
        scope: ReplayScope,
        order: ReplayOrder,
    ) -> Result<Replay, Error> {
        let per_second = order.per_second.unwrap_or(PER_SECOND_DEFAULT);
        if !(PER_SECOND_MIN..=PER_SECOND_MAX).contains(&per_second) {
            let problem = format!("is {per_second}; give {PER_SECOND_MIN} to {PER_SECOND_MAX}");
            let mut violations = Violations::new();
            violations.add_as(Rule::OutOfRange, "deliveries_per_second", problem);
            return Err(violations.into());
        }
        let now = self.clock.now();
        let replay = Replay {
            id: ReplayId::make(now, random()?),
            organization_id,
            scope,
            per_second,
            started_by: act.caller.principal().to_owned(),
            created_at: now,
            state: ReplayState::Counting { after: None },
            total: 0,
            replayed: 0,
            succeeded: 0,
            failed: 0,
            skipped: 0,
        };
        if order.validate_only {
            return self.count(replay).await;
        }
        let store = self.noting(act, &replay.organization_id, replay.id, AuditChange::default())?;
        Ok(store.create_replay(replay).await?)
    }

    /// Counts what a replay would cover now, and what it would pass over.
    async fn count(&self, mut replay: Replay) -> Result<Replay, Error> {
        let entries = self.directory().destinations(&replay.organization_id);
        let only = replay.scope.destination_id;
        let mine = entries.iter().filter(|entry| only.is_none_or(|id| id == entry.destination.id));
        let mine: Vec<_> = mine.cloned().collect();
        let receptive = |id| self.check_receptive(&replay.organization_id, id).is_ok();
        let ids = mine.iter().map(|entry| entry.destination.id);
        let receptive: std::collections::HashSet<_> = ids.clone().filter(|id| receptive(*id)).collect();
        let wants: Wants = match mine.first().cloned() {
            Some(only) => {
                Arc::new(move |event_type, level| contract::wants(&only.destination, event_type, level))
            }
            None => return Ok(replay),
        };
        let mut query = CoverQuery {
            organization_id: replay.organization_id.clone(),
            scope: replay.scope.clone(),
            destination_ids: ids.collect(),
            wants,
            by: replay.created_at,
            after: None,
            limit: PAGE,
        };
        loop {
            let page = self.store.covered(query.clone()).await?;
            let skipped = page.ids.iter().filter(|id| !receptive.contains(&id.destination_id)).count();
            replay.total = replay.total.saturating_add(page.ids.len() as u64);
            replay.skipped = replay.skipped.saturating_add(skipped as u64);
            query.after = page.next;
            if page.next.is_none() {
                return Ok(replay);
            }
        }
    }

    /// The key of an event by the id that callers know.
    async fn key_of(&self, id: &OrganizationId, event_id: &str) -> Result<EventKey, Error> {
        let found = match EventId::parse(event_id) {
            Ok(event_id) => self.store.find_event(id, &event_id).await?,
            Err(_) => None,
        };
        // No event has the smallest key, so an unknown one covers nothing.
        Ok(found.map_or(EventKey::MIN, |event| event.key))
    }

    /// Reads a replay.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for another organization's.
    pub async fn get_replay(
        &self,
        caller: &Caller,
        organization_id: &str,
        replay_id: &str,
    ) -> Result<Replay, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        self.find_replay(&id, replay_id).await
    }

    /// Lists replays, the latest first; empty `states` mean any.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an organization that must be created first.
    pub async fn list_replays(
        &self,
        caller: &Caller,
        organization_id: &str,
        states: Vec<ReplayStateKind>,
        page: PageRequest<ReplayId>,
    ) -> Result<Replays, Error> {
        let id = self.enter_known(caller, Role::Viewer, organization_id)?;
        let query = ReplayQuery { organization_id: id, states, after: page.after, limit: page.limit };
        let page = self.store.replays(query).await?;
        Ok(Listing { rows: page.rows, next: page.next })
    }

    /// Stops a replay; what it has put in a lane is still sent. Cancelling a cancelled one changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] for one that is completed or failed.
    pub async fn cancel_replay(
        &self,
        caller: &Caller,
        organization_id: &str,
        replay_id: &str,
    ) -> Result<Replay, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        let replay = self.find_replay(&id, replay_id).await?;
        let act = Act::new(caller, Action::CancelReplay);
        let store = self.noting(act, &id, replay.id, AuditChange::default())?;
        let cancelled = store.cancel_replay(replay.id, self.clock.now()).await;
        let replay = cancelled.map_err(Error::about(Resource::Replay, replay_id))?;
        match replay.state.kind() {
            ReplayStateKind::Cancelled => Ok(replay),
            state => Err(Error::Precondition {
                kind: Condition::ReplayFinished { state },
                subject: replay_id.to_owned(),
                message: "the replay has come to its end already, so it cannot be cancelled".into(),
            }),
        }
    }

    /// A replay of this organization. An id that can't be one is as unknown as any other.
    async fn find_replay(&self, id: &OrganizationId, replay_id: &str) -> Result<Replay, Error> {
        if replay_id.is_empty() {
            return Err(Error::invalid("replay_id", "is empty; give the replay's id"));
        }
        let found = match ReplayId::parse(replay_id) {
            Ok(parsed) => self.store.replay(parsed).await?,
            Err(_) => None,
        };
        found
            .filter(|replay| replay.organization_id == *id)
            .ok_or_else(|| Error::not_found(Resource::Replay, replay_id))
    }
}

fn check_range(from: Option<Timestamp>, until: Option<Timestamp>, field: &str) -> Result<(), Violations> {
    match from.zip(until) {
        Some((from, until)) if until <= from => {
            let mut violations = Violations::new();
            violations.add_as(Rule::TimeRange, field, "is not after start_time; give a later time");
            Err(violations)
        }
        _ => Ok(()),
    }
}
