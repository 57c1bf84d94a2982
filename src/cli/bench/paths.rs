//! `signalpost bench-paths`: the pure paths that every event takes, some times each, for whoever counts instructions.
//!
//! Seconds differ from run to run and from machine to machine; instructions hardly do. Each path is a function that is
//! never inlined, so that `valgrind --tool=callgrind` finds it by its name; `.ci/checks/instructions` compares the
//! counts with those in docs/instructions.txt.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use super::server;
use crate::cli::exit::Exit;
use crate::cli::output::print;
use crate::contract::{self, Catalogue, RenderContext, ResolvedSecrets};
use crate::domain::attempt::{Attempt, Outcome, Trigger};
use crate::domain::contract::Contract;
use crate::domain::delivery::{Cycle, CycleCause, Delivery, DeliveryState};
use crate::domain::destination::{Destination, DestinationState, DestinationUrl};
use crate::domain::event::{Event, EventType, Level, Route};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, Secret, SigningSecrets};
use crate::domain::settings::{DeliverySettings, EffectivePolicy, Guarantee};
use crate::domain::subscription::Subscription;
use crate::domain::time::Timestamp;
use crate::engine::gate::{Ended, Past};
use crate::engine::item::Item;
use crate::engine::lane::{Hold, Lane, Step};
use crate::engine::memory::Memory;
use crate::store::record;

/// The data of each event.
const DATA_BYTES: usize = 1024;
/// Events of a batch.
const BATCH: usize = 20;
/// Types of the subscription that is matched.
const TYPES: usize = 20;
/// When everything happens.
const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// `signalpost bench-paths`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct PathsArguments {
    /// How often each path is taken.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    times: u32,
}

/// Takes each path so many times, and says which there are.
///
/// # Errors
/// A path does not do its work.
pub(in crate::cli) fn run(arguments: &PathsArguments) -> anyhow::Result<Exit> {
    let mut stage = Stage::set()?;
    for _ in 0..arguments.times {
        for (name, path) in PATHS {
            path(&mut stage).with_context(|| format!("the path {name}"))?;
        }
    }
    let names: Vec<&str> = PATHS.iter().map(|(name, _)| *name).collect();
    Ok(print(&format!("{} times: {}\n", arguments.times, names.join(" "))))
}

type Path = fn(&mut Stage) -> anyhow::Result<()>;

/// All of them, by the names of their functions.
const PATHS: [(&str, Path); 13] = [
    ("render_semaphor", render_semaphor),
    ("render_stalwart", render_stalwart),
    ("render_stalwart_batch", render_stalwart_batch),
    ("render_workspace", render_workspace),
    ("render_observer", render_observer),
    ("render_standard_webhooks", render_standard_webhooks),
    ("render_cloudevents", render_cloudevents),
    ("match_subscription", match_subscription),
    ("encode_event", encode_event),
    ("decode_event", decode_event),
    ("encode_delivery", encode_delivery),
    ("decode_delivery", decode_delivery),
    ("decide_lane", decide_lane),
];

/// What the paths work on, made beforehand.
struct Stage {
    sides: Vec<Side>,
    events: Vec<Arc<Event>>,
    delivery: Delivery,
    stored_event: Vec<u8>,
    stored_delivery: Vec<u8>,
    last_type: EventType,
    many: Destination,
    lane: Lane,
    last_key: EventKey,
    memory: Arc<Memory>,
}

/// A destination of a contract, with all that a request needs.
struct Side {
    contract: Contract,
    destination: Destination,
    policy: EffectivePolicy,
    secrets: ResolvedSecrets,
    event: Event,
}

impl Stage {
    fn set() -> anyhow::Result<Self> {
        let data = server::data(DATA_BYTES);
        let events = (0..BATCH).map(|number| event("bench.event", number, &data).map(Arc::new));
        let events: Vec<_> = events.collect::<anyhow::Result<_>>()?;
        let first = events.first().context("an event")?;
        let delivery = delivery(first);
        let types = (0..TYPES).map(|number| parsed(EventType::parse(&format!("bench.event-{number}"))));
        let types: Vec<EventType> = types.collect::<anyhow::Result<_>>()?;
        let last_type = types.last().cloned().context("a type")?;
        let many = Destination {
            subscription: Subscription::include(types),
            ..destination(Contract::StandardWebhooks)?
        };
        let policy = Arc::new(contract::defaults(Contract::Observer));
        let past = Past { opens_after: 10, failures: 0, proven: true, last_request_at: None };
        Ok(Self {
            sides: Contract::ALL
                .into_iter()
                .map(|contract| Side::new(contract, &data))
                .collect::<Result<_, _>>()?,
            stored_event: record::encode_event(first).record,
            stored_delivery: record::encode_delivery(&delivery),
            delivery,
            events,
            last_type,
            many,
            lane: Lane::new(policy, Hold::Open, 64, false, past),
            last_key: EventKey::MIN,
            memory: Memory::new(64 << 20),
        })
    }

    fn render(&self, contract: Contract, events: &[&Event]) -> anyhow::Result<()> {
        let side = self.sides.iter().find(|side| side.contract == contract).context("a destination")?;
        let context = RenderContext {
            destination: &side.destination,
            policy: &side.policy,
            secrets: &side.secrets,
            now: NOW,
            attempt_number: 1,
            trace: None,
        };
        let own = [&side.event];
        black_box(contract::render(black_box(context), if events.is_empty() { &own } else { events })?);
        Ok(())
    }
}

impl Side {
    fn new(contract: Contract, data: &Bytes) -> anyhow::Result<Self> {
        let event_type = match contract::catalogue(contract) {
            Catalogue::Closed(types) | Catalogue::Open(types) => {
                types.first().copied().unwrap_or("bench.event")
            }
        };
        let secret = match contract {
            Contract::StandardWebhooks | Contract::CloudEvents => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            Contract::Semaphor | Contract::Stalwart | Contract::Workspace | Contract::Observer => "bench-key",
        };
        Ok(Self {
            contract,
            destination: destination(contract)?,
            policy: contract::defaults(contract),
            secrets: ResolvedSecrets { signing: vec![Secret::new(secret)], http_auth: None },
            event: event(event_type, 0, data)?,
        })
    }
}

#[inline(never)]
fn render_semaphor(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::Semaphor, &[])
}

#[inline(never)]
fn render_stalwart(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::Stalwart, &[])
}

#[inline(never)]
fn render_stalwart_batch(stage: &mut Stage) -> anyhow::Result<()> {
    let events: Vec<&Event> = stage.events.iter().map(Arc::as_ref).collect();
    stage.render(Contract::Stalwart, &events)
}

#[inline(never)]
fn render_workspace(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::Workspace, &[])
}

#[inline(never)]
fn render_observer(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::Observer, &[])
}

#[inline(never)]
fn render_standard_webhooks(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::StandardWebhooks, &[])
}

#[inline(never)]
fn render_cloudevents(stage: &mut Stage) -> anyhow::Result<()> {
    stage.render(Contract::CloudEvents, &[])
}

#[inline(never)]
fn match_subscription(stage: &mut Stage) -> anyhow::Result<()> {
    let wants = contract::wants(black_box(&stage.many), &stage.last_type, Level::Info);
    anyhow::ensure!(wants, "the type is subscribed to");
    Ok(())
}

#[inline(never)]
fn encode_event(stage: &mut Stage) -> anyhow::Result<()> {
    let event = stage.events.first().context("an event")?;
    black_box(record::encode_event(black_box(event)));
    Ok(())
}

#[inline(never)]
fn decode_event(stage: &mut Stage) -> anyhow::Result<()> {
    let key = stage.events.first().context("an event")?.key;
    black_box(record::decode_event(key, black_box(&stage.stored_event), |_| Ok(None::<Vec<u8>>))?);
    Ok(())
}

#[inline(never)]
fn encode_delivery(stage: &mut Stage) -> anyhow::Result<()> {
    black_box(record::encode_delivery(black_box(&stage.delivery)));
    Ok(())
}

#[inline(never)]
fn decode_delivery(stage: &mut Stage) -> anyhow::Result<()> {
    black_box(record::decode_delivery(stage.delivery.id, b"D", black_box(&stage.stored_delivery))?);
    Ok(())
}

/// An event comes, its request begins, and ends well.
#[inline(never)]
fn decide_lane(stage: &mut Stage) -> anyhow::Result<()> {
    stage.last_key = stage.last_key.next(NOW, 1);
    let event = Event { key: stage.last_key, ..Event::clone(stage.events.first().context("an event")?) };
    stage.lane.accepted(Item::fresh(&Arc::new(event), Guarantee::AtLeastOnce, &stage.memory));
    let step = stage.lane.step(NOW);
    let Step::Attempt(items) = step else { anyhow::bail!("the lane wants {step:?}") };
    let keys: Vec<EventKey> = items.iter().map(|item| item.key).collect();
    let ended = Ended { success: true, took: Duration::from_millis(3), at: NOW, draw: 0.5 };
    stage.lane.finished(items.into_iter().map(|item| (item, None)).collect(), Some(ended));
    stage.lane.settled(&keys);
    anyhow::ensure!(stage.lane.step(NOW) == Step::Idle, "the lane has nothing left to do");
    Ok(())
}

fn event(event_type: &str, number: usize, data: &Bytes) -> anyhow::Result<Event> {
    Ok(Event {
        erased_at: None,
        trace: None,
        key: EventKey::MIN.next(NOW, number as u64),
        id: parsed(EventId::parse(&format!("bench-{number}")))?,
        organization_id: parsed(OrganizationId::parse("bench"))?,
        event_type: parsed(EventType::parse(event_type))?,
        occurred_at: NOW,
        accepted_at: NOW,
        level: Level::Info,
        data: Payload::from_stored(data.clone()),
        routes: vec![Route {
            destination_id: DestinationId::from_bytes([1; 16]),
            guarantee: Guarantee::AtLeastOnce,
        }],
    })
}

fn delivery(event: &Event) -> Delivery {
    let attempt = Attempt {
        number: 1,
        started_at: NOW,
        round_trip: Duration::from_millis(12),
        trigger: Trigger::Routed,
        outcome: Outcome::Answered { status: 204, retry_after: None, body: Bytes::new() },
        batch_size: 1,
        batch: None,
        remote_address: None,
    };
    Delivery {
        id: DeliveryId::new(event.key, DestinationId::from_bytes([1; 16])),
        organization_id: event.organization_id.clone(),
        event_id: event.id.clone(),
        event_type: event.event_type.clone(),
        created_at: NOW,
        guarantee: Guarantee::AtLeastOnce,
        state: DeliveryState::Succeeded { at: NOW },
        attempt_count: 1,
        cycle: Cycle { cause: CycleCause::Routed, started_at: NOW, attempts: 1 },
        attempts: vec![attempt],
        replay_id: None,
    }
}

fn destination(contract: Contract) -> anyhow::Result<Destination> {
    Ok(Destination {
        id: DestinationId::from_bytes([1; 16]),
        organization_id: parsed(OrganizationId::parse("bench"))?,
        display_name: "bench".into(),
        url: parsed(DestinationUrl::parse("https://example.com/webhook", false))?,
        contract,
        subscription: contract::default_subscription(contract),
        settings: DeliverySettings::default(),
        signing: SigningSecrets::default(),
        http_auth: HttpAuth::Unauthenticated,
        headers: Vec::new(),
        state: DestinationState::Active,
        created_at: NOW,
        updated_at: NOW,
        revision: 1,
    })
}

fn parsed<T, E: std::fmt::Display>(result: Result<T, E>) -> anyhow::Result<T> {
    result.map_err(|problem| anyhow::anyhow!("{problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_does_its_work_however_often_it_is_taken() {
        let mut stage = Stage::set().unwrap();
        for _ in 0..3 {
            for (name, path) in PATHS {
                path(&mut stage).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            }
        }
    }
}
