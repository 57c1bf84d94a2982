//! `signalpost health`: whether a server lives, has started and takes calls; for people, scripts and probes.

use std::time::{Duration, Instant};

use clap::Args;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::parse_duration;
use crate::grpc::health::{LIVENESS, READINESS, SERVICES, STARTUP};

use super::client::{Connection, Failure, ServerArguments};
use super::exit::Exit;
use super::output::print;
use super::show::{Colour, OutputArguments, Table};

/// Between two looks of `--wait`.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `signalpost health`.
#[derive(Debug, Args)]
pub(super) struct HealthArguments {
    /// Only these: startup, readiness, liveness, or the full name of a service. Default: all.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Wait so long until all of them serve.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Say nothing; the exit code tells.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

struct Row {
    service: String,
    status: Option<ServingStatus>,
}

impl Row {
    fn serves(&self) -> bool {
        self.status == Some(ServingStatus::Serving)
    }

    fn name(&self) -> &'static str {
        self.status.map_or("UNKNOWN", |status| status.as_str_name())
    }
}

/// Runs the command.
pub(super) async fn run(arguments: HealthArguments) -> anyhow::Result<Exit> {
    let services = wanted(&arguments.services);
    let deadline = Instant::now() + arguments.wait.unwrap_or(Duration::ZERO);
    let rows = loop {
        let looked = look(&arguments.server, &services).await;
        let is_well = looked.as_ref().is_ok_and(|rows| rows.iter().all(Row::serves));
        let may_change = looked.as_ref().map_or_else(Failure::is_transient, |_| true);
        if is_well || !may_change || Instant::now() >= deadline {
            break looked;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let rows = match rows {
        Err(failure) if arguments.quiet => return Ok(failure.exit()),
        rows => rows?,
    };
    if !arguments.quiet {
        print(&text(&arguments.output, &rows));
    }
    Ok(if rows.iter().all(Row::serves) { Exit::Success } else { Exit::Failure })
}

fn wanted(named: &[String]) -> Vec<String> {
    let full = |name: &String| match name.as_str() {
        "startup" => STARTUP.to_owned(),
        "readiness" => READINESS.to_owned(),
        "liveness" => LIVENESS.to_owned(),
        other => other.to_owned(),
    };
    if named.is_empty() {
        let all = [STARTUP, READINESS, LIVENESS].into_iter().chain(SERVICES);
        return all.map(str::to_owned).collect();
    }
    named.iter().map(full).collect()
}

async fn look(server: &ServerArguments, services: &[String]) -> Result<Vec<Row>, Failure> {
    let connection = server.connect().await?;
    let mut rows = Vec::new();
    for service in services {
        rows.push(Row { service: service.clone(), status: check(&connection, service).await? });
    }
    Ok(rows)
}

async fn check(connection: &Connection, service: &str) -> Result<Option<ServingStatus>, Failure> {
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(connection.calls()).check(request).await {
        Ok(answer) => Ok(Some(answer.into_inner().status())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(connection.failed(status)),
    }
}

fn text(output: &OutputArguments, rows: &[Row]) -> String {
    if output.is_json() {
        let line = |row: &Row| {
            let line = serde_json::json!({"service": row.service, "status": row.name()});
            format!("{line}\n")
        };
        return rows.iter().map(line).collect();
    }
    let mut table = Table::new(&["SERVICE", "STATUS"]);
    for row in rows {
        let colour = if row.serves() { Colour::Good } else { Colour::Bad };
        table.row([row.service.clone(), row.name().to_lowercase().replace('_', " ")], &[(1, colour)]);
    }
    table.text(output.paint())
}
