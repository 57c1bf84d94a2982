//! The retry policy: what is set by the API reads back, is in force, and is bounded where receivers may ask for more.

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::retry_policy::Schedule;
use signalpost::receiver::Answer;

use crate::harness::{DestinationDraft, Receiver, Server, destination, event, millis};

/// The longest wait that a receiver can ask for, in seconds.
const LONGEST_ASKED: i64 = 3600;

fn observer(url: impl Into<String>) -> DestinationDraft {
    destination(Contract::Observer).url(url)
}

fn fixed() -> v1::RetryPolicy {
    let delays = [millis(1500), millis(60_000), millis(86_400_000)].into();
    v1::RetryPolicy {
        schedule: Some(Schedule::Fixed(v1::FixedDelays { delays })),
        max_attempts: Some(3),
        give_up_after: Some(millis(30 * 86_400_000)),
        jitter: Some(0.25),
        final_status_codes: vec![400, 404, 599],
    }
}

fn exponential() -> v1::RetryPolicy {
    let (base, cap) = (Some(millis(250)), Some(millis(7_200_000)));
    v1::RetryPolicy {
        schedule: Some(Schedule::Exponential(v1::ExponentialBackoff { base, factor: Some(3.5), cap })),
        max_attempts: Some(12),
        give_up_after: Some(millis(86_400_000)),
        jitter: Some(1.0),
        final_status_codes: vec![410, 422],
    }
}

/// All that decides when a delivery is attempted again, and when nothing is any more.
fn with_all(policy: v1::RetryPolicy) -> impl FnOnce(&mut v1::DeliverySettings) {
    move |settings| {
        settings.retry_policy = Some(policy);
        settings.timeout = Some(millis(7000));
        settings.discard_after = Some(millis(3 * 86_400_000));
        settings.disable_after = Some(millis(5 * 86_400_000));
        settings.disable_on_gone = Some(true);
    }
}

#[tokio::test]
async fn every_part_of_a_retry_policy_reads_back_as_it_was_set_and_is_in_force() {
    let mut server = Server::start().await;
    let mut created = Vec::new();
    for policy in [fixed(), exponential()] {
        let draft = observer("https://example.com/").settings(with_all(policy.clone()));
        created.push((policy, server.create(draft).await.destination_id));
    }
    for restarted in [false, true] {
        if restarted {
            server.restart().await;
        }
        for (policy, id) in &created {
            let destination = server.get(id).await;
            let (set, in_force) =
                (destination.settings.unwrap(), destination.effective_policy.unwrap().settings.unwrap());
            for settings in [set, in_force] {
                assert_eq!(settings.retry_policy.as_ref(), Some(policy));
                assert_eq!(settings.timeout, Some(millis(7000)));
                assert_eq!(settings.discard_after, Some(millis(3 * 86_400_000)));
                assert_eq!(settings.disable_after, Some(millis(5 * 86_400_000)));
                assert_eq!(settings.disable_on_gone, Some(true));
            }
        }
    }
}

#[tokio::test]
async fn the_delays_in_force_are_told_as_a_list_and_one_policy_replaces_the_other_as_a_whole() {
    let server = Server::start().await;
    let draft = observer("https://example.com/").settings(with_all(exponential()));
    let mut destination = server.create(draft).await;
    let delays = destination.effective_policy.clone().unwrap().retry_delays;
    assert_eq!(
        delays[..3],
        [millis(250), millis(875), prost_types::Duration { seconds: 3, nanos: 62_500_000 }]
    );
    assert_eq!((delays.len(), delays.last()), (11, Some(&millis(7_200_000))));
    destination.settings.as_mut().unwrap().retry_policy = Some(fixed());
    let updated = server.update(destination, &["settings.retry_policy"]).await;
    assert_eq!(updated.settings.unwrap().retry_policy, Some(fixed()));
    // Three attempts in all, so two of the three delays.
    assert_eq!(updated.effective_policy.unwrap().retry_delays, [millis(1500), millis(60_000)]);
}

#[tokio::test]
async fn a_status_is_final_only_where_the_policy_says_so() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let policy = v1::RetryPolicy { max_attempts: Some(2), ..fixed() };
    let draft = observer(receiver.url("/hook")).settings(with_all(policy)).settings(|settings| {
        let Some(Schedule::Fixed(fixed)) = &mut settings.retry_policy.as_mut().unwrap().schedule else {
            return;
        };
        fixed.delays = vec![millis(10)];
    });
    server.create(draft).await;
    for (status, attempts) in [(404, 1), (400, 1), (403, 2), (500, 2)] {
        receiver.always_answers("/hook", StatusCode::from_u16(status).unwrap());
        let emitted = server.emit(event("agent.offline")).await;
        let delivery = server.until(&emitted.event_id, v1::DeliveryState::DeadLettered).await;
        assert_eq!(delivery.attempt_count, attempts, "{status}");
        let reason = if attempts == 1 {
            v1::DeliveryReason::FinalStatus
        } else {
            v1::DeliveryReason::AttemptsExhausted
        };
        assert_eq!(delivery.reason(), reason, "{status}");
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_day_is_asked_again_within_an_hour_and_both_can_be_read() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(receiver.url("/hook")).retry_after(&[10])).await;
    let busy = Answer::from(StatusCode::TOO_MANY_REQUESTS);
    receiver.always_answers("/hook", busy.with_header(RETRY_AFTER, HeaderValue::from_static("86400")));
    let emitted = server.emit(event("agent.offline")).await;
    receiver.first("/hook").await;
    let delivery = crate::harness::eventually("the attempt is on the record", async || {
        server.deliveries_of(&emitted.event_id).await.pop().filter(|one| one.attempt_count == 1)
    })
    .await;
    let delivery = server.delivery(&delivery.delivery_id).await;
    let attempt = &delivery.attempts[0];
    assert_eq!(attempt.retry_after.map(|asked| asked.seconds), Some(86_400));
    let wait = delivery.next_attempt_time.unwrap().seconds - attempt.start_time.unwrap().seconds;
    assert!((LONGEST_ASKED - 1..=LONGEST_ASKED + 60).contains(&wait), "{wait} s");
}
