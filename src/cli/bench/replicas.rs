//! `signalpost bench replicas`: what one, two and three replicas on one PostgreSQL database take and deliver, in
//! relation to what `pgbench` inserts into that database.
//!
//! Each number of replicas has a database of its own, which is removed afterwards. PostgreSQL's own programs make the
//! databases and measure the ceiling, so nothing of ours is measured with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use super::load::{self, Order, Style, TIME_LIMIT};
use super::replicas_report::{Report, Row};
use super::report::{Ceiling, Machine, json};
use super::scenarios::wait_for;
use super::server::{self, Egress, Server, Setup};
use super::sinks::Sink;
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};

/// The table that `pgbench` fills.
const CEILING_TABLE: &str = "CREATE TABLE ceiling (id bigserial PRIMARY KEY, data text NOT NULL)";
/// How long `pgbench` inserts.
const CEILING_SECONDS: &str = "4";
/// The connections of `pgbench`.
const CEILING_CLIENTS: &str = "16";
/// How long replicas may take to share the lanes.
const BALANCE_LIMIT: Duration = Duration::from_secs(30);
/// Outcomes are stored a little later than they happen; what that costs belongs to the events.
const SETTLE: Duration = Duration::from_millis(500);
/// Destinations of an organization in the scenario with many for each event.
const FAN_OUT: u32 = 10;
/// Each scenario has organizations of its own, from a multiple of this on.
const ORGANIZATIONS_APART: u32 = 10_000;

/// `signalpost bench replicas`.
#[derive(Debug, Clone, Args)]
pub struct ReplicasArguments {
    /// A PostgreSQL server on which databases may be created and dropped. PostgreSQL's `psql` and `pgbench` must be
    /// on the PATH.
    #[arg(long, value_name = "URL", env = "SIGNALPOST_STORE_URL", hide_env_values = true)]
    store_url: String,

    /// The largest number of replicas; each from one on is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,

    /// Events of each scenario; a tenth of them where each goes to ten destinations.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    events: u32,

    /// Destinations of the delivery scenarios, each in an organization of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    destinations: u32,

    /// Size of each event's data.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=32_768))]
    payload: u32,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what was measured.
///
/// # Errors
/// The database can't be reached or has no right to make others, a process can't be started, or a server refuses or
/// fails.
pub async fn run(arguments: &ReplicasArguments) -> anyhow::Result<Exit> {
    let folder = super::temporary_folder(None)?;
    let data = server::data(usize::try_from(arguments.payload)?);
    let (mut rows, mut ceiling) = (Vec::new(), Ceiling::default());
    for replicas in 1..=arguments.replicas {
        ceiling.add(measure_ceiling(arguments, folder.path()).await?);
        let database = Database::create(&arguments.store_url).await?;
        let measured = Installation::start(&database, folder.path(), replicas).await;
        let measured = match measured {
            Ok(mut installation) => installation.measure(arguments, &data).await,
            Err(error) => Err(error),
        };
        database.drop().await?;
        rows.extend(measured?);
    }
    ceiling.add(measure_ceiling(arguments, folder.path()).await?);
    folder.close().context("removing the temporary folder")?;
    let report = Report::new(Machine::read(), (arguments.events, arguments.payload), ceiling, rows);
    let printed = print(&if arguments.json { json(&report)? } else { report.table() });
    Ok(if report.is_complete() { printed } else { Exit::Failure })
}

/// A database for one measurement.
struct Database {
    server_url: String,
    name: String,
    url: String,
}

impl Database {
    async fn create(server_url: &str) -> anyhow::Result<Self> {
        let name = format!("signalpost_bench_{:08x}", fastrand::u32(..));
        let mut url = url::Url::parse(server_url).context("--store-url is no URL")?;
        url.set_path(&name);
        psql(server_url, &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { server_url: server_url.to_owned(), name, url: url.into() })
    }

    async fn drop(self) -> anyhow::Result<()> {
        psql(&self.server_url, &format!("DROP DATABASE {} (FORCE)", self.name)).await?;
        Ok(())
    }
}

/// What `pgbench` inserts a second: one row of an event's size in each transaction.
async fn measure_ceiling(arguments: &ReplicasArguments, folder: &Path) -> anyhow::Result<f64> {
    remark("measuring what pgbench inserts");
    let database = Database::create(&arguments.store_url).await?;
    psql(&database.url, CEILING_TABLE).await?;
    let script = folder.join("ceiling.sql");
    let insert = format!(
        "INSERT INTO ceiling (data) VALUES (repeat(md5(random()::text), {}));",
        arguments.payload / 32
    );
    std::fs::write(&script, insert)?;
    let rate = pgbench(&database.url, &script).await;
    database.drop().await?;
    rate
}

async fn pgbench(url: &str, script: &PathBuf) -> anyhow::Result<f64> {
    let mut command = Command::new("pgbench");
    command.args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client", CEILING_CLIENTS]);
    command.args(["--time", CEILING_SECONDS, "--file"]).arg(script).arg(url);
    let said = output(command).await?;
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next());
    rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("pgbench says no tps: {said}"))
}

async fn psql(url: &str, sql: &str) -> anyhow::Result<String> {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", sql]).arg(url);
    output(command).await
}

async fn output(mut command: Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("{name} can't be started; is it on the PATH?"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{name} ended with {}: {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Replicas on one database.
struct Installation {
    servers: Vec<Server>,
}

impl Installation {
    async fn start(database: &Database, folder: &Path, replicas: u32) -> anyhow::Result<Self> {
        let setup = Setup { store_url: Some(database.url.clone()), ..Setup::default() };
        let mut servers = Vec::new();
        for _ in 0..replicas {
            servers.push(Server::start(folder, setup.clone()).await?);
        }
        let began = Instant::now();
        // All have about the same number of lanes' buckets.
        let fair = format!(
            "SELECT count(*) FILTER (WHERE n >= 256 / {replicas} - 1) = {replicas} AND sum(n) = 256 \
             FROM (SELECT count(*) AS n FROM buckets GROUP BY owner) AS shares"
        );
        while psql(&database.url, &fair).await? != "t" {
            anyhow::ensure!(began.elapsed() < BALANCE_LIMIT, "the replicas don't share the lanes");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { servers })
    }

    async fn measure(&mut self, arguments: &ReplicasArguments, data: &Bytes) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (style, name) in [(Style::Unary, "accept, unary"), (Style::Batch, "accept, batches")] {
            let order = order(arguments, data, style, 0, 1);
            rows.push(self.accept(name, &order).await.context(name)?);
        }
        let mut sink = Sink::start(arguments.destinations, None).await?;
        for (place, (style, name, each)) in [
            (Style::Unary, "deliver, unary", 1),
            (Style::Batch, "deliver, batches", 1),
            (Style::Unary, "fan-out 10, unary", FAN_OUT),
        ]
        .into_iter()
        .enumerate()
        {
            let first = (u32::try_from(place)? + 1) * ORGANIZATIONS_APART;
            let organizations = (arguments.destinations / each).max(1);
            let mut order = order(arguments, data, style, first, organizations);
            order.events /= u64::from(each);
            self.create_destinations(&order, each, &sink).await?;
            rows.push(self.deliver(name, &order, each, &mut sink).await.context(name)?);
        }
        Ok(rows)
    }

    async fn accept(&self, name: &'static str, order: &Order) -> anyhow::Result<Row> {
        self.say(name);
        load::emit_to(&self.servers, &warm_up(order)).await?;
        let (cpu, began) = (self.cpu()?, Instant::now());
        let done = load::emit_to(&self.servers, order).await?;
        let took = began.elapsed();
        let cpu = self.cpu()?.saturating_sub(cpu);
        Ok(Row::new((self.servers.len(), name), (order.events, done.events), took, (&done.latencies, cpu)))
    }

    /// Events in, until the sink has counted one request for each of their destinations.
    async fn deliver(
        &self,
        name: &'static str,
        order: &Order,
        each: u32,
        sink: &mut Sink,
    ) -> anyhow::Result<Row> {
        self.say(name);
        let each = u64::from(each);
        let counted = sink.count().await?;
        let warmed = load::emit_to(&self.servers, &warm_up(order)).await?.events * each;
        wait_for(sink, counted + warmed, Instant::now() + TIME_LIMIT).await?;
        tokio::time::sleep(SETTLE).await;
        let counted = sink.count().await?;
        let (cpu, began) = (self.cpu()?, Instant::now());
        let done = load::emit_to(&self.servers, order).await?;
        let wanted = done.events * each;
        let arrived =
            wait_for(sink, counted + wanted, Instant::now() + TIME_LIMIT).await?.saturating_sub(counted);
        let took = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        let cpu = self.cpu()?.saturating_sub(cpu);
        Ok(Row::new((self.servers.len(), name), (order.events * each, arrived), took, (&done.latencies, cpu)))
    }

    async fn create_destinations(&self, order: &Order, each: u32, sink: &Sink) -> anyhow::Result<()> {
        let first = self.servers.first().context("a server")?;
        for number in 0..order.organizations * each {
            let destination = server::destination(&sink.url(number)?, Egress::Http);
            let organization = server::organization(order.first_organization + number / each);
            first.create_destination(&organization, destination).await?;
        }
        Ok(())
    }

    fn say(&self, name: &str) {
        remark(&format!("measuring {name}, replicas: {}", self.servers.len()));
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.servers.iter().try_fold(Duration::ZERO, |sum, server| Ok(sum + server.usage()?.cpu))
    }
}

fn order(arguments: &ReplicasArguments, data: &Bytes, style: Style, first: u32, organizations: u32) -> Order {
    Order {
        style,
        events: arguments.events.into(),
        data: data.clone(),
        first_organization: first,
        organizations,
        time_limit: TIME_LIMIT,
    }
}

/// Not measured: connections open, statements are prepared.
fn warm_up(order: &Order) -> Order {
    Order { style: Style::Unary, events: 400.max(u64::from(order.organizations) * 4), ..order.clone() }
}
