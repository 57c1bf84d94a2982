//! What a campaign of kills says.

use std::time::Duration;

use serde::Serialize;

use crate::cli::bench::figures::grouped;
use crate::cli::bench::report::Machine;
use crate::cli::bench::soak::ledger::Outcome;
use crate::store::sled::Inspection;

/// A whole campaign.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    seed: u64,
    /// Whether each kill was a power cut.
    power_cuts: bool,
    /// How often the server was killed while it worked.
    pub killed_under_load: u32,
    /// How often before it was ready.
    pub killed_while_starting: u32,
    /// The slowest start.
    slowest_start_ms: u128,
    /// How often a store was looked through, and what was wrong in all of them together.
    inspections: u32,
    problems: u64,
    problem_examples: Vec<String>,
    /// Dead letters that were put back.
    pub replayed: u64,
    /// How long the rest took to arrive.
    pub recovered_ms: Option<u128>,
    /// How long the last stop took.
    pub stopped_ms: Option<u128>,
    /// What came through.
    pub outcome: Outcome,
}

impl Report {
    /// A report without figures.
    #[must_use]
    pub fn new(machine: Machine, seed: u64, power_cuts: bool) -> Self {
        Self {
            machine,
            seed,
            power_cuts,
            killed_under_load: 0,
            killed_while_starting: 0,
            slowest_start_ms: 0,
            inspections: 0,
            problems: 0,
            problem_examples: Vec::new(),
            replayed: 0,
            recovered_ms: None,
            stopped_ms: None,
            outcome: Outcome::default(),
        }
    }

    /// The server was ready after so long.
    pub fn started(&mut self, took: Duration) {
        self.slowest_start_ms = self.slowest_start_ms.max(took.as_millis());
    }

    /// A store was looked through.
    pub fn inspected(&mut self, found: Inspection) {
        self.inspections += 1;
        self.problems += found.problems;
        self.problem_examples.extend(found.examples.into_iter().take(3));
    }

    /// Whether the promises held, and every store fitted together.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome.holds() && self.outcome.acknowledged > 0 && self.problems == 0 && self.inspections > 0
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "signalpost bench crash · seed {}{}",
                self.seed,
                if self.power_cuts { ", power cuts" } else { "" }
            ),
            self.machine.line(),
            String::new(),
        ];
        lines.extend(self.rows().map(|(name, text)| format!("{name:<22}{text}")));
        let outcome = &self.outcome;
        for (destination, number) in &outcome.missing_examples {
            lines.push(format!("! missing at destination {destination}: event {number}"));
        }
        for (destination, number, millis) in &outcome.doubled_examples {
            lines.push(format!("! twice at destination {destination}: event {number}, after {millis:?} ms"));
        }
        lines.extend(self.problem_examples.iter().map(|problem| format!("! in the store: {problem}")));
        lines.push((if self.passed() { "passed" } else { "FAILED" }).to_owned());
        lines.push(String::new());
        lines.join("\n")
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, String)> {
        let (outcome, count) = (&self.outcome, |number: u64| grouped(number as f64));
        let Self { killed_under_load, killed_while_starting, slowest_start_ms, .. } = self;
        [
            (
                "killed",
                format!("{killed_under_load} times under load, {killed_while_starting} times while starting"),
            ),
            ("ready again", format!("within {slowest_start_ms} ms")),
            (
                "acknowledged",
                format!(
                    "{} events, {} of them known from before",
                    count(outcome.acknowledged),
                    count(outcome.duplicates)
                ),
            ),
            (
                "delivered",
                format!("{} of {}", count(outcome.delivered), count(outcome.delivered + outcome.missing)),
            ),
            ("lost", count(outcome.missing)),
            (
                "late",
                format!(
                    "{} came only after a kill that their acknowledgement came before",
                    count(outcome.late)
                ),
            ),
            ("twice around a kill", count(outcome.doubled_around_kills)),
            ("twice otherwise", count(outcome.doubled_otherwise)),
            ("out of order", count(outcome.out_of_order)),
            ("dead letters replayed", count(self.replayed)),
            ("stores looked through", format!("{}, {} problems", self.inspections, self.problems)),
            ("recovered", format!("{} ms after the last kill", self.recovered_ms.unwrap_or_default())),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::json;

    fn report() -> Report {
        let machine = Machine { cores: 2, processor: "a processor".into(), kernel: "6.1".into() };
        let mut report = Report::new(machine, 42, false);
        report.outcome = Outcome { acknowledged: 10, delivered: 30, ..Outcome::default() };
        report.inspected(Inspection::default());
        report
    }

    #[test]
    fn nothing_lost_and_stores_that_fit_together_pass() {
        assert!(report().passed() && report().table().ends_with("passed\n"));
        let json: serde_json::Value = serde_json::from_str(&json(&report()).unwrap()).unwrap();
        assert_eq!((&json["seed"], &json["outcome"]["missing"]), (&42.into(), &0.into()));
    }

    #[test]
    fn one_lost_delivery_fails_and_is_named() {
        let mut report = report();
        (report.outcome.missing, report.outcome.missing_examples) = (1, vec![(4, 77)]);
        assert!(!report.passed() && report.table().contains("! missing at destination 4: event 77"));
    }

    #[test]
    fn a_problem_in_one_of_the_stores_fails_and_is_told() {
        let mut report = report();
        let examples = vec!["event/00: its checksum is wrong".into()];
        report.inspected(Inspection { problems: 1, examples, ..Inspection::default() });
        report.inspected(Inspection::default());
        let table = report.table();
        assert!(
            !report.passed() && table.contains("! in the store: event/00") && table.contains("FAILED"),
            "{table}"
        );
    }

    #[test]
    fn a_campaign_in_which_nothing_was_accepted_has_shown_nothing() {
        let mut report = report();
        report.outcome = Outcome::default();
        assert!(!report.passed());
    }
}
