//! `EventIngest`: events in.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::context::Context;
use super::convert::event::{has_struct, place_violations, read_event, write_accepted};
use super::convert::required;
use super::emit_stream::{self, Session};
use super::interceptor::{admission, caller, trace};
use super::proto::v1;
use super::proto::v1::emit_batch_result::Result as BatchResult;
use super::proto::v1::event_ingest_server::EventIngest;
use super::shares::{Holder, NoShare, Share};
use super::status::{Problem, invalid};
use crate::auth::Caller;
use crate::control::Error;
use crate::control::event::Accepted;
use crate::domain::event::EventDraft;
use crate::domain::id::OrganizationId;
use crate::domain::trace::TraceContext;
use crate::domain::violation::{Rule, Violations};

/// Why single events are refused, as far as that is known beforehand: each is counted from zero on, so that
/// the first one is seen.
pub(super) const REFUSALS: [v1::ErrorReason; 18] = [
    v1::ErrorReason::FieldsInvalid,
    v1::ErrorReason::FieldRequired,
    v1::ErrorReason::FieldMalformed,
    v1::ErrorReason::FieldTooLong,
    v1::ErrorReason::FieldOutOfRange,
    v1::ErrorReason::OrganizationNotFound,
    v1::ErrorReason::EventIdConflict,
    v1::ErrorReason::EventTypeReserved,
    v1::ErrorReason::PayloadTooLarge,
    v1::ErrorReason::PayloadNotJson,
    v1::ErrorReason::PayloadNotObject,
    v1::ErrorReason::PayloadTooDeep,
    v1::ErrorReason::DeliveryNotAvailable,
    v1::ErrorReason::RateLimitExceeded,
    v1::ErrorReason::QueueFull,
    v1::ErrorReason::StoreFull,
    v1::ErrorReason::StoreUnavailable,
    v1::ErrorReason::InternalFailure,
];

/// The service.
pub struct EventIngestService {
    context: Context,
}

impl EventIngestService {
    /// The service over the use cases.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// The end of a call whose events, so many, are refused.
    fn refuse(&self, problem: Problem, events: usize) -> Status {
        self.context.count_refused(&problem, events);
        problem.into_status()
    }
}

/// An event of a request: where its violations belong, and what can be accepted of it.
pub(super) struct Slot {
    path: String,
    has_struct: bool,
    /// The position among the drafts, or why there is no draft.
    pub(super) draft: Result<usize, Problem>,
}

impl Slot {
    /// Reads an event; what can be accepted goes to the drafts.
    pub(super) fn read(
        event: Option<v1::Event>,
        path: String,
        trace: Option<TraceContext>,
        drafts: &mut Vec<EventDraft>,
    ) -> Self {
        let Some(event) = event else {
            let mut found = Violations::new();
            required(&path, "give an event", &mut found);
            return Self { path, has_struct: false, draft: Err(found.into()) };
        };
        let has_struct = has_struct(&event);
        let draft = match read_event(event) {
            Ok(draft) => {
                drafts.push(EventDraft { trace, ..draft });
                Ok(drafts.len() - 1)
            }
            Err(found) => Err(place_violations(&found, &path, has_struct).into()),
        };
        Self { path, has_struct, draft }
    }

    /// The problem that control found, in the words of this request.
    pub(super) fn problem(&self, error: Error) -> Problem {
        match error {
            Error::Invalid(found) => place_violations(&found, &self.path, self.has_struct).into(),
            other => other.into(),
        }
    }

    /// What became of the event, given what became of the drafts.
    fn take(self, results: &mut [Option<Result<Accepted, Error>>]) -> Result<v1::EmitResult, Problem> {
        let position = match &self.draft {
            Ok(position) => *position,
            Err(problem) => return Err(problem.clone()),
        };
        match results.get_mut(position).and_then(Option::take) {
            Some(Ok(accepted)) => Ok(write_accepted(&accepted)),
            Some(Err(error)) => Err(self.problem(error)),
            None => Err(Problem::internal("an event of a call got no result")),
        }
    }
}

#[tonic::async_trait]
impl EventIngest for EventIngestService {
    async fn emit(&self, request: Request<v1::EmitRequest>) -> Result<Response<v1::EmitResponse>, Status> {
        let (caller, trace) = (caller(&request)?, trace(&request));
        let v1::EmitRequest { organization_id, event } = request.into_inner();
        let mut drafts = Vec::with_capacity(1);
        let slot = Slot::read(event, "event".to_owned(), trace, &mut drafts);
        if let Err(problem) = slot.draft {
            return Err(self.refuse(problem, 1));
        }
        let control = Arc::clone(&self.context.control);
        let emit = async move { control.emit(&caller, &organization_id, drafts).await };
        let results = self.context.outcome_of(emit).await.map_err(|problem| self.refuse(problem, 1))?;
        let mut results: Vec<_> = results.into_iter().map(Some).collect();
        let result = slot.take(&mut results).map_err(|problem| self.refuse(problem, 1))?;
        Ok(Response::new(v1::EmitResponse { result: Some(result) }))
    }

    async fn emit_batch(
        &self,
        request: Request<v1::EmitBatchRequest>,
    ) -> Result<Response<v1::EmitBatchResponse>, Status> {
        let (caller, trace) = (caller(&request)?, trace(&request));
        let v1::EmitBatchRequest { organization_id, events } = request.into_inner();
        check_size(events.len(), self.context.control.settings().batch_max_events)?;
        let mut drafts = Vec::with_capacity(events.len());
        let slots: Vec<Slot> = events
            .into_iter()
            .enumerate()
            .map(|(position, event)| {
                Slot::read(Some(event), format!("events[{position}]"), trace, &mut drafts)
            })
            .collect();
        let results = if drafts.is_empty() {
            let mut found = Violations::new();
            found.check("organization_id", OrganizationId::parse(&organization_id));
            found.into_result(Vec::new()).map_err(invalid)?
        } else {
            let control = Arc::clone(&self.context.control);
            let emit = async move { control.emit(&caller, &organization_id, drafts).await };
            let refuse = |problem| self.refuse(problem, slots.len());
            self.context.outcome_of(emit).await.map_err(refuse)?
        };
        let mut results: Vec<_> = results.into_iter().map(Some).collect();
        let results = slots.into_iter().map(|slot| slot.take(&mut results));
        let note = |problem: &Problem| self.context.count_refused(problem, 1);
        let results = results.map(|result| batch_result(result.inspect_err(note))).collect();
        Ok(Response::new(v1::EmitBatchResponse { results }))
    }

    type EmitStreamStream = Pin<Box<dyn Stream<Item = Result<v1::EmitStreamResponse, Status>> + Send>>;

    async fn emit_stream(
        &self,
        request: Request<Streaming<v1::EmitStreamRequest>>,
    ) -> Result<Response<Self::EmitStreamStream>, Status> {
        let (admission, trace) = (admission(&request)?, trace(&request));
        let place = place_of(&self.context, admission.caller()).map_err(Problem::into_status)?;
        let (session, answers) = Session::new(self.context.clone(), (admission, trace), request.into_inner());
        self.context.tasks.spawn(async move {
            session.run().await;
            drop(place);
        });
        let answers: ReceiverStream<emit_stream::Answer> = answers.into();
        Ok(Response::new(Box::pin(answers)))
    }
}

fn check_size(size: usize, limit: usize) -> Result<(), Status> {
    if (1..=limit).contains(&size) {
        return Ok(());
    }
    let description =
        format!("has {size} events; give 1 to {limit}: split the batch, or leave out an empty call");
    let mut found = Violations::new();
    found.add_as(Rule::BatchSize, "events", description);
    let problem = Problem::from(found).with("minimum", 1).with("maximum", limit).with("actual", size);
    Err(problem.into_status())
}

fn batch_result(result: Result<v1::EmitResult, Problem>) -> v1::EmitBatchResult {
    let result = match result {
        Ok(accepted) => BatchResult::Accepted(accepted),
        Err(problem) => BatchResult::Error(problem.into_event_error()),
    };
    v1::EmitBatchResult { result: Some(result) }
}

/// A stream's place, in a share of its caller: the organization is known only from the first message.
fn place_of(context: &Context, caller: &Caller) -> Result<Share<Holder>, Problem> {
    let holder = Holder::of(caller);
    let scope = holder.scope();
    context.streams.take(holder).map_err(|why| {
        let (limit, of) = match why {
            NoShare::Anywhere(most) => (most, ("server", "emit_streams")),
            NoShare::ForThisOne(most) => (most, (scope, "emit_streams_per_caller")),
        };
        Problem::too_many_streams("streams of events", of, limit)
    })
}
