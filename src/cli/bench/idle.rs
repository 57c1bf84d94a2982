//! `signalpost bench idle`: what destinations cost for which nothing waits, in memory and at a start.
//!
//! On one server and one store: a start without destinations, then so many are created, each in an organization of its own
//! and with a secret, and the server is started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::figures::{grouped, millis};
use super::report::Machine;
use super::server::{self, Egress, Server, Setup};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::grpc::proto::v1;

/// Callers that create destinations at the same time.
const CREATORS: usize = 64;
/// What was just read or written comes to rest.
const SETTLE: Duration = Duration::from_secs(2);
/// Nothing listens there, and nothing is sent.
const URL: &str = "https://127.0.0.1:9/hook";

/// `signalpost bench idle`.
#[derive(Debug, Clone, Args)]
pub struct IdleArguments {
    /// Destinations for which nothing waits.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    destinations: u32,

    /// Where the temporary store is made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What the server takes with so many destinations.
#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    when: &'static str,
    destinations: u32,
    resident_bytes: u64,
    disk_bytes: u64,
    /// From the start of the process until it was ready, where it was just started.
    ready_ms: Option<u128>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rows: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or fails.
pub async fn run(arguments: &IdleArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let mut server = Server::start(folder.path(), Setup::default()).await?;
    let mut report = Report { machine: Machine::read(), rows: Vec::new() };
    let ready = start_again(&mut server).await?;
    report.rows.push(row(&server, "without destinations", (0, ready)).await?);
    remark(&format!("creating {} destinations", arguments.destinations));
    create(&server, arguments.destinations).await?;
    report.rows.push(row(&server, "when they are created", (arguments.destinations, None)).await?);
    let ready = start_again(&mut server).await?;
    report.rows.push(row(&server, "after a start", (arguments.destinations, ready)).await?);
    drop(server);
    folder.close()?;
    let text = if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.table() };
    Ok(print(&text))
}

async fn start_again(server: &mut Server) -> anyhow::Result<Option<Duration>> {
    server.stop().await?;
    let ready = server.start_again().await?;
    server.wait_until_reached().await?;
    Ok(Some(ready))
}

async fn row(
    server: &Server,
    when: &'static str,
    (destinations, ready): (u32, Option<Duration>),
) -> anyhow::Result<Row> {
    tokio::time::sleep(SETTLE).await;
    let (resident_bytes, disk_bytes) = (server.usage()?.resident_bytes, server.disk_bytes()?);
    Ok(Row { when, destinations, resident_bytes, disk_bytes, ready_ms: ready.map(|ready| ready.as_millis()) })
}

async fn create(server: &Server, count: u32) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut creators = JoinSet::new();
    for _ in 0..CREATORS {
        let (mut client, next) = (server.destinations()?, Arc::clone(&next));
        creators.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, tonic::Status>(());
                }
                let request = v1::CreateDestinationRequest {
                    organization_id: server::organization(number),
                    destination: Some(server::destination(URL, Egress::Https)),
                    validate_only: false,
                };
                client.create_destination(request).await?;
            }
        });
    }
    while let Some(ended) = creators.join_next().await {
        ended??;
    }
    Ok(())
}

impl Report {
    fn table(&self) -> String {
        let head = ["destinations", "memory", "each", "disk", "ready in"];
        let mut lines = vec![
            "signalpost bench idle".to_owned(),
            self.machine.line(),
            String::new(),
            format!("{:<24}{:>13}{:>12}{:>14}{:>12}{:>13}", "", head[0], head[1], head[2], head[3], head[4]),
            "─".repeat(88),
        ];
        let empty = self.rows.first().map_or(0, |row| row.resident_bytes);
        lines.extend(self.rows.iter().map(|row| row.line(empty)));
        if cfg!(debug_assertions) {
            lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

impl Row {
    /// `empty`: the memory without destinations.
    fn line(&self, empty: u64) -> String {
        let mebibytes = |bytes: u64| format!("{} MiB", grouped((bytes >> 20) as f64));
        let each = self.resident_bytes.saturating_sub(empty).checked_div(self.destinations.into());
        let ready =
            self.ready_ms.map(|ms| millis(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))));
        format!(
            "{:<24}{:>13}{:>12}{:>14}{:>12}{:>13}",
            self.when,
            grouped(self.destinations.into()),
            mebibytes(self.resident_bytes),
            each.map_or("–".to_owned(), |bytes| format!("{} B", grouped(bytes as f64))),
            mebibytes(self.disk_bytes),
            ready.unwrap_or("–".to_owned())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_each_destination_costs_beyond_the_empty_server() {
        let row = |when, destinations, mebibytes: u64, ready_ms| Row {
            when,
            destinations,
            resident_bytes: mebibytes << 20,
            disk_bytes: 3 << 20,
            ready_ms,
        };
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let rows =
            vec![row("without destinations", 0, 20, Some(41)), row("after a start", 1024, 22, Some(50))];
        let table = Report { machine, rows }.table();
        for part in ["20 MiB", "2,048 B", "50.00 ms", "–"] {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
    }
}
