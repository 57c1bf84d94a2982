//! `signalpost bench isolation`: what neighbours do to a healthy destination.
//!
//! Each case has a server and a store of its own. Bad neighbours, each in an organization of its own, get
//! some events at once and then a few every second; a replay puts back what another organization's
//! destination had before. Before the first case and after each one the healthy destination is alone on a
//! server: a case is held against both of its neighbours in time, so that what else the machine does
//! meanwhile weighs on both sides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use super::isolation_report::{Phase, Report};
use super::neighbours::{Neighbours, Receiver};
use super::replay::Replayed;
use super::report::{Machine, json};
use super::server::{self, Egress, Server, Setup};
use super::steady::{DATA_BYTES, Healthy};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::grpc::proto::v1;

/// All cases, in order.
const CASES: [Neighbours; 5] = [
    Neighbours::Refusing,
    Neighbours::Silent,
    Neighbours::Slow,
    Neighbours::ReplayDefault,
    Neighbours::ReplayFastest,
];
/// Events to all neighbours together, each second, besides those that wait already.
pub const NEIGHBOURS_PACE: u32 = 30;
/// Events that wait for each neighbour when the measurement begins.
pub const WAITING: usize = 5;
/// Callers that hand the waiting ones in.
const CALLERS: usize = 8;
/// Between two phases: what the one before has left to the disk (files that were removed, pages that are
/// still to be written) is not to be measured with the next.
const QUIET: Duration = Duration::from_secs(2);

/// `signalpost bench isolation`.
#[derive(Debug, Clone, Args)]
pub struct IsolationArguments {
    /// Bad destinations beside the healthy one.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    neighbours: u32,

    /// Deliveries that are replayed beside the healthy destination.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=5_000_000))]
    replayed: u32,

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

/// Measures all cases and prints them.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or fails.
pub async fn run(arguments: &IsolationArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let mut phases = vec![phase(arguments, folder.path(), Neighbours::Nobody).await?];
    for beside in CASES {
        phases.push(phase(arguments, folder.path(), beside).await?);
        phases.push(phase(arguments, folder.path(), Neighbours::Nobody).await?);
    }
    folder.close().context("removing the temporary folder")?;
    let report =
        Report::new(Machine::read(), (arguments.neighbours, arguments.replayed), arguments.seconds, &phases);
    let printed = print(&if arguments.json { json(&report)? } else { report.table() });
    Ok(if report.is_complete() { printed } else { Exit::Failure })
}

async fn phase(arguments: &IsolationArguments, folder: &Path, beside: Neighbours) -> anyhow::Result<Phase> {
    remark(&format!("measuring beside {}", beside.words(arguments.neighbours, arguments.replayed)));
    let server = Server::start(folder, Setup::default()).await?;
    let mut healthy = Healthy::join(&server).await?;
    let phase = match beside {
        Neighbours::Nobody => {
            tokio::time::sleep(QUIET).await;
            let times = healthy.measure(&server, arguments.seconds, folder).await?;
            Phase { beside, times, replayed: None }
        }
        Neighbours::Refusing | Neighbours::Silent | Neighbours::Slow => {
            beside_bad(arguments, folder, (&server, healthy), beside).await?
        }
        Neighbours::ReplayDefault | Neighbours::ReplayFastest => {
            beside_replay(arguments, folder, (&server, healthy), beside).await?
        }
    };
    drop(server);
    tokio::time::sleep(QUIET).await;
    Ok(phase)
}

async fn beside_bad(
    arguments: &IsolationArguments,
    folder: &Path,
    (server, mut healthy): (&Server, Healthy),
    beside: Neighbours,
) -> anyhow::Result<Phase> {
    let (bad, count) = (Receiver::bad(beside).await?, arguments.neighbours);
    for number in 0..count {
        let destination = server::destination(&bad.url(&format!("/hook/{number}")), Egress::Http);
        server.create_destination(&server::organization(number), destination).await?;
    }
    hand_in(server, count).await?;
    let mut background = JoinSet::new();
    background.spawn(trickle(server.events(1)?, count));
    let times = healthy.measure(server, arguments.seconds, folder).await?;
    // It goes on until it is dropped; where it has ended, it failed.
    if let Some(ended) = background.try_join_next() {
        ended?.context("events for the neighbours")?;
    }
    Ok(Phase { beside, times, replayed: None })
}

async fn beside_replay(
    arguments: &IsolationArguments,
    folder: &Path,
    (server, mut healthy): (&Server, Healthy),
    beside: Neighbours,
) -> anyhow::Result<Phase> {
    let mut replayed = Replayed::prepare(server, arguments.replayed).await?;
    tokio::time::sleep(QUIET).await;
    replayed.begin(server, beside == Neighbours::ReplayFastest).await?;
    let before = replayed.count().await?;
    let times = healthy.measure(server, arguments.seconds, folder).await?;
    let sent = replayed.count().await?.saturating_sub(before);
    Ok(Phase { beside, times, replayed: Some(sent) })
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
