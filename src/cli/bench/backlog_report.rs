//! What `signalpost bench backlog` says.

use std::time::Duration;

use serde::Serialize;

use super::figures::{grouped, micros_each, millis, per_second};
use super::isolation_report::shown;
use super::report::Machine;
use super::steady::{Latency, Times};

/// What the server takes at some moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stage {
    /// When.
    pub when: &'static str,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The most that it had since it was started.
    pub peak_resident_bytes: u64,
    /// The store's files.
    pub disk_bytes: u64,
}

/// How fast events are taken.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ingest {
    /// When.
    pub when: &'static str,
    /// Events a second.
    pub events_per_second: f64,
}

/// The times of the healthy destination.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measured {
    when: &'static str,
    #[serde(flatten)]
    latency: Latency,
}

/// A start on the store with the backlog.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Restart {
    after: &'static str,
    stop_ms: Option<u128>,
    ready_ms: u128,
    first_deliveries_ms: u128,
}

/// The end of the backlog.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Drained {
    arrived: u64,
    missing: u64,
    surplus: u64,
    seconds: f64,
    events_per_second: f64,
    server_cpu_us_per_event: Option<f64>,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    waiting: u32,
    payload_bytes: u32,
    /// Memory and disk, in the order of the run.
    pub stages: Vec<Stage>,
    /// Ingest, in the order of the run.
    pub ingest: Vec<Ingest>,
    healthy: Vec<Measured>,
    /// In the order of the run.
    pub restarts: Vec<Restart>,
    /// What became of what waited, if it was delivered.
    pub drained: Option<Drained>,
}

impl Restart {
    /// `stopped`: how long the orderly stop took, if it was one; then how long it took until the server was
    /// ready, and until the healthy destination had got twenty events one after the other.
    #[must_use]
    pub fn new(after: &'static str, stopped: Option<Duration>, ready: Duration, delivered: Duration) -> Self {
        let (ready_ms, first_deliveries_ms) = (ready.as_millis(), delivered.as_millis());
        Self { after, stop_ms: stopped.map(|took| took.as_millis()), ready_ms, first_deliveries_ms }
    }
}

impl Drained {
    /// Of so many that waited so many arrived.
    #[must_use]
    pub fn new(waiting: u64, arrived: u64, took: Duration, cpu: Duration) -> Self {
        Self {
            arrived,
            missing: waiting.saturating_sub(arrived),
            surplus: arrived.saturating_sub(waiting),
            seconds: took.as_secs_f64(),
            events_per_second: per_second(arrived, took),
            server_cpu_us_per_event: micros_each(cpu, arrived),
        }
    }
}

impl Report {
    /// A report without figures.
    #[must_use]
    pub fn new(machine: Machine, waiting: u32, payload_bytes: u32) -> Self {
        Self {
            machine,
            waiting,
            payload_bytes,
            stages: Vec::new(),
            ingest: Vec::new(),
            healthy: Vec::new(),
            restarts: Vec::new(),
            drained: None,
        }
    }

    /// Adds what was measured of the healthy destination.
    pub fn add_latency(&mut self, when: &'static str, times: &Times) {
        self.healthy.push(Measured { when, latency: times.figures() });
    }

    /// Whether everything arrived that should have.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.healthy.iter().all(|one| one.latency.missing == 0)
            && self.drained.is_none_or(|drained| drained.missing == 0)
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "signalpost bench backlog · {} deliveries of {} bytes wait for a destination that refuses",
                grouped(self.waiting.into()),
                grouped(self.payload_bytes.into())
            ),
            self.machine.line(),
            String::new(),
            format!("{:<24}{:>12}{:>14}{:>12}", "The server", "memory", "most so far", "disk"),
            rule(),
        ];
        lines.extend(self.stages.iter().map(Stage::row));
        lines.extend([String::new(), format!("{:<24}{:>12}", "Ingest, batches of 100", "events/s"), rule()]);
        let rate = |one: &Ingest| format!("{:<24}{:>12}", one.when, grouped(one.events_per_second));
        lines.extend(self.ingest.iter().map(rate));
        lines.extend([
            String::new(),
            format!(
                "{:<24}{:>10}{:>10}{:>11}{:>9}{:>11}{:>11}",
                "A healthy destination", "p50", "p99", "max", "missing", "disk p99", "disk max"
            ),
            rule(),
        ]);
        lines.extend(self.healthy.iter().map(Measured::row));
        lines.extend([
            String::new(),
            format!(
                "{:<24}{:>12}{:>12}{:>22}",
                "Start after", "stop took", "ready in", "20 deliveries after"
            ),
            rule(),
        ]);
        lines.extend(self.restarts.iter().map(Restart::row));
        lines.push(String::new());
        lines.extend(self.drained.map(|drained| drained.line()));
        if cfg!(debug_assertions) {
            lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn rule() -> String {
    "─".repeat(86)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", grouped((bytes >> 20) as f64))
}

impl Stage {
    fn row(&self) -> String {
        format!(
            "{:<24}{:>12}{:>14}{:>12}",
            self.when,
            mebibytes(self.resident_bytes),
            mebibytes(self.peak_resident_bytes),
            mebibytes(self.disk_bytes)
        )
    }
}

impl Measured {
    fn row(&self) -> String {
        let latency = &self.latency;
        format!(
            "{:<24}{:>10}{:>10}{:>11}{:>9}{:>11}{:>11}",
            self.when,
            shown(latency.p50_us),
            shown(latency.p99_us),
            shown(latency.max_us),
            latency.missing,
            shown(latency.disk_p99_us),
            shown(latency.disk_max_us),
        )
    }
}

impl Restart {
    fn row(&self) -> String {
        let time = |ms: u128| millis(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)));
        format!(
            "{:<24}{:>12}{:>12}{:>22}",
            self.after,
            self.stop_ms.map_or("–".to_owned(), time),
            time(self.ready_ms),
            time(self.first_deliveries_ms)
        )
    }
}

impl Drained {
    fn line(&self) -> String {
        let cpu = self.server_cpu_us_per_event.map_or("–".to_owned(), |micros| format!("{micros:.1} µs"));
        format!(
            "Delivered when the destination answers: {} in {:.1} s ({}/s, {cpu} of the server's processor time each); \
             {} missing, {} more than events.",
            grouped(self.arrived as f64),
            self.seconds,
            grouped(self.events_per_second),
            self.missing,
            self.surplus
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::json;

    #[test]
    fn the_table_has_memory_disk_ingest_latency_and_restarts() {
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let mut report = Report::new(machine, 1_000_000, 1024);
        report.stages.push(Stage {
            when: "waiting",
            resident_bytes: 200 << 20,
            peak_resident_bytes: 300 << 20,
            disk_bytes: 2048 << 20,
        });
        report.ingest.push(Ingest { when: "before", events_per_second: 30_000.0 });
        let latencies = vec![Duration::from_millis(2)];
        report.add_latency("beside it", &Times { latencies, emitted: 1, ..Times::default() });
        let second = Duration::from_secs(1);
        report.restarts.push(Restart::new("SIGTERM", Some(second), second * 2, second * 3));
        assert!(report.is_complete());
        report.drained = Some(Drained::new(1_000_000, 999_999, second * 50, second * 40));
        assert!(!report.is_complete());
        let table = report.table();
        for part in
            ["200 MiB", "2,048 MiB", "30,000", "2.00 ms", "3000.00 ms", "1 missing, 0 more", "40.0 µs"]
        {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
        let json: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(json["restarts"][0]["ready_ms"], 2000);
        assert_eq!(json["drained"]["missing"], 1);
    }
}
