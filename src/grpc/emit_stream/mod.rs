//! `EmitStream`: events without end, acknowledged as they become durable.
//!
//! A session reads whatever is ready, up to a group, and accepts the group in one call, a few groups at a
//! time. Everything is bounded: when the groups in flight are full, or the client does not take its
//! acknowledgements, nothing is read, and the client's sending blocks. A busy store and the organization's
//! rate slow the session down in the same way.
//!
//! `Protocol` holds the rules of the stream and is pure; `Group` is what became of some events.

mod group;
mod protocol;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status, Streaming};

use self::group::{Answered, Group};
use self::protocol::Protocol;
use super::context::Context;
use super::interceptor::Admission;
use super::proto::v1;
use super::status::Problem;
use crate::domain::trace::TraceContext;

/// One message to the client, or the end of the stream.
pub type Answer = Result<v1::EmitStreamResponse, Status>;

/// The most events of a group: about as many as share one fsync anyway.
const GROUP_EVENTS: usize = 256;
/// A group is closed when its data reaches this size.
const GROUP_BYTES: usize = 1024 * 1024;
/// The most groups in flight: one is written, one waits, and two are being prepared.
const GROUPS_IN_FLIGHT: usize = 4;
/// The most acknowledgements that wait for the client to take them.
const ANSWERS: usize = 4;

/// One stream of one client.
pub struct Session {
    context: Context,
    admission: Admission,
    trace: Option<TraceContext>,
    requests: Streaming<v1::EmitStreamRequest>,
    answers: mpsc::Sender<Answer>,
    protocol: Protocol,
    in_flight: VecDeque<JoinHandle<Result<Answered, Problem>>>,
    /// Whether a group was answered; until then the organization may not exist, and groups would race.
    settled: bool,
}

/// What came of reading.
enum Read {
    /// Some events, and perhaps why none follows.
    Group(Group, Option<End>),
    /// Nothing more.
    End(End),
}

/// Why the stream ends.
enum End {
    /// The client has sent all it wanted to.
    Finished,
    /// The client broke a rule of the stream.
    Violation(Problem),
    /// The connection broke, or a message could not be read.
    Broken(Status),
    /// The client has not sent anything for too long, from the beginning on.
    Silent,
    /// The client's credentials are no longer valid.
    Withdrawn(Problem),
    /// The server stops.
    Stopping,
}

impl Session {
    /// A session, and what it answers.
    pub fn new(
        context: Context,
        (admission, trace): (Admission, Option<TraceContext>),
        requests: Streaming<v1::EmitStreamRequest>,
    ) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let (protocol, in_flight) = (Protocol::default(), VecDeque::new());
        (Self { context, admission, trace, requests, answers, protocol, in_flight, settled: false }, receiver)
    }

    /// Reads, accepts and acknowledges until the stream ends.
    pub async fn run(mut self) {
        let status = match self.pump().await {
            Ok(End::Finished) | Err(None) => return,
            Ok(End::Violation(problem) | End::Withdrawn(problem)) | Err(Some(problem)) => {
                problem.into_status()
            }
            Ok(End::Broken(status)) => status,
            Ok(End::Silent) => never_began(self.context.first_message).into_status(),
            Ok(End::Stopping) => Problem::shutting_down().into_status(),
        };
        if self.answers.try_send(Err(status)).is_err() {
            // A client that has gone, or takes nothing while the server stops, learns it from the connection.
            tracing::debug!("a stream of events ended without its last word");
        }
    }

    /// Everything but the last word. An error is the failure of a group, or `None` when the client is gone.
    async fn pump(&mut self) -> Result<End, Option<Problem>> {
        let admission = self.admission.clone();
        let mut ended = std::pin::pin!(admission.ended());
        let mut silence = std::pin::pin!(tokio::time::sleep(self.context.first_message));
        loop {
            let has_begun = !self.protocol.organization_id().is_empty();
            let may_read = self.in_flight.len() < if self.settled { GROUPS_IN_FLIGHT } else { 1 };
            let stop = self.context.stop.clone();
            tokio::select! {
                biased;
                answered = front(&mut self.in_flight) => self.acknowledge(answered).await?,
                () = stop.cancelled() => return self.drain(End::Stopping).await,
                problem = &mut ended => return self.drain(End::Withdrawn(problem)).await,
                read = read(&mut self.requests, &mut self.protocol, (&self.admission, self.trace)), if may_read => match read {
                    Read::Group(group, end) => {
                        self.accept(group);
                        if let Some(end) = end {
                            return self.drain(end).await;
                        }
                    }
                    Read::End(end) => return self.drain(end).await,
                },
                // Whoever says nothing keeps no place.
                () = &mut silence, if !has_begun => return Ok(End::Silent),
            }
        }
    }

    fn accept(&mut self, group: Group) {
        let organization_id = self.protocol.organization_id().to_owned();
        let caller = self.admission.caller().clone();
        let work = group.accept(self.context.clone(), caller, organization_id);
        self.in_flight.push_back(self.context.tasks.spawn(work));
    }

    /// Acknowledges what is in flight, and reads no more.
    async fn drain(&mut self, end: End) -> Result<End, Option<Problem>> {
        while !self.in_flight.is_empty() {
            let answered = front(&mut self.in_flight).await;
            self.acknowledge(answered).await?;
        }
        Ok(end)
    }

    async fn acknowledge(
        &mut self,
        answered: Result<Result<Answered, Problem>, JoinError>,
    ) -> Result<(), Option<Problem>> {
        self.in_flight.pop_front();
        self.settled = true;
        let answered = match answered {
            Ok(answered) => answered.map_err(Some)?,
            Err(error) => return Err(Some(Problem::internal(&format!("a group's task ended: {error}")))),
        };
        let answer = Ok(answered.into_response(self.protocol.mode()));
        let stop = self.context.stop.clone();
        tokio::select! {
            biased;
            sent = self.answers.send(answer) => sent.map_err(|_| None),
            // A client that takes nothing does not hold the server's stop up.
            () = stop.cancelled() => Err(None),
        }
    }
}

fn never_began(after: Duration) -> Problem {
    let message = format!(
        "the stream's first message did not come within {after:?} (limits.call_timeout); open a stream when there \
         is something to send"
    );
    Problem::new(Code::DeadlineExceeded, v1::ErrorReason::CallTimedOut, message)
}

/// Waits for the oldest group; for ever when there is none.
async fn front(
    in_flight: &mut VecDeque<JoinHandle<Result<Answered, Problem>>>,
) -> Result<Result<Answered, Problem>, JoinError> {
    match in_flight.front_mut() {
        Some(group) => group.await,
        None => std::future::pending().await,
    }
}

/// Waits for an event and takes what else is ready. Nothing is lost when the future is dropped, because
/// after the first event nothing is waited for.
async fn read(
    requests: &mut Streaming<v1::EmitStreamRequest>,
    protocol: &mut Protocol,
    (admission, trace): (&Admission, Option<TraceContext>),
) -> Read {
    let mut group = Group::new(trace);
    let mut next = requests.next().await;
    loop {
        let end = match next {
            None => End::Finished,
            Some(Err(status)) => End::Broken(status),
            Some(Ok(message)) => match check(protocol, admission, &message) {
                Ok(()) => {
                    group.push(message);
                    if group.len() >= GROUP_EVENTS || group.bytes() >= GROUP_BYTES {
                        return Read::Group(group, None);
                    }
                    next = match ready(requests).await {
                        Some(next) => next,
                        None => return Read::Group(group, None),
                    };
                    continue;
                }
                Err(problem) => End::Violation(problem),
            },
        };
        return if group.len() == 0 { Read::End(end) } else { Read::Group(group, Some(end)) };
    }
}

/// The first message names the organization, so it is asked for there whether the caller may; then the rules.
fn check(
    protocol: &mut Protocol,
    admission: &Admission,
    message: &v1::EmitStreamRequest,
) -> Result<(), Problem> {
    if protocol.organization_id().is_empty() {
        admission.authorize(&message.organization_id)?;
    }
    protocol.check(message)
}

/// The next item if it is there already; the outer `None` means that it is not.
async fn ready<S: Stream + Unpin>(stream: &mut S) -> Option<Option<S::Item>> {
    poll_fn(|context| match Pin::new(&mut *stream).poll_next(context) {
        Poll::Ready(item) => Poll::Ready(Some(item)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
