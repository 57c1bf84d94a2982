//! A storm: destinations of all contracts with all settings, receivers that do what they like, callers who change,
//! pause, cancel, resend, replay and delete, a store under strain, and processes that stop, hurry and die; on paused
//! time, out of one seed. `laws` says what must hold.
//!
//! A failing seed is printed, and `SIGNALPOST_STORMS=SEED` plays it again; `SEED+COUNT` plays so many from there on, and
//! `+COUNT` so many new ones. What happens in the same moment may come in another order when a storm is played again:
//! the maps of the engine are in no order.

mod callers;
mod chronicle;
mod lane_laws;
mod laws;
mod process;
mod strained;
mod told_laws;
mod verdicts;
mod weather;
mod wishes;

use std::sync::Arc;
use std::time::Duration;

use chronicle::{Chronicle, Ending};
use process::{Ground, Process, scribe};
use strained::Strain;
use weather::{Mood, Weather};

use super::tests::START;
use crate::clock::{SharedClock, TokioClock};
use crate::contract::{Catalogue, catalogue};
use crate::domain::contract::Contract;
use crate::domain::destination::{Destination, DestinationState, DestinationUrl};
use crate::domain::event::EventType;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::operational::OperationalEvent;
use crate::domain::retention::Retention;
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::engine::rules::ShardOptions;
use crate::policy::host_rate::HostRates;
use crate::store::DestinationStore;
use crate::store::memory::MemoryStore;
use crate::transport::Transport;
use crate::transport::account::Account;
use crate::transport::courier::Courier;

/// How many storms one run of the tests has.
const STORMS: u64 = 6;
/// What is done in one storm.
const ACTS: usize = 300;
/// After so many hours of calm nothing may wait any more: the longest schedule, give-up and `Retry-After` are shorter.
const CALM_MAX_HOURS: u64 = 24 * 14;
/// So many hours a storm lasts on average, at the least; mostly it is twice that.
const STORM_MIN_HOURS: u64 = 300;

/// One storm.
struct Storm {
    ground: Ground,
    weather: Arc<Weather>,
    random: fastrand::Rng,
    /// Those who are sent to at present, one of each contract at first.
    cast: Vec<DestinationId>,
    /// Hears of everything that is told, and has no troubles of its own.
    listener: DestinationId,
    process: Option<Process>,
}

impl Storm {
    async fn set(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let chronicle = Arc::new(Chronicle::new(Arc::clone(&clock)));
        let weather = Arc::new(Weather::new(random.u64(..), Arc::clone(&chronicle)));
        let transport: Arc<dyn Transport> = Arc::<Weather>::clone(&weather);
        let per_second = (random.u8(0..4) == 0).then(|| random.u32(1..5));
        let rates = per_second.map(|rate| Arc::new(std::sync::Mutex::new(HostRates::new(rate))));
        let (secrets, account) = (Arc::default(), Account::default());
        let ground = Ground {
            scribe: scribe(&chronicle, &store),
            courier: Courier { transport, secrets, clock: Arc::clone(&clock), account, rates },
            strain: Arc::new(Strain::new(random.u64(..))),
            options: options(&mut random),
            shards: random.usize(1..3),
            retention: retention(&mut random),
            store,
            clock,
            chronicle,
        };
        let process = Some(ground.start().await);
        let listener = DestinationId::make(START, [0; 10]);
        let mut storm = Self { ground, weather, random, cast: Vec::new(), listener, process };
        storm.create_listener().await;
        for contract in Contract::ALL {
            let id = storm.create(contract).await;
            storm.cast.push(id);
        }
        storm
    }

    async fn create(&mut self, contract: Contract) -> DestinationId {
        let id = DestinationId::make(self.ground.clock.now(), std::array::from_fn(|_| self.random.u8(..)));
        let settings = wishes::settings(contract, &mut self.random);
        let listens = matches!(catalogue(contract), Catalogue::Open(_)) && self.random.u8(0..3) == 0;
        self.store_destination(id, contract, settings, listens).await;
        id
    }

    async fn create_listener(&self) {
        self.weather.turn(self.listener, Mood::Fair);
        let settings = DeliverySettings::default();
        self.store_destination(self.listener, Contract::StandardWebhooks, settings, true).await;
    }

    async fn store_destination(
        &self,
        id: DestinationId,
        contract: Contract,
        settings: DeliverySettings,
        listens: bool,
    ) {
        let now = self.ground.clock.now();
        let types = OperationalEvent::TYPES.iter().map(|name| EventType::parse(name).unwrap());
        let operational = types.filter(|_| listens).collect();
        let destination = Destination {
            id,
            organization_id: organization(),
            display_name: String::new(),
            url: DestinationUrl::parse(&format!("https://receiver.example/{id}"), false).unwrap(),
            contract,
            subscription: Subscription { operational, ..Subscription::default() },
            settings,
            signing: SigningSecrets::default(),
            http_auth: HttpAuth::default(),
            headers: Vec::new(),
            state: DestinationState::Active,
            created_at: now,
            updated_at: now,
            revision: 0,
        };
        self.ground.store.create_destination(destination, None).await.unwrap();
    }
}

fn organization() -> OrganizationId {
    OrganizationId::parse("org").unwrap()
}

fn options(random: &mut fastrand::Rng) -> ShardOptions {
    ShardOptions {
        max_in_flight: random.usize(1..12),
        max_bytes_in_flight: 64 << 10,
        circuit_opens_after: random.u32(2..12),
        window: random.usize(1..20),
        best_effort_window: random.usize(4..100),
        window_bytes: random.usize(1000..40_000),
        stop_deadline: Duration::from_secs(25),
        delivery_enabled: true,
        semaphor_enabled: true,
    }
}

/// History is kept for the laws; dead letters expire now and then.
fn retention(random: &mut fastrand::Rng) -> Retention {
    let dead_letters = Duration::from_secs(random.u64(10..400) * 60 * 60);
    let history = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    Retention { history, dead_letters, ..Retention::default() }
}

/// Plays one storm, and answers how long it lasted.
async fn play(seed: u64) -> Duration {
    let mut storm = Storm::set(seed).await;
    for _ in 0..ACTS {
        storm.act().await;
    }
    storm.calm_down().await;
    laws::check(&storm).await;
    let process = storm.process.take().unwrap();
    storm.ground.end(process, Ending::Stopped).await;
    storm.ground.clock.now().since(START)
}

/// The seeds that `SIGNALPOST_STORMS` asks for, or the first few.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::vars_os().find(|(name, _)| name == "SIGNALPOST_STORMS");
    let text = given.map_or_else(|| format!("1+{STORMS}"), |(_, text)| text.into_string().unwrap());
    let (first, count) = text.split_once('+').unwrap_or((&text, "1"));
    let first = if first.is_empty() { fastrand::u64(..1_000_000_000) } else { first.parse().unwrap() };
    first..first + count.parse::<u64>().unwrap()
}

#[test]
fn in_a_storm_nothing_is_lost_doubled_early_out_of_order_or_without_a_reason_and_counters_add_up() {
    let (seeds, mut lasted) = (seeds(), Duration::ZERO);
    for seed in seeds.clone() {
        // Printed by the test runner if the storm fails.
        println!("SIGNALPOST_STORMS={seed}");
        // Draws of the engine itself, on this thread, come from the same seed.
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        lasted += runtime.block_on(play(seed));
    }
    let (hours, storms) = (lasted.as_secs() / 3600, seeds.end - seeds.start);
    println!("{storms} storms, {hours} hours of theirs");
    // One alone may be short.
    assert!(storms < STORMS || hours >= storms * STORM_MIN_HOURS, "{storms} storms in {hours} hours");
}
