//! Callers: what they do in a storm, and how the operator restarts the service under them.

use std::time::Duration;

use super::Storm;
use super::chronicle::Ending;
use super::weather::Mood;
use super::wishes;
use crate::contract::effective_policy;
use crate::domain::contract::Contract;
use crate::domain::delivery::{CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::destination::{Destination, DestinationState, DisabledReason};
use crate::domain::event::{Acceptance, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, DestinationId, ReplayId};
use crate::domain::payload::Payload;
use crate::domain::replay::{Replay, ReplayKind, ReplayScope, ReplayState};
use crate::domain::secret::{SecretSource, SigningSecrets};
use crate::store::{
    DeliveryStore, DestinationStore, EventStore, ReplayStore, RetentionStore, Store, StoreError,
};

/// The largest data of an event here, in bytes.
const DATA_MAX: usize = 1500;

impl Storm {
    /// One thing that somebody does, and some time after it.
    pub(super) async fn act(&mut self) {
        match self.random.u8(0..64) {
            0..=33 => self.emit().await,
            34..=36 => self.cancel().await,
            37..=39 => self.resend().await,
            40 => self.delete_dead_letter().await,
            41 => self.erase().await,
            42 | 43 => self.replay().await,
            44 => self.cancel_replay().await,
            45..=48 => self.change_settings().await,
            49..=53 => self.switch().await,
            54 => self.lose_secret_or_find_it().await,
            55 => self.delete().await,
            56..=60 => self.turn_weather(),
            61 => self.restart(Ending::Stopped).await,
            62 => self.restart(Ending::Hurried).await,
            _ => self.restart(Ending::Killed).await,
        }
        self.pass_time().await;
    }

    /// Mostly moments; sometimes the rest of a schedule that goes on for days.
    async fn pass_time(&mut self) {
        let longest = match self.random.u8(0..100) {
            0..=69 => Duration::from_millis(400),
            70..=89 => Duration::from_secs(20),
            90..=96 => Duration::from_secs(30 * 60),
            _ => Duration::from_secs(100 * 60 * 60),
        };
        tokio::time::sleep(longest.mul_f64(self.random.f64())).await;
    }

    fn any_destination(&mut self) -> DestinationId {
        self.cast[self.random.usize(0..self.cast.len())]
    }

    /// Any one, or one of the latest events: those in a request or on their way to the store are among them.
    fn any_delivery(&mut self) -> Option<DeliveryId> {
        let record = self.ground.chronicle.read();
        let mut ids: Vec<DeliveryId> = record.fates.keys().copied().collect();
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(id.event_key));
        let latest = if self.random.bool() { ids.len() } else { ids.len().min(6) };
        (latest > 0).then(|| ids[self.random.usize(0..latest)])
    }

    async fn emit(&mut self) {
        let mut routes: Vec<Route> = Vec::new();
        for _ in 0..self.random.usize(1..3) {
            let destination_id = self.any_destination();
            let entry = self.ground.store.directory().destination(destination_id).unwrap();
            let is_new = routes.iter().all(|route| route.destination_id != destination_id);
            if is_new && entry.destination.state.is_routed_to() {
                let guarantee = effective_policy(&entry.destination).guarantee;
                routes.push(Route { destination_id, guarantee });
            }
        }
        let pad = "x".repeat(self.random.usize(0..DATA_MAX));
        let event = NewEvent {
            organization_id: super::organization(),
            event_id: None,
            event_type: EventType::parse("a.b").unwrap(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data: Payload::from_stored(format!(r#"{{"pad":"{pad}"}}"#).into()),
            routes,
        };
        let answers = self.ground.store.accept(vec![event]).await.unwrap();
        assert!(matches!(answers.as_slice(), [Acceptance::Accepted(_)]), "{answers:?}");
    }

    async fn cancel(&mut self) {
        let Some(id) = self.any_delivery() else { return };
        let into = DeliveryState::Cancelled { at: self.ground.clock.now() };
        self.ground.store.end(vec![id], StateKind::Waiting, into).await.unwrap();
    }

    async fn delete_dead_letter(&mut self) {
        let Some(id) = self.any_delivery() else { return };
        let (at, reason) = (self.ground.clock.now(), EndReason::DeadLetterDeleted);
        let into = DeliveryState::Discarded { at, reason };
        self.ground.store.end(vec![id], StateKind::DeadLettered, into).await.unwrap();
    }

    async fn resend(&mut self) {
        let Some(id) = self.any_delivery() else { return };
        // As callers may: not to what is disabled or gone.
        let entry = self.ground.store.directory().destination(id.destination_id);
        if entry.is_some_and(|entry| entry.destination.state.is_routed_to()) {
            let now = self.ground.clock.now();
            self.ground.store.requeue(vec![id], CycleCause::Resend, now).await.unwrap();
        }
    }

    async fn erase(&mut self) {
        let Some(id) = self.any_delivery() else { return };
        self.ground.chronicle.read().erased.insert(id.event_key);
        self.ground.store.erase_event(id.event_key, self.ground.clock.now()).await.unwrap();
    }

    async fn replay(&mut self) {
        let kinds = [ReplayKind::DeadLetters, ReplayKind::Succeeded, ReplayKind::Missed];
        let kind = kinds[self.random.usize(0..3)];
        let everywhere = kind == ReplayKind::DeadLetters && self.random.bool();
        let (event_types, event_key, until) = (Vec::new(), None, None);
        let now = self.ground.clock.now();
        let from = Some(now - Duration::from_secs(self.random.u64(1..30_000)));
        let destination_id = Some(self.any_destination()).filter(|_| !everywhere);
        let replay = Replay {
            id: ReplayId::make(now, std::array::from_fn(|_| self.random.u8(..))),
            organization_id: super::organization(),
            scope: ReplayScope { kind, destination_id, event_types, event_key, from, until },
            per_second: self.random.u32(1..100),
            started_by: "test".into(),
            created_at: now,
            state: ReplayState::Counting { after: None },
            total: 0,
            replayed: 0,
            succeeded: 0,
            failed: 0,
            skipped: 0,
        };
        match self.ground.store.create_replay(replay).await {
            Ok(_) | Err(StoreError::ReplayRunning(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn cancel_replay(&mut self) {
        let last = self.ground.chronicle.read().replays.last().copied();
        if let Some(id) = last {
            self.ground.store.cancel_replay(id, self.ground.clock.now()).await.unwrap();
        }
    }

    async fn change(&self, id: DestinationId, change: impl FnOnce(&mut Destination)) {
        let entry = self.ground.store.directory().destination(id).unwrap();
        let mut destination = Destination::clone(&entry.destination);
        change(&mut destination);
        self.ground.store.update_destination(destination, entry.destination.revision).await.unwrap();
    }

    async fn change_settings(&mut self) {
        let id = self.any_destination();
        let entry = self.ground.store.directory().destination(id).unwrap();
        let settings = wishes::settings(entry.destination.contract, &mut self.random);
        self.change(id, |destination| destination.settings = settings).await;
    }

    /// Pauses, disables or, mostly, resumes.
    async fn switch(&mut self) {
        let (id, since) = (self.any_destination(), self.ground.clock.now());
        let state = match self.random.u8(0..5) {
            0 => DestinationState::Paused { since },
            1 => DestinationState::Disabled { since, reason: DisabledReason::ByCaller },
            _ => DestinationState::Active,
        };
        self.change(id, |destination| destination.state = state).await;
    }

    /// A secret that can't be read keeps everything from being sent.
    async fn lose_secret_or_find_it(&mut self) {
        let id = self.any_destination();
        let missing = || SecretSource::EnvironmentVariable("SIGNALPOST_MISSING".into());
        let current = self.random.bool().then(missing);
        self.change(id, |destination| destination.signing = SigningSecrets { current, retiring: None }).await;
    }

    /// Deletes a destination, and another one takes its place.
    async fn delete(&mut self) {
        let place = self.random.usize(0..self.cast.len());
        self.ground.store.delete_destination(self.cast[place], None).await.unwrap();
        let contract = Contract::ALL[self.random.usize(0..Contract::ALL.len())];
        self.cast[place] = self.create(contract).await;
    }

    fn turn_weather(&mut self) {
        let (id, mood) = (self.any_destination(), Mood::ALL[self.random.usize(0..Mood::ALL.len())]);
        self.weather.turn(id, mood);
    }

    async fn restart(&mut self, ending: Ending) {
        let process = self.process.take().unwrap();
        self.ground.end(process, ending).await;
        tokio::time::sleep(Duration::from_secs(self.random.u64(0..120))).await;
        self.process = Some(self.ground.start().await);
    }

    /// Everything is switched on and answers, until nothing waits any more.
    pub(super) async fn calm_down(&mut self) {
        self.ground.strain.end();
        for id in self.cast.clone() {
            self.weather.turn(id, Mood::Fair);
            self.change(id, |destination| {
                destination.state = DestinationState::Active;
                destination.signing = SigningSecrets::default();
            })
            .await;
        }
        for _ in 0..super::CALM_MAX_HOURS {
            tokio::time::sleep(Duration::from_secs(60 * 60)).await;
            if self.waiting().await.is_empty() {
                return;
            }
        }
    }

    /// Deliveries that wait, and replays that run.
    async fn waiting(&self) -> Vec<String> {
        let ids: Vec<_> = self.ground.chronicle.read().fates.keys().copied().collect();
        let mut waiting = Vec::new();
        for id in ids {
            let delivery = self.ground.store.delivery(id).await.unwrap();
            if delivery.is_some_and(|delivery| !delivery.state.is_finished()) {
                waiting.push(id.to_string());
            }
        }
        let running = self.ground.store.running_replays().await.unwrap();
        waiting.extend(running.iter().map(|replay| replay.id.to_string()));
        waiting
    }
}
