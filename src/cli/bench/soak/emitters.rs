//! Who emits: one caller for each organization, who tries each event until it is acknowledged.

use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::cast::organization_id;
use super::ledger::Number;
use super::receivers::{Book, data};
use crate::cli::bench::server::EVENT_TYPE;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

/// An answer that takes longer has gone with the server.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The pause before the same event is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// The text of each event; about half a KiB.
const TEXT_BYTES: usize = 450;

/// A caller.
pub struct Emitter {
    /// For whom.
    pub organization: usize,
    /// Events a second.
    pub rate: f64,
    /// How.
    pub client: EventIngestClient<Channel>,
    /// Where it is written down.
    pub book: Book,
}

impl Emitter {
    /// Emits until it is told to stop; then the event under way is still brought to its end.
    ///
    /// # Errors
    /// The server refuses an event for another reason than that it is busy or away.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut random = fastrand::Rng::with_seed(self.organization as u64);
        let text: String = (0..TEXT_BYTES).map(|_| random.alphanumeric()).collect();
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / self.rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1.. {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.emit(number, &text).await?,
            }
        }
        Ok(())
    }

    async fn emit(&mut self, number: Number, text: &str) -> anyhow::Result<()> {
        let event = v1::Event {
            event_id: Some(format!("soak-{}-{number}", self.organization)),
            r#type: EVENT_TYPE.into(),
            data: Some(v1::event::Data::JsonData(data(number, text))),
            ..v1::Event::default()
        };
        let request =
            v1::EmitRequest { organization_id: organization_id(self.organization), event: Some(event) };
        loop {
            match timeout(ANSWER_LIMIT, self.client.emit(request.clone())).await {
                Ok(Ok(answer)) => {
                    let result = answer.into_inner().result.context("a result")?;
                    let (duplicate, now) = (result.duplicate, self.book.now());
                    self.book.with(|ledger| ledger.acknowledge(self.organization, number, duplicate, now));
                    return Ok(());
                }
                Ok(Err(status)) if !is_passing(status.code()) => {
                    anyhow::bail!("the server refused event {number}: {status}");
                }
                // It may have been accepted all the same, so it is tried with the same id.
                Ok(Err(_)) | Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

/// Whether the same call may be answered differently in a moment.
pub fn is_passing(code: Code) -> bool {
    // A connection that breaks in the middle of a call shows as Unknown, Cancelled or Internal.
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    )
}
