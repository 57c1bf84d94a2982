//! Dead letters: list, replay, delete.

use std::collections::BTreeMap;

use super::delivery::{Deliveries, DeliveryFilter};
use super::{Condition, Control, Error, PageRequest};
use crate::auth::{Caller, Role};
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::id::{DeliveryId, DestinationId, OrganizationId};

/// How many dead letters are worked on at a time, so that no call holds many in memory.
const PAGE: usize = 500;
/// The most ids in one call.
pub const IDS_MAX: usize = 1000;

/// Which dead letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetters {
    /// Those that fit; the default filter means all.
    Matching(DeliveryFilter),
    /// These, by the ids of their deliveries; unknown ones are passed over.
    Ids(Vec<String>),
}

/// What came of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// How many wait again, or would.
    pub replayed: u64,
    /// How many were passed over, because their destination is deleted, disabled or not delivered to, or
    /// because their event is no longer stored.
    pub skipped: u64,
}

impl Control {
    /// Lists dead letters, newest event first.
    ///
    /// # Errors
    /// As [`Control::list_deliveries`]; the filter's states must be empty.
    pub async fn list_dead_letters(
        &self,
        caller: &Caller,
        organization_id: &str,
        filter: DeliveryFilter,
        page: PageRequest<DeliveryId>,
    ) -> Result<Deliveries, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        self.known(&id)?;
        self.find_deliveries(&id, &dead_lettered(filter)?, page).await
    }

    /// Puts one dead letter back in its lane, with a fresh cycle of attempts.
    ///
    /// # Errors
    /// As [`Control::resend_delivery`]; [`Error::Precondition`] too for what is no dead letter (any more).
    pub async fn replay_dead_letter(
        &self,
        caller: &Caller,
        organization_id: &str,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        let delivery = self.find_delivery(&id, delivery_id).await?;
        let state = delivery.state.kind();
        if state != StateKind::DeadLettered {
            return Err(Error::Precondition {
                kind: Condition::NotDeadLettered { state },
                subject: delivery_id.to_owned(),
                message: "the delivery is no dead letter (any more); resend it to send it again".into(),
            });
        }
        self.send_again(&delivery, CycleCause::Replay).await
    }

    /// Puts all dead letters that fit back in their lanes; with `validate_only` they are only counted.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] or [`Error::Precondition`] where the filter names a
    /// destination that can't be sent to; [`Error::Precondition`] where nothing is delivered at all.
    /// After an error from the store some may wait again; repeating the call takes the rest.
    pub async fn replay_dead_letters(
        &self,
        caller: &Caller,
        organization_id: &str,
        filter: DeliveryFilter,
        validate_only: bool,
    ) -> Result<Replayed, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        self.known(&id)?;
        if !self.settings.delivery_enabled {
            return Err(Error::not_available(super::DELIVERY_SETTING, id));
        }
        if let Some(text) = &filter.destination_id {
            let destination_id = self.find_destination(&id, text)?.destination.id;
            self.check_receptive(&id, destination_id)?;
        }
        let filter = dead_lettered(filter)?;
        let mut replayed = Replayed::default();
        let mut receptive = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.find_deliveries(&id, &filter, PageRequest { after, limit: PAGE }).await?;
            after = page.next;
            let found = page.rows.len();
            let ids = self.receptive_ids(&id, &page.rows, &mut receptive);
            let done = if validate_only { ids.len() } else { self.replay(ids).await? };
            replayed.replayed += to_u64(done);
            replayed.skipped += to_u64(found.saturating_sub(done));
            if after.is_none() {
                return Ok(replayed);
            }
        }
    }

    fn receptive_ids(
        &self,
        id: &OrganizationId,
        rows: &[Delivery],
        known: &mut BTreeMap<DestinationId, bool>,
    ) -> Vec<DeliveryId> {
        let mut is_receptive = |destination_id: DestinationId| {
            let judge = || self.check_receptive(id, destination_id).is_ok();
            *known.entry(destination_id).or_insert_with(judge)
        };
        let ids = rows.iter().map(|delivery| delivery.id);
        ids.filter(|delivery_id| is_receptive(delivery_id.destination_id)).collect()
    }

    async fn replay(&self, ids: Vec<DeliveryId>) -> Result<usize, Error> {
        if ids.is_empty() {
            return Ok(0);
        }
        Ok(self.store.requeue(ids, CycleCause::Replay, self.clock.now()).await?.len())
    }

    /// Deletes dead letters for good and answers how many; with `validate_only` they are only counted.
    ///
    /// # Errors
    /// [`Error::Invalid`]. After an error from the store some may be deleted; repeating the call deletes
    /// the rest.
    pub async fn delete_dead_letters(
        &self,
        caller: &Caller,
        organization_id: &str,
        which: DeadLetters,
        validate_only: bool,
    ) -> Result<u64, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        self.known(&id)?;
        let filter = match which {
            DeadLetters::Matching(filter) => dead_lettered(filter)?,
            DeadLetters::Ids(ids) => {
                let ids = self.dead_letters_among(&id, ids).await?;
                return self.discard(ids, validate_only).await;
            }
        };
        let mut deleted = 0;
        let mut after = None;
        loop {
            let page = self.find_deliveries(&id, &filter, PageRequest { after, limit: PAGE }).await?;
            after = page.next;
            let ids = page.rows.iter().map(|delivery| delivery.id).collect();
            deleted += self.discard(ids, validate_only).await?;
            if after.is_none() {
                return Ok(deleted);
            }
        }
    }

    async fn dead_letters_among(
        &self,
        id: &OrganizationId,
        texts: Vec<String>,
    ) -> Result<Vec<DeliveryId>, Error> {
        if texts.is_empty() || texts.len() > IDS_MAX {
            let problem = format!("has {} ids; give 1 to {IDS_MAX}", texts.len());
            return Err(Error::invalid("ids.delivery_ids", problem));
        }
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            match self.find_delivery(id, &text).await {
                Ok(delivery) if delivery.state.kind() == StateKind::DeadLettered => ids.push(delivery.id),
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    async fn discard(&self, ids: Vec<DeliveryId>, validate_only: bool) -> Result<u64, Error> {
        if validate_only || ids.is_empty() {
            return Ok(to_u64(ids.len()));
        }
        let discarded =
            DeliveryState::Discarded { at: self.clock.now(), reason: EndReason::DeadLetterDeleted };
        Ok(to_u64(self.store.end(ids, StateKind::DeadLettered, discarded).await?.len()))
    }
}

fn dead_lettered(filter: DeliveryFilter) -> Result<DeliveryFilter, Error> {
    if !filter.states.is_empty() {
        return Err(Error::invalid("filter.states", "must be empty: only dead letters are meant"));
    }
    Ok(DeliveryFilter { states: vec![StateKind::DeadLettered], ..filter })
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
