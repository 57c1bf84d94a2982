//! Testing a destination: the contract's test event, sent once.

use std::sync::Arc;
use std::time::Duration;

use super::audit::{Act, Action};
use super::destination::under_destination;
use super::{Control, Error, random};
use crate::auth::{Caller, Role};
use crate::contract::{self, TestOrder};
use crate::domain::attempt::{Attempt, Trigger};
use crate::domain::audit::{AuditChange, AuditEntry, Fields};
use crate::domain::destination::{Destination, DestinationDraft};
use crate::domain::id::{DestinationId, EventId, OrganizationId};
use crate::transport::courier::Order;
use crate::transport::turn::HeldBack;

/// What to test.
#[derive(Debug, Clone, PartialEq)]
pub enum TestSubject {
    /// A saved destination, with its saved values; the id as the caller wrote it.
    Saved(String),
    /// The values of a form, secrets included; nothing stored is used.
    Form {
        /// The values.
        draft: Box<DestinationDraft>,
        /// The destination that is being edited, for the test event to name.
        destination_id: Option<DestinationId>,
    },
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Tested {
    /// The attempt. A receiver that fails is a test that worked.
    pub attempt: Attempt,
    /// The id of the test event.
    pub event_id: EventId,
}

impl Control {
    /// Sends the contract's test event once and answers with what came back. That it was asked for is in the audit
    /// log; nothing else is recorded and nothing changes. It works for paused and disabled destinations too. The actor that some test
    /// events name is the caller where `actor_id` is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths below `destination`, [`Error::NotFound`], [`Error::Precondition`]
    /// where nothing is delivered on this installation, [`Error::HostRateExceeded`] where the organization sends
    /// to the host as fast as it may.
    pub async fn test_destination(
        &self,
        caller: &Caller,
        organization_id: &str,
        subject: TestSubject,
        actor_id: Option<&str>,
    ) -> Result<Tested, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        let destination = self.test_subject(&id, subject)?;
        self.available(destination.contract, destination.id)?;
        let order = TestOrder {
            organization_id: &id,
            destination_id: destination.id,
            url: destination.url.as_str(),
            actor_id: actor_id.unwrap_or_else(|| caller.subject()),
            now: self.clock.now(),
            draw: u64::from_ne_bytes(random()?),
        };
        let event = Arc::new(contract::test_event(destination.contract, order));
        let event_id = event.id.clone();
        let policy = contract::effective_policy(&destination);
        let events = [event];
        let order = Order {
            destination: &destination,
            policy: &policy,
            events: &events,
            number: 1,
            trigger: Trigger::Test,
        };
        let turn = self.courier.take_turn(&destination, &policy, &[]).await;
        let turn = turn.map_err(|HeldBack { until, per_second }| Error::HostRateExceeded {
            organization_id: id.clone(),
            per_second,
            retry_after: until.since(self.clock.now()).max(Duration::from_millis(1)),
        })?;
        self.note_test(caller, &destination).await?;
        let attempt = self.courier.attempt(turn, order).await;
        Ok(Tested { attempt, event_id })
    }

    /// On whose word a request leaves, and where it goes, is on the record before it does.
    async fn note_test(&self, caller: &Caller, destination: &Destination) -> Result<(), Error> {
        let url = [("url".to_owned(), destination.url.redacted().into())];
        let change = AuditChange { after: Some(Fields::from_iter(url)), ..AuditChange::default() };
        let entry = AuditEntry {
            organization_id: destination.organization_id.to_string(),
            resource_id: destination.id.to_string(),
            change,
            ..self.entry_of(Act::new(caller, Action::TestDestination))?
        };
        Ok(self.store.record_audit(vec![entry]).await?)
    }

    fn test_subject(&self, id: &OrganizationId, subject: TestSubject) -> Result<Arc<Destination>, Error> {
        let (draft, destination_id) = match subject {
            TestSubject::Saved(destination_id) => {
                return Ok(Arc::clone(&self.find_destination(id, &destination_id)?.destination));
            }
            TestSubject::Form { draft, destination_id } => (draft, destination_id),
        };
        self.known(id)?;
        let checked = self.check_draft(Some(id), *draft).map_err(under_destination)?;
        let now = self.clock.now();
        let destination_id = match destination_id {
            Some(destination_id) => destination_id,
            None => DestinationId::make(now, random()?),
        };
        Ok(Arc::new(checked.into_new(destination_id, id.clone(), now)))
    }
}
