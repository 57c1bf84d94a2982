//! A stream of events that outlives its connections.
//!
//! [`EventStream`] is the caller's end. A task holds what has no answer yet in a `Ledger`, sends it, and
//! after a broken connection sends it again on a new one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Authorized;
use crate::error::{Error, Refusal};
use crate::event::{Accepted, Event};
use crate::ledger::Ledger;
use crate::proto::v1;
use crate::proto::v1::event_ingest_client::EventIngestClient;
use crate::retry::{Backoff, may_reopen};

/// Events between the task and the connection.
const OUTGOING: usize = 64;
/// How long opening a connection may take, and the server's last word when the stream is closed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes in flight are counted in blocks of this size.
const BLOCK: usize = 1024;

/// The limits of a stream.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The most events without an answer; sending waits beyond it. Default: 2000.
    pub max_in_flight: usize,
    /// The most bytes of them; a larger event goes alone. Default: 16 MiB.
    pub max_bytes_in_flight: usize,
    /// How long the stream tries again without any progress before it ends with the last error.
    /// Default: 5 minutes.
    pub patience: Duration,
    /// How long to wait for an answer before the connection counts as broken. An organization's rate limit
    /// slows a stream down, so this is long. Default: 2 minutes.
    pub answer_timeout: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            max_in_flight: 2000,
            max_bytes_in_flight: 16 * 1024 * 1024,
            patience: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(120),
        }
    }
}

/// Sends events and tells what became of each. Events keep their order as long as none has to wait for the
/// server to have room again.
///
/// Dropping it without [`EventStream::close`] lets what was sent go on in the background, for as long as the
/// runtime lives.
#[derive(Debug)]
pub struct EventStream {
    queue: mpsc::Sender<Waiting>,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_blocks: usize,
    driver: JoinHandle<Result<(), Error>>,
}

/// Resolves when the event is durable, or will never be accepted.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Receiver<Result<Accepted, Error>>);

impl Future for Acknowledgement {
    type Output = Result<Accepted, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

/// An event, who waits for it, and the room that it takes.
struct Waiting {
    event: v1::Event,
    ticket: Ticket,
}

struct Ticket {
    answer: oneshot::Sender<Result<Accepted, Error>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Ticket {
    fn answer(self, answer: Result<Accepted, Error>) {
        // Nobody has to wait for an acknowledgement.
        self.answer.send(answer).ok();
    }
}

impl EventStream {
    pub(crate) fn open(
        client: EventIngestClient<Authorized>,
        organization_id: String,
        options: StreamOptions,
    ) -> Self {
        let max_in_flight = options.max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_blocks = options.max_bytes_in_flight.div_ceil(BLOCK).clamp(1, u32::MAX as usize);
        let (queue, incoming) = mpsc::channel(OUTGOING);
        let driver = Driver {
            client,
            organization_id,
            options,
            incoming,
            closing: false,
            ledger: Ledger::new(),
            backoff: Backoff::default(),
            progress: Instant::now(),
        };
        Self {
            queue,
            events: Arc::new(Semaphore::new(max_in_flight)),
            bytes: Arc::new(Semaphore::new(bytes_blocks)),
            bytes_blocks,
            driver: tokio::spawn(driver.run()),
        }
    }

    /// Sends an event. Waits while too much is in flight; the acknowledgement comes later.
    ///
    /// # Errors
    /// [`Error::Closed`]: the stream has ended by an error, which [`EventStream::close`] tells.
    pub async fn send(&self, event: Event) -> Result<Acknowledgement, Error> {
        let blocks = event.size().div_ceil(BLOCK).clamp(1, self.bytes_blocks);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let events = Arc::clone(&self.events).acquire_owned().await.map_err(|_| Error::Closed)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(blocks).await.map_err(|_| Error::Closed)?;
        let (answer, acknowledgement) = oneshot::channel();
        let ticket = Ticket { answer, _room: (events, bytes) };
        let waiting = Waiting { event: event.into_message(), ticket };
        self.queue.send(waiting).await.map_err(|_| Error::Closed)?;
        Ok(Acknowledgement(acknowledgement))
    }

    /// Waits until every event has its answer, and ends the stream.
    ///
    /// # Errors
    /// The error by which the stream ended before. Events that were refused have told it themselves.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.queue);
        self.driver.await.unwrap_or(Err(Error::Closed))
    }
}

struct Driver {
    client: EventIngestClient<Authorized>,
    organization_id: String,
    options: StreamOptions,
    incoming: mpsc::Receiver<Waiting>,
    closing: bool,
    ledger: Ledger<Ticket>,
    backoff: Backoff,
    /// When something was acknowledged last, or there was nothing to acknowledge.
    progress: Instant,
}

/// One connection's stream.
struct Connection {
    requests: mpsc::Sender<v1::EmitStreamRequest>,
    answers: Streaming<v1::EmitStreamResponse>,
    is_first: bool,
    opened: Instant,
    resume_at: Option<Instant>,
}

impl Driver {
    async fn run(mut self) -> Result<(), Error> {
        while self.has_work().await {
            let Err(status) = self.connection().await else { continue };
            let may_reopen = may_reopen(&status);
            let refusal = Refusal::from(status);
            if !may_reopen || self.progress.elapsed() >= self.options.patience {
                return Err(self.fail(refusal));
            }
            sleep(self.backoff.next(refusal.retry_after)).await;
        }
        Ok(())
    }

    /// Waits for an event, if none is there. False when the caller has closed the stream and all is answered.
    async fn has_work(&mut self) -> bool {
        if !self.ledger.is_empty() {
            return true;
        }
        let Some(first) = self.incoming.recv().await else { return false };
        self.take(first);
        true
    }

    fn take(&mut self, Waiting { event, ticket }: Waiting) {
        if self.ledger.is_empty() {
            self.progress = Instant::now();
        }
        self.ledger.push(event, ticket);
    }

    /// Works on one connection until there is nothing more to do, or it ends.
    async fn connection(&mut self) -> Result<(), Status> {
        self.ledger.rewind();
        let mut connection = self.connect().await?;
        while !(self.closing && self.ledger.is_empty()) {
            self.step(&mut connection).await?;
        }
        // All is answered: what the server still says changes nothing.
        let Connection { requests, mut answers, .. } = connection;
        drop(requests);
        timeout(HANDSHAKE, answers.message()).await.ok();
        Ok(())
    }

    async fn connect(&mut self) -> Result<Connection, Status> {
        let (requests, outgoing) = mpsc::channel(OUTGOING);
        let opened = timeout(HANDSHAKE, self.client.emit_stream(ReceiverStream::new(outgoing))).await;
        let answers = opened.map_err(|_| Status::unavailable("the stream could not be opened in time"))??;
        Ok(Connection {
            requests,
            answers: answers.into_inner(),
            is_first: true,
            opened: Instant::now(),
            resume_at: None,
        })
    }

    async fn step(&mut self, connection: &mut Connection) -> Result<(), Status> {
        let Connection { requests, answers, is_first, opened, resume_at } = connection;
        let (is_empty, has_unsent) = (self.ledger.is_empty(), self.ledger.has_unsent());
        let silent = self.progress.max(*opened) + self.options.answer_timeout;
        tokio::select! {
            biased;
            answer = answers.message() => match answer? {
                Some(answer) => *resume_at = self.acknowledge(answer),
                None => return Err(Status::unavailable("the server ended the stream")),
            },
            room = requests.reserve(), if has_unsent && resume_at.is_none() => {
                let room = room.map_err(|_| Status::unavailable("the connection is gone"))?;
                if let Some(mut request) = self.ledger.next_unsent() {
                    if std::mem::take(is_first) {
                        request.organization_id.clone_from(&self.organization_id);
                        request.set_acknowledgement_mode(v1::AcknowledgementMode::PerEvent);
                    }
                    room.send(request);
                }
            }
            waiting = self.incoming.recv(), if !self.closing && !has_unsent => match waiting {
                Some(waiting) => self.take(waiting),
                None => self.closing = true,
            },
            () = sleep_until(resume_at.unwrap_or_else(Instant::now)), if resume_at.is_some() => *resume_at = None,
            () = sleep_until(silent), if !is_empty => return Err(Status::unavailable("the server does not answer")),
        }
        Ok(())
    }

    /// Answers who waited. Returns until when to pause, if the server has no room.
    fn acknowledge(&mut self, answer: v1::EmitStreamResponse) -> Option<Instant> {
        let settled = self.ledger.acknowledge(answer);
        if !settled.answers.is_empty() {
            self.progress = Instant::now();
            self.backoff.reset();
        }
        for (ticket, answer) in settled.answers {
            ticket.answer(answer.map_err(Error::from));
        }
        settled.put_back.then(|| Instant::now() + self.backoff.next(None))
    }

    /// Ends the stream for good.
    fn fail(&mut self, refusal: Refusal) -> Error {
        self.incoming.close();
        let error = Error::from(refusal);
        for ticket in self.ledger.drain() {
            ticket.answer(Err(error.clone()));
        }
        while let Ok(waiting) = self.incoming.try_recv() {
            waiting.ticket.answer(Err(error.clone()));
        }
        error
    }
}
