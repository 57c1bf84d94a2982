//! The machine's clock jumps while deliveries are under way: nothing is lost, nothing is sent twice, and no storm
//! of requests follows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::tests::{HOST, Stage, no_jitter};
use super::*;
use crate::clock::{Clock, TokioClock};
use crate::domain::contract::Contract;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::id::DeliveryId;
use crate::transport::scripted::{ScriptedTransport, answered};

const HOUR: Duration = Duration::from_secs(3600);

/// Follows tokio's time, and jumps when it is told to.
struct JumpingClock {
    steady: TokioClock,
    ahead_millis: AtomicI64,
}

impl JumpingClock {
    fn jump(&self, millis: i64) {
        self.ahead_millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let steady = self.steady.now().as_millis();
        Timestamp::from_millis(steady + self.ahead_millis.load(Ordering::SeqCst))
    }
}

/// Deliveries that failed once and wait, ones that are in flight, and the clock.
struct Scene {
    stage: Stage,
    transport: Arc<ScriptedTransport>,
    clock: Arc<JumpingClock>,
    destination: DestinationId,
    ids: Vec<DeliveryId>,
}

impl Scene {
    async fn set() -> Self {
        let clock = Arc::new(JumpingClock {
            steady: TokioClock::starting_at(super::tests::START),
            ahead_millis: AtomicI64::new(0),
        });
        let transport = Arc::new(ScriptedTransport::new());
        let stage =
            Stage::on_clock(Arc::<ScriptedTransport>::clone(&transport), Arc::<JumpingClock>::clone(&clock));
        let destination = stage.destination(Contract::Workspace, no_jitter(Contract::Workspace)).await;
        (0..6).for_each(|_| transport.push(HOST, answered(503)));
        let mut scene = Self { stage, transport, clock, destination, ids: Vec::new() };
        scene.emit(6).await;
        while scene.waiting().await < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        scene.transport.hold();
        scene.emit(6).await;
        while scene.transport.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        scene
    }

    async fn emit(&mut self, count: usize) {
        for _ in 0..count {
            self.ids.push(self.stage.emit(self.destination).await);
        }
    }

    /// How many have failed and wait for their next attempt.
    async fn waiting(&self) -> usize {
        let mut waiting = 0;
        for id in &self.ids {
            let delivery =
                crate::store::DeliveryStore::delivery(&*self.stage.store, *id).await.unwrap().unwrap();
            let waits = matches!(delivery.state, DeliveryState::Waiting { .. });
            waiting += usize::from(waits && delivery.attempt_count > 0);
        }
        waiting
    }

    /// All have succeeded, with these attempts; answers the last of them.
    async fn all_arrive(&self, attempts: &[u32]) -> Vec<Delivery> {
        let mut all = Vec::new();
        for (id, expected) in self.ids.iter().zip(attempts) {
            let delivery = self.stage.finished(*id).await;
            assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{delivery:?}");
            assert_eq!(delivery.attempt_count, *expected, "{delivery:?}");
            all.push(delivery);
        }
        // What was sent is what is on record: no request too many.
        let requests = self.transport.requests().len();
        assert_eq!(requests, attempts.iter().sum::<u32>() as usize);
        all
    }
}

/// The first six failed once; all others succeed at once.
fn attempts(count: usize) -> Vec<u32> {
    (0..count).map(|number| if number < 6 { 2 } else { 1 }).collect()
}

#[tokio::test(start_paused = true)]
async fn an_hour_forward_sends_what_waits_once_and_not_all_at_a_time() {
    let mut scene = Scene::set().await;
    scene.clock.jump(3_600_000);
    scene.emit(6).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let at_once = scene.transport.in_flight();
    assert!((1..=10).contains(&at_once), "{at_once}: no more than the lane's width");
    scene.transport.release();
    scene.all_arrive(&attempts(18)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_back_holds_up_no_new_event_and_retries_come_when_the_clock_says_so() {
    let mut scene = Scene::set().await;
    let before = tokio::time::Instant::now();
    scene.clock.jump(-3_600_000);
    scene.transport.release();
    scene.emit(6).await;
    for id in &scene.ids[6..] {
        scene.stage.finished(*id).await;
    }
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    let all = scene.all_arrive(&attempts(18)).await;
    assert!(before.elapsed() < HOUR + Duration::from_secs(120), "{:?}", before.elapsed());
    let keys: BTreeMap<_, _> = all.iter().map(|delivery| (delivery.id.event_key, ())).collect();
    let order: Vec<_> = all.iter().map(|delivery| delivery.id.event_key).collect();
    assert!(keys.len() == all.len() && order.is_sorted(), "keys grow, whatever the clock says");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_to_and_fro_doubles_nothing() {
    let mut scene = Scene::set().await;
    scene.transport.release();
    for round in 0..20 {
        scene.clock.jump(if round % 2 == 0 { 3_600_000 } else { -3_600_000 });
        scene.emit(3).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    scene.all_arrive(&attempts(72)).await;
}
