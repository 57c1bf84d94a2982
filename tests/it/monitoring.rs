//! Alerts and the dashboard speak of what a running server shows, and of nothing else.

use std::collections::BTreeSet;

use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};

use crate::harness::{Scrape, Server};

const RULES: &str = include_str!("../../ops/monitoring/signalpost.rules.yml");
const DASHBOARD: &str = include_str!("../../ops/monitoring/signalpost.dashboard.json");
const DOCUMENT: &str = include_str!("../../docs/TELEMETRY.md");

/// What Prometheus itself adds to every series.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

/// The selectors of an expression.
#[derive(Default)]
struct Selectors(Vec<VectorSelector>);

impl ExprVisitor for Selectors {
    type Error = ();

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
        match expression {
            Expr::VectorSelector(selector) => self.0.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.0.push(matrix.vs.clone()),
            _ => {}
        }
        Ok(true)
    }
}

fn selectors(expression: &str) -> Vec<VectorSelector> {
    let plain = expression.replace("$__rate_interval", "5m");
    let parsed = parser::parse(&plain).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut found = Selectors::default();
    walk_expr(&mut found, &parsed).unwrap();
    assert!(!found.0.is_empty(), "{expression} selects nothing");
    found.0
}

fn alert_expressions() -> Vec<String> {
    let lines = RULES.lines().filter_map(|line| line.trim().strip_prefix("expr: '"));
    lines.map(|line| line.strip_suffix('\'').unwrap().to_owned()).collect()
}

fn dashboard_expressions(node: &serde_json::Value, found: &mut Vec<String>) {
    match node {
        serde_json::Value::Object(members) => {
            found.extend(members.get("expr").map(|expression| expression.as_str().unwrap().to_owned()));
            members.values().for_each(|member| dashboard_expressions(member, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| dashboard_expressions(item, found)),
        _ => {}
    }
}

/// What is wrong with a selector, given what a server shows.
fn unknown(selector: &VectorSelector, scrape: &Scrape) -> Option<String> {
    let name = selector.name.as_deref().unwrap();
    if name == "up" {
        return None;
    }
    let Some(family) = scrape.family_of(name) else { return Some(format!("there is no metric {name}")) };
    let labels = scrape.labels(&family);
    let known = |label: &str| label == "le" || OF_PROMETHEUS.contains(&label) || labels.contains(label);
    let of_server = |label: &str| !OF_PROMETHEUS.contains(&label);
    for matcher in &selector.matchers.matchers {
        if !known(&matcher.name) {
            return Some(format!("{name} has no label {}", matcher.name));
        }
        let missing = matcher.value.split('|').find(|value| !scrape.has(&family, &matcher.name, value));
        if let Some(value) = missing.filter(|_| of_server(&matcher.name)) {
            return Some(format!("no {name} has {}=\"{value}\"", matcher.name));
        }
    }
    None
}

#[tokio::test]
async fn every_expression_is_promql_over_metrics_labels_and_values_that_exist() {
    let scrape = Server::start().await.scrape().await;
    let alerts = alert_expressions();
    assert_eq!(alerts.len(), RULES.matches("- alert:").count(), "an expression that is not on one line");
    let mut all = alerts;
    let dashboard = serde_json::from_str(DASHBOARD).unwrap();
    dashboard_expressions(&dashboard, &mut all);
    assert!(all.len() > 60, "{} expressions", all.len());
    let wrong: Vec<String> = all
        .iter()
        .flat_map(|expression| selectors(expression))
        .filter_map(|selector| unknown(&selector, &scrape))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_metric_a_label_or_a_value_that_does_not_exist_is_found() {
    let scrape = Server::start().await.scrape().await;
    for (expression, problem) in [
        ("rate(signalpost_atempts_total[5m])", "there is no metric signalpost_atempts_total"),
        ("signalpost_lanes{stat=\"idle\"}", "signalpost_lanes has no label stat"),
        ("sum(signalpost_lanes{state=~\"idle|ilde\"}) > 0", "no signalpost_lanes has state=\"ilde\""),
    ] {
        let found = selectors(expression).iter().find_map(|selector| unknown(selector, &scrape));
        assert_eq!(found.as_deref(), Some(problem));
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let mut expressions = Vec::new();
    dashboard_expressions(&serde_json::from_str(DASHBOARD).unwrap(), &mut expressions);
    let shown: BTreeSet<String> =
        expressions.iter().flat_map(|one| selectors(one)).filter_map(|selector| selector.name).collect();
    let documented = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `signalpost_"));
    let documented = documented.filter_map(|row| row.split('`').next());
    let missing: Vec<&str> = documented
        .filter(|name| !shown.iter().any(|one| one.starts_with(&format!("signalpost_{name}"))))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_alert_says_what_to_do_in_the_document() {
    let alerts: Vec<&str> = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        assert!(DOCUMENT.contains(&format!("\n### {alert}\n")), "{alert} has no section");
        let runbook = format!("runbook: docs/TELEMETRY.md#{}\n", alert.to_ascii_lowercase());
        assert!(RULES.contains(&runbook), "{alert} does not point to its section");
    }
    let sections = DOCUMENT.lines().filter_map(|line| line.strip_prefix("### Signalpost"));
    let stale: Vec<&str> =
        sections.filter(|name| !alerts.contains(&format!("Signalpost{name}").as_str())).collect();
    assert!(stale.is_empty(), "{stale:?}");
}

#[test]
fn the_autoscaler_goes_by_a_metric_that_exists() {
    let scaler = include_str!("../../k8s/overlays/postgres/autoscaler.yaml");
    let named = scaler.lines().filter_map(|line| line.trim().strip_prefix("name: signalpost_"));
    let named: Vec<&str> = named.collect();
    assert!(!named.is_empty(), "it names no metric of ours");
    for name in named {
        assert!(DOCUMENT.contains(&format!("\n| `signalpost_{name}` |")), "signalpost_{name}");
    }
}
