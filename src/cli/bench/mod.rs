//! `signalpost bench`: what this build does on this machine, in relation to what the machine can do at all.
//!
//! The raw ceilings are measured in the same run, between the scenarios: a hand-written POST loop against a
//! hand-written sink, and records appended to a file. Each scenario has a server and a store of its own. Server and sink are
//! processes of their own (`process`); the callers are in this one, on a single thread. Everything stays
//! on the loopback interface and in one temporary folder, and every loop ends by count or by time.

mod append;
mod backlog;
mod backlog_report;
mod crash;
mod disk;
mod figures;
mod idle;
mod isolation;
mod isolation_report;
mod load;
mod neighbours;
pub(super) mod paths;
mod process;
mod raw_post;
mod replay;
mod replicas;
mod replicas_report;
mod report;
mod scenarios;
mod server;
pub(super) mod sink;
mod sinks;
mod soak;
mod steady;
mod sweep;
mod table;
mod wire;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use rustix::fs::statfs;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::load::Style;
use self::report::{Against, Asked, Ceilings, Machine, Measured, Report, Scenario};
use self::scenarios::Setting;
use self::server::Egress;
use self::sinks::Sink;
use super::exit::Exit;
use super::output::{print, remark};

/// The magic number of a file system in memory (`statfs(2)`), where a sync costs nothing.
const TMPFS: i64 = 0x0102_1994;

/// What one must know to read the figures.
const NOTES: [&str; 6] = [
    "The figures hold for this machine and this run only. Callers, server and sink share its cores.",
    "Ratios refer to the best of six measurements of a ceiling. Where the lowest is far from it, something \
     else used the machine, and the run should be repeated.",
    "Each destination has an organization and, up to 256, a port of its own.",
    "Server and sink are processes of their own; memory and CPU are the server's.",
    "A stream's latency is from sending an event to its acknowledgement, with 256 events ahead.",
    "deliver http: STALWART, the only contract that may go over plain HTTP, set to one request for each \
     event: throttle 0, max_batch_events 1, ordered false, max_concurrency 8.",
];

/// `signalpost bench`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    only: Option<Only>,

    /// Events of each scenario.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    events: u32,

    /// Size of each event's data.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=32_768))]
    payload: u32,

    /// Destinations of the delivery scenarios, each in an organization of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    destinations: u32,

    /// Where the temporary stores are made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured on its own.
#[derive(Debug, Clone, Subcommand)]
enum Only {
    /// What a thousand bad destinations, or a replay, do to a healthy one.
    Isolation(isolation::IsolationArguments),
    /// What a million deliveries that wait for a dead destination cost.
    Backlog(backlog::BacklogArguments),
    /// What one, two and three replicas on one PostgreSQL database take and deliver.
    Replicas(replicas::ReplicasArguments),
    /// What destinations cost for which nothing waits, in memory and at a start.
    Idle(idle::IdleArguments),
    /// How fast events are taken while the retention removes many.
    Sweep(sweep::SweepArguments),
    /// Whether everything comes through while receivers fail and the server is killed, for minutes or hours.
    Soak(soak::SoakArguments),
    /// Whether anything is lost or comes twice when the server is killed again and again at any moment.
    Crash(crash::CrashArguments),
}

/// Measures, and prints what was measured. A signal ends it early, with all that it started.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or fails.
pub(super) async fn run(arguments: BenchArguments) -> anyhow::Result<Exit> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM can't be waited for")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("Ctrl-C can't be waited for")?;
    tokio::select! {
        measured = measure_and_print(&arguments) => measured,
        _ = terminated.recv() => anyhow::bail!("ended by a signal"),
        _ = interrupted.recv() => anyhow::bail!("ended by a signal"),
    }
}

async fn measure_and_print(arguments: &BenchArguments) -> anyhow::Result<Exit> {
    match &arguments.only {
        Some(Only::Isolation(arguments)) => return isolation::run(arguments).await,
        Some(Only::Backlog(arguments)) => return backlog::run(arguments).await,
        Some(Only::Replicas(arguments)) => return replicas::run(arguments).await,
        Some(Only::Idle(arguments)) => return idle::run(arguments).await,
        Some(Only::Sweep(arguments)) => return sweep::run(arguments).await,
        Some(Only::Soak(arguments)) => return soak::run(arguments).await,
        Some(Only::Crash(arguments)) => return crash::run(arguments).await,
        None => {}
    }
    let report = measure(arguments).await?;
    let printed = print(&if arguments.json { report::json(&report)? } else { table::table(&report) });
    Ok(if report.is_complete() { printed } else { Exit::Failure })
}

fn temporary_folder(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("signalpost-bench-");
    let folder = match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    folder.context("a temporary folder")
}

async fn measure(arguments: &BenchArguments) -> anyhow::Result<Report> {
    let folder = temporary_folder(arguments.folder.as_deref())?;
    let data = server::data(usize::try_from(arguments.payload)?);
    let setting = Setting {
        folder: folder.path(),
        events: arguments.events.into(),
        data,
        destinations: arguments.destinations,
    };
    let (measured, ceilings) = scenarios(&setting).await?;
    let report = Report {
        machine: Machine::read(),
        asked: Asked {
            events: arguments.events,
            payload_bytes: arguments.payload,
            destinations: arguments.destinations,
        },
        scenarios: measured.iter().map(|(kind, one)| kind.row(one, &ceilings)).collect(),
        ceilings,
        notes: notes(folder.path())?,
    };
    folder.close().context("removing the temporary folder")?;
    Ok(report)
}

/// A scenario: how it is called, what is done, and what it is held against.
struct Kind {
    name: &'static str,
    what: &'static str,
    against: Against,
}

impl Kind {
    fn row(&self, measured: &Measured, ceilings: &Ceilings) -> Scenario {
        Scenario::new((self.name, self.what), measured, (self.against, ceilings))
    }
}

/// The ceilings are measured before each scenario and after the last one: what else the machine does
/// changes while this runs, a disk's speed above all.
async fn scenarios(setting: &Setting<'_>) -> anyhow::Result<(Vec<(Kind, Measured)>, Ceilings)> {
    let (mut all, mut ceilings) = (Vec::new(), Ceilings::default());
    let against = Against::AppendGroupsOf64;
    for (style, name, what) in [
        (Style::Unary, "ingest unary", "Emit, 64 calls in flight; no destinations"),
        (Style::Batch, "ingest batch", "EmitBatch of 100 events, 4 callers; no destinations"),
        (Style::Stream, "ingest stream", "EmitStream, 4 streams, cumulative; no destinations"),
    ] {
        measure_ceilings(setting, &mut ceilings).await?;
        remark(&format!("measuring {name}"));
        all.push((Kind { name, what, against }, setting.ingest(style).await.context(name)?));
    }
    let against = Against::RawPost;
    for (egress, name, what) in [
        (Egress::Http, "deliver http", "EmitBatch of 100, 4 callers; a POST for each event, plain HTTP"),
        (Egress::Https, "deliver https", "the same over TLS, contract STANDARD_WEBHOOKS"),
    ] {
        measure_ceilings(setting, &mut ceilings).await?;
        remark(&format!("measuring {name}"));
        all.push((Kind { name, what, against }, setting.deliver(egress).await.context(name)?));
    }
    measure_ceilings(setting, &mut ceilings).await?;
    Ok((all, ceilings))
}

async fn measure_ceilings(setting: &Setting<'_>, ceilings: &mut Ceilings) -> anyhow::Result<()> {
    remark("measuring the ceilings");
    let sink = Sink::start(1, None).await?;
    let raw = raw_post::measure(sink.address(0)?, &setting.data).await.context("the raw POST loop")?;
    drop(sink);
    let (folder, data) = (setting.folder.to_owned(), setting.data.clone());
    let appended = tokio::task::spawn_blocking(move || {
        Ok::<_, std::io::Error>((append::measure(&folder, &data, 64)?, append::measure(&folder, &data, 1)?))
    });
    let (groups, single) = appended.await?.context("the append loop")?;
    ceilings.raw_post.add(raw);
    ceilings.append_groups_of_64.add(groups);
    ceilings.append_one_by_one.add(single);
    Ok(())
}

fn notes(folder: &Path) -> anyhow::Result<Vec<&'static str>> {
    let mut notes = NOTES.to_vec();
    if statfs(folder)?.f_type == TMPFS {
        notes.push("The folder is in memory, where a sync costs nothing: use --folder on a disk.");
    }
    if cfg!(debug_assertions) {
        notes.push("This is a build without optimisation: its figures say nothing.");
    }
    Ok(notes)
}
