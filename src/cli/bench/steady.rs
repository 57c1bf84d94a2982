//! A healthy destination that gets events at a steady pace, and the time from the call to the receipt of
//! each. The pace does not wait for answers, so that a server that stalls shows.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

use super::disk::DiskProbe;
use super::figures::percentile;
use super::neighbours::{Receipt, Receiver};
use super::server::{self, Egress, Server};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

/// The organization of the healthy destination.
const HEALTHY: &str = "healthy";
/// Events to the healthy destination, each second.
pub const PACE: u32 = 100;
/// How long is waited for what has not arrived when the last event was emitted.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// How long the first event may take.
const FIRST_LIMIT: Duration = Duration::from_secs(60);
/// The size of each event's data.
pub const DATA_BYTES: usize = 1024;

/// The healthy destination.
pub struct Healthy {
    _receiver: Receiver,
    receipts: mpsc::Receiver<Receipt>,
}

/// What was measured, all rising.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// From call to receipt, of the events that arrived.
    pub latencies: Vec<Duration>,
    /// Events that were emitted.
    pub emitted: usize,
    /// An append with its sync beside it.
    pub disk: Vec<Duration>,
    /// By how much the caller itself was too late, at most: what the machine does to any process.
    pub late: Duration,
}

/// The figures of that, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Events that arrived.
    pub events: usize,
    /// Events that did not.
    pub missing: usize,
    /// Half of them took no longer.
    pub p50_us: Option<u128>,
    /// 99 of 100 took no longer.
    pub p99_us: Option<u128>,
    /// The longest.
    pub max_us: Option<u128>,
    /// 99 of 100 syncs of the disk took no longer.
    pub disk_p99_us: Option<u128>,
    /// The longest sync of the disk.
    pub disk_max_us: Option<u128>,
    /// By how much the caller was too late, at most.
    pub late_max_us: u128,
}

impl Times {
    /// These and those as one measurement.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let merged = |one: &[Duration], other: &[Duration]| {
            let mut all = [one, other].concat();
            all.sort_unstable();
            all
        };
        Self {
            latencies: merged(&self.latencies, &other.latencies),
            emitted: self.emitted + other.emitted,
            disk: merged(&self.disk, &other.disk),
            late: self.late.max(other.late),
        }
    }

    /// The figures.
    #[must_use]
    pub fn figures(&self) -> Latency {
        let micros = |times: &[Duration], percent| percentile(times, percent).map(|one| one.as_micros());
        Latency {
            events: self.latencies.len(),
            missing: self.emitted.saturating_sub(self.latencies.len()),
            p50_us: micros(&self.latencies, 50),
            p99_us: micros(&self.latencies, 99),
            max_us: micros(&self.latencies, 100),
            disk_p99_us: micros(&self.disk, 99),
            disk_max_us: micros(&self.disk, 100),
            late_max_us: self.late.as_micros(),
        }
    }
}

impl Healthy {
    /// Creates the destination. The first events are not measured: the connection opens, and the
    /// destination becomes known as one that answers.
    ///
    /// # Errors
    /// The server refuses it or an event, or does not deliver.
    pub async fn join(server: &Server) -> anyhow::Result<Self> {
        let (sender, receipts) = mpsc::channel(4096);
        let receiver = Receiver::healthy(sender).await?;
        let destination = server::destination(&receiver.url("/hook"), Egress::Http);
        server.create_destination(HEALTHY, destination).await?;
        let mut healthy = Self { _receiver: receiver, receipts };
        healthy.warm_up(server).await?;
        Ok(healthy)
    }

    /// Some events, one after the other; also after the server was started again.
    ///
    /// # Errors
    /// The server refuses one of them, or does not deliver it.
    pub async fn warm_up(&mut self, server: &Server) -> anyhow::Result<()> {
        let data = server::data(DATA_BYTES);
        for _ in 0..20 {
            emit(server.events(0)?, server::event(&data)).await?;
            let first = tokio::time::timeout(FIRST_LIMIT, self.receipts.recv()).await;
            first.context("the healthy destination got nothing within a minute")?;
        }
        Ok(())
    }

    /// Emits for so long, and measures the disk in this folder beside.
    ///
    /// # Errors
    /// The server refuses an event, or the disk can't be written.
    pub async fn measure(&mut self, server: &Server, seconds: u32, folder: &Path) -> anyhow::Result<Times> {
        let probe = DiskProbe::start(folder);
        let times = self.steady(server, seconds * PACE).await?;
        Ok(Times { disk: probe.end().await?, ..times })
    }

    async fn steady(&mut self, server: &Server, count: u32) -> anyhow::Result<Times> {
        let data = server::data(DATA_BYTES);
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut begun, mut arrived) = (HashMap::new(), HashMap::new());
        let mut calls = JoinSet::new();
        let mut late = Duration::ZERO;
        while begun.len() < count as usize {
            tokio::select! {
                at = ticks.tick() => {
                    late = late.max(at.elapsed());
                    let event = server::event(&data);
                    begun.insert(event.event_id.clone().unwrap_or_default(), Instant::now());
                    calls.spawn(emit(server.events(0)?, event));
                }
                Some((id, at)) = self.receipts.recv() => { arrived.entry(id).or_insert(at); }
                Some(ended) = calls.join_next() => ended??,
            }
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        let until = tokio::time::Instant::now() + ARRIVAL_LIMIT;
        while begun.keys().any(|id| !arrived.contains_key(id)) {
            let Ok(Some((id, at))) = tokio::time::timeout_at(until, self.receipts.recv()).await else {
                break;
            };
            arrived.entry(id).or_insert(at);
        }
        let taken = |(id, began): (&String, &Instant)| Some(arrived.get(id)?.duration_since(*began));
        let mut latencies: Vec<Duration> = begun.iter().filter_map(taken).collect();
        latencies.sort_unstable();
        Ok(Times { latencies, emitted: begun.len(), disk: Vec::new(), late })
    }
}

async fn emit(mut client: EventIngestClient<Channel>, event: v1::Event) -> anyhow::Result<()> {
    let request = v1::EmitRequest { organization_id: HEALTHY.into(), event: Some(event) };
    client.emit(request).await.context("Emit").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_make_one() {
        let times = |millis: &[u64]| Times {
            latencies: millis.iter().copied().map(Duration::from_millis).collect(),
            emitted: 3,
            disk: vec![Duration::from_millis(millis.len() as u64)],
            late: Duration::ZERO,
        };
        let figures = times(&[1, 5]).with(&times(&[2, 3, 4])).figures();
        assert_eq!((figures.events, figures.missing), (5, 1));
        assert_eq!((figures.p50_us, figures.max_us), (Some(3000), Some(5000)));
        assert_eq!(figures.disk_max_us, Some(3000));
    }
}
