//! `signalpost bench backlog`: a million deliveries that wait for a dead destination.
//!
//! On one server and one store: what it takes while it is empty, how fast it takes events, and how fast a
//! healthy destination of another organization gets its own; then the backlog comes in, and the same is
//! measured beside it; the server is killed and started again, and stopped and started again; at last
//! the destination is given a URL that answers, and everything must arrive.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::backlog_report::{Drained, Ingest, Report, Restart, Stage};
use super::figures::per_second;
use super::load::{self, Order, Style};
use super::neighbours::{Neighbours, Receiver};
use super::report::{Machine, json};
use super::server::{self, Egress, Server, Setup};
use super::sinks::Sink;
use super::steady::{Healthy, Times};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::grpc::proto::v1;

/// The organization of the dead destination, by number.
const DEAD: u32 = 0;
/// The organization that has no destination and gets the events whose ingest is measured.
const NOBODYS: u32 = 1;
/// Events of one measurement of ingest.
const INGEST_EVENTS: u32 = 20_000;
/// Nothing that waits for something waits for longer.
const LIMIT: Duration = Duration::from_secs(900);
/// What was just written or settled comes to rest.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the receiver is asked how far it is.
const POLL: Duration = Duration::from_millis(20);
/// Requests in flight to the destination once it answers.
const DRAIN_CONCURRENCY: u32 = 64;

/// `signalpost bench backlog`.
#[derive(Debug, Clone, Args)]
pub struct BacklogArguments {
    /// Deliveries that wait.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=50_000_000))]
    waiting: u32,

    /// Size of each event's data.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=32_768))]
    payload: u32,

    /// How long the healthy destination is measured, each time.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,

    /// End before what waits is delivered.
    #[arg(long)]
    no_drain: bool,

    /// Where the temporary store is made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or fails.
pub async fn run(arguments: &BacklogArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let mut run = Run::start(arguments, folder.path()).await?;
    run.before().await?;
    run.fill().await?;
    run.beside().await?;
    run.restarts().await?;
    if !arguments.no_drain {
        run.drain().await?;
    }
    let Run { report, server, .. } = run;
    drop(server);
    folder.close().context("removing the temporary folder")?;
    let printed = print(&if arguments.json { json(&report)? } else { report.table() });
    Ok(if report.is_complete() { printed } else { Exit::Failure })
}

/// What is under way.
struct Run<'a> {
    arguments: &'a BacklogArguments,
    folder: &'a Path,
    server: Server,
    healthy: Healthy,
    dead: v1::Destination,
    report: Report,
}

impl<'a> Run<'a> {
    async fn start(arguments: &'a BacklogArguments, folder: &'a Path) -> anyhow::Result<Self> {
        let server = Server::start(folder, Setup::default()).await?;
        let healthy = Healthy::join(&server).await?;
        let nowhere = Receiver::bad(Neighbours::Refusing).await?;
        let destination = server::destination(&nowhere.url("/hook"), Egress::Http);
        let dead = server.create_destination(&server::organization(DEAD), destination).await?;
        let report = Report::new(Machine::read(), arguments.waiting, arguments.payload);
        Ok(Self { arguments, folder, server, healthy, dead, report })
    }

    async fn before(&mut self) -> anyhow::Result<()> {
        remark("measuring the empty server");
        self.note_stage("empty")?;
        let ingest = self.ingest().await?;
        self.report.ingest.push(Ingest { when: "before", events_per_second: ingest });
        let times = self.latency().await?;
        self.report.add_latency("before", &times);
        Ok(())
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        remark(&format!("handing in {} events for a destination that refuses", self.arguments.waiting));
        let order = self.order(DEAD, self.arguments.waiting)?;
        let began = Instant::now();
        let done = load::emit(&self.server, &order).await?;
        anyhow::ensure!(done.events == order.events, "only {} events were taken in time", done.events);
        let rate = per_second(done.events, began.elapsed());
        self.report.ingest.push(Ingest { when: "the backlog itself", events_per_second: rate });
        tokio::time::sleep(SETTLE).await;
        self.note_stage("waiting")
    }

    async fn beside(&mut self) -> anyhow::Result<()> {
        remark("measuring beside the backlog");
        let ingest = self.ingest().await?;
        self.report.ingest.push(Ingest { when: "beside it", events_per_second: ingest });
        let times = self.latency().await?;
        self.report.add_latency("beside it", &times);
        self.note_stage("waiting, after that")
    }

    /// The kill comes first: only then is there a long log to be read.
    async fn restarts(&mut self) -> anyhow::Result<()> {
        remark("killing the server and starting it again");
        self.server.kill()?;
        self.start_again("kill -9", None).await?;
        self.note_stage("after kill -9")?;
        let times = self.latency().await?;
        self.report.add_latency("after kill -9", &times);
        remark("stopping the server and starting it again");
        let stopped = self.server.stop().await?;
        self.start_again("SIGTERM", Some(stopped)).await?;
        self.note_stage("after SIGTERM")
    }

    async fn start_again(&mut self, after: &'static str, stopped: Option<Duration>) -> anyhow::Result<()> {
        let began = Instant::now();
        let ready = self.server.start_again().await?;
        self.healthy.warm_up(&self.server).await?;
        self.report.restarts.push(Restart::new(after, stopped, ready, began.elapsed()));
        Ok(())
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        remark("delivering what waits");
        let mut sink = Sink::start(1, None).await?;
        self.revive(&sink.url(0)?).await?;
        let waiting = u64::from(self.arguments.waiting);
        let (before, began) = (self.server.usage()?, Instant::now());
        let (mut arrived, mut changed) = (0, Instant::now());
        while arrived < waiting && changed.elapsed() < Duration::from_secs(60) && began.elapsed() < LIMIT {
            tokio::time::sleep(POLL).await;
            let counted = sink.count().await?;
            if counted > arrived {
                (arrived, changed) = (counted, Instant::now());
            }
        }
        let took = changed.duration_since(began);
        tokio::time::sleep(SETTLE).await;
        let arrived = sink.count().await?;
        let cpu = self.server.usage()?.cpu.saturating_sub(before.cpu);
        self.report.drained = Some(Drained::new(waiting, arrived, took, cpu));
        self.note_stage("delivered")
    }

    /// Gives the dead destination a URL that answers.
    async fn revive(&self, url: &str) -> anyhow::Result<()> {
        let settings = v1::DeliverySettings {
            max_concurrency: Some(i32::try_from(DRAIN_CONCURRENCY)?),
            ..v1::DeliverySettings::default()
        };
        let destination = v1::Destination {
            destination_id: self.dead.destination_id.clone(),
            url: url.to_owned(),
            settings: Some(settings),
            ..v1::Destination::default()
        };
        let paths = vec!["url".to_owned(), "settings.max_concurrency".to_owned()];
        let request = v1::UpdateDestinationRequest {
            organization_id: server::organization(DEAD),
            destination: Some(destination),
            update_mask: Some(prost_types::FieldMask { paths }),
            validate_only: false,
        };
        self.server.destinations()?.update_destination(request).await.context("changing the destination")?;
        Ok(())
    }

    fn order(&self, organization: u32, events: u32) -> anyhow::Result<Order> {
        Ok(Order {
            style: Style::Batch,
            events: events.into(),
            data: server::data(usize::try_from(self.arguments.payload)?),
            first_organization: organization,
            organizations: 1,
            time_limit: LIMIT,
        })
    }

    /// Events a second into an organization without destinations.
    async fn ingest(&self) -> anyhow::Result<f64> {
        let order = self.order(NOBODYS, INGEST_EVENTS)?;
        let began = Instant::now();
        let done = load::emit(&self.server, &order).await?;
        Ok(per_second(done.events, began.elapsed()))
    }

    async fn latency(&mut self) -> anyhow::Result<Times> {
        self.healthy.measure(&self.server, self.arguments.seconds, self.folder).await
    }

    fn note_stage(&mut self, when: &'static str) -> anyhow::Result<()> {
        let (usage, disk_bytes) = (self.server.usage()?, self.server.disk_bytes()?);
        self.report.stages.push(Stage {
            when,
            resident_bytes: usage.resident_bytes,
            peak_resident_bytes: usage.peak_resident_bytes,
            disk_bytes,
        });
        Ok(())
    }
}
