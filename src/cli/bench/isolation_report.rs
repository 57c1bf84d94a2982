//! What `signalpost bench isolation` says: a row for each case, and what it is held against.

use std::time::Duration;

use serde::Serialize;

use super::figures::{grouped, millis, ratio};
use super::isolation::{NEIGHBOURS_PACE, WAITING};
use super::neighbours::{Neighbours, SLOW_ANSWER};
use super::report::Machine;
use super::steady::{Latency, PACE, Times};
use crate::domain::replay::{PER_SECOND_DEFAULT, PER_SECOND_MAX};

/// What was measured in one phase.
pub struct Phase {
    /// Who was there.
    pub beside: Neighbours,
    /// The times of the healthy destination.
    pub times: Times,
    /// What a replay sent meanwhile.
    pub replayed: Option<u64>,
}

/// One row.
#[derive(Debug, Serialize)]
struct Case {
    beside: Neighbours,
    #[serde(flatten)]
    latency: Latency,
    /// In relation to the two times alone before and after it, taken together.
    p50_ratio: Option<f64>,
    p99_ratio: Option<f64>,
    replayed: Option<u64>,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    neighbours: u32,
    replayed: u32,
    seconds: u32,
    events_per_second: u32,
    cases: Vec<Case>,
}

impl Neighbours {
    /// In words.
    #[must_use]
    pub fn words(self, count: u32, replayed: u32) -> String {
        let (count, replayed) = (grouped(count.into()), grouped(replayed.into()));
        match self {
            Neighbours::Nobody => "nobody".to_owned(),
            Neighbours::Refusing => format!("{count} that refuse"),
            Neighbours::Silent => format!("{count} that never answer"),
            Neighbours::Slow => format!("{count} that take {} s", SLOW_ANSWER.as_secs()),
            Neighbours::ReplayDefault => format!("replay of {replayed}, {PER_SECOND_DEFAULT}/s"),
            Neighbours::ReplayFastest => {
                format!("the same, {}/s", grouped(PER_SECOND_MAX.into()))
            }
        }
    }
}

impl Report {
    /// Holds each phase against those beside it in which the destination was alone.
    #[must_use]
    pub fn new(machine: Machine, (neighbours, replayed): (u32, u32), seconds: u32, phases: &[Phase]) -> Self {
        let cases = (0..phases.len()).filter_map(|place| case(phases, place)).collect();
        Self { machine, neighbours, replayed, seconds, events_per_second: PACE, cases }
    }

    /// Whether all events arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cases.iter().all(|case| case.latency.missing == 0)
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "signalpost bench isolation · one healthy destination, {} events/s for {} s in each case",
                self.events_per_second, self.seconds
            ),
            self.machine.line(),
            String::new(),
            format!(
                "{:<28}{:>10}{:>10}{:>11}{:>7}{:>7}{:>9}{:>11}{:>11}{:>11}",
                "From call to receipt, beside",
                "p50",
                "p99",
                "max",
                "p50 ×",
                "p99 ×",
                "missing",
                "disk p99",
                "disk max",
                "late max"
            ),
            "─".repeat(115),
        ];
        lines.extend(self.cases.iter().map(|case| self.row(case)));
        lines.push(String::new());
        lines.push(format!(
            "- The healthy destination is known to answer; of bad neighbours nothing is known when they come.\n\
             - Bad neighbours have {WAITING} events waiting each when it begins, and get {NEIGHBOURS_PACE} more a second.\n\
             - × is in relation to the two times beside nobody before and after it, taken together.\n\
             - disk: a record appended and synced beside, 20 times a second. No event is faster than its sync.\n\
             - late: by how much the caller itself woke up too late; the machine kept it waiting for a processor."
        ));
        for case in &self.cases {
            if let Some(sent) = case.replayed {
                let words = case.beside.words(self.neighbours, self.replayed);
                lines.push(format!("- {words}: {} were sent while it was measured.", grouped(sent as f64)));
            }
        }
        if cfg!(debug_assertions) {
            lines.push("- This is a build without optimisation: its figures say nothing.".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn row(&self, case: &Case) -> String {
        let times = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        format!(
            "{:<28}{:>10}{:>10}{:>11}{:>7}{:>7}{:>9}{:>11}{:>11}{:>11}",
            case.beside.words(self.neighbours, self.replayed),
            shown(case.latency.p50_us),
            shown(case.latency.p99_us),
            shown(case.latency.max_us),
            times(case.p50_ratio),
            times(case.p99_ratio),
            case.latency.missing,
            shown(case.latency.disk_p99_us),
            shown(case.latency.disk_max_us),
            shown(Some(case.latency.late_max_us)),
        )
    }
}

/// A time in milliseconds, or a dash.
#[must_use]
pub fn shown(micros: Option<u128>) -> String {
    let micros = micros.and_then(|micros| u64::try_from(micros).ok());
    micros.map_or("–".to_owned(), |micros| millis(Duration::from_micros(micros)))
}

fn case(phases: &[Phase], place: usize) -> Option<Case> {
    let phase = phases.get(place)?;
    let latency = phase.times.figures();
    let alone = (phase.beside != Neighbours::Nobody).then(|| alone(phases, place)).flatten();
    let alone = alone.map(|times| times.figures());
    let against = |own: Option<u128>, alone: Option<u128>| ratio(own? as f64, alone? as f64);
    Some(Case {
        beside: phase.beside,
        latency,
        p50_ratio: alone.and_then(|alone| against(latency.p50_us, alone.p50_us)),
        p99_ratio: alone.and_then(|alone| against(latency.p99_us, alone.p99_us)),
        replayed: phase.replayed,
    })
}

/// The times alone before and after this place.
fn alone(phases: &[Phase], place: usize) -> Option<Times> {
    let is_alone = |phase: &&Phase| phase.beside == Neighbours::Nobody;
    let before = phases.get(..place)?.iter().rev().find(is_alone)?;
    let after = phases.get(place..)?.iter().find(is_alone)?;
    Some(before.times.with(&after.times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::json;

    fn phase(beside: Neighbours, millis: u64, emitted: usize) -> Phase {
        let latencies = vec![Duration::from_millis(millis); 100];
        Phase { beside, times: Times { latencies, emitted, ..Times::default() }, replayed: None }
    }

    #[test]
    fn each_case_is_held_against_the_times_alone_around_it() {
        let phases = [
            phase(Neighbours::Nobody, 900, 100),
            phase(Neighbours::Refusing, 900, 100),
            phase(Neighbours::Nobody, 1, 100),
            phase(Neighbours::Silent, 6, 103),
            phase(Neighbours::Nobody, 3, 100),
        ];
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let report = Report::new(machine, (1000, 100_000), 10, &phases);
        let ratios: Vec<_> = report.cases.iter().map(|case| (case.p50_ratio, case.p99_ratio)).collect();
        // Of the two hundred times alone, half are 1 ms and half 3 ms.
        assert_eq!(
            ratios,
            [(None, None), (Some(900.0), Some(1.0)), (None, None), (Some(6.0), Some(2.0)), (None, None)]
        );
        assert!(!report.is_complete());
        let table = report.table();
        for part in ["nobody", "1,000 that never answer", "6.00 ms", "900.00 ms", "2.00"] {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
        let json: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(json["cases"][3]["p99_us"], 6000);
        assert_eq!(json["cases"][3]["missing"], 3);
    }
}
