//! What a soak says: what came through, and memory and disk over time.

use std::time::Duration;

use serde::Serialize;

use super::ledger::Outcome;
use super::plan::Ending;
use crate::cli::bench::figures::grouped;
use crate::cli::bench::report::Machine;

/// One row in so many samples is shown.
const SHOWN: usize = 3;
/// Memory and disk may be so much more in the second half of what is compared, besides a fifth.
const SLACK: u64 = 8 << 20;
/// In a shorter run memory and disk have no time to come to rest.
const JUDGED_FROM_MINUTES: u32 = 5;

/// What there was at some moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Whether it is in the part without restarts.
    pub quiet: bool,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Deliveries that arrived.
    pub taken: u64,
    /// Restarts.
    pub restarts: usize,
    /// The server's memory.
    pub resident_bytes: u64,
    /// The store's files.
    pub disk_bytes: u64,
}

/// A restart.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Restarted {
    ending: Ending,
    at: Duration,
    stop_ms: Option<u128>,
    ready_ms: u128,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    seed: u64,
    minutes: u32,
    events_per_second: u32,
    /// Faults of all kinds.
    pub faults: u32,
    /// Restarts, in order.
    pub restarts: Vec<Restarted>,
    /// Dead letters that were put back.
    pub replayed: u64,
    /// How long the rest took to arrive.
    pub recovered_ms: Option<u128>,
    /// How long the last stop took.
    pub stopped_ms: Option<u128>,
    /// What came through.
    pub outcome: Outcome,
    /// Memory and disk, in order.
    pub samples: Vec<Sample>,
}

/// Whether something stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// So much in the first half and in the second half of what is compared.
    Flat(u64, u64),
    /// The same, and it grows.
    Grows(u64, u64),
    /// The run was too short.
    NotJudged,
}

impl Restarted {
    /// A restart; `stop` is how long an orderly stop took.
    #[must_use]
    pub fn new(ending: Ending, at: Duration, stop: Option<Duration>, ready: Duration) -> Self {
        Self { ending, at, stop_ms: stop.map(|stop| stop.as_millis()), ready_ms: ready.as_millis() }
    }
}

impl Report {
    /// A report without figures.
    #[must_use]
    pub fn new(machine: Machine, seed: u64, minutes: u32, events_per_second: u32) -> Self {
        Self {
            machine,
            seed,
            minutes,
            events_per_second,
            faults: 0,
            restarts: Vec::new(),
            replayed: 0,
            recovered_ms: None,
            stopped_ms: None,
            outcome: Outcome::default(),
            samples: Vec::new(),
        }
    }

    /// Whether the promises held, and memory and disk stayed as they were.
    #[must_use]
    pub fn passed(&self) -> bool {
        let grows = |course| matches!(course, Course::Grows(_, _));
        self.outcome.holds() && self.outcome.acknowledged > 0 && !grows(self.memory()) && !grows(self.disk())
    }

    /// Memory is compared where the process lived on: the medians of the two halves of the quiet part.
    fn memory(&self) -> Course {
        let quiet: Vec<u64> =
            self.samples.iter().filter(|sample| sample.quiet).map(|sample| sample.resident_bytes).collect();
        self.course(&quiet, median)
    }

    /// The disk is compared over the whole run but its first third, in which it fills: the highest.
    fn disk(&self) -> Course {
        let bytes: Vec<u64> = self.samples.iter().map(|sample| sample.disk_bytes).collect();
        let rest = bytes.get(bytes.len() / 3..).unwrap_or_default();
        self.course(rest, |bytes| bytes.iter().copied().max().unwrap_or_default())
    }

    fn course(&self, values: &[u64], of: impl Fn(&[u64]) -> u64) -> Course {
        if self.minutes < JUDGED_FROM_MINUTES || values.len() < 4 {
            return Course::NotJudged;
        }
        let (first, second) = values.split_at(values.len() / 2);
        let (first, second) = (of(first), of(second));
        if second > first + first / 5 + SLACK {
            Course::Grows(first, second)
        } else {
            Course::Flat(first, second)
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "signalpost bench soak · seed {}, {} minutes, {} events/s, each to three destinations",
                self.seed, self.minutes, self.events_per_second
            ),
            self.machine.line(),
            String::new(),
            format!(
                "{:>9}{:>15}{:>13}{:>10}{:>12}{:>12}",
                "after", "acknowledged", "delivered", "restarts", "memory", "disk"
            ),
            "─".repeat(71),
        ];
        lines.extend(self.samples.iter().skip(SHOWN - 1).step_by(SHOWN).map(Sample::row));
        lines.push("─".repeat(71));
        lines.extend(self.summary());
        lines.push(String::new());
        lines.join("\n")
    }

    fn summary(&self) -> Vec<String> {
        let (outcome, count) = (&self.outcome, |number: u64| grouped(number as f64));
        let kills = self.restarts.iter().filter(|restart| restart.ending == Ending::Kill).count();
        let slowest = self.restarts.iter().map(|restart| restart.ready_ms).max().unwrap_or_default();
        let mut lines = vec![
            format!(
                "acknowledged          {} events, {} of them known from before",
                count(outcome.acknowledged),
                count(outcome.duplicates)
            ),
            format!(
                "delivered             {} of {}",
                count(outcome.delivered),
                count(outcome.delivered + outcome.missing)
            ),
            format!("missing               {}", count(outcome.missing)),
            format!("twice around a kill   {}", count(outcome.doubled_around_kills)),
            format!("twice otherwise       {}", count(outcome.doubled_otherwise)),
            format!("out of order          {}", count(outcome.out_of_order)),
            format!(
                "faults                {}, among them {} restarts ({kills} SIGKILL, {} SIGTERM), ready within {slowest} ms",
                self.faults,
                self.restarts.len(),
                self.restarts.len() - kills
            ),
            format!("dead letters replayed {}", count(self.replayed)),
            format!(
                "recovered             {} ms after the last fault",
                self.recovered_ms.unwrap_or_default()
            ),
            format!(
                "memory                {}",
                self.memory().line("median of the last third, its first half and its second")
            ),
            format!(
                "disk                  {}",
                self.disk().line("highest of the second third and of the last")
            ),
        ];
        for (destination, number) in &outcome.missing_examples {
            lines.push(format!("! missing at destination {destination}: event {number}"));
        }
        for (destination, number, millis) in &outcome.doubled_examples {
            lines.push(format!("! twice at destination {destination}: event {number}, after {millis:?} ms"));
        }
        lines.push((if self.passed() { "passed" } else { "FAILED" }).to_owned());
        lines
    }
}

impl Sample {
    fn row(&self) -> String {
        let seconds = self.at.as_secs();
        format!(
            "{:>9}{:>15}{:>13}{:>10}{:>8} MiB{:>8} MiB",
            format!("{}:{:02}", seconds / 60, seconds % 60),
            grouped(self.acknowledged as f64),
            grouped(self.taken as f64),
            self.restarts,
            self.resident_bytes >> 20,
            self.disk_bytes >> 20
        )
    }
}

impl Course {
    fn line(self, what: &str) -> String {
        let halves = |first: u64, second: u64| format!("{what}: {} and {} MiB", first >> 20, second >> 20);
        match self {
            Course::Flat(first, second) => format!("flat ({})", halves(first, second)),
            Course::Grows(first, second) => format!("GROWS ({})", halves(first, second)),
            Course::NotJudged => format!("not judged in less than {JUDGED_FROM_MINUTES} minutes"),
        }
    }
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::json;

    fn report(memory: impl Fn(u64) -> u64, disk: impl Fn(u64) -> u64) -> Report {
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let mut report = Report::new(machine, 42, 20, 150);
        report.outcome = Outcome { acknowledged: 10, delivered: 30, ..Outcome::default() };
        report.samples = (0..60)
            .map(|minute| Sample {
                at: Duration::from_secs(minute * 20),
                quiet: minute >= 42,
                acknowledged: minute,
                taken: minute,
                restarts: 0,
                resident_bytes: memory(minute) << 20,
                disk_bytes: disk(minute) << 20,
            })
            .collect();
        report
    }

    #[test]
    fn memory_and_disk_that_stay_as_they_are_pass_and_growth_does_not() {
        assert!(report(|_| 60, |_| 100).passed());
        // The disk may fill in the beginning.
        assert!(report(|_| 60, |minute| minute.min(20) * 20).passed());
        assert!(!report(|_| 60, |minute| minute * 5).passed());
        assert!(!report(|minute| 60 + minute.saturating_sub(42) * 10, |_| 100).passed());
        let leaking = report(|minute| 60 + minute.saturating_sub(42) * 10, |_| 100);
        assert!(leaking.table().contains("GROWS") && leaking.table().contains("FAILED"));
    }

    #[test]
    fn one_missing_delivery_fails_and_is_named() {
        let mut report = report(|_| 60, |_| 100);
        report.restarts.push(Restarted::new(Ending::Kill, Duration::ZERO, None, Duration::from_millis(80)));
        assert!(
            report.passed()
                && report.table().contains("1 restarts (1 SIGKILL, 0 SIGTERM), ready within 80 ms")
        );
        report.outcome.missing = 1;
        report.outcome.missing_examples = vec![(4, 77)];
        assert!(!report.passed());
        assert!(report.table().contains("! missing at destination 4: event 77"));
        let json: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(json["outcome"]["missing"], 1);
    }

    #[test]
    fn a_short_run_says_that_it_does_not_judge_memory_and_disk() {
        let mut report = report(|minute| minute * 10, |minute| minute * 10);
        report.minutes = 1;
        assert!(report.passed() && report.table().contains("not judged"));
    }
}
