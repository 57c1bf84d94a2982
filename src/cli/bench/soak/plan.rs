//! What goes wrong when: drawn from a seed, so that a run can be repeated.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

/// How a receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers 200 at once.
    Healthy,
    /// Answers 500.
    Failing,
    /// Answers 503 and asks to come back in a second.
    Busy,
    /// Answers 200 after a while, within the timeout.
    Slow,
    /// Reads the request and never answers.
    Silent,
    /// Reads the request and closes the connection.
    Resetting,
    /// Sends half of an answer and closes the connection.
    Cutting,
    /// Closes connections before it reads anything.
    Refusing,
}

/// How the server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Ending {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The receiver of a destination behaves like that from here on.
    Mood(usize, Mood),
    /// A destination is paused.
    Pause(usize),
    /// It is resumed.
    Resume(usize),
    /// Its URL and its settings change.
    Change(usize),
    /// The dead letters of an organization are replayed.
    Replay(usize),
    /// The server ends and is started again.
    Restart(Ending),
}

/// What happens, and how long after the beginning.
pub type Planned = (Duration, Fault);

/// How large the run is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// How long it takes.
    pub length: Duration,
    /// Organizations.
    pub organizations: usize,
    /// Destinations of all of them.
    pub destinations: usize,
}

const BAD_MOODS: [Mood; 7] =
    [Mood::Failing, Mood::Busy, Mood::Slow, Mood::Silent, Mood::Resetting, Mood::Cutting, Mood::Refusing];

/// The server is restarted in this part of the run only, so that its memory can be judged in the rest.
const RESTARTS_PART: f64 = 0.7;

impl Size {
    /// From here on the server is no longer restarted.
    #[must_use]
    pub fn quiet_from(&self) -> Duration {
        self.length.mul_f64(RESTARTS_PART)
    }

    /// About how long faults take.
    fn unit(&self) -> Duration {
        (self.length / 60).clamp(Duration::from_secs(2), Duration::from_secs(12))
    }
}

/// The faults of a run, in order of time.
#[must_use]
pub fn plan(seed: u64, size: Size) -> Vec<Planned> {
    let mut random = Rng::with_seed(seed);
    let mut planned = Vec::new();
    for destination in 0..size.destinations {
        planned.extend(of_destination(&mut random, size, destination));
    }
    for organization in 0..size.organizations {
        let moments = moments(&mut random, (4.0, 8.0), size.unit(), size.length);
        planned.extend(moments.into_iter().map(|at| (at, Fault::Replay(organization))));
    }
    for at in moments(&mut random, (1.5, 4.0), size.unit(), size.quiet_from()) {
        let ending = if random.u8(..10) < 6 { Ending::Kill } else { Ending::Terminate };
        planned.push((at, Fault::Restart(ending)));
    }
    planned.sort_by_key(|(at, _)| *at);
    planned
}

fn of_destination(random: &mut Rng, size: Size, destination: usize) -> Vec<Planned> {
    let mut planned = Vec::new();
    for at in moments(random, (1.0, 4.0), size.unit(), size.length) {
        let until = at + size.unit().mul_f64(0.3 + 0.7 * random.f64());
        match random.u8(..10) {
            0 => planned.push((at, Fault::Change(destination))),
            1 | 2 => {
                planned.push((at, Fault::Pause(destination)));
                planned.push((until, Fault::Resume(destination)));
            }
            _ => {
                let mood = random.choice(BAD_MOODS).unwrap_or(Mood::Failing);
                planned.push((at, Fault::Mood(destination, mood)));
                planned.push((until, Fault::Mood(destination, Mood::Healthy)));
            }
        }
    }
    planned.retain(|(at, _)| *at < size.length);
    planned
}

/// Moments until the end, with so many units between them.
fn moments(random: &mut Rng, (least, most): (f64, f64), unit: Duration, end: Duration) -> Vec<Duration> {
    let mut moments = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += unit.mul_f64(least + (most - least) * random.f64());
        if at >= end {
            return moments;
        }
        moments.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { length: Duration::from_secs(1200), organizations: 3, destinations: 9 };

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_one_others() {
        assert_eq!(plan(7, SIZE), plan(7, SIZE));
        assert_ne!(plan(7, SIZE), plan(8, SIZE));
    }

    #[test]
    fn every_kind_of_fault_is_in_a_long_run_and_restarts_end_before_the_quiet_part() {
        let planned = plan(1, SIZE);
        assert!(planned.is_sorted_by_key(|(at, _)| *at));
        assert!(planned.iter().all(|(at, _)| *at < SIZE.length));
        for mood in BAD_MOODS {
            assert!(planned.iter().any(|(_, fault)| matches!(fault, Fault::Mood(_, one) if *one == mood)));
        }
        for ending in [Ending::Kill, Ending::Terminate] {
            let restarts = planned.iter().filter(|(_, fault)| *fault == Fault::Restart(ending));
            assert!(restarts.clone().count() > 3);
            assert!(restarts.clone().all(|(at, _)| *at < SIZE.quiet_from()));
        }
        for kind in [Fault::Pause(0), Fault::Resume(0), Fault::Replay(2)] {
            assert!(planned.iter().any(|(_, fault)| *fault == kind), "{kind:?}");
        }
    }

    #[test]
    fn whoever_turns_bad_or_is_paused_comes_back_while_there_is_time() {
        for destination in 0..SIZE.destinations {
            let of = |fault: &Fault| matches!(fault, Fault::Mood(one, _) if *one == destination);
            let planned = plan(3, SIZE);
            let moods: Vec<_> = planned.iter().filter(|(_, fault)| of(fault)).collect();
            let bad = moods.iter().filter(|(_, fault)| *fault != Fault::Mood(destination, Mood::Healthy));
            let good = moods.len() - bad.clone().count();
            assert!(bad.count() <= good + 1);
        }
    }
}
