//! What a benchmark says: figures, as JSON for programs; `table` shows them to people.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::figures::{micros_each, per_second, percentile, ratio};

/// What was measured of one scenario.
#[derive(Debug)]
pub struct Measured {
    /// The events that were to be emitted.
    pub expected: u64,
    /// The events that came through.
    pub events: u64,
    /// From the first call to the last answer or, where events are delivered, the last request.
    pub took: Duration,
    /// Rising; none where events are delivered.
    pub latencies: Vec<Duration>,
    /// Processor time of the server.
    pub cpu: Duration,
    /// Resident memory of the server at the end.
    pub resident_bytes: u64,
    /// Requests that the sink got beyond one for each event.
    pub surplus: u64,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What was asked for.
    pub asked: Asked,
    /// What the machine does without us.
    pub ceilings: Ceilings,
    /// What we do.
    pub scenarios: Vec<Scenario>,
    /// What one must know to read the figures.
    pub notes: Vec<&'static str>,
}

/// The machine's size.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// What the processor calls itself.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
}

/// The arguments.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Asked {
    /// Events of each scenario.
    pub events: u32,
    /// Bytes of each event's data.
    pub payload_bytes: u32,
    /// Destinations of the delivery scenarios.
    pub destinations: u32,
}

/// What the machine does without us.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ceilings {
    /// Requests of the hand-written POST loop over plain HTTP.
    pub raw_post: Ceiling,
    /// Records appended in groups of 64, each group synced.
    pub append_groups_of_64: Ceiling,
    /// Records appended one by one, each synced.
    pub append_one_by_one: Ceiling,
}

/// A rate that was measured several times during the run, each a second.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ceiling {
    /// The highest; ratios refer to it, because a ceiling is what the machine can do.
    pub best: f64,
    /// All, in the order of the run.
    pub rates: Vec<f64>,
}

impl Ceiling {
    /// Takes one more measurement into account.
    pub fn add(&mut self, rate: f64) {
        self.best = self.best.max(rate);
        self.rates.push(rate);
    }

    /// The lowest measurement.
    #[must_use]
    pub fn lowest(&self) -> f64 {
        self.rates.iter().copied().fold(self.best, f64::min)
    }
}

/// Which ceiling a scenario is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// [`Ceilings::append_groups_of_64`].
    AppendGroupsOf64,
    /// [`Ceilings::raw_post`].
    RawPost,
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub what: &'static str,
    /// Events that came through.
    pub events: u64,
    /// Events that did not come through within the time limit.
    pub missing: u64,
    /// Requests beyond one for each event.
    pub surplus: u64,
    /// How long it took.
    pub seconds: f64,
    /// Events a second.
    pub events_per_second: f64,
    /// The ceiling.
    pub against: Against,
    /// The events a second in relation to it.
    pub ratio: Option<f64>,
    /// Half of the calls took no longer, in microseconds.
    pub p50_us: Option<u128>,
    /// 99 of 100 calls took no longer, in microseconds.
    pub p99_us: Option<u128>,
    /// Resident memory of the server at the end.
    pub server_resident_bytes: u64,
    /// Processor time of the server for each event, in microseconds.
    pub server_cpu_us_per_event: Option<f64>,
}

/// A report for programs.
///
/// # Errors
/// Never in practice: all keys are texts.
pub fn json(report: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

impl Machine {
    /// This machine, as far as it tells.
    #[must_use]
    pub fn read() -> Self {
        let unknown = || "unknown".to_owned();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let named = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: named.map_or_else(unknown, |(_, name)| name.trim().to_owned()),
            kernel: kernel.map_or_else(|_| unknown(), |release| release.trim().to_owned()),
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} cores ({}), Linux {}", self.cores, self.processor, self.kernel)
    }
}

impl Ceilings {
    fn of(&self, against: Against) -> f64 {
        match against {
            Against::AppendGroupsOf64 => self.append_groups_of_64.best,
            Against::RawPost => self.raw_post.best,
        }
    }
}

impl Scenario {
    /// The figures of what was measured.
    #[must_use]
    pub fn new(
        (name, what): (&'static str, &'static str),
        measured: &Measured,
        (against, ceilings): (Against, &Ceilings),
    ) -> Self {
        let rate = per_second(measured.events, measured.took);
        let micros = |percent| percentile(&measured.latencies, percent).map(|one| one.as_micros());
        Self {
            name,
            what,
            events: measured.events,
            missing: measured.expected.saturating_sub(measured.events),
            surplus: measured.surplus,
            seconds: measured.took.as_secs_f64(),
            events_per_second: rate,
            against,
            ratio: ratio(rate, ceilings.of(against)),
            p50_us: micros(50),
            p99_us: micros(99),
            server_resident_bytes: measured.resident_bytes,
            server_cpu_us_per_event: micros_each(measured.cpu, measured.events),
        }
    }
}

impl Report {
    /// Whether everything that was emitted came through in time.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.scenarios.iter().all(|scenario| scenario.missing == 0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn report(events: u64, surplus: u64) -> Report {
        let mut ceilings = Ceilings::default();
        for part in [0.5, 1.0, 0.9] {
            ceilings.raw_post.add(part * 100_000.0);
            ceilings.append_groups_of_64.add(part * 200_000.0);
            ceilings.append_one_by_one.add(part * 5000.0);
        }
        let measured = Measured {
            expected: 1000,
            events,
            took: Duration::from_millis(100),
            latencies: (1..=100).map(Duration::from_millis).collect(),
            cpu: Duration::from_millis(50),
            resident_bytes: 32 << 20,
            surplus,
        };
        let ingest =
            Scenario::new(("ingest unary", "calls"), &measured, (Against::AppendGroupsOf64, &ceilings));
        let measured = Measured { latencies: Vec::new(), ..measured };
        let deliver = Scenario::new(("deliver", "posts"), &measured, (Against::RawPost, &ceilings));
        Report {
            machine: Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() },
            asked: Asked { events: 1000, payload_bytes: 1024, destinations: 100 },
            ceilings,
            scenarios: vec![ingest, deliver],
            notes: vec!["a note"],
        }
    }

    #[test]
    fn each_scenario_is_held_against_its_own_ceiling() {
        let report = report(1000, 0);
        let ratios: Vec<_> = report.scenarios.iter().map(|one| one.ratio).collect();
        assert_eq!(ratios, [Some(0.05), Some(0.1)]);
        assert!(report.is_complete());
    }

    #[test]
    fn a_ceiling_is_the_best_of_its_measurements() {
        let ceilings = report(1000, 0).ceilings;
        assert!((ceilings.raw_post.best - 100_000.0).abs() < 1e-6);
        assert!((ceilings.raw_post.lowest() - 50_000.0).abs() < 1e-6);
        assert!(Ceiling::default().lowest().abs() < f64::EPSILON);
    }

    #[test]
    fn the_json_has_the_same_figures() {
        let value: serde_json::Value = serde_json::from_str(&json(&report(1000, 0)).unwrap()).unwrap();
        assert_eq!(value["scenarios"][0]["p99_us"], 99_000);
        assert_eq!(value["scenarios"][0]["server_cpu_us_per_event"], 50.0);
        assert_eq!(value["scenarios"][1]["against"], "raw_post");
        assert_eq!(value["machine"]["cores"], 2);
    }
}
