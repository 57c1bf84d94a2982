//! One bad destination, or a thousand, beside a healthy one: on paused time, with a transport whose hosts
//! behave as their names say.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;

use super::tests::{START, Stage};
use super::*;
use crate::contract::RenderedRequest;
use crate::domain::attempt::Failure;
use crate::domain::circuit::CircuitState;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::id::DeliveryId;
use crate::store::{DeliveryStore, Store};
use crate::transport::scripted::{answered, no_answer};
use crate::transport::{SendOptions, Sent, Transport};

/// Answers by the name of the host: `silent` never, `slow` after five seconds, `refused` at once with a
/// refusal while it is down, and any other after five milliseconds.
#[derive(Default)]
struct Hosts {
    down: Mutex<bool>,
    open: Mutex<HashMap<String, usize>>,
    most: Mutex<HashMap<String, usize>>,
    sent: Mutex<Vec<(String, tokio::time::Instant)>>,
}

impl Hosts {
    fn count(&self, kind: &str, change: impl FnOnce(&mut usize)) {
        let mut open = self.open.lock().unwrap();
        let now = open.entry(kind.to_owned()).or_default();
        change(now);
        let mut most = self.most.lock().unwrap();
        let most = most.entry(kind.to_owned()).or_default();
        *most = (*most).max(*now);
    }

    fn most(&self, kind: &str) -> usize {
        self.most.lock().unwrap().get(kind).copied().unwrap_or_default()
    }

    fn sent_to(&self, kind: &str) -> usize {
        self.sent.lock().unwrap().iter().filter(|(sent, _)| sent == kind).count()
    }

    fn set_down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }
}

#[async_trait]
impl Transport for Hosts {
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent {
        let host = request.url().host_str().unwrap_or_default();
        let kind = host.split('.').next().unwrap_or_default().to_owned();
        self.sent.lock().unwrap().push((kind.clone(), tokio::time::Instant::now()));
        self.count(&kind, |open| *open += 1);
        let down = *self.down.lock().unwrap();
        let sent = match kind.as_str() {
            "silent" => {
                tokio::time::sleep(options.timeout).await;
                no_answer(Failure::Timeout, "no answer in time")
            }
            "slow" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                answered(200)
            }
            "refused" if down => no_answer(Failure::Refused, "connection refused"),
            _ => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                answered(200)
            }
        };
        self.count(&kind, |open| *open -= 1);
        sent
    }
}

fn set(max_in_flight: usize) -> (Stage, Arc<Hosts>) {
    let hosts = Arc::new(Hosts::default());
    let transport: Arc<dyn Transport> = Arc::<Hosts>::clone(&hosts);
    (Stage::with(transport, |options| options.max_in_flight = max_in_flight), hosts)
}

/// Emits one event after the other and says how long the slowest took to be delivered.
async fn slowest_of(stage: &Stage, id: DestinationId, events: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..events {
        let begun = tokio::time::Instant::now();
        let delivery = stage.emit(id).await;
        until(stage, delivery, |state| matches!(state, DeliveryState::Succeeded { .. })).await;
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    slowest
}

async fn until(stage: &Stage, id: DeliveryId, is_reached: impl Fn(&DeliveryState) -> bool) {
    for _ in 0..1_000_000 {
        if is_reached(&stage.store.delivery(id).await.unwrap().unwrap().state) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{id} did not get there");
}

/// So many destinations of that kind, each of an organization of its own, with events waiting for each.
async fn crowd(stage: &Stage, kind: &str, count: usize, events: usize) {
    for number in 0..count {
        let organization = format!("{kind}-{number}");
        let id = stage.destination_at(&organization, &format!("{kind}.example"), number).await;
        for _ in 0..events {
            stage.emit(id).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_destination_is_as_quick_beside_a_thousand_that_never_answer_and_that_nobody_knows() {
    let (stage, hosts) = set(256);
    let healthy = stage.destination_at("healthy", "healthy.example", 5000).await;
    let alone = slowest_of(&stage, healthy, 50).await;
    crowd(&stage, "silent", 1000, 5).await;
    let beside = slowest_of(&stage, healthy, 600).await;
    assert!(beside <= alone + Duration::from_millis(3), "alone {alone:?}, beside {beside:?}");
    assert!(hosts.most("silent") <= 192, "{} at most of 256", hosts.most("silent"));
}

#[tokio::test(start_paused = true)]
async fn a_healthy_destination_is_as_quick_beside_a_thousand_slow_ones() {
    let (stage, hosts) = set(256);
    let healthy = stage.destination_at("healthy", "healthy.example", 5000).await;
    let alone = slowest_of(&stage, healthy, 50).await;
    crowd(&stage, "slow", 1000, 5).await;
    let beside = slowest_of(&stage, healthy, 600).await;
    assert!(beside <= alone + Duration::from_millis(3), "alone {alone:?}, beside {beside:?}");
    assert!(hosts.most("slow") <= 192, "{} at most of 256", hosts.most("slow"));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_its_turn_in_a_second_though_another_organization_has_a_thousand_dead() {
    let (stage, _) = set(256);
    for number in 0..1000 {
        let id = stage.destination_at("large", "silent.example", number).await;
        stage.emit(id).await;
    }
    // All room for newcomers is taken, and none of it answers.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let newcomer = stage.destination_at("small", "healthy.example", 5000).await;
    let first = slowest_of(&stage, newcomer, 1).await;
    assert!(first <= Duration::from_secs(2), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_its_turn_in_seconds_beside_a_thousand_of_as_many_organizations_that_never_answer() {
    let (stage, hosts) = set(256);
    crowd(&stage, "silent", 1000, 3).await;
    // At several moments: during the rush, when the room is full, and before the first has timed out.
    for (number, pause) in [100, 2000, 4000, 7000].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let newcomer = format!("small-{number}");
        let newcomer = stage.destination_at(&newcomer, "healthy.example", 5000 + number).await;
        let first = slowest_of(&stage, newcomer, 1).await;
        assert!(first <= Duration::from_secs(3), "{number}: {first:?}");
    }
    assert!(hosts.most("silent") <= 192, "{} at most of 256", hosts.most("silent"));
}

#[tokio::test(start_paused = true)]
async fn organizations_get_the_same_however_many_destinations_they_have() {
    // Room for four: two for slow ones.
    let (stage, hosts) = set(4);
    for number in 0..50 {
        let id = stage.destination_at("large", "slow.example", number).await;
        for _ in 0..20 {
            stage.emit(id).await;
        }
    }
    let small = stage.destination_at("small", "slow.small.example", 5000).await;
    let mut last = stage.emit(small).await;
    for _ in 0..4 {
        last = stage.emit(small).await;
    }
    until(&stage, last, |state| matches!(state, DeliveryState::Succeeded { .. })).await;
    let all = hosts.sent_to("slow");
    assert!(all <= 30, "the small organization's five were among the first {all}");
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_holds_probes_closes_and_is_read_back() {
    let (stage, hosts) = set(256);
    hosts.set_down(true);
    let id = stage.destination_at("org", "refused.example", 1).await;
    let mut deliveries = Vec::new();
    for _ in 0..30 {
        deliveries.push(stage.emit(id).await);
    }
    let status = Arc::clone(&stage.store.directory().destination(id).unwrap().status);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lane = status.lane();
    assert_eq!((lane.circuit, lane.concurrency, hosts.sent_to("refused")), (CircuitState::Open, 1, 10));
    let wait = lane.next_probe_at.unwrap().since(START);
    assert!((Duration::from_secs(4)..=Duration::from_secs(5)).contains(&wait), "{wait:?}");

    // Ten minutes of probes: each fails, and they lie further and further apart.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let probes = hosts.sent_to("refused") - 10;
    assert!((6..=14).contains(&probes), "{probes} probes and retries of the scout");
    let held = stage.store.delivery(*deliveries.last().unwrap()).await.unwrap().unwrap();
    assert_eq!(held.attempt_count, 0, "a delivery that is held makes no attempt");
    assert!(matches!(held.state, DeliveryState::Waiting { .. }));

    hosts.set_down(false);
    for delivery in deliveries {
        until(&stage, delivery, |state| matches!(state, DeliveryState::Succeeded { .. })).await;
    }
    assert_eq!(status.lane().circuit, CircuitState::Closed);
    assert_eq!(status.health().consecutive_failures, 0);
}

/// That the delivery was dropped, and after how many attempts.
async fn attempts_until_lossy(stage: &Stage, id: DeliveryId) -> u32 {
    let delivery = stage.finished(id).await;
    let is_lossy = matches!(delivery.state, DeliveryState::Discarded { reason: EndReason::Lossy, .. });
    assert!(is_lossy, "{:?}", delivery.state);
    delivery.attempt_count
}

#[tokio::test(start_paused = true)]
async fn a_lossy_destination_drops_what_comes_while_it_is_down_and_gets_what_comes_after() {
    let (stage, hosts) = set(256);
    hosts.set_down(true);
    let id = stage.destination_at("org", "refused.example", 1).await;
    stage.change(id, |destination| destination.settings.lossy = Some(true)).await;
    // More than the window holds, and more than failures open the circuit; then some each minute of an outage.
    let mut deliveries = Vec::new();
    for _ in 0..40 {
        deliveries.push(stage.emit(id).await);
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        for _ in 0..3 {
            deliveries.push(stage.emit(id).await);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut waiting = 0;
        for delivery in &deliveries {
            let state = stage.store.delivery(*delivery).await.unwrap().unwrap().state;
            waiting += u32::from(matches!(state, DeliveryState::Waiting { .. }));
        }
        assert!(waiting <= 1, "{waiting} wait during the outage");
    }
    // The newest may still be the probe that finds it up again.
    let last = deliveries.pop().unwrap();
    let mut attempts = Vec::new();
    for delivery in deliveries {
        attempts.push(attempts_until_lossy(&stage, delivery).await);
    }
    assert!(attempts.iter().all(|attempts| *attempts <= 1), "{attempts:?}");
    // Ten failures open the circuit, and the newest of the others is the probe.
    let first: u32 = attempts.iter().take(40).sum();
    assert!((10..=15).contains(&first), "{attempts:?}");
    assert!(attempts.iter().skip(40).any(|attempts| *attempts == 0), "{attempts:?}");
    hosts.set_down(false);
    let after = stage.emit(id).await;
    until(&stage, after, |state| matches!(state, DeliveryState::Succeeded { .. })).await;
    assert!(stage.finished(last).await.attempt_count <= 1);
    for _ in 0..20 {
        let delivery = stage.emit(id).await;
        until(&stage, delivery, |state| matches!(state, DeliveryState::Succeeded { .. })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn first_attempts_of_others_do_not_wait_behind_a_storm_of_retries() {
    let (stage, hosts) = set(16);
    hosts.set_down(true);
    crowd(&stage, "refused", 100, 20).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let newcomer = stage.destination_at("newcomer", "healthy.example", 5000).await;
    let slowest = slowest_of(&stage, newcomer, 100).await;
    assert!(slowest <= Duration::from_millis(20), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_retries_at_others_of_its_organization_delays_no_first_attempt_of_a_healthy_destination() {
    let (stage, hosts) = set(16);
    hosts.set_down(true);
    for number in 0..100 {
        let id = stage.destination_at("org", "refused.example", number).await;
        for _ in 0..20 {
            stage.emit(id).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let healthy = stage.destination_at("org", "healthy.example", 5000).await;
    let before = hosts.sent_to("refused");
    let slowest = slowest_of(&stage, healthy, 600).await;
    assert!(slowest <= Duration::from_millis(20), "{slowest:?}");
    let retries = hosts.sent_to("refused") - before;
    assert!(retries > 200, "{retries} are no storm");
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_and_recovers_every_delivery_ends_and_none_succeeds_twice() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (stage, hosts) = set(8);
    let kinds = ["refused", "healthy", "slow", "refused", "silent"];
    let mut ids = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        let organization = format!("org-{}", number % 2);
        ids.push(stage.destination_at(&organization, &format!("{kind}.example"), number).await);
    }
    let mut deliveries = Vec::new();
    for _ in 0..300 {
        hosts.set_down(random.u8(0..3) == 0);
        deliveries.push(stage.emit(ids[random.usize(0..ids.len())]).await);
        tokio::time::sleep(Duration::from_millis(random.u64(0..3000))).await;
    }
    hosts.set_down(false);
    for id in deliveries {
        let delivery = stage.finished(id).await;
        let successes = delivery.attempts.iter().filter(|attempt| attempt.outcome.is_success()).count();
        let silent = id.destination_id == ids[4];
        assert_eq!(successes, usize::from(!silent), "seed {seed}: {:?}", delivery.state);
        assert_eq!(delivery.attempts.len(), delivery.attempt_count as usize, "seed {seed}");
    }
}

/// At five a second.
fn sent_in(time: Duration) -> usize {
    usize::try_from(time.as_millis() / 200).unwrap()
}

#[tokio::test(start_paused = true)]
async fn many_destinations_at_one_host_together_are_as_fast_as_the_rate_of_the_host_and_others_wait_for_nobody()
 {
    let hosts = Arc::new(Hosts::default());
    let transport: Arc<dyn Transport> = Arc::<Hosts>::clone(&hosts);
    let stage = Stage::with_host_rate(transport, 5);
    let begun = tokio::time::Instant::now();
    let mut aimed = Vec::new();
    for number in 0..50 {
        let id = stage.destination_at("bad", "victim.example", number).await;
        aimed.push((id, stage.emit(id).await));
    }
    let other_host = stage.destination_at("bad", "healthy.example", 100).await;
    let other_organization = stage.destination_at("good", "victim.example", 101).await;
    for id in [other_host, other_organization] {
        assert!(slowest_of(&stage, id, 1).await < Duration::from_millis(100));
    }
    // A second's worth at once, then five a second; whoever waits shows it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = hosts.sent_to("victim") - 1;
    assert!((7..=6 + sent_in(begun.elapsed())).contains(&sent), "{sent}");
    let status = |id: &DestinationId| stage.store.directory().destination(*id).unwrap().status.lane();
    let waiting = aimed.iter().filter(|(id, _)| status(id).host_turn_at.is_some()).count();
    assert_eq!(waiting, 50 - sent);
    for (_, delivery) in &aimed {
        assert_eq!(
            stage.finished(*delivery).await.attempt_count,
            1,
            "held back, and neither failed nor doubled"
        );
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(12), "{took:?}");
    assert_eq!(hosts.sent_to("victim"), 51);
    assert!(aimed.iter().all(|(id, _)| status(id).host_turn_at.is_none()));
}
