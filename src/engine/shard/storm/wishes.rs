//! Wishes: whatever a destination may be asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::contract::defaults;
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
/// Who retries for ever does so only for so long.
const UNLIMITED_FOR: Duration = Duration::from_secs(10 * MINUTE);

fn seconds(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range.start * 1000..range.end * 1000))
}

/// One time in so many, something.
fn sometimes<T>(
    random: &mut fastrand::Rng,
    times: u8,
    what: impl FnOnce(&mut fastrand::Rng) -> T,
) -> Option<T> {
    (random.u8(0..times) == 0).then(|| what(random))
}

/// Settings of all kinds, short and long.
pub(super) fn settings(contract: Contract, random: &mut fastrand::Rng) -> DeliverySettings {
    let groups = contract == Contract::Stalwart || contract == Contract::CloudEvents;
    let mut settings = DeliverySettings {
        timeout: sometimes(random, 2, |random| seconds(random, 1..30)),
        retry: (random.u8(0..3) > 0).then(|| retry(random)),
        throttle: sometimes(random, if groups { 1 } else { 5 }, throttle),
        max_batch_events: groups.then(|| random.u32(1..6)),
        max_batch_bytes: sometimes(random, 3, |random| random.u32(1000..6000)),
        discard_after: sometimes(random, 4, |random| seconds(random, 30..10 * HOUR)),
        lossy: sometimes(random, 8, |_| true),
        guarantee: sometimes(random, 6, guarantee),
        ordered: sometimes(random, 3, fastrand::Rng::bool),
        max_concurrency: sometimes(random, 2, |random| random.u32(1..6)),
        cloudevents_mode: sometimes(random, 2, |_| CloudEventsMode::Batch),
        disable_after: sometimes(random, 4, |random| seconds(random, MINUTE..10 * HOUR)),
        disable_on_gone: sometimes(random, 3, fastrand::Rng::bool),
        ..DeliverySettings::default()
    };
    bound(contract, &mut settings);
    settings
}

fn throttle(random: &mut fastrand::Rng) -> Duration {
    let scale = if random.u8(0..4) == 0 { 90_000 } else { 3000 };
    Duration::from_millis(random.u64(0..scale))
}

fn guarantee(random: &mut fastrand::Rng) -> Guarantee {
    if random.bool() { Guarantee::BestEffort } else { Guarantee::AtLeastOnce }
}

fn retry(random: &mut fastrand::Rng) -> RetryPolicy {
    // In milliseconds: moments, the usual, and what lasts for days.
    let scale = [2000, 40_000, HOUR * 1000, 20 * HOUR * 1000][random.usize(0..4)];
    let mut delay = || Duration::from_millis(random.u64(100..scale));
    let (base, cap) = (delay(), delay());
    let delays: Vec<Duration> = (0..8).map(|_| delay()).collect();
    let schedule = if random.bool() {
        RetrySchedule::Fixed(delays[..random.usize(0..8)].to_vec())
    } else {
        RetrySchedule::Exponential { base, factor: 1.0 + random.f64() * 3.0, cap: cap.max(base) }
    };
    RetryPolicy {
        schedule,
        max_attempts: (random.u8(0..5) > 0).then(|| random.u32(1..9)),
        give_up_after: sometimes(random, 3, |random| seconds(random, 10..40 * HOUR)),
        jitter: random.f64(),
        final_statuses: final_statuses(random),
    }
}

fn final_statuses(random: &mut fastrand::Rng) -> BTreeSet<u16> {
    let chosen = [400, 404, 410, 422, 500].into_iter().filter(|_| random.u8(0..4) == 0);
    chosen.collect()
}

/// Retries without a bound in number get one in time.
fn bound(contract: Contract, settings: &mut DeliverySettings) {
    let policy = defaults(contract).overridden_by(settings);
    let endless = policy.retry.max_attempts.is_none()
        && matches!(policy.retry.schedule, RetrySchedule::Exponential { .. });
    if endless {
        settings.discard_after =
            Some(policy.discard_after.map_or(UNLIMITED_FOR, |time| time.min(UNLIMITED_FOR)));
    }
}
