//! What must hold for each delivery, whatever happened.

use std::collections::HashSet;
use std::time::Duration;

use super::chronicle::{Ending, Fate, Moment, Record, Request, Settled};
use super::verdicts::{explains, is_failing};
use super::{Storm, lane_laws, told_laws};
use crate::domain::attempt::{Attempt, Outcome};
use crate::domain::delivery::{ATTEMPTS_KEPT, Delivery, DeliveryState, EndReason};
use crate::domain::id::DeliveryId;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::{DeliveryStore, Stage};

/// Times are recorded in milliseconds, and each end of a span may be cut.
const ROUNDING: Duration = Duration::from_millis(2);
/// A request begins so much later than its lane decides at the most: its events may have to be read.
pub(super) const READ_WITHIN: Duration = Duration::from_millis(super::strained::SLOWEST);
/// An outcome is stored after this at the latest, with the store under strain.
const STORED_AFTER: Duration = Duration::from_secs(60);
const LAST: Timestamp = Timestamp::from_millis(i64::MAX);

/// Checks everything.
pub(super) async fn check(storm: &Storm) {
    let record = storm.ground.chronicle.read().clone();
    for (id, fate) in &record.fates {
        let delivery = storm.ground.store.delivery(*id).await.unwrap();
        let story = Story::of(&record, *id, fate, delivery);
        if let Err(problem) = story.check() {
            panic!("{id}: {problem}\n{}", story.tell());
        }
    }
    lane_laws::check(&record, storm.ground.options.window);
    told_laws::check(storm, &record).await;
}

/// What happened to a delivery, for whoever has to find out.
pub(super) fn tell(record: &Record, id: DeliveryId) -> String {
    Story::of(record, id, &record.fates[&id], None).tell()
}

/// All that is known of one delivery.
struct Story<'a> {
    record: &'a Record,
    id: DeliveryId,
    fate: &'a Fate,
    delivery: Option<Delivery>,
    requests: Vec<&'a Request>,
    /// Settlements of attempts, each once.
    attempts: Vec<(&'a Settled, &'a Attempt)>,
    /// Settlements without an attempt.
    ends: Vec<&'a Settled>,
}

impl<'a> Story<'a> {
    fn of(record: &'a Record, id: DeliveryId, fate: &'a Fate, delivery: Option<Delivery>) -> Self {
        let mine = |request: &&Request| {
            request.destination_id == id.destination_id && request.events.contains(&id.event_key)
        };
        let requests = record.requests.iter().filter(mine).collect();
        let (mut attempts, mut ends, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for settled in record.settled.iter().filter(|settled| settled.settlement.id == id) {
            match &settled.settlement.attempt {
                Some(attempt) if seen.insert((attempt.number, attempt.started_at)) => {
                    attempts.push((settled, attempt))
                }
                Some(_) => {}
                None => ends.push(settled),
            }
        }
        attempts.sort_by_key(|(settled, attempt)| (attempt.started_at, settled.at));
        Self { record, id, fate, delivery, requests, attempts, ends }
    }

    fn check(&self) -> Result<(), String> {
        self.every_request_is_on_the_record()?;
        self.counters_add_up()?;
        self.none_is_doubled()?;
        self.it_is_sent_only_while_it_waits()?;
        self.none_is_early()?;
        self.every_verdict_is_right()?;
        self.every_end_has_its_reason()?;
        self.it_is_not_lost()
    }

    /// Requests whose outcome no process could record.
    fn torn(&self) -> Vec<&Request> {
        let is_recorded = |request: &&&Request| {
            let begun_then = self.requests.iter().filter(|other| other.began.at == request.began.at).count();
            let on_record =
                self.attempts.iter().filter(|(_, attempt)| attempt.started_at == request.began.at).count();
            on_record >= begun_then
        };
        self.requests.iter().filter(|request| !is_recorded(request)).copied().collect()
    }

    fn every_request_is_on_the_record(&self) -> Result<(), String> {
        for request in self.torn() {
            let (began, ended) = (request.began.at, request.ended.as_ref().map(|(moment, _)| moment.at));
            let excused = match ended {
                None => self.record.halted(&[Ending::Hurried, Ending::Killed], began, LAST),
                Some(at) => {
                    self.record.halted(&[Ending::Killed], at, at + STORED_AFTER)
                        || self.record.halted(&[Ending::Hurried], at, at)
                }
            };
            if !excused {
                return Err(format!("the request of {began} is not on the record"));
            }
        }
        Ok(())
    }

    fn counters_add_up(&self) -> Result<(), String> {
        let Some(delivery) = &self.delivery else { return Ok(()) };
        let mut numbers: Vec<u32> = self.attempts.iter().map(|(_, attempt)| attempt.number).collect();
        numbers.sort_unstable();
        let count = u32::try_from(numbers.len()).unwrap();
        let kept = numbers.len().min(ATTEMPTS_KEPT);
        if !numbers.iter().copied().eq(1..=count) || delivery.attempt_count != count {
            return Err(format!(
                "{} attempts are counted, and these recorded: {numbers:?}",
                delivery.attempt_count
            ));
        }
        if delivery.attempts.len() != kept {
            return Err(format!("{} attempts are kept of {count}", delivery.attempts.len()));
        }
        let sent =
            self.attempts.iter().filter(|(_, one)| !matches!(one.outcome, Outcome::NotSent { .. })).count();
        if sent != self.requests.len() - self.torn().len() {
            return Err(format!("{sent} attempts of {} requests", self.requests.len()));
        }
        Ok(())
    }

    fn none_is_doubled(&self) -> Result<(), String> {
        let successes = self.requests.iter().filter(|request| request.is_success()).count();
        let wanted = 1 + self.fate.wishes.len();
        if successes > wanted && self.torn().is_empty() {
            return Err(format!("{successes} successes, {wanted} were asked for"));
        }
        Ok(())
    }

    /// What callers and settlements made of it, in order: whether it waits from then on.
    fn turns(&self) -> Vec<(Moment, bool)> {
        let wishes = self.fate.wishes.iter().map(|wish| (*wish, true));
        let ended = self.fate.ended.iter().map(|ended| (*ended, false));
        let settled = self.record.settled.iter().filter(|one| one.settlement.id == self.id && one.taken);
        let settled = settled.map(|one| (one.at, !one.settlement.state.is_finished()));
        let mut turns: Vec<_> =
            [(self.fate.begun, true)].into_iter().chain(wishes).chain(ended).chain(settled).collect();
        turns.sort_unstable();
        turns
    }

    fn it_is_sent_only_while_it_waits(&self) -> Result<(), String> {
        let turns = self.turns();
        let mut before = None;
        for request in &self.requests {
            let began = request.began;
            let last = turns.iter().rev().find(|(moment, _)| *moment <= began);
            let waits = last.is_some_and(|(moment, waits)| *waits || moment.at >= began.at - READ_WITHIN);
            // A caller asked for it since; that an older attempt has succeeded meanwhile does not undo that.
            let wished = self
                .fate
                .wishes
                .iter()
                .any(|wish| *wish <= began && before.is_none_or(|before| *wish >= before));
            if !waits && !wished {
                return Err(format!("it was sent at {} and did not wait", began.at));
            }
            before = Some(began);
        }
        Ok(())
    }

    fn none_is_early(&self) -> Result<(), String> {
        for request in &self.requests {
            let began = request.began;
            let is_before =
                |one: &Attempt| one.started_at < began.at && one.started_at + one.round_trip <= began.at;
            let Some((settled, attempt)) = self.attempts.iter().rfind(|(_, one)| is_before(one)) else {
                continue;
            };
            let DeliveryState::Waiting { due } = settled.settlement.state else { continue };
            let since = attempt.started_at - READ_WITHIN;
            let wished = self.fate.wishes.iter().any(|wish| wish.at >= since && *wish <= began);
            let flushed = settled.settlement.stage == Stage::InMemory
                && self.record.halted(&[Ending::Stopped, Ending::Hurried], began.at, began.at);
            if began.at < due && !wished && !flushed {
                return Err(format!("it was sent at {}, and due at {due}", began.at));
            }
        }
        Ok(())
    }

    fn every_verdict_is_right(&self) -> Result<(), String> {
        for (settled, attempt) in &self.attempts {
            let ended = attempt.started_at + attempt.round_trip;
            let in_force = self.record.in_force(self.id.destination_id, ended - ROUNDING, ended + ROUNDING);
            let stopping = self.record.halted(&[Ending::Stopped, Ending::Hurried], ended - ROUNDING, ended);
            let right = |policy| explains(policy, &settled.settlement, attempt, stopping);
            if !in_force.iter().any(|version| right(&version.policy)) {
                return Err(format!(
                    "attempt {} came to {:?}, which none of these explains: {in_force:#?}",
                    attempt.number, settled.settlement.state
                ));
            }
        }
        Ok(())
    }

    /// What ended without an attempt had to.
    fn every_end_has_its_reason(&self) -> Result<(), String> {
        for settled in &self.ends {
            let settlement = &settled.settlement;
            let (Some(at), Some(reason)) = (settlement.state.finished_at(), settlement.state.reason()) else {
                return Err(format!("{:?} without an attempt", settlement.state));
            };
            let in_force = self.record.in_force(self.id.destination_id, at - ROUNDING, at);
            let is_best_effort = settlement.stage == Stage::InMemory;
            let too_old = |limit: Duration| at >= self.id.event_key.made_at() + limit;
            let given_up = |limit: Duration| at >= settlement.cycle.started_at + limit;
            let dead = matches!(settlement.state, DeliveryState::DeadLettered { .. });
            let is_right = match reason {
                EndReason::TooOld => {
                    in_force.iter().any(|one| one.policy.discard_after.is_some_and(too_old)) && !dead
                }
                EndReason::GaveUp => in_force.iter().any(|one| {
                    let best_effort = is_best_effort || one.policy.guarantee == Guarantee::BestEffort;
                    one.policy.retry.give_up_after.is_some_and(given_up) && dead != best_effort
                }),
                EndReason::Lossy => {
                    let destination = self.id.destination_id;
                    in_force.iter().any(|one| one.policy.lossy && one.is_active)
                        && is_failing(self.record, destination, at)
                        && !dead
                }
                EndReason::WindowFull => is_best_effort && settlement.cycle.attempts == 0,
                EndReason::DestinationDeleted => in_force.iter().any(|one| one.is_deleted),
                EndReason::Stopped => {
                    is_best_effort && self.record.halted(&[Ending::Stopped, Ending::Hurried], at, at)
                }
                EndReason::EventGone => self.event_is_gone(),
                _ => false,
            };
            if !is_right {
                return Err(format!("{:?} has no cause", settlement.state));
            }
        }
        Ok(())
    }

    fn event_is_gone(&self) -> bool {
        !self.fate.ended.is_empty()
            || self.fate.guarantee == Guarantee::BestEffort
            || self.record.erased.contains(&self.id.event_key)
    }

    /// It came to an end, which is the last thing that was made of it. Only best effort may be lost, with its process.
    fn it_is_not_lost(&self) -> Result<(), String> {
        let may_be_lost = self.fate.guarantee == Guarantee::BestEffort
            && self.record.halted(&[Ending::Killed], self.fate.begun.at, LAST);
        match &self.delivery {
            None if may_be_lost => Ok(()),
            None => Err("there is no record of it".into()),
            Some(delivery) if !delivery.state.is_finished() && !may_be_lost => {
                Err("it waits for ever".into())
            }
            Some(delivery) => {
                let waits = self.turns().last().is_none_or(|(_, waits)| *waits);
                if waits == delivery.state.is_finished() {
                    return Err("its end is not what was made of it last".into());
                }
                self.its_end_is_by_whom_it_says(delivery)
            }
        }
    }

    fn its_end_is_by_whom_it_says(&self, delivery: &Delivery) -> Result<(), String> {
        let by_caller = matches!(delivery.state, DeliveryState::Cancelled { .. })
            || matches!(
                delivery.state.reason(),
                Some(EndReason::DeadLetterDeleted | EndReason::DeadLetterExpired)
            );
        let at = delivery.state.finished_at();
        if by_caller && !self.fate.ended.iter().any(|ended| Some(ended.at) == at) {
            return Err("nobody ended it".into());
        }
        let succeeded = matches!(delivery.state, DeliveryState::Succeeded { .. });
        if succeeded && !self.requests.iter().any(|request| request.is_success()) {
            return Err("it never succeeded".into());
        }
        Ok(())
    }

    /// All of it, for whoever has to find out what happened.
    fn tell(&self) -> String {
        let mut lines = vec![(self.fate.begun, format!("begun: {:?}", self.fate.guarantee))];
        lines.extend(self.fate.wishes.iter().map(|wish| (*wish, "put back".to_owned())));
        lines.extend(self.fate.ended.iter().map(|ended| (*ended, "ended by others".to_owned())));
        for request in &self.requests {
            lines.push((request.began, format!("request of {:?}", request.events)));
            if let Some((moment, outcome)) = &request.ended {
                lines.push((*moment, format!("answer to {}: {outcome:?}", request.began.at)));
            }
        }
        for Settled { at, settlement, taken } in
            self.record.settled.iter().filter(|one| one.settlement.id == self.id)
        {
            let attempt =
                settlement.attempt.as_ref().map(|one| (one.number, one.started_at, one.outcome.class()));
            lines.push((
                *at,
                format!(
                    "settled{}: {attempt:?} {:?} {:?} {:?}",
                    if *taken { "" } else { ", not taken" },
                    settlement.stage,
                    settlement.cycle,
                    settlement.state
                ),
            ));
        }
        lines.sort_by_key(|(moment, _)| *moment);
        let lines = lines.into_iter().map(|(moment, line)| format!("{moment:?} {line}\n"));
        let halts = self.record.halts.iter().map(|halt| format!("{halt:?}\n"));
        format!("{}{}{:#?}", lines.collect::<String>(), halts.collect::<String>(), self.delivery)
    }
}
