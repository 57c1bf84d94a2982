//! The table of a benchmark, for people.

use std::fmt::Write;
use std::time::Duration;

use super::figures::{grouped, millis};
use super::report::{Against, Ceiling, Report, Scenario};

/// Beyond the widest row.
const WIDTH: usize = 94;

/// For people.
#[must_use]
pub fn table(report: &Report) -> String {
    let (machine, asked, ceilings) = (&report.machine, &report.asked, &report.ceilings);
    let mut lines = vec![
        format!(
            "signalpost bench · {} events of {} bytes in each scenario, {} destinations",
            grouped(asked.events.into()),
            grouped(asked.payload_bytes.into()),
            grouped(asked.destinations.into())
        ),
        machine.line(),
        String::new(),
        "Ceilings: what this machine does without Signalpost, measured between the scenarios".to_owned(),
        ceiling("raw POST: hand-written loop, 64 connections, plain HTTP", &ceilings.raw_post),
        ceiling("append, 64: records written and fdatasynced in groups of 64", &ceilings.append_groups_of_64),
        ceiling("append, 1: records written and fdatasynced one by one", &ceilings.append_one_by_one),
        String::new(),
        format!(
            "{:<16}{:>9}  {:<20} {:>10} {:>10} {:>12} {:>11}",
            "Scenario", "events/s", " ratio", "call p50", "call p99", "memory", "CPU/event"
        ),
        "─".repeat(WIDTH),
    ];
    lines.extend(report.scenarios.iter().map(row));
    lines.push("─".repeat(WIDTH));
    lines.extend(report.scenarios.iter().map(|scenario| format!("{:<16}{}", scenario.name, scenario.what)));
    lines.push(String::new());
    lines.extend(report.scenarios.iter().filter_map(remark));
    lines.extend(report.notes.iter().map(|note| format!("- {note}")));
    lines.push(String::new());
    lines.join("\n")
}

fn row(scenario: &Scenario) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let latency = |micros: Option<u128>| {
        or_dash(micros.and_then(|one| u64::try_from(one).ok()).map(|one| millis(Duration::from_micros(one))))
    };
    let against = match scenario.against {
        Against::AppendGroupsOf64 => "append, 64",
        Against::RawPost => "raw POST",
    };
    format!(
        "{:<16}{:>9}  {:>6} of {:<10} {:>10} {:>10} {:>8} MiB {:>8} µs",
        scenario.name,
        grouped(scenario.events_per_second),
        or_dash(scenario.ratio.map(|ratio| format!("{ratio:.3}"))),
        against,
        latency(scenario.p50_us),
        latency(scenario.p99_us),
        scenario.server_resident_bytes >> 20,
        or_dash(scenario.server_cpu_us_per_event.map(|micros| format!("{micros:.1}"))),
    )
}

fn ceiling(name: &str, rates: &Ceiling) -> String {
    format!("  {name:<60}{:>9} /s, lowest {}", grouped(rates.best), grouped(rates.lowest()))
}

/// What went differently than it should.
fn remark(scenario: &Scenario) -> Option<String> {
    let mut text = format!("! {}:", scenario.name);
    if scenario.missing > 0 {
        write!(text, " {} events did not come through in time;", scenario.missing).ok()?;
    }
    if scenario.surplus > 0 {
        write!(text, " {} requests more than events;", scenario.surplus).ok()?;
    }
    (scenario.missing > 0 || scenario.surplus > 0).then(|| text.trim_end_matches(';').to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_table_has_all_figures_in_columns() {
        let table = table(&report(1000, 0));
        for part in ["10,000   0.050 of append, 64", "50.00 ms", "99.00 ms", "32 MiB", "50.0 µs", "- a note"]
        {
            assert!(table.contains(part), "{part}\nis not in\n{table}");
        }
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
        assert!(!table.contains('!'), "{table}");
    }

    #[test]
    fn what_is_missing_or_came_twice_is_said() {
        let report = report(990, 3);
        assert!(!report.is_complete());
        let said = "! deliver: 10 events did not come through in time; 3 requests more than events";
        assert!(table(&report).contains(said), "{}", table(&report));
    }
}
