//! A neighbour that gets again what it had: a replay of many deliveries that succeeded.

use std::time::{Duration, Instant};

use anyhow::Context;
use prost_types::Timestamp;

use super::load::{self, Order, Style};
use super::server::{self, Egress, Server};
use super::sinks::Sink;
use super::steady::DATA_BYTES;
use crate::domain::replay::PER_SECOND_MAX;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::replay_deliveries_request::Selection;

/// How long the deliveries before the replay, and the count at its beginning, may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often is asked.
const POLL: Duration = Duration::from_millis(20);
/// Later than any event.
const END_OF_TIME: i64 = 4_000_000_000;

/// The neighbour, its receiver, and what it got.
pub struct Replayed {
    sink: Sink,
    destination_id: String,
    had: u64,
}

impl Replayed {
    /// Creates it and delivers so many events to it.
    ///
    /// # Errors
    /// The server refuses an event, or does not deliver in time.
    pub async fn prepare(server: &Server, count: u32) -> anyhow::Result<Self> {
        let mut sink = Sink::start(1, None).await?;
        let destination = server::destination(&sink.url(0)?, Egress::Http);
        let created = server.create_destination(&server::organization(0), destination).await?;
        let order = Order {
            style: Style::Batch,
            events: count.into(),
            data: server::data(DATA_BYTES),
            first_organization: 0,
            organizations: 1,
            time_limit: LIMIT,
        };
        let had = load::emit(server, &order).await?.events;
        let began = Instant::now();
        while sink.count().await? < had {
            anyhow::ensure!(began.elapsed() < LIMIT, "the events of the replay did not arrive");
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { sink, destination_id: created.destination_id, had })
    }

    /// Starts the replay of all that it had, and waits until it sends.
    ///
    /// # Errors
    /// The server refuses it, or it does not begin in time.
    pub async fn begin(&mut self, server: &Server, fastest: bool) -> anyhow::Result<()> {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let succeeded =
            v1::SucceededDeliveries { start_time: at(0), end_time: at(END_OF_TIME), event_types: Vec::new() };
        let request = v1::ReplayDeliveriesRequest {
            organization_id: server::organization(0),
            destination_id: self.destination_id.clone(),
            selection: Some(Selection::Succeeded(succeeded)),
            deliveries_per_second: fastest.then_some(i32::try_from(PER_SECOND_MAX)?),
            validate_only: false,
        };
        server.deliveries()?.replay_deliveries(request).await.context("starting a replay")?;
        let began = Instant::now();
        while self.count().await? == 0 {
            anyhow::ensure!(began.elapsed() < LIMIT, "the replay did not begin");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// How many deliveries it got again.
    ///
    /// # Errors
    /// The receiver has gone.
    pub async fn count(&mut self) -> anyhow::Result<u64> {
        Ok(self.sink.count().await?.saturating_sub(self.had))
    }
}
