//! What `signalpost bench replicas` says: a row for each number of replicas and scenario.

use std::time::Duration;

use serde::Serialize;

use super::figures::{grouped, micros_each, millis, per_second, percentile, ratio};
use super::report::{Ceiling, Machine};

/// Beyond the widest row.
const WIDTH: usize = 98;

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Replicas on the database.
    replicas: usize,
    /// What was done.
    scenario: &'static str,
    /// Events or, where each goes to several destinations, deliveries that came through.
    done: u64,
    /// Those that did not, within the time limit.
    missing: u64,
    per_second: f64,
    /// In relation to what `pgbench` inserts.
    ratio: Option<f64>,
    /// Half of the calls took no longer, in microseconds.
    p50_us: Option<u128>,
    /// 99 of 100 calls took no longer, in microseconds.
    p99_us: Option<u128>,
    /// Processor time of all replicas for each, in microseconds; the database's is not in it.
    cpu_us_each: Option<f64>,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    events: u32,
    payload_bytes: u32,
    /// Rows that `pgbench` inserted a second.
    pgbench: Ceiling,
    rows: Vec<Row>,
}

impl Row {
    /// The figures of what was measured: how many were wanted and came, in which time, at which latencies (rising)
    /// and cost.
    #[must_use]
    pub fn new(
        (replicas, scenario): (usize, &'static str),
        (wanted, done): (u64, u64),
        took: Duration,
        (latencies, cpu): (&[Duration], Duration),
    ) -> Self {
        let micros = |percent| percentile(latencies, percent).map(|one| one.as_micros());
        Self {
            replicas,
            scenario,
            done,
            missing: wanted.saturating_sub(done),
            per_second: per_second(done, took),
            ratio: None,
            p50_us: micros(50),
            p99_us: micros(99),
            cpu_us_each: micros_each(cpu, done),
        }
    }
}

impl Report {
    /// Holds each row against the ceiling.
    #[must_use]
    pub fn new(
        machine: Machine,
        (events, payload_bytes): (u32, u32),
        pgbench: Ceiling,
        mut rows: Vec<Row>,
    ) -> Self {
        for row in &mut rows {
            row.ratio = ratio(row.per_second, pgbench.best);
        }
        Self { machine, events, payload_bytes, pgbench, rows }
    }

    /// Whether everything came through.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.missing == 0)
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "signalpost bench replicas · {} events of {} bytes in each scenario",
                grouped(self.events.into()),
                grouped(self.payload_bytes.into())
            ),
            self.machine.line(),
            format!(
                "pgbench: {} rows of that size inserted a second, each in a transaction, 16 connections (lowest {})",
                grouped(self.pgbench.best),
                grouped(self.pgbench.lowest())
            ),
            String::new(),
            format!(
                "{:<10}{:<20}{:>10}{:>12}{:>12}{:>12}{:>12}{:>9}",
                "Replicas",
                "Scenario",
                "a second",
                "× pgbench",
                "call p50",
                "call p99",
                "CPU each",
                "missing"
            ),
            "─".repeat(WIDTH),
        ];
        lines.extend(self.rows.iter().map(row));
        lines.push("─".repeat(WIDTH));
        lines.extend(NOTES.map(|note| format!("- {note}")));
        if cfg!(debug_assertions) {
            lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// What one must know to read the figures.
const NOTES: [&str; 4] = [
    "Callers, replicas, database and sink share this machine's processors: more replicas only show what sharing costs.",
    "unary: 64 calls in flight. batches: of 100 events, 4 callers. A POST over plain HTTP for each event and destination.",
    "fan-out 10: a tenth of the events, to ten destinations each; deliveries are counted.",
    "CPU each: of the replicas, without the database.",
];

fn row(row: &Row) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let latency = |micros: Option<u128>| {
        or_dash(micros.and_then(|one| u64::try_from(one).ok()).map(|one| millis(Duration::from_micros(one))))
    };
    format!(
        "{:<10}{:<20}{:>10}{:>12}{:>12}{:>12}{:>9} µs{:>9}",
        row.replicas,
        row.scenario,
        grouped(row.per_second),
        or_dash(row.ratio.map(|ratio| format!("{ratio:.2}"))),
        latency(row.p50_us),
        latency(row.p99_us),
        or_dash(row.cpu_us_each.map(|micros| format!("{micros:.1}"))),
        row.missing,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::json;

    fn report(done: u64) -> Report {
        let latencies: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        let cpu = Duration::from_secs(1);
        let row = Row::new((3, "deliver, unary"), (20_000, done), Duration::from_secs(4), (&latencies, cpu));
        let mut ceiling = Ceiling::default();
        ceiling.add(8000.0);
        ceiling.add(10_000.0);
        Report::new(Machine::read(), (20_000, 1024), ceiling, vec![row])
    }

    #[test]
    fn a_row_is_held_against_the_best_of_pgbench() {
        let report = report(20_000);
        assert!(report.is_complete());
        let table = report.table();
        for part in ["10,000 rows", "(lowest 8,000)", "5,000        0.50", "50.00 ms", "50.0 µs"] {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
        let json: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(json["rows"][0]["replicas"], 3);
    }

    #[test]
    fn what_did_not_come_through_fails_the_run() {
        let report = report(19_990);
        assert!(!report.is_complete());
        assert!(report.table().lines().any(|line| line.ends_with("       10")), "{}", report.table());
    }
}
