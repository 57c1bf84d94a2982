//! Replays: of dead letters, of what succeeded, and of what a destination missed.

use std::collections::BTreeMap;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::domain::time::Timestamp;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::replay_dead_letters_request::Selection as DeadLetters;
use signalpost::grpc::proto::v1::replay_deliveries_request::Selection;
use tonic::Code;

use crate::harness::{
    DestinationDraft, ORGANIZATION, Receiver, Refusal, Server, destination, event, eventually, header,
};

const BROKEN: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

fn observer(receiver: &Receiver, path: &str) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url(path)).one_attempt()
}

/// A server whose circuits stay closed, so that many dead letters are made at once.
async fn start() -> Server {
    Server::with(&[("delivery.circuit_opens_after", "1000")]).await
}

/// So many events that have become dead letters.
async fn dead_letters(server: &Server, receiver: &Receiver, path: &str, count: usize) -> Vec<String> {
    receiver.always_answers(path, BROKEN);
    let mut emitted = Vec::new();
    for _ in 0..count {
        emitted.push(server.emit(event("agent.offline")).await.event_id);
    }
    for event_id in &emitted {
        server.until(event_id, v1::DeliveryState::DeadLettered).await;
    }
    receiver.recovers(path);
    emitted.sort();
    emitted
}

/// How often each event came on a path, after so many requests.
fn arrivals(receiver: &Receiver, path: &str, after: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in receiver.got(path).iter().skip(after) {
        *counts.entry(header(request, "signalpost-event-id").to_owned()).or_default() += 1;
    }
    counts
}

fn once(event_ids: &[String]) -> BTreeMap<String, usize> {
    event_ids.iter().map(|id| (id.clone(), 1)).collect()
}

fn seconds(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn of(destination: &v1::Destination) -> DeadLetters {
    let destination_id = destination.destination_id.clone();
    DeadLetters::Filter(v1::DeliveryFilter { destination_id, ..v1::DeliveryFilter::default() })
}

fn missed() -> Selection {
    Selection::Missed(v1::MissedEvents { start_time: seconds(0), ..v1::MissedEvents::default() })
}

fn succeeded() -> Selection {
    let end_time = seconds(100_000_000_000);
    Selection::Succeeded(v1::SucceededDeliveries {
        start_time: seconds(0),
        end_time,
        event_types: Vec::new(),
    })
}

impl Server {
    async fn replay_dead(
        &self,
        selection: DeadLetters,
        (pace, validate_only): (Option<i32>, bool),
    ) -> Result<v1::Replay, Refusal> {
        let request = v1::ReplayDeadLettersRequest {
            organization_id: ORGANIZATION.into(),
            selection: Some(selection),
            deliveries_per_second: pace,
            validate_only,
        };
        Ok(self.deliveries().replay_dead_letters(request).await?.into_inner().replay.unwrap())
    }

    async fn replay_to(
        &self,
        destination_id: &str,
        selection: Selection,
        (pace, validate_only): (Option<i32>, bool),
    ) -> Result<v1::Replay, Refusal> {
        let request = v1::ReplayDeliveriesRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.into(),
            selection: Some(selection),
            deliveries_per_second: pace,
            validate_only,
        };
        Ok(self.deliveries().replay_deliveries(request).await?.into_inner().replay.unwrap())
    }

    async fn try_get_replay(&self, replay_id: &str) -> Result<v1::Replay, Refusal> {
        let organization_id = ORGANIZATION.into();
        let request = v1::GetReplayRequest { organization_id, replay_id: replay_id.into() };
        Ok(self.deliveries().get_replay(request).await?.into_inner().replay.unwrap())
    }

    async fn try_cancel_replay(&self, replay_id: &str) -> Result<v1::Replay, Refusal> {
        let organization_id = ORGANIZATION.into();
        let request = v1::CancelReplayRequest { organization_id, replay_id: replay_id.into() };
        Ok(self.deliveries().cancel_replay(request).await?.into_inner().replay.unwrap())
    }

    /// The replay, once it is as described.
    async fn until_replay(
        &self,
        replay_id: &str,
        what: &str,
        is_so: impl Fn(&v1::Replay) -> bool,
    ) -> v1::Replay {
        let ask = async || Some(self.try_get_replay(replay_id).await.unwrap()).filter(&is_so);
        eventually(what, ask).await
    }

    async fn completed(&self, replay_id: &str) -> v1::Replay {
        let is_over = |replay: &v1::Replay| {
            replay.state() == v1::ReplayState::Completed
                && replay.succeeded_count + replay.failed_count == replay.replayed_count
        };
        self.until_replay(replay_id, "all that was replayed has ended", is_over).await
    }
}

#[tokio::test]
async fn replaying_all_puts_every_dead_letter_back_once_and_validate_only_counts() {
    let (server, receiver) = (start().await, Receiver::start().await);
    server.create(observer(&receiver, "/hook")).await;
    let emitted = dead_letters(&server, &receiver, "/hook", 5).await;
    let checked = server.replay_dead(DeadLetters::All(true), (None, true)).await.unwrap();
    assert_eq!((checked.total_count, checked.replay_id.as_str()), (5, ""));
    assert_eq!(checked.state(), v1::ReplayState::Unspecified);
    assert_eq!(server.dead_letters().await.len(), 5);
    let replay = server.replay_dead(DeadLetters::All(true), (None, false)).await.unwrap();
    assert_eq!((replay.state(), replay.deliveries_per_second), (v1::ReplayState::Running, 100));
    assert!(replay.replay_id.starts_with("rpl_") && replay.replay_id.len() == 30, "{}", replay.replay_id);
    let done = server.completed(&replay.replay_id).await;
    assert_eq!((done.total_count, done.replayed_count, done.skipped_count), (5, 5, 0));
    assert_eq!((done.succeeded_count, done.failed_count, done.counting), (5, 0, false));
    assert!(done.finish_time.is_some() && done.error.is_empty());
    assert_eq!(arrivals(&receiver, "/hook", 5), once(&emitted));
    let rest = server.replay_dead(DeadLetters::All(true), (None, false)).await.unwrap();
    assert_eq!(server.completed(&rest.replay_id).await.total_count, 0);
}

#[tokio::test]
async fn one_replay_at_a_time_runs_for_a_destination_and_cancelling_stops_it() {
    let (server, receiver) = (start().await, Receiver::start().await);
    let busy = server.create(observer(&receiver, "/hook")).await;
    dead_letters(&server, &receiver, "/hook", 4).await;
    let idle = server.create(observer(&receiver, "/idle")).await;
    let replay = server.replay_dead(of(&busy), (Some(1), false)).await.unwrap();
    for refusal in [
        server.replay_dead(of(&busy), (None, false)).await.unwrap_err(),
        server.replay_dead(DeadLetters::All(true), (None, false)).await.unwrap_err(),
        server.replay_to(&busy.destination_id, missed(), (None, false)).await.unwrap_err(),
    ] {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "REPLAY_RUNNING"));
        assert_eq!(refusal.metadata["replay_id"], replay.replay_id);
    }
    server.replay_dead(of(&idle), (None, false)).await.unwrap();
    receiver.wait_for("/hook", 5).await;
    let cancelled = server.try_cancel_replay(&replay.replay_id).await.unwrap();
    assert_eq!(cancelled.state(), v1::ReplayState::Cancelled);
    let again = server.try_cancel_replay(&replay.replay_id).await.unwrap();
    assert_eq!((again.state(), again.finish_time), (cancelled.state(), cancelled.finish_time));
    let left = server.dead_letters().await.len();
    assert_eq!(i64::try_from(4 - left).unwrap(), cancelled.replayed_count);
    assert!(left > 0, "one a second is slower than this");
    let rest = server.replay_dead(of(&busy), (None, false)).await.unwrap();
    server.completed(&rest.replay_id).await;
    let refusal = server.try_cancel_replay(&rest.replay_id).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "REPLAY_FINISHED"));
    assert_eq!(refusal.metadata["state"], "COMPLETED");
    assert_eq!(arrivals(&receiver, "/hook", 4).into_values().collect::<Vec<_>>(), [1; 4]);
}

#[tokio::test]
async fn a_restart_goes_on_with_a_replay_and_doubles_nothing() {
    let (mut server, receiver) = (start().await, Receiver::start().await);
    server.create(observer(&receiver, "/hook")).await;
    let emitted = dead_letters(&server, &receiver, "/hook", 30).await;
    let replay = server.replay_dead(DeadLetters::All(true), (Some(20), false)).await.unwrap();
    for count in [33, 40] {
        receiver.wait_for("/hook", count).await;
        server.restart().await;
    }
    let done = server.completed(&replay.replay_id).await;
    assert_eq!((done.total_count, done.replayed_count, done.succeeded_count), (30, 30, 30));
    assert_eq!((done.create_time, done.started_by), (replay.create_time, replay.started_by));
    assert_eq!(arrivals(&receiver, "/hook", 30), once(&emitted));
}

#[tokio::test]
async fn a_destination_gets_what_it_missed_also_from_before_it_was_created() {
    let (server, receiver) = (start().await, Receiver::start().await);
    let mut emitted = Vec::new();
    for _ in 0..3 {
        emitted.push(server.emit(event("agent.offline")).await.event_id);
        server.emit(event("metric.no_data")).await;
    }
    let late = server.create(observer(&receiver, "/late").include(&["agent.offline"])).await;
    receiver.will_answer("/late", [BROKEN]);
    emitted.push(server.emit(event("agent.offline")).await.event_id);
    server.until(&emitted[3], v1::DeliveryState::DeadLettered).await;
    let routed = server.emit(event("agent.offline")).await.event_id;
    server.until(&routed, v1::DeliveryState::Succeeded).await;
    let checked = server.replay_to(&late.destination_id, missed(), (None, true)).await.unwrap();
    assert_eq!((checked.total_count, checked.kind()), (4, v1::ReplayKind::Missed));
    let replay = server.replay_to(&late.destination_id, missed(), (None, false)).await.unwrap();
    assert_eq!(replay.destination_id, late.destination_id);
    let done = server.completed(&replay.replay_id).await;
    assert_eq!((done.total_count, done.replayed_count, done.succeeded_count), (4, 4, 4));
    emitted.sort();
    assert_eq!(arrivals(&receiver, "/late", 2), once(&emitted));
    let delivery = server.until(&emitted[0], v1::DeliveryState::Succeeded).await;
    assert_eq!(delivery.attempts.last().unwrap().trigger(), v1::AttemptTrigger::Replay);
    let again = server.replay_to(&late.destination_id, missed(), (None, false)).await.unwrap();
    assert_eq!(server.completed(&again.replay_id).await.total_count, 0);
    assert_eq!(receiver.got("/late").len(), 6);
}

#[tokio::test]
async fn a_destination_that_was_created_later_gets_all_that_it_missed_since_a_moment_and_nothing_from_before_it()
 {
    let (server, receiver) = (start().await, Receiver::start().await);
    let before = server.emit(event("agent.offline")).await;
    let since = eventually("the clock has moved on", async || {
        let emitted = server.emit(event("agent.offline")).await;
        Some(emitted).filter(|emitted| emitted.accept_time != before.accept_time)
    })
    .await;
    let last = server.emit(event("agent.offline")).await;
    let late = server.create(observer(&receiver, "/late")).await;
    let missed = v1::MissedEvents { start_time: since.accept_time, ..v1::MissedEvents::default() };
    let selection = Selection::Missed(missed);
    let replay = server.replay_to(&late.destination_id, selection, (None, false)).await.unwrap();
    let done = server.completed(&replay.replay_id).await;
    assert_eq!((done.total_count, done.succeeded_count), (2, 2));
    let mut expected = [since.event_id, last.event_id];
    expected.sort();
    assert_eq!(arrivals(&receiver, "/late", 0), once(&expected));
}

#[tokio::test]
async fn a_succeeded_range_is_sent_once_more_by_each_call() {
    let (server, receiver) = (start().await, Receiver::start().await);
    let hook = server.create(observer(&receiver, "/hook")).await;
    let mut emitted = Vec::new();
    for _ in 0..3 {
        emitted.push(server.emit(event("agent.offline")).await.event_id);
        server.until(emitted.last().unwrap(), v1::DeliveryState::Succeeded).await;
    }
    emitted.sort();
    for round in [1, 2] {
        let replay = server.replay_to(&hook.destination_id, succeeded(), (None, false)).await.unwrap();
        assert_eq!(server.completed(&replay.replay_id).await.succeeded_count, 3);
        assert_eq!(arrivals(&receiver, "/hook", 3 * round), once(&emitted));
    }
}

#[tokio::test]
async fn replays_are_listed_latest_first_page_by_page_and_only_to_their_organization() {
    let (server, receiver) = (start().await, Receiver::start().await);
    let mut started = Vec::new();
    for path in ["/a", "/b", "/c"] {
        let one = server.create(observer(&receiver, path)).await;
        let replay = server.replay_dead(of(&one), (None, false)).await.unwrap();
        server.completed(&replay.replay_id).await;
        started.insert(0, replay.replay_id);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListReplaysRequest {
            organization_id: ORGANIZATION.into(),
            page_size: 2,
            page_token,
            states: vec![v1::ReplayState::Completed.into()],
        };
        let page = server.deliveries().list_replays(request).await.unwrap().into_inner();
        listed.extend(page.replays.into_iter().map(|replay| replay.replay_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, started);
    let (organization_id, replay_id) = ("org_other".to_owned(), started[0].clone());
    let request = v1::GetReplayRequest { organization_id, replay_id };
    let foreign: Refusal = server.deliveries().get_replay(request).await.unwrap_err().into();
    foreign.assert_not_found("replay", &started[0]);
    server.try_get_replay("rpl_nonsense").await.unwrap_err().assert_not_found("replay", "rpl_nonsense");
}

#[tokio::test]
async fn a_bad_replay_is_refused_with_all_that_is_wrong() {
    let (server, receiver) = (start().await, Receiver::start().await);
    let hook = server.create(observer(&receiver, "/hook")).await;
    let refusal = server.replay_dead(DeadLetters::All(false), (Some(0), false)).await.unwrap_err();
    assert_eq!(refusal.fields(), ["all", "deliveries_per_second"]);
    let range = v1::MissedEvents { start_time: seconds(9), end_time: seconds(9), ..Default::default() };
    let refusal =
        server.replay_to(&hook.destination_id, Selection::Missed(range), (None, false)).await.unwrap_err();
    assert_eq!((refusal.fields(), refusal.reason.as_str()), (vec!["missed.end_time"], "TIME_RANGE_INVALID"));
    let unknown = format!("dest_{}", "0".repeat(32));
    let refusal = server.replay_to(&unknown, missed(), (None, false)).await.unwrap_err();
    refusal.assert_not_found("destination", &unknown);
}

#[tokio::test]
async fn a_range_that_begins_before_what_is_retained_is_refused_with_a_beginning_that_works() {
    let (server, receiver) =
        (Server::with(&[("retention.history", r#""2s""#)]).await, Receiver::start().await);
    let made = server.create(observer(&receiver, "/hook")).await;
    server.emit(event("agent.offline").id("evt-1")).await;
    // The organization is younger than what is retained, so nothing is missing yet.
    server.replay_to(&made.destination_id, missed(), (None, true)).await.unwrap();
    for validate_only in [true, false] {
        let refusal = eventually("the first event is too old", async || {
            server.replay_to(&made.destination_id, missed(), (None, validate_only)).await.err()
        })
        .await;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::OutOfRange, "RETENTION_EXCEEDED"));
        let retained_from = Timestamp::parse_rfc3339(&refusal.metadata["retained_from"]).unwrap();
        let start_time = Some(prost_types::Timestamp { seconds: retained_from.as_seconds() + 1, nanos: 0 });
        let later = Selection::Missed(v1::MissedEvents { start_time, ..v1::MissedEvents::default() });
        server.replay_to(&made.destination_id, later, (None, true)).await.unwrap();
    }
}
