//! `signalpost bench sweep`: how fast events are taken while the retention removes many, and while it removes none.
//!
//! On one server and one store: many events come in at once; then single events at a steady pace, first while those are
//! too young to be removed, and again from the moment on at which they are too old.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::disk::DiskProbe;
use super::figures::grouped;
use super::isolation_report::shown;
use super::load::{self, Order, Style};
use super::report::Machine;
use super::server::{self, Server, Setup};
use super::steady::{DATA_BYTES, Latency, PACE, Times};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::grpc::proto::v1;

/// The organization of the events that are removed.
const OLD: u32 = 0;
/// The organization whose events are measured.
const NEW: u32 = 1;
/// The gauge that tells how much is stored.
const STORED: &str = "signalpost_store_data_bytes ";
/// How long the events that are removed may take to come in.
const LIMIT: Duration = Duration::from_secs(300);

/// `signalpost bench sweep`.
#[derive(Debug, Clone, Args)]
pub struct SweepArguments {
    /// Events that are removed.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    events: u32,

    /// After how long they are.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3600))]
    history: u32,

    /// How long is measured, each time; coming in and this together must be shorter than the history.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,

    /// Where the temporary store is made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was measured at one time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    when: &'static str,
    stored_before_bytes: u64,
    stored_after_bytes: u64,
    #[serde(flatten)]
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    events: u32,
    history_seconds: u32,
    rows: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// A process can't be started, the folder can't be written, the server refuses or fails, or the events came in too slowly.
pub async fn run(arguments: &SweepArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let setup = Setup { history_seconds: Some(arguments.history), ..Setup::default() };
    let server = Server::start(folder.path(), setup).await?;
    let (events, history_seconds) = (arguments.events, arguments.history);
    let mut report = Report { machine: Machine::read(), events, history_seconds, rows: Vec::new() };
    remark(&format!("handing in {events} events"));
    let began = Instant::now();
    let done = load::emit(&server, &old_events(events)).await?;
    anyhow::ensure!(done.events == u64::from(events), "only {} events were taken in time", done.events);
    let history = Duration::from_secs(history_seconds.into());
    let needed = began.elapsed() + Duration::from_secs(arguments.seconds.into());
    anyhow::ensure!(
        needed < history,
        "the events came in within {:?}, and with --seconds that is more than --history; give a longer one",
        began.elapsed()
    );
    remark("measuring while nothing is removed");
    report.rows.push(measure(&server, arguments.seconds, (folder.path(), "nothing removed")).await?);
    tokio::time::sleep(history.saturating_sub(began.elapsed())).await;
    remark("measuring while they are removed");
    report.rows.push(measure(&server, arguments.seconds, (folder.path(), "while removing")).await?);
    drop(server);
    folder.close()?;
    let text = if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.table() };
    let printed = print(&text);
    Ok(if report.is_complete() { printed } else { Exit::Failure })
}

fn old_events(events: u32) -> Order {
    Order {
        style: Style::Batch,
        events: events.into(),
        data: server::data(DATA_BYTES),
        first_organization: OLD,
        organizations: 1,
        time_limit: LIMIT,
    }
}

async fn measure(
    server: &Server,
    seconds: u32,
    (folder, when): (&std::path::Path, &'static str),
) -> anyhow::Result<Row> {
    let stored_before_bytes = stored_bytes(server).await?;
    let probe = DiskProbe::start(folder);
    let times = steady(server, seconds * PACE).await?;
    let times = Times { disk: probe.end().await?, ..times };
    let stored_after_bytes = stored_bytes(server).await?;
    Ok(Row { when, stored_before_bytes, stored_after_bytes, latency: times.figures() })
}

/// So many events, one call each, at a steady pace: from the call until it is answered.
async fn steady(server: &Server, count: u32) -> anyhow::Result<Times> {
    let data = server::data(DATA_BYTES);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut late) = (JoinSet::new(), Duration::ZERO);
    for _ in 0..count {
        late = late.max(ticks.tick().await.elapsed());
        let (mut client, event) = (server.events(0)?, server::event(&data));
        calls.spawn(async move {
            let began = Instant::now();
            let request = v1::EmitRequest { organization_id: server::organization(NEW), event: Some(event) };
            client.emit(request).await.map(|_| began.elapsed())
        });
    }
    let mut latencies = Vec::with_capacity(count as usize);
    while let Some(ended) = calls.join_next().await {
        latencies.push(ended?.context("Emit")?);
    }
    latencies.sort_unstable();
    Ok(Times { latencies, emitted: count as usize, disk: Vec::new(), late })
}

/// What the server says of how much it stores.
async fn stored_bytes(server: &Server) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(server.metrics_address()).await.context("the port for metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    let value =
        page.lines().find_map(|line| line.strip_prefix(STORED)).context("the size of what is stored")?;
    Ok(value.trim().parse::<f64>()? as u64)
}

impl Report {
    /// Whether something was removed in the second measurement, and nothing in the first.
    fn is_complete(&self) -> bool {
        let grew = |row: &Row| row.stored_after_bytes >= row.stored_before_bytes;
        matches!(self.rows.as_slice(), [quiet, busy] if grew(quiet) && !grew(busy))
    }

    fn table(&self) -> String {
        let head = ["p50", "p99", "max", "disk p99", "stored", "after"];
        let mut lines = vec![
            format!(
                "signalpost bench sweep · {} events, removed after {} s; {PACE} single events a second meanwhile",
                grouped(self.events.into()),
                self.history_seconds
            ),
            self.machine.line(),
            String::new(),
            format!(
                "{:<18}{:>11}{:>11}{:>12}{:>12}{:>11}{:>11}",
                "Ingest", head[0], head[1], head[2], head[3], head[4], head[5]
            ),
            "─".repeat(86),
        ];
        lines.extend(self.rows.iter().map(Row::line));
        if !self.is_complete() {
            lines.push(
                "! Nothing was removed in the second measurement, or something in the first.".to_owned(),
            );
        }
        if cfg!(debug_assertions) {
            lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

impl Row {
    fn line(&self) -> String {
        let mebibytes = |bytes: u64| format!("{} MiB", grouped((bytes >> 20) as f64));
        format!(
            "{:<18}{:>11}{:>11}{:>12}{:>12}{:>11}{:>11}",
            self.when,
            shown(self.latency.p50_us),
            shown(self.latency.p99_us),
            shown(self.latency.max_us),
            shown(self.latency.disk_p99_us),
            mebibytes(self.stored_before_bytes),
            mebibytes(self.stored_after_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(when: &'static str, before: u64, after: u64) -> Row {
        let latencies = vec![Duration::from_millis(3)];
        let latency = Times { latencies, emitted: 1, ..Times::default() }.figures();
        Row { when, stored_before_bytes: before << 20, stored_after_bytes: after << 20, latency }
    }

    fn report(rows: Vec<Row>) -> Report {
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        Report { machine, events: 200_000, history_seconds: 60, rows }
    }

    #[test]
    fn a_comparison_is_one_only_where_the_second_time_something_was_removed_and_the_first_time_nothing() {
        let whole = report(vec![row("nothing removed", 300, 302), row("while removing", 303, 120)]);
        assert!(whole.is_complete());
        for part in ["200,000 events", "3.00 ms", "120 MiB"] {
            assert!(whole.table().contains(part), "{part}\nis not in\n{}", whole.table());
        }
        let idle = report(vec![row("nothing removed", 300, 302), row("while removing", 303, 304)]);
        assert!(!idle.is_complete() && idle.table().contains("! Nothing was removed"));
        assert!(
            !report(vec![row("nothing removed", 300, 200), row("while removing", 200, 100)]).is_complete()
        );
    }
}
