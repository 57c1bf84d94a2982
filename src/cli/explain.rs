//! `signalpost explain`: what became of an event at each destination, why, and what comes next.

use clap::Args;

use crate::clock::{Clock, SystemClock};
use crate::domain::time::Timestamp;
use crate::grpc::proto::v1::{self, EventVerdict};

use super::call::Call;
use super::client::{Connection, Pages};
use super::exit::Exit;
use super::output::print;
use super::show::{Colour, Paint, Table, ago, as_json, in_time, moment};
use super::words;

/// `signalpost explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The event's id.
    #[arg(value_name = "EVENT")]
    event: String,
    /// Only this destination.
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    #[command(flatten)]
    call: Call,
}

/// Runs the command.
pub(super) async fn run(arguments: ExplainArguments) -> anyhow::Result<Exit> {
    let connection = arguments.call.connect().await?;
    let answer = ask(&connection, &arguments).await?;
    if arguments.call.output.is_json() {
        return Ok(print(&format!("{}\n", as_json(&answer)?)));
    }
    Ok(print(&text(&answer, arguments.call.output.paint(), SystemClock.now())))
}

/// The answer with the explanations of all pages.
async fn ask(
    connection: &Connection,
    arguments: &ExplainArguments,
) -> anyhow::Result<v1::ExplainEventResponse> {
    let (mut client, mut pages) = (connection.deliveries(), Pages::new());
    let mut whole: Option<v1::ExplainEventResponse> = None;
    loop {
        let mut first = None;
        let next = pages.next(async |page_size, page_token| {
            let request = v1::ExplainEventRequest {
                organization_id: arguments.call.organization_id(),
                event_id: arguments.event.clone(),
                destination_id: arguments.destination.clone().unwrap_or_default(),
                page_size,
                page_token,
                ..v1::ExplainEventRequest::default()
            };
            let mut answer = connection.answer(client.explain_event(request).await)?;
            let rows = std::mem::take(&mut answer.explanations);
            let token = std::mem::take(&mut answer.next_page_token);
            first = Some(answer);
            Ok((rows, token))
        });
        let Some(rows) = next.await? else { break };
        whole.get_or_insert_with(|| first.unwrap_or_default()).explanations.extend(rows);
    }
    Ok(whole.unwrap_or_default())
}

fn text(answer: &v1::ExplainEventResponse, paint: Paint, now: Timestamp) -> String {
    let event = answer.event.clone().unwrap_or_default();
    let accepted = answer.accept_time.map(|at| format!("  accepted {}", ago(moment(at), now)));
    let mut text = format!(
        "{}  {}{}\n",
        paint.text(Colour::Bold, event.event_id.as_deref().unwrap_or_default()),
        event.r#type,
        accepted.unwrap_or_default()
    );
    if let Some(erased) = answer.erase_time {
        text.push_str(&format!("Its data was erased {}.\n", ago(moment(erased), now)));
    }
    text.push('\n');
    if answer.explanations.is_empty() {
        text.push_str("The organization has no destinations.\n");
        return text;
    }
    let mut table = Table::new(&["DESTINATION", "NAME", "VERDICT", "ATTEMPTS", "LAST", "NEXT", "WHY"]);
    for one in &answer.explanations {
        let (cells, colour) = row(one, now);
        table.row(cells, &[(2, colour)]);
    }
    text.push_str(&table.text(paint));
    text
}

fn row(one: &v1::DestinationExplanation, now: Timestamp) -> ([String; 7], Colour) {
    let dash = || "-".to_owned();
    let delivery = one.delivery.as_ref();
    let attempts = delivery.map_or_else(dash, |delivery| delivery.attempt_count.to_string());
    let last = delivery.and_then(|delivery| delivery.attempts.last());
    let next = delivery.and_then(|delivery| delivery.next_attempt_time);
    let next = next.map_or_else(dash, |at| in_time(moment(at), now));
    let next = match one.ahead_count {
        Some(ahead) if ahead > 0 => format!("{next}, behind {ahead}"),
        _ => next,
    };
    let why = match delivery.map(|delivery| words::reason(delivery.reason())) {
        Some(reason) if !reason.is_empty() && one.explanation.is_empty() => reason,
        _ => one.explanation.clone(),
    };
    let changed = if one.changed_since { " (the destination was changed since)" } else { "" };
    let colour = match one.verdict() {
        EventVerdict::Succeeded => Colour::Good,
        EventVerdict::DeadLettered | EventVerdict::Discarded => Colour::Bad,
        EventVerdict::Waiting | EventVerdict::Paused | EventVerdict::InFlight => Colour::Attention,
        _ => Colour::Dim,
    };
    let cells = [
        one.destination_id.clone(),
        one.display_name.clone(),
        words::verdict(one.verdict()),
        attempts,
        last.map_or_else(dash, words::outcome),
        next,
        format!("{why}{changed}"),
    ];
    (cells, colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_line_with_what_comes_next() {
        let now = Timestamp::from_millis(1_749_997_928_000);
        let due = prost_types::Timestamp { seconds: now.as_seconds() + 300, nanos: 0 };
        let delivery =
            v1::Delivery { attempt_count: 2, next_attempt_time: Some(due), ..v1::Delivery::default() };
        let one = v1::DestinationExplanation {
            destination_id: "dst_1".into(),
            display_name: "analytics".into(),
            verdict: EventVerdict::Waiting.into(),
            explanation: "the next retry is not due".into(),
            delivery: Some(delivery),
            ..v1::DestinationExplanation::default()
        };
        let answer = v1::ExplainEventResponse { explanations: vec![one], ..Default::default() };
        let text = text(&answer, Paint::new(false), now);
        let line = text.lines().last().unwrap();
        assert_eq!(
            line,
            "dst_1        analytics  waiting  2         -     in 5 min  the next retry is not due"
        );
    }
}
