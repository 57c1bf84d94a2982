//! `signalpost bench isolation`: what bad neighbours do to a healthy destination.
//!
//! For each kind of neighbours a server and a store of its own: the neighbours, each in an organization of
//! its own, get some events at once and then a few every second; the healthy destination gets events at
//! a steady pace, and the time from the call to the receipt is taken of each. The pace does not wait for
//! answers, so that a server that stalls shows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::figures::{grouped, millis, percentile, ratio};
use super::neighbours::{Neighbours, Receipt, Receiver, SLOW_ANSWER};
use super::report::Machine;
use super::server::{self, Egress, Server};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::grpc::proto::v1;

/// The organization of the healthy destination.
const HEALTHY: &str = "healthy";
/// Events to the healthy destination, each second.
const PACE: u32 = 100;
/// Events to all neighbours together, each second, besides those that wait already.
const NEIGHBOURS_PACE: u32 = 30;
/// Events that wait for each neighbour when the measurement begins.
const WAITING: usize = 5;
/// Callers that hand the waiting ones in.
const CALLERS: usize = 8;
/// How long is waited for what has not arrived when the last event was emitted.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// The size of each event's data.
const DATA_BYTES: usize = 1024;

/// `signalpost bench isolation`.
#[derive(Debug, Clone, Args)]
pub struct IsolationArguments {
    /// Bad destinations beside the healthy one.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    neighbours: u32,

    /// How long each case is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,

    /// Where the temporary stores are made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One row: the time from call to receipt, in microseconds.
#[derive(Debug, Serialize)]
struct Case {
    beside: Neighbours,
    events: usize,
    missing: usize,
    p50_us: Option<u128>,
    p99_us: Option<u128>,
    max_us: Option<u128>,
    p50_ratio: Option<f64>,
    p99_ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    neighbours: u32,
    seconds: u32,
    events_per_second: u32,
    cases: Vec<Case>,
}

/// Measures all cases and prints them.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or fails.
pub async fn run(arguments: &IsolationArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let mut report = Report {
        machine: Machine::read(),
        neighbours: arguments.neighbours,
        seconds: arguments.seconds,
        events_per_second: PACE,
        cases: Vec::new(),
    };
    for beside in [Neighbours::Nobody, Neighbours::Refusing, Neighbours::Silent, Neighbours::Slow] {
        remark(&format!("measuring beside {}", words(beside, arguments.neighbours)));
        let (latencies, emitted) = measure(arguments, folder.path(), beside).await?;
        let alone = report.cases.first();
        report.cases.push(case(beside, &latencies, emitted, alone));
    }
    folder.close().context("removing the temporary folder")?;
    let text = if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { table(&report) };
    let printed = print(&text);
    Ok(if report.cases.iter().all(|case| case.missing == 0) { printed } else { Exit::Failure })
}

/// The times of the events that arrived, rising, and how many were emitted.
async fn measure(
    arguments: &IsolationArguments,
    folder: &Path,
    beside: Neighbours,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let (sender, mut receipts) = mpsc::channel(4096);
    let healthy = Receiver::healthy(sender).await?;
    let bad = Receiver::bad(beside).await?;
    let server = Server::start(folder, None).await?;
    server.create_destination(HEALTHY, &healthy.url("/hook"), Egress::Http).await?;
    warm_up(&server, &mut receipts).await?;
    let count = if beside == Neighbours::Nobody { 0 } else { arguments.neighbours };
    for number in 0..count {
        let url = bad.url(&format!("/hook/{number}"));
        server.create_destination(&server::organization(number), &url, Egress::Http).await?;
    }
    hand_in(&server, count).await?;
    let mut background = JoinSet::new();
    if count > 0 {
        background.spawn(trickle(server.events(1)?, count));
    }
    let measured = steady(&server, receipts, arguments.seconds * PACE).await?;
    // It goes on until it is dropped; where it has ended, it failed.
    if let Some(ended) = background.try_join_next() {
        ended?.context("events for the neighbours")?;
    }
    Ok(measured)
}

/// Some events for each neighbour, all at once.
async fn hand_in(server: &Server, count: u32) -> anyhow::Result<()> {
    let data = server::data(DATA_BYTES);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (mut client, data) = (server.events(caller)?, data.clone());
        callers.spawn(async move {
            for number in (0..count).skip(caller).step_by(CALLERS) {
                let events = (0..WAITING).map(|_| server::event(&data)).collect();
                let organization_id = server::organization(number);
                client.emit_batch(v1::EmitBatchRequest { organization_id, events }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended?.context("events for the neighbours")?;
    }
    Ok(())
}

type Client = v1::event_ingest_client::EventIngestClient<tonic::transport::Channel>;

/// Events for one neighbour after the other, for as long as it is let.
async fn trickle(mut client: Client, count: u32) -> anyhow::Result<()> {
    let data = server::data(DATA_BYTES);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / NEIGHBOURS_PACE);
    for number in (0..count).cycle() {
        ticks.tick().await;
        let organization_id = server::organization(number);
        client.emit(v1::EmitRequest { organization_id, event: Some(server::event(&data)) }).await?;
    }
    Ok(())
}

/// Emits to the healthy destination at its pace and takes the times.
async fn steady(
    server: &Server,
    mut receipts: mpsc::Receiver<Receipt>,
    count: u32,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let data = server::data(DATA_BYTES);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut begun, mut arrived) = (HashMap::new(), HashMap::new());
    let mut calls = JoinSet::new();
    while begun.len() < count as usize {
        tokio::select! {
            _ = ticks.tick() => {
                let event = server::event(&data);
                begun.insert(event.event_id.clone().unwrap_or_default(), Instant::now());
                calls.spawn(emit(server.events(0)?, event));
            }
            Some((id, at)) = receipts.recv() => { arrived.entry(id).or_insert(at); }
            Some(ended) = calls.join_next() => ended??,
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    let until = tokio::time::Instant::now() + ARRIVAL_LIMIT;
    while begun.keys().any(|id| !arrived.contains_key(id)) {
        let Ok(Some((id, at))) = tokio::time::timeout_at(until, receipts.recv()).await else { break };
        arrived.entry(id).or_insert(at);
    }
    let taken = |(id, began): (&String, &Instant)| Some(arrived.get(id)?.duration_since(*began));
    let mut latencies: Vec<Duration> = begun.iter().filter_map(taken).collect();
    latencies.sort_unstable();
    Ok((latencies, begun.len()))
}

/// Not measured: the connection opens, and the destination becomes known as one that answers. The
/// neighbours come afterwards, and nothing is known of them.
async fn warm_up(server: &Server, receipts: &mut mpsc::Receiver<Receipt>) -> anyhow::Result<()> {
    let data = server::data(DATA_BYTES);
    for _ in 0..20 {
        emit(server.events(0)?, server::event(&data)).await?;
        let first = tokio::time::timeout(Duration::from_secs(60), receipts.recv()).await;
        first.context("the healthy destination got nothing within a minute")?;
    }
    Ok(())
}

async fn emit(mut client: Client, event: v1::Event) -> anyhow::Result<()> {
    let request = v1::EmitRequest { organization_id: HEALTHY.into(), event: Some(event) };
    client.emit(request).await.context("Emit").map(drop)
}

fn case(beside: Neighbours, latencies: &[Duration], emitted: usize, alone: Option<&Case>) -> Case {
    let micros = |percent| percentile(latencies, percent).map(|one| one.as_micros());
    let (p50_us, p99_us) = (micros(50), micros(99));
    let against = |own: Option<u128>, alone: Option<u128>| ratio(own? as f64, alone? as f64);
    Case {
        beside,
        events: latencies.len(),
        missing: emitted.saturating_sub(latencies.len()),
        p50_us,
        p99_us,
        max_us: micros(100),
        p50_ratio: alone.and_then(|alone| against(p50_us, alone.p50_us)),
        p99_ratio: alone.and_then(|alone| against(p99_us, alone.p99_us)),
    }
}

fn words(beside: Neighbours, count: u32) -> String {
    let count = grouped(count.into());
    match beside {
        Neighbours::Nobody => "nobody".to_owned(),
        Neighbours::Refusing => format!("{count} that refuse connections"),
        Neighbours::Silent => format!("{count} that never answer"),
        Neighbours::Slow => format!("{count} that answer after {} s", SLOW_ANSWER.as_secs()),
    }
}

fn table(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "signalpost bench isolation · one healthy destination, {} events/s for {} s in each case",
            report.events_per_second, report.seconds
        ),
        format!(
            "{} cores ({}), Linux {}",
            report.machine.cores, report.machine.processor, report.machine.kernel
        ),
        String::new(),
        format!(
            "{:<32}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}",
            "From call to receipt, beside", "p50", "p99", "max", "p50 ×", "p99 ×", "missing"
        ),
        "─".repeat(92),
    ];
    let latency = |micros: Option<u128>| {
        let micros = micros.and_then(|micros| u64::try_from(micros).ok());
        micros.map_or("–".to_owned(), |micros| millis(Duration::from_micros(micros)))
    };
    let times = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    lines.extend(report.cases.iter().map(|case| {
        format!(
            "{:<32}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}",
            words(case.beside, report.neighbours),
            latency(case.p50_us),
            latency(case.p99_us),
            latency(case.max_us),
            times(case.p50_ratio),
            times(case.p99_ratio),
            case.missing
        )
    }));
    lines.push(String::new());
    lines.push(format!(
        "- The healthy destination is known to answer; of the neighbours nothing is known when they come.\n\
         - The neighbours have {WAITING} events waiting each when it begins, and get {NEIGHBOURS_PACE} more a second."
    ));
    if cfg!(debug_assertions) {
        lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_each_case_against_the_healthy_destination_alone() {
        let latencies: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        let alone = case(Neighbours::Nobody, &latencies, 100, None);
        let doubled: Vec<_> = latencies.iter().map(|one| *one * 2).collect();
        let beside = case(Neighbours::Silent, &doubled, 103, Some(&alone));
        assert_eq!((beside.p50_ratio, beside.p99_ratio, beside.missing), (Some(2.0), Some(2.0), 3));
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let cases = vec![alone, beside];
        let report = Report { machine, neighbours: 1000, seconds: 10, events_per_second: PACE, cases };
        let table = table(&report);
        for part in ["nobody", "1,000 that never answer", "50.00 ms", "198.00 ms", "2.00"] {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
    }
}
