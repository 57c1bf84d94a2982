//! Who emits while the server is killed: one caller for each way in that the API has.
//!
//! Each goes on from the first event that was not acknowledged, with the same id, as a careful caller does.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::cli::bench::server::EVENT_TYPE;
use crate::cli::bench::soak::cast::organization_id;
use crate::cli::bench::soak::emitters::is_passing;
use crate::cli::bench::soak::ledger::Number;
use crate::cli::bench::soak::receivers::{Book, data};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;
use v1::emit_batch_result::Result as InBatch;
use v1::emit_stream_result::Result as InStream;

/// The pause between two events of a caller, so that receivers come along with what is left after kills.
const PAUSE: Duration = Duration::from_millis(5);
/// Events of one batch.
const BATCH: u32 = 15;
/// How many events a stream has ahead of their acknowledgement.
const WINDOW: usize = 16;
/// The text of each event; some need chunks in the store.
const TEXTS: [usize; 3] = [40, 450, 6_000];

/// How a caller emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One call after the other.
    Unary,
    /// Batches, one after the other.
    Batch,
    /// One stream with cumulative acknowledgements.
    Stream,
}

/// A caller, from one start of the server until its end.
pub struct Emitter {
    /// For whom.
    pub organization: usize,
    /// The first event that was not acknowledged.
    pub next: Number,
    /// How it emits.
    pub style: Style,
    /// The way to the server.
    pub client: EventIngestClient<Channel>,
    /// Where it is written down.
    pub book: Book,
}

/// What stops a caller.
enum Stopped {
    /// The server is gone.
    Gone,
    /// The server refuses what it must take.
    Refused(anyhow::Error),
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        if is_passing(status.code()) { Self::Gone } else { Self::Refused(status.into()) }
    }
}

impl From<anyhow::Error> for Stopped {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(error)
    }
}

impl Emitter {
    /// Emits until the server is gone; answers where to go on.
    ///
    /// # Errors
    /// The server refuses an event for another reason than that it is busy or away.
    pub async fn run(mut self) -> anyhow::Result<(usize, Number)> {
        loop {
            let done = match self.style {
                Style::Unary => self.unary().await,
                Style::Batch => self.batch().await,
                Style::Stream => self.stream().await,
            };
            match done {
                Ok(()) => tokio::time::sleep(PAUSE).await,
                Err(Stopped::Gone) => return Ok((self.organization, self.next)),
                Err(Stopped::Refused(error)) => return Err(error.context(format!("{:?}", self.style))),
            }
        }
    }

    async fn unary(&mut self) -> Result<(), Stopped> {
        let request = v1::EmitRequest {
            organization_id: organization_id(self.organization),
            event: Some(self.event(self.next)),
        };
        let answer = self.client.emit(request).await?.into_inner();
        let result = answer.result.context("a result")?;
        self.acknowledge(self.next, result.duplicate);
        Ok(())
    }

    async fn batch(&mut self) -> Result<(), Stopped> {
        let numbers = self.next..self.next + u64::from(BATCH);
        let request = v1::EmitBatchRequest {
            organization_id: organization_id(self.organization),
            events: numbers.clone().map(|number| self.event(number)).collect(),
        };
        let answer = self.client.emit_batch(request).await?.into_inner();
        for (number, result) in numbers.zip(answer.results) {
            match result.result {
                Some(InBatch::Accepted(result)) => self.acknowledge(number, result.duplicate),
                // Busy, or about to end; what came before it is acknowledged.
                _ => return Err(Stopped::Gone),
            }
        }
        tokio::time::sleep(PAUSE * BATCH).await;
        Ok(())
    }

    /// One stream, for as long as it lasts.
    async fn stream(&mut self) -> Result<(), Stopped> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let (first, mut sent) = (self.next, self.next);
        self.fill(&sender, first, &mut sent).await?;
        let mut answers = self.client.emit_stream(ReceiverStream::new(receiver)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            let mut duplicates = Vec::new();
            for result in answer.results {
                match result.result {
                    Some(InStream::Accepted(known)) if known.duplicate => duplicates.push(result.sequence),
                    Some(InStream::Accepted(_)) => {}
                    other => {
                        return Err(anyhow::anyhow!("an event of a stream was refused: {other:?}").into());
                    }
                }
            }
            let upto = first + u64::try_from(answer.acknowledged_sequence).unwrap_or_default();
            for number in self.next..upto {
                let sequence = i64::try_from(number - first + 1).unwrap_or_default();
                self.acknowledge(number, duplicates.contains(&sequence));
            }
            tokio::time::sleep(PAUSE).await;
            self.fill(&sender, first, &mut sent).await?;
        }
        Err(Stopped::Gone)
    }

    /// Sends until the window is full. The channel has room for it.
    async fn fill(
        &self,
        sender: &mpsc::Sender<v1::EmitStreamRequest>,
        first: Number,
        sent: &mut Number,
    ) -> Result<(), Stopped> {
        while *sent < self.next + WINDOW as u64 {
            let request = v1::EmitStreamRequest {
                organization_id: organization_id(self.organization),
                sequence: i64::try_from(*sent - first + 1).unwrap_or_default(),
                event: Some(self.event(*sent)),
                ..v1::EmitStreamRequest::default()
            };
            sender.send(request).await.map_err(|_| Stopped::Gone)?;
            *sent += 1;
        }
        Ok(())
    }

    fn event(&self, number: Number) -> v1::Event {
        let length = TEXTS.get((number % 7) as usize).copied().unwrap_or(TEXTS[0]);
        v1::Event {
            event_id: Some(format!("crash-{}-{number}", self.organization)),
            r#type: EVENT_TYPE.into(),
            data: Some(v1::event::Data::JsonData(data(number, &"x".repeat(length)))),
            ..v1::Event::default()
        }
    }

    fn acknowledge(&mut self, number: Number, duplicate: bool) {
        let now = self.book.now();
        self.book.with(|ledger| ledger.acknowledge(self.organization, number, duplicate, now));
        self.next = self.next.max(number + 1);
    }
}
