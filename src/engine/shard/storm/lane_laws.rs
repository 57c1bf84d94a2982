//! What must hold for each destination: who is sent to, how much at once, how often, and in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::chronicle::{Ending, Fate, Moment, Record, Request, Version};
use super::laws::{READ_WITHIN, tell};
use crate::domain::delivery::CycleCause;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;

/// What happened within that of a violation is told, too.
const FAR: Duration = Duration::from_secs(10);
/// The most events in one request here.
const BATCH_MAX: usize = 6;

/// Checks the lane of each destination.
pub(super) fn check(record: &Record, window: usize) {
    let mut lanes: BTreeMap<DestinationId, Vec<&Request>> = BTreeMap::new();
    for request in &record.requests {
        lanes.entry(request.destination_id).or_default().push(request);
    }
    for (id, requests) in lanes {
        let lane = Lane { record, id, requests, window };
        if let Err(problem) = lane.check() {
            panic!("{id}: {problem}");
        }
    }
}

struct Lane<'a> {
    record: &'a Record,
    id: DestinationId,
    requests: Vec<&'a Request>,
    /// Deliveries that it may have in memory.
    window: usize,
}

impl Lane<'_> {
    fn check(&self) -> Result<(), String> {
        for (number, request) in self.requests.iter().enumerate() {
            self.it_is_active(request)?;
            self.it_takes_so_much(request)?;
            self.it_takes_so_many_at_once(number, request)?;
            if let Some(before) = number.checked_sub(1) {
                self.it_is_given_time(self.requests[before], request)?;
            }
            self.it_is_in_order(request)?;
        }
        Ok(())
    }

    fn in_force(&self, from: Timestamp, until: Timestamp) -> Vec<&Version> {
        self.record.in_force(self.id, from, until)
    }

    /// What is paused, disabled or deleted is not sent to.
    fn it_is_active(&self, request: &Request) -> Result<(), String> {
        let at = request.began.at;
        let active = self.in_force(at - READ_WITHIN, at).iter().any(|version| version.is_active);
        if active { Ok(()) } else { Err(format!("it was sent to at {at}, and not active")) }
    }

    fn it_takes_so_much(&self, request: &Request) -> Result<(), String> {
        let (at, count) = (request.began.at, request.events.len());
        let fits = |version: &&Version| {
            let policy = &version.policy;
            let bytes = usize::try_from(policy.max_batch_bytes).unwrap();
            count == 1 || (count <= policy.max_batch_events as usize && request.bytes <= bytes)
        };
        if self.in_force(at - READ_WITHIN, at).iter().any(fits) {
            return Ok(());
        }
        Err(format!("{count} events in {} bytes at {at}", request.bytes))
    }

    fn it_takes_so_many_at_once(&self, number: usize, request: &Request) -> Result<(), String> {
        let is_under_way = |other: &&&Request| match &other.ended {
            Some((ended, _)) => *ended > request.began,
            None => !self.record.halted(&[Ending::Hurried, Ending::Killed], other.began.at, request.began.at),
        };
        let others: Vec<_> = self.requests[..number].iter().filter(is_under_way).collect();
        let first = others.iter().map(|other| other.began.at).min().unwrap_or(request.began.at);
        let limit =
            |version: &Version| if version.policy.ordered { 1 } else { version.policy.max_concurrency };
        let most = self.in_force(first, request.began.at).into_iter().map(limit).max().unwrap_or(0);
        let count = others.len() + 1;
        if count <= most as usize {
            return Ok(());
        }
        Err(format!("{count} requests at once at {}, of at most {most}", request.began.at))
    }

    /// The throttle, but for best effort at a stop, and where a crash forgot the request before.
    fn it_is_given_time(&self, before: &Request, request: &Request) -> Result<(), String> {
        let (from, at) = (before.began.at, request.began.at);
        let in_force = self.in_force(from - READ_WITHIN, at);
        let gap = at.since(from) + READ_WITHIN;
        let kept = in_force.iter().any(|version| gap >= version.policy.throttle);
        // A throttle that is changed counts from then on.
        let changed = in_force.len() > 1;
        let stopped = self.record.halted(&[Ending::Stopped, Ending::Hurried], at, at);
        if kept || changed || stopped || self.record.halted(&[Ending::Killed, Ending::Hurried], from, at) {
            return Ok(());
        }
        let near = self.requests.iter().filter(|one| one.began.at + FAR >= from && one.began.at <= at + FAR);
        let near: Vec<_> = near.map(|one| (one.began, &one.events, &one.ended)).collect();
        Err(format!("{from} and {at} are too near for {:#?}: {near:#?}", in_force[0].policy))
    }

    /// Nothing is sent that is behind another one which still waits, but for what callers moved themselves.
    fn it_is_in_order(&self, request: &Request) -> Result<(), String> {
        // In the store, what was attempted waits in order of due times alone: a batch must fit into the window.
        if self.window < BATCH_MAX {
            return Ok(());
        }
        let is_ordered =
            |version: &&Version| version.policy.ordered && version.policy.guarantee == Guarantee::AtLeastOnce;
        let youngest = *request.events.iter().max().unwrap();
        let first = (DeliveryId::new(EventKey::MIN, self.id), DeliveryId::new(youngest, self.id));
        for (id, fate) in
            self.record.fates.range(first.0..first.1).filter(|(id, _)| id.destination_id == self.id)
        {
            let since = self.in_force(fate.begun.at, request.began.at);
            let in_order = since.iter().all(is_ordered) && fate.guarantee == Guarantee::AtLeastOnce;
            let moved = !fate.wishes.is_empty() || self.is_moved(youngest);
            if in_order
                && !moved
                && !request.events.contains(&id.event_key)
                && self.waits(*id, fate, request.began)
            {
                let overtaking = tell(self.record, DeliveryId::new(youngest, self.id));
                let overtaken = tell(self.record, *id);
                return Err(format!(
                    "{youngest} overtook {} at {}\n{overtaken}\n{overtaking}",
                    id.event_key, request.began.at
                ));
            }
        }
        Ok(())
    }

    /// Whether it is not in the line of those that wait in order.
    fn is_moved(&self, key: EventKey) -> bool {
        let id = DeliveryId::new(key, self.id);
        !self.record.fates[&id].wishes.is_empty() || self.record.fates[&id].guarantee == Guarantee::BestEffort
    }

    /// Whether nothing had come to the end of it by then, as far as the lane could know.
    fn waits(&self, id: DeliveryId, fate: &Fate, by: Moment) -> bool {
        let ended = fate.ended.iter().any(|ended| ended.at <= by.at);
        let settled = self.record.settled.iter().filter(|one| one.settlement.id == id);
        let settled = settled.filter(|one| one.settlement.cycle.cause == CycleCause::Routed);
        let finished = settled.filter_map(|one| one.settlement.state.finished_at()).any(|at| at <= by.at);
        // A crash forgot how this one ended; it is sent again, behind what came after it.
        let torn = self
            .requests
            .iter()
            .any(|request| request.events.contains(&id.event_key) && self.is_torn(request, id));
        !ended && !finished && !torn
    }

    fn is_torn(&self, request: &Request, id: DeliveryId) -> bool {
        let attempts = self.record.settled.iter().filter(|one| one.settlement.id == id);
        let mut attempts = attempts.filter_map(|one| one.settlement.attempt.as_ref());
        attempts.all(|attempt| attempt.started_at != request.began.at)
    }
}
