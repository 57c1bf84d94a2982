//! Emitting events.
//!
//! Each event of a call is judged by itself; all that are valid go to the store in one step, so that one
//! fsync carries them and their deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audit::{Act, Action};
use super::event_draft::{self, payload_limits, route_to};
use super::{Control, Error, Resource};
use crate::auth::{Caller, Role};
use crate::clock::SharedClock;
use crate::contract;
use crate::domain::event::{Acceptance, Event, EventDraft, NewEvent};
use crate::domain::id::{EventId, OrganizationId};
use crate::domain::plan::Plan;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;
use crate::spans::{Span, SpanKind};
use crate::store::StoreError;
use crate::store::directory::OrganizationDestinations;

/// How often events are routed again where destinations change all the time.
const ROUTED_AGAIN: usize = 8;
const REROUTE_RETRY_AFTER: Duration = Duration::from_millis(200);

/// What became of an event that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The event's id, as given or as made by us.
    pub event_id: EventId,
    /// Whether it had been accepted before; the rest is then that of the first time.
    pub duplicate: bool,
    /// When it became durable.
    pub accepted_at: Timestamp,
    /// How many destinations it was routed to.
    pub delivery_count: u32,
    /// How many of them are best effort.
    pub best_effort_count: u32,
}

impl Accepted {
    fn new(event: &Event, duplicate: bool) -> Self {
        let best_effort = |route: &&_| is_best_effort(route);
        Self {
            event_id: event.id.clone(),
            duplicate,
            accepted_at: event.accepted_at,
            delivery_count: count(event.routes.len()),
            best_effort_count: count(event.routes.iter().filter(best_effort).count()),
        }
    }
}

fn is_best_effort(route: &crate::domain::event::Route) -> bool {
    route.guarantee == Guarantee::BestEffort
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Control {
    /// Accepts events, each with a result of its own, in the same order. `Ok` in a result means that the
    /// event and its at-least-once deliveries are durable.
    ///
    /// An event that would go to a destination to which nothing is delivered on this installation is
    /// refused with [`Error::Precondition`], and goes nowhere.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the organization's id or the number of events, [`Error::NotFound`] for an
    /// organization that must be created first, and what the store answers for all of them:
    /// [`Error::Busy`], [`Error::StoreFull`], [`Error::Unavailable`]. No event was accepted then.
    pub async fn emit(
        &self,
        caller: &Caller,
        organization_id: &str,
        drafts: Vec<EventDraft>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let id = self.enter(caller, Role::Emitter, organization_id)?;
        self.check_batch_size(drafts.len())?;
        let organization = self.known(&id)?;
        let plan = self.settings.plan_of(organization.as_deref());
        let begun = Begun::now(&self.clock, &drafts);
        let version = self.directory().version();
        let prepared = self.prepare(&id, plan, drafts);
        if organization.is_none() && prepared.iter().any(Result::is_ok) {
            self.used(Act::new(caller, Action::Emit), &id).await?;
        }
        self.accept(&id, (prepared, version), &begun).await
    }

    fn check_batch_size(&self, size: usize) -> Result<(), Error> {
        let limit = self.settings.batch_max_events;
        if size == 0 {
            return Err(Error::invalid("events", "is empty; give at least one event"));
        }
        if size > limit {
            let description = format!("has {size} events; at most {limit} are allowed: split the batch");
            return Err(Error::invalid("events", description));
        }
        Ok(())
    }

    fn prepare(
        &self,
        id: &OrganizationId,
        plan: Option<&Plan>,
        drafts: Vec<EventDraft>,
    ) -> Vec<Result<NewEvent, Error>> {
        let now = self.clock.now();
        let limits = payload_limits(self.settings.payload, plan);
        let destinations = self.directory().destinations(id);
        let prepare_one = |draft| {
            let mut event = event_draft::validate(draft, id, limits, now)?;
            event.trace = event.trace.map(|caller| caller.child(fastrand::u64(..)));
            self.route(&mut event, &destinations)?;
            self.count_event(id, plan, now)?;
            Ok(event)
        };
        drafts.into_iter().map(prepare_one).collect()
    }

    /// Hands the events to the store. Where destinations were changed by another replica in between, the events are
    /// routed again, by what is there now.
    async fn accept_routed(
        &self,
        id: &OrganizationId,
        mut events: Vec<NewEvent>,
        mut version: u64,
    ) -> Result<Vec<Acceptance>, Error> {
        for _ in 0..ROUTED_AGAIN {
            match self.store.accept_routed(events.clone(), version).await {
                Err(StoreError::RoutedByOldDirectory) => {}
                answered => return Ok(answered?),
            }
            version = self.directory().version();
            let destinations = self.directory().destinations(id);
            for event in &mut events {
                event.routes.clear();
                self.route(event, &destinations)?;
            }
        }
        Err(Error::Busy { retry_after: REROUTE_RETRY_AFTER })
    }

    /// Routes an event to each destination that wants it. A paused one keeps it; a disabled one gets none.
    fn route(&self, event: &mut NewEvent, destinations: &OrganizationDestinations) -> Result<(), Error> {
        for entry in destinations.iter() {
            let destination = &entry.destination;
            if destination.state.is_routed_to()
                && contract::wants(destination, &event.event_type, event.level)
            {
                self.available(destination.contract, destination.id)?;
                event.routes.push(route_to(destination));
            }
        }
        Ok(())
    }

    async fn accept(
        &self,
        id: &OrganizationId,
        (prepared, version): (Vec<Result<NewEvent, Error>>, u64),
        begun: &Begun,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let mut events = Vec::with_capacity(prepared.len());
        let mut slots = Vec::with_capacity(prepared.len());
        for event in prepared {
            slots.push(event.map(|event| {
                let given_id = event.event_id.clone();
                events.push(event);
                given_id
            }));
        }
        if events.is_empty() {
            return Ok(slots.into_iter().filter_map(Result::err).map(Err).collect());
        }
        let answers = self.accept_routed(id, events, version).await?;
        self.measure(&answers);
        self.tell(&answers, begun);
        let mut answers = answers.into_iter();
        Ok(slots.into_iter().map(|slot| slot.and_then(|id| answer(answers.next(), id))).collect())
    }
}

impl Control {
    /// Tells the callers' traces of the events that were accepted.
    fn tell(&self, answers: &[Acceptance], begun: &Begun) {
        let Some(parent) = begun.trace else { return };
        let took = begun.at.elapsed();
        for answer in answers {
            if let Acceptance::Accepted(event) = answer
                && let Some(context) = event.trace
            {
                self.spans.tell(context, || accepted_span(event, (context, parent), (begun.since, took)));
            }
        }
    }

    fn measure(&self, answers: &[Acceptance]) {
        let (mut events, mut deliveries, mut bytes, mut duplicates) = (0, 0, 0, 0);
        for answer in answers {
            match answer {
                Acceptance::Accepted(event) => {
                    events += 1;
                    deliveries += event.routes.len() as u64;
                    bytes += event.data.as_bytes().len() as u64;
                }
                Acceptance::Duplicate(_) => duplicates += 1,
                Acceptance::Conflict => {}
            }
        }
        self.metrics.accepted(events, deliveries, bytes);
        self.metrics.duplicates(duplicates);
    }
}

/// When a call began, and in which trace. All events of a call are in the same one.
struct Begun {
    since: Timestamp,
    at: Instant,
    trace: Option<TraceContext>,
}

impl Begun {
    fn now(clock: &SharedClock, drafts: &[EventDraft]) -> Self {
        let trace = drafts.iter().find_map(|draft| draft.trace);
        Self { since: clock.now(), at: Instant::now(), trace }
    }
}

fn accepted_span(
    event: &Event,
    (context, parent): (TraceContext, TraceContext),
    (begun_at, took): (Timestamp, Duration),
) -> Span {
    Span {
        name: "event accept",
        kind: SpanKind::Producer,
        context,
        parent,
        begun_at,
        took,
        facts: vec![
            ("signalpost.organization.id", event.organization_id.to_string().into()),
            ("signalpost.event.id", event.id.to_string().into()),
            ("signalpost.event.type", event.event_type.to_string().into()),
            ("signalpost.deliveries", count(event.routes.len()).into()),
        ],
        links: Vec::new(),
        error: None,
    }
}

fn answer(acceptance: Option<Acceptance>, given_id: Option<EventId>) -> Result<Accepted, Error> {
    let accepted = |event: Arc<Event>, duplicate| Ok(Accepted::new(&event, duplicate));
    match acceptance {
        Some(Acceptance::Accepted(event)) => accepted(event, false),
        Some(Acceptance::Duplicate(event)) => accepted(event, true),
        Some(Acceptance::Conflict) => Err(Error::AlreadyExists {
            kind: Resource::Event,
            id: given_id.map(|id| id.to_string()).unwrap_or_default(),
        }),
        None => Err(Error::internal("the store answered fewer events than it was given")),
    }
}
