//! Dead letters: list, replay one, delete; `replay` has the replays of many.

use super::audit::{Act, Action};
use super::delivery::{Deliveries, DeliveryFilter};
use super::{Condition, Control, Error, PageRequest};
use crate::auth::{Caller, Role};
use crate::domain::audit::AuditChange;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::id::{DeliveryId, OrganizationId};

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
        let id = self.enter_known(caller, Role::Viewer, organization_id)?;
        let filter = dead_lettered(filter)?;
        self.check_destination(&id, &filter).await?;
        self.find_deliveries(&id, &filter, page).await
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
        let delivery = self.delivery_to_change(caller, organization_id, delivery_id).await?;
        let state = delivery.state.kind();
        if state != StateKind::DeadLettered {
            return Err(Error::Precondition {
                kind: Condition::NotDeadLettered { state },
                subject: delivery_id.to_owned(),
                message: "the delivery is no dead letter (any more); resend it to send it again".into(),
            });
        }
        self.send_again(Act::new(caller, Action::ReplayDeadLetter), &delivery, CycleCause::Replay).await
    }

    /// Deletes dead letters for good and answers how many; with `validate_only` they are only counted.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] for the filter's destination. After an error from the store some may be deleted; repeating the call deletes
    /// the rest.
    pub async fn delete_dead_letters(
        &self,
        caller: &Caller,
        organization_id: &str,
        which: DeadLetters,
        validate_only: bool,
    ) -> Result<u64, Error> {
        let id = self.enter_known(caller, Role::Admin, organization_id)?;
        let act = Act::new(caller, Action::DeleteDeadLetters);
        let filter = match which {
            DeadLetters::Matching(filter) => dead_lettered(filter)?,
            DeadLetters::Ids(ids) => {
                let ids = self.dead_letters_among(&id, ids).await?;
                return self.discard(act, &id, (ids, validate_only)).await;
            }
        };
        self.check_destination(&id, &filter).await?;
        let mut deleted = 0;
        let mut after = None;
        loop {
            let page = self.find_deliveries(&id, &filter, PageRequest { after, limit: PAGE }).await?;
            after = page.next;
            let ids = page.rows.iter().map(|delivery| delivery.id).collect();
            deleted += self.discard(act, &id, (ids, validate_only)).await?;
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

    async fn discard(
        &self,
        act: Act<'_>,
        id: &OrganizationId,
        (ids, validate_only): (Vec<DeliveryId>, bool),
    ) -> Result<u64, Error> {
        if validate_only || ids.is_empty() {
            return Ok(to_u64(ids.len()));
        }
        let discarded =
            DeliveryState::Discarded { at: self.clock.now(), reason: EndReason::DeadLetterDeleted };
        // One is named; of several the entry says how many.
        let subject = ids.first().filter(|_| ids.len() == 1).map(ToString::to_string).unwrap_or_default();
        let store = self.noting(act, id, subject, AuditChange::default())?;
        Ok(to_u64(store.end(ids, StateKind::DeadLettered, discarded).await?.len()))
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
