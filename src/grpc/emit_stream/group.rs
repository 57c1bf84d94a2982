//! Some events of a stream that are accepted together.

use std::time::Duration;

use crate::auth::Caller;
use crate::control::event::Accepted;
use crate::control::{Error, Quota};
use crate::domain::event::EventDraft;
use crate::domain::trace::TraceContext;
use crate::grpc::context::Context;
use crate::grpc::convert::event::write_accepted;
use crate::grpc::event::Slot;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::emit_stream_result::Result as StreamResult;
use crate::grpc::status::Problem;

/// The events of a group, in their order.
pub struct Group {
    trace: Option<TraceContext>,
    slots: Vec<(i64, Slot)>,
    drafts: Vec<EventDraft>,
    bytes: usize,
}

/// The results of a group, in order of their sequences.
pub struct Answered {
    results: Vec<(i64, Result<Accepted, Problem>)>,
}

impl Group {
    /// An empty group of a stream in this trace.
    pub const fn new(trace: Option<TraceContext>) -> Self {
        Self { trace, slots: Vec::new(), drafts: Vec::new(), bytes: 0 }
    }

    /// Adds an event that the protocol allows.
    pub fn push(&mut self, message: v1::EmitStreamRequest) {
        let drafts = self.drafts.len();
        let slot = Slot::read(message.event, "event".to_owned(), self.trace, &mut self.drafts);
        self.bytes += self.drafts.get(drafts).map_or(0, |draft| draft.data.len());
        self.slots.push((message.sequence, slot));
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How large their data is.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the events durable, however long a busy store or the organization's rate make it wait. Only a
    /// stop of the server ends the waiting.
    ///
    /// # Errors
    /// What is wrong for all of them; none was accepted by the last call then.
    pub async fn accept(
        self,
        context: Context,
        caller: Caller,
        organization_id: String,
    ) -> Result<Answered, Problem> {
        let events = self.len();
        let answered = self.try_accept(&context, &caller, &organization_id).await;
        match &answered {
            Ok(answered) => {
                let refused = answered.results.iter().filter_map(|(_, result)| result.as_ref().err());
                refused.for_each(|problem| context.count_refused(problem, 1));
            }
            Err(problem) => context.count_refused(problem, events),
        }
        answered
    }

    async fn try_accept(
        self,
        context: &Context,
        caller: &Caller,
        organization_id: &str,
    ) -> Result<Answered, Problem> {
        let mut results: Vec<Option<Result<Accepted, Error>>> = self.drafts.iter().map(|_| None).collect();
        let mut waiting: Vec<(usize, EventDraft)> = self.drafts.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            let drafts = waiting.iter().map(|(_, draft)| draft.clone()).collect();
            let wait = match context.control.emit(caller, organization_id, drafts).await {
                Ok(answers) => settle(&mut waiting, answers, &mut results),
                Err(Error::Busy { retry_after }) => Some(retry_after),
                Err(error) => return Err(error.into()),
            };
            let Some(wait) = wait else { break };
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return Err(Problem::shutting_down()),
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(Answered { results: self.slots.into_iter().map(|slot| result_of(slot, &mut results)).collect() })
    }
}

/// Takes over the answers; what the rate held back stays, with the time to wait for it.
fn settle(
    waiting: &mut Vec<(usize, EventDraft)>,
    answers: Vec<Result<Accepted, Error>>,
    results: &mut [Option<Result<Accepted, Error>>],
) -> Option<Duration> {
    let mut held_back = Vec::new();
    let mut longest = None;
    for ((position, draft), answer) in waiting.drain(..).zip(answers) {
        if let Err(Error::QuotaExceeded { what: Quota::EventsPerSecond, retry_after: Some(wait), .. }) =
            answer
        {
            longest = longest.max(Some(wait));
            held_back.push((position, draft));
        } else if let Some(result) = results.get_mut(position) {
            *result = Some(answer);
        }
    }
    *waiting = held_back;
    longest
}

fn result_of(
    (sequence, slot): (i64, Slot),
    results: &mut [Option<Result<Accepted, Error>>],
) -> (i64, Result<Accepted, Problem>) {
    let taken = match &slot.draft {
        Ok(position) => results.get_mut(*position).and_then(Option::take),
        Err(problem) => return (sequence, Err(problem.clone())),
    };
    let result = match taken {
        Some(Ok(accepted)) => Ok(accepted),
        Some(Err(error)) => Err(slot.problem(error)),
        None => Err(Problem::internal("an event of a stream got no result")),
    };
    (sequence, result)
}

impl Answered {
    /// The acknowledgement: of a cumulative stream only what is no plain acceptance is told one by one.
    pub fn into_response(self, mode: v1::AcknowledgementMode) -> v1::EmitStreamResponse {
        let acknowledged_sequence = self.results.last().map_or(0, |(sequence, _)| *sequence);
        let all = mode == v1::AcknowledgementMode::PerEvent;
        let told = |result: &Result<Accepted, Problem>| {
            all || result.as_ref().map_or(true, |accepted| accepted.duplicate)
        };
        let results = self.results.into_iter().filter(|(_, result)| told(result));
        let results = results.map(|(sequence, result)| v1::EmitStreamResult {
            sequence,
            result: Some(match result {
                Ok(accepted) => StreamResult::Accepted(write_accepted(&accepted)),
                Err(problem) => StreamResult::Error(problem.into_event_error()),
            }),
        });
        v1::EmitStreamResponse { acknowledged_sequence, results: results.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::EventId;
    use crate::domain::time::Timestamp;

    fn accepted(duplicate: bool) -> Accepted {
        Accepted {
            event_id: EventId::parse("evt-7").unwrap(),
            duplicate,
            accepted_at: Timestamp::from_millis(0),
            delivery_count: 1,
            best_effort_count: 0,
        }
    }

    fn answered() -> Answered {
        let problem = Problem::from(Error::invalid("event.type", "is empty"));
        Answered { results: vec![(3, Ok(accepted(false))), (5, Err(problem)), (8, Ok(accepted(true)))] }
    }

    fn told(mode: v1::AcknowledgementMode) -> (i64, Vec<i64>) {
        let response = answered().into_response(mode);
        (response.acknowledged_sequence, response.results.iter().map(|result| result.sequence).collect())
    }

    #[test]
    fn a_cumulative_acknowledgement_tells_only_errors_and_duplicates() {
        assert_eq!(told(v1::AcknowledgementMode::Cumulative), (8, vec![5, 8]));
        assert_eq!(told(v1::AcknowledgementMode::PerEvent), (8, vec![3, 5, 8]));
    }

    #[test]
    fn what_the_rate_holds_back_waits_and_the_rest_is_answered() {
        let draft = |event_type: &str| EventDraft {
            event_id: None,
            event_type: event_type.to_owned(),
            occurred_at: None,
            trace: None,
            level: crate::domain::event::Level::Info,
            data: bytes::Bytes::new(),
        };
        let limited = |millis| {
            Err(Error::QuotaExceeded {
                subject: "organization:org_a".to_owned(),
                plan: "free".to_owned(),
                what: Quota::EventsPerSecond,
                limit: 1,
                usage: 1,
                retry_after: Some(Duration::from_millis(millis)),
            })
        };
        let mut waiting = vec![(0, draft("a")), (1, draft("b")), (2, draft("c"))];
        let mut results = vec![None, None, None];
        let wait = settle(&mut waiting, vec![Ok(accepted(false)), limited(100), limited(200)], &mut results);
        assert_eq!(wait, Some(Duration::from_millis(200)));
        let left: Vec<usize> = waiting.iter().map(|(position, _)| *position).collect();
        assert_eq!((left, results[0].is_some()), (vec![1, 2], true));
        assert_eq!(settle(&mut waiting, vec![Ok(accepted(false)), Ok(accepted(false))], &mut results), None);
        assert!(results.iter().all(Option::is_some));
    }
}
