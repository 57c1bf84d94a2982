//! The callers: they emit events in the three ways that the API offers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::server::{Server, event, organization};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::emit_batch_result::Result::Accepted;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

/// How many events one stream sends ahead of their acknowledgement.
const STREAM_WINDOW: usize = 256;
/// Events of one batch.
pub const BATCH: u64 = 100;
/// How long a scenario emits at most, unless it says otherwise; what was done until then counts.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);
/// After the time limit only answers are waited for; a server that gives none for so long hangs.
const HANG_AFTER: Duration = Duration::from_secs(30);

/// How events are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Single calls, 64 at a time.
    Unary,
    /// Batches of 100 from 4 callers.
    Batch,
    /// 4 streams with cumulative acknowledgements.
    Stream,
}

impl Style {
    const fn callers(self) -> usize {
        match self {
            Style::Unary => 64,
            Style::Batch | Style::Stream => 4,
        }
    }
}

/// What a caller did, or all of them together.
#[derive(Debug, Default)]
pub struct Done {
    /// Events that were accepted and durable.
    pub events: u64,
    /// The time from sending to the answer, rising: a value for each call or, on streams, each event.
    pub latencies: Vec<Duration>,
}

/// What is to be emitted.
#[derive(Debug, Clone)]
pub struct Order {
    /// How.
    pub style: Style,
    /// How many events.
    pub events: u64,
    /// The data of each event.
    pub data: Bytes,
    /// The number of the first organization that gets some.
    pub first_organization: u32,
    /// Over how many organizations they are spread.
    pub organizations: u32,
    /// Nothing is emitted after that.
    pub time_limit: Duration,
}

/// Emits all that is ordered, and waits for the answers.
///
/// # Errors
/// The server refused an event or failed.
pub async fn emit(server: &Server, order: &Order) -> anyhow::Result<Done> {
    emit_to(std::slice::from_ref(server), order).await
}

/// As [`emit`], with the callers spread over several servers.
///
/// # Errors
/// There is no server, or one refused an event or failed.
pub async fn emit_to(servers: &[Server], order: &Order) -> anyhow::Result<Done> {
    let work = Arc::new(Work::new(order));
    let mut callers = JoinSet::new();
    for (number, server) in (0..order.style.callers()).zip(servers.iter().cycle()) {
        let (client, work) = (server.events(number / servers.len())?, Arc::clone(&work));
        match order.style {
            Style::Unary => callers.spawn(call_single(client, work)),
            Style::Batch => callers.spawn(call_batches(client, work)),
            Style::Stream => callers.spawn(stream(client, work)),
        };
    }
    let hang_limit = order.time_limit + HANG_AFTER;
    let mut all = tokio::time::timeout(hang_limit, all_of(callers)).await.context("the server hangs")??;
    all.latencies.sort_unstable();
    Ok(all)
}

async fn all_of(mut callers: JoinSet<anyhow::Result<Done>>) -> anyhow::Result<Done> {
    let mut all = Done::default();
    while let Some(ended) = callers.join_next().await {
        let mut done = ended??;
        all.events += done.events;
        all.latencies.append(&mut done.latencies);
    }
    Ok(all)
}

/// The events that are left to be emitted; callers take their share.
struct Work {
    left: AtomicU64,
    taken: AtomicU64,
    until: Instant,
    data: Bytes,
    first_organization: u32,
    organizations: u32,
}

impl Work {
    fn new(order: &Order) -> Self {
        Self {
            left: AtomicU64::new(order.events),
            taken: AtomicU64::new(0),
            until: Instant::now() + order.time_limit,
            data: order.data.clone(),
            first_organization: order.first_organization,
            organizations: order.organizations.max(1),
        }
    }

    /// Up to `most` events; none when all are taken or the time is over.
    fn take(&self, most: u64) -> u64 {
        if Instant::now() >= self.until {
            return 0;
        }
        let rest = |left: u64| Some(left.saturating_sub(most));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        left.unwrap_or_default().min(most)
    }

    /// Organizations take turns.
    fn organization(&self) -> String {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed) % u64::from(self.organizations);
        organization(self.first_organization + u32::try_from(turn).unwrap_or_default())
    }
}

async fn call_single(mut client: EventIngestClient<Channel>, work: Arc<Work>) -> anyhow::Result<Done> {
    let mut done = Done::default();
    while work.take(1) > 0 {
        let request =
            v1::EmitRequest { organization_id: work.organization(), event: Some(event(&work.data)) };
        let began = Instant::now();
        client.emit(request).await.context("Emit")?;
        done.latencies.push(began.elapsed());
        done.events += 1;
    }
    Ok(done)
}

async fn call_batches(mut client: EventIngestClient<Channel>, work: Arc<Work>) -> anyhow::Result<Done> {
    let mut done = Done::default();
    loop {
        let count = work.take(BATCH);
        if count == 0 {
            return Ok(done);
        }
        let events = (0..count).map(|_| event(&work.data)).collect();
        let request = v1::EmitBatchRequest { organization_id: work.organization(), events };
        let began = Instant::now();
        let response = client.emit_batch(request).await.context("EmitBatch")?.into_inner();
        done.latencies.push(began.elapsed());
        let accepted = |one: &&v1::EmitBatchResult| matches!(one.result, Some(Accepted(_)));
        let refused = response.results.iter().find(|one| !accepted(one));
        anyhow::ensure!(refused.is_none(), "EmitBatch refused an event: {refused:?}");
        done.events += count;
    }
}

async fn stream(mut client: EventIngestClient<Channel>, work: Arc<Work>) -> anyhow::Result<Done> {
    let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_WINDOW);
    let mut ahead = Ahead { sender: Some(sender), sent: Vec::new(), acknowledged: 0 };
    ahead.fill(&work).await?;
    let mut answers =
        client.emit_stream(ReceiverStream::new(receiver)).await.context("EmitStream")?.into_inner();
    let mut done = Done::default();
    while let Some(answer) = answers.message().await.context("EmitStream")? {
        let refused = answer.results.first();
        anyhow::ensure!(refused.is_none(), "EmitStream refused an event: {refused:?}");
        ahead.acknowledge(answer.acknowledged_sequence, &mut done);
        ahead.fill(&work).await?;
    }
    anyhow::ensure!(ahead.acknowledged == ahead.sent.len(), "EmitStream ended before all was acknowledged");
    Ok(done)
}

/// The events of a stream that were sent; the sequence is the position, from 1.
struct Ahead {
    /// `None` once there is nothing more to send: the client's side of the stream is closed.
    sender: Option<tokio::sync::mpsc::Sender<v1::EmitStreamRequest>>,
    sent: Vec<Instant>,
    acknowledged: usize,
}

impl Ahead {
    /// Sends until the window is full. The channel has room for a window, so this never waits for long.
    async fn fill(&mut self, work: &Work) -> anyhow::Result<()> {
        while self.sent.len() - self.acknowledged < STREAM_WINDOW {
            let Some(sender) = &self.sender else { return Ok(()) };
            if work.take(1) == 0 {
                self.sender = None;
                return Ok(());
            }
            self.sent.push(Instant::now());
            let request = v1::EmitStreamRequest {
                organization_id: work.organization(),
                sequence: i64::try_from(self.sent.len())?,
                event: Some(event(&work.data)),
                ..v1::EmitStreamRequest::default()
            };
            sender.send(request).await.context("EmitStream ended early")?;
        }
        Ok(())
    }

    fn acknowledge(&mut self, sequence: i64, done: &mut Done) {
        let upto = usize::try_from(sequence).unwrap_or_default().min(self.sent.len());
        let newly = self.sent.get(self.acknowledged..upto).unwrap_or_default();
        done.latencies.extend(newly.iter().map(Instant::elapsed));
        done.events += newly.len() as u64;
        self.acknowledged = self.acknowledged.max(upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(events: u64) -> Order {
        Order {
            style: Style::Batch,
            events,
            data: Bytes::new(),
            first_organization: 4,
            organizations: 3,
            time_limit: TIME_LIMIT,
        }
    }

    #[test]
    fn exactly_as_many_events_are_handed_out_as_were_ordered() {
        let work = Work::new(&order(250));
        assert_eq!([100, 100, 50, 0, 0], std::array::from_fn(|_| work.take(100)));
    }

    #[test]
    fn organizations_take_turns() {
        let work = Work::new(&order(1));
        let turns: Vec<_> = (0..4).map(|_| work.organization()).collect();
        assert_eq!(turns, ["bench-4", "bench-5", "bench-6", "bench-4"]);
    }

    #[test]
    fn an_acknowledgement_covers_everything_up_to_it_once() {
        let mut ahead = Ahead { sender: None, sent: vec![Instant::now(); 5], acknowledged: 0 };
        let mut done = Done::default();
        for (sequence, events) in [(2, 2), (2, 2), (1, 2), (4, 4), (99, 5)] {
            ahead.acknowledge(sequence, &mut done);
            assert_eq!((done.events, done.latencies.len() as u64), (events, events), "{sequence}");
        }
    }
}
