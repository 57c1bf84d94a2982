//! What a lane does next: hold, circuit, pace, concurrency, order, batches and age, in this order.

use std::sync::Arc;

use super::{Hold, Lane, Step};
use crate::domain::circuit::CircuitState;
use crate::domain::delivery::EndReason;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::engine::pick::{Passage, Pick};
use crate::policy::retry::{Ending, ends_waiting};

impl Lane {
    /// What to do next. [`Step::Attempt`] counts as begun: its end must be told by [`Lane::finished`].
    pub fn step(&mut self, now: Timestamp) -> Step {
        // A clock that was set back must not hold the lane for longer than the gap is.
        self.next_start = self.next_start.min(now + self.policy.throttle);
        match self.decide(now) {
            Step::Idle if now < self.next_load => Step::WaitUntil(self.next_load),
            Step::WaitUntil(moment) if now < self.next_load => Step::WaitUntil(moment.min(self.next_load)),
            step => step,
        }
    }

    fn decide(&mut self, now: Timestamp) -> Step {
        if !self.refused.is_empty() {
            let refused = std::mem::take(&mut self.refused);
            return Step::End(refused, Ending::Discard(EndReason::WindowFull));
        }
        if self.hold == Hold::Closed {
            return self.discard_everything(now);
        }
        let ended = self.end_overdue(now).or_else(|| self.drop_lossy(now));
        if let Some(step) = ended.or_else(|| self.read_on(now)) {
            return step;
        }
        match self.hold {
            Hold::Held | Hold::Closed => self.wait_for_ending(),
            Hold::Open if now < self.next_start => self.wait_or(self.next_start),
            Hold::Open => self.send(now),
            Hold::Flushing if self.has_alone() => self.flush_alone(now),
            Hold::Flushing => self.flush_gathered(now),
        }
    }

    fn send(&mut self, now: Timestamp) -> Step {
        if self.is_blind(now) || self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        let passage = match self.gate.passage(&self.policy, &self.window, now) {
            Ok(passage) => passage,
            Err(moment) => return self.wait_or(moment),
        };
        self.attempt(now, passage, false).unwrap_or_else(|| self.wait_for_due(passage))
    }

    /// Sends what is in memory alone, whatever throttle and circuit say: there is no later.
    fn flush_alone(&mut self, now: Timestamp) -> Step {
        if self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        self.attempt(now, Passage::Everything, true).unwrap_or_else(|| self.wait_for_ending())
    }

    /// Sends what has gathered for the next request, as ever: after the throttle, in order, if the circuit
    /// is not open. Whatever does not fit into that waits in the store for the next start.
    fn flush_gathered(&mut self, now: Timestamp) -> Step {
        let Some(last_start) = self.last_start else { return self.wait_for_ending() };
        if self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        if now < self.next_start && self.next_start <= last_start {
            return self.wait_or(self.next_start);
        }
        self.last_start = None;
        let may_send = now >= self.next_start && now <= last_start && !self.is_blind(now);
        let passage = self.gate.passage(&self.policy, &self.window, now);
        let attempt = match passage {
            Ok(Passage::Everything) if may_send => self.attempt(now, Passage::Everything, false),
            _ => None,
        };
        attempt.unwrap_or_else(|| self.wait_for_ending())
    }

    /// An ordered lane must know its oldest before it sends any.
    fn is_blind(&self, now: Timestamp) -> bool {
        let reads = self.window.is_reading_due() || now < self.next_load;
        let will_not_read = self.hold == Hold::Flushing && self.window.has_more_due_in_store();
        self.policy.ordered && (reads || will_not_read)
    }

    fn attempt(&mut self, now: Timestamp, passage: Passage, alone: bool) -> Option<Step> {
        let pick = Pick { policy: &self.policy, now, passage, flushing: alone };
        let batch = pick.take(&mut self.window, &mut self.turns);
        if batch.is_empty() {
            return None;
        }
        self.gate.begin(now);
        self.next_start = now + self.policy.throttle;
        self.window.begin(&batch);
        Some(Step::Attempt(batch))
    }

    fn discard_everything(&mut self, now: Timestamp) -> Step {
        let items = self.window.take_all(|_| true, false);
        if items.is_empty() {
            let wanted = if now < self.next_load { None } else { self.window.read_on() };
            return wanted.map_or(Step::Idle, Step::Load);
        }
        self.end(items, Ending::Discard(EndReason::DestinationDeleted))
    }

    /// What has come to its end while it waited: too old, or beyond the time after which it is given up. Nothing
    /// stops that clock, neither a pause nor an open circuit.
    fn end_overdue(&mut self, now: Timestamp) -> Option<Step> {
        let (_, ending) = self.next_ending().filter(|(at, _)| now >= *at)?;
        let policy = Arc::clone(&self.policy);
        let overdue =
            |item: &Item| ending_of(&policy, item).is_some_and(|(at, other)| now >= at && other == ending);
        let items = self.window.take_all(overdue, true);
        (!items.is_empty()).then(|| self.end(items, ending))
    }

    /// What a lossy destination does without while its circuit is open: all that waits, but for the one that goes
    /// next. What is in the store follows as it is read.
    fn drop_lossy(&mut self, now: Timestamp) -> Option<Step> {
        let is_failing = self.hold == Hold::Open && self.gate.circuit() == CircuitState::Open;
        if !self.policy.lossy || !is_failing || self.window.len() < 2 {
            return None;
        }
        let spared = self.gate.spared(&self.window, now);
        let items = self.window.take_all(|item| Some(item.key) != spared, false);
        (!items.is_empty()).then(|| self.end(items, Ending::Discard(EndReason::Lossy)))
    }

    fn end(&mut self, items: Vec<Item>, ending: Ending) -> Step {
        for item in &items {
            self.window.note_unsettled(item);
        }
        Step::End(items, ending)
    }

    /// A held lane reads on, too, where deliveries can come to their end while they wait.
    fn read_on(&mut self, now: Timestamp) -> Option<Step> {
        let wanted = match self.hold {
            Hold::Open => now >= self.next_start || self.window.is_empty(),
            Hold::Held => ends_by_time(&self.policy),
            Hold::Flushing | Hold::Closed => false,
        };
        if wanted && now >= self.next_load { self.window.read_on().map(Step::Load) } else { None }
    }

    fn wait_for_due(&self, passage: Passage) -> Step {
        let due = self.window.first_due(self.policy.ordered).filter(|_| self.hold == Hold::Open);
        let probe = self.gate.probe_at().filter(|_| passage != Passage::Everything);
        due.into_iter()
            .chain(probe)
            .min()
            .map_or_else(|| self.wait_for_ending(), |moment| self.wait_or(moment))
    }

    fn wait_or(&self, moment: Timestamp) -> Step {
        Step::WaitUntil(self.next_ending().map_or(moment, |(at, _)| at.min(moment)))
    }

    fn wait_for_ending(&self) -> Step {
        self.next_ending().map_or(Step::Idle, |(at, _)| Step::WaitUntil(at))
    }

    /// When and how a delivery in memory comes to its end next, if it goes on waiting.
    fn next_ending(&self) -> Option<(Timestamp, Ending)> {
        if !ends_by_time(&self.policy) {
            return None;
        }
        let endings = self.window.candidates().filter_map(|item| ending_of(&self.policy, item));
        endings.min_by_key(|(at, _)| *at)
    }
}

fn ends_by_time(policy: &EffectivePolicy) -> bool {
    policy.discard_after.is_some() || policy.retry.give_up_after.is_some()
}

fn ending_of(policy: &EffectivePolicy, item: &Item) -> Option<(Timestamp, Ending)> {
    ends_waiting(policy, item.guarantee_in(policy), item.cycle, item.key.made_at())
}
