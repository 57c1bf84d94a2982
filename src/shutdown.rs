//! How the process stops: softly, by deadline, or at once; and who is still running.
//!
//! Every task has a name and a policy for its own ending. Two tokens carry the stop: *soft* asks to
//! finish what is running and to begin nothing, *hard* asks to drop everything; hard implies soft.
//! [`Tasks::run_until_stopped`] is the one place that waits: for a reason to stop, then for the tasks,
//! then, past the deadline or at a second signal, only a moment longer.
//!
//! A task that must run as long as the process does and ends by itself, or any task that panics while
//! it matters, stops the process with a failure: an honest restart beats a limping process.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{error, info, warn};

/// How long tasks get after the hard stop; they have nothing left to wait for.
const AFTER_HARD: Duration = Duration::from_secs(2);

/// What the end of a task means, when nobody asked it to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// The process can't do without it: everything stops, and the exit code is a failure.
    StopProcess,
    /// It had something to do and has done it. A panic of it is logged, and no more.
    Ignore,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Every task ended within the deadline.
    InTime,
    /// The deadline passed, or a second signal came; every task ended then.
    Hurried,
    /// These tasks did not end even then.
    Abandoned(Vec<&'static str>),
}

/// The tasks of the process, or of one server in a test. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hard: CancellationToken,
    soft: CancellationToken,
    tracker: TaskTracker,
    failed: AtomicBool,
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, &'static str>>,
}

impl Default for Shared {
    fn default() -> Self {
        let hard = CancellationToken::new();
        Self {
            soft: hard.child_token(),
            hard,
            tracker: TaskTracker::new(),
            failed: AtomicBool::new(false),
            next: AtomicU64::new(0),
            running: Mutex::default(),
        }
    }
}

impl Tasks {
    /// No task yet, and no reason to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future on the runtime of the caller, under a name and with a policy for its ending.
    pub fn spawn<F>(&self, name: &'static str, on_exit: OnExit, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let watch = self.watch(name, on_exit);
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns tasks")]
        tokio::spawn(async move {
            future.await;
            watch.finish();
        });
    }

    /// Watches something that is no task, such as a thread, until the guard is finished or dropped.
    ///
    /// A guard that is dropped without [`Watch::finish`] means a panic, or a runtime that was torn down.
    #[must_use]
    pub fn watch(&self, name: &'static str, on_exit: OnExit) -> Watch {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.running().insert(id, name);
        Watch { tasks: self.clone(), id, name, on_exit, finished: false, _token: self.shared.tracker.token() }
    }

    /// Cancelled when the process should finish what is running and begin nothing.
    #[must_use]
    pub fn soft(&self) -> CancellationToken {
        self.shared.soft.clone()
    }

    /// Cancelled when the process should drop everything.
    #[must_use]
    pub fn hard(&self) -> CancellationToken {
        self.shared.hard.clone()
    }

    /// Asks everything to finish.
    pub fn stop(&self) {
        self.shared.soft.cancel();
    }

    /// Asks everything to end at once.
    pub fn stop_now(&self) {
        self.shared.hard.cancel();
    }

    /// Stops the process softly, with a failing exit code.
    pub fn fail(&self, name: &'static str, reason: &str) {
        self.shared.failed.store(true, Ordering::SeqCst);
        error!(task.name = name, "{reason}: the process stops");
        self.stop();
    }

    /// Whether the exit code must be a failure.
    #[must_use]
    pub fn ended_badly(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// Waits for a reason to stop, then for all tasks, at most until the deadline has passed.
    ///
    /// The first signal stops softly, the second one hard; so does the deadline.
    pub async fn run_until_stopped(&self, mut signals: Signals, deadline: Duration) -> Stopped {
        tokio::select! {
            name = signals.next() => info!(signal = name, "stopping; a second signal stops at once"),
            () = self.shared.soft.cancelled() => {}
        }
        self.stop();
        self.shared.tracker.close();
        let in_time = tokio::select! {
            biased;
            () = self.shared.tracker.wait() => true,
            () = self.shared.hard.cancelled() => false,
            name = signals.next() => {
                warn!(signal = name, "second signal: stopping at once");
                false
            }
            () = tokio::time::sleep(deadline) => {
                warn!(deadline_s = deadline.as_secs_f64(), running = ?self.names(), "the deadline passed");
                false
            }
        };
        if in_time {
            return Stopped::InTime;
        }
        self.stop_now();
        match tokio::time::timeout(AFTER_HARD, self.shared.tracker.wait()).await {
            Ok(()) => Stopped::Hurried,
            Err(_) => {
                error!(running = ?self.names(), "some tasks did not end");
                Stopped::Abandoned(self.names())
            }
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.running().values().copied().collect()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, &'static str>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that runs; when it is gone, its policy decides what that means.
#[derive(Debug)]
pub struct Watch {
    tasks: Tasks,
    id: u64,
    name: &'static str,
    on_exit: OnExit,
    finished: bool,
    _token: TaskTrackerToken,
}

impl Watch {
    /// It ended by itself, without a panic.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.running().remove(&self.id);
        let stopping = self.tasks.shared.soft.is_cancelled();
        match (self.finished, self.on_exit) {
            (true, OnExit::StopProcess) if !stopping => self.tasks.fail(self.name, "a task ended by itself"),
            (true, _) => {}
            (false, OnExit::Ignore) => warn!(task.name = self.name, "a task did not end in order"),
            // Dropped with its runtime, after the stop: that is what the hard stop is for.
            (false, OnExit::StopProcess) if stopping && !std::thread::panicking() => {}
            (false, OnExit::StopProcess) => self.tasks.fail(self.name, "a task panicked"),
        }
    }
}

/// Where signals come from.
#[derive(Debug)]
pub struct Signals(Source);

#[derive(Debug)]
enum Source {
    Process {
        terminate: Signal,
        interrupt: Signal,
    },
    None,
    #[cfg(test)]
    Channel(tokio::sync::mpsc::Receiver<&'static str>),
}

impl Signals {
    /// SIGTERM and SIGINT of this process; from here on they no longer end it by themselves.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn of_process() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self(Source::Process { terminate, interrupt }))
    }

    /// None at all, for a server inside another program.
    #[must_use]
    pub fn none() -> Self {
        Self(Source::None)
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        let name = match &mut self.0 {
            Source::Process { terminate, interrupt } => tokio::select! {
                got = terminate.recv() => got.map(|()| "SIGTERM"),
                got = interrupt.recv() => got.map(|()| "SIGINT"),
            },
            Source::None => None,
            #[cfg(test)]
            Source::Channel(names) => names.recv().await,
        };
        match name {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio::time::{Instant, sleep};

    const DEADLINE: Duration = Duration::from_secs(25);

    fn sleeper(tasks: &Tasks, name: &'static str, seconds: u64) {
        let (soft, hard) = (tasks.soft(), tasks.hard());
        tasks.spawn(name, OnExit::StopProcess, async move {
            soft.cancelled().await;
            tokio::select! {
                () = hard.cancelled() => {}
                () = sleep(Duration::from_secs(seconds)) => {}
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_what_is_running_and_no_longer() {
        let (tasks, start) = (Tasks::new(), Instant::now());
        sleeper(&tasks, "worker", 5);
        tasks.stop();
        assert_eq!(tasks.run_until_stopped(Signals::none(), DEADLINE).await, Stopped::InTime);
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(!tasks.ended_badly());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_turns_a_soft_stop_into_a_hard_one() {
        let (tasks, start) = (Tasks::new(), Instant::now());
        sleeper(&tasks, "worker", 500);
        tasks.stop();
        assert_eq!(tasks.run_until_stopped(Signals::none(), DEADLINE).await, Stopped::Hurried);
        assert_eq!(start.elapsed().as_secs(), 25);
        assert!(tasks.hard().is_cancelled() && !tasks.ended_badly());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_asks_and_the_second_one_insists() {
        let (tasks, start) = (Tasks::new(), Instant::now());
        sleeper(&tasks, "worker", 500);
        let (sender, receiver) = mpsc::channel(2);
        tasks.spawn("keyboard", OnExit::Ignore, async move {
            for _ in 0..2 {
                sleep(Duration::from_secs(1)).await;
                sender.send("SIGINT").await.unwrap();
            }
        });
        let signals = Signals(Source::Channel(receiver));
        assert_eq!(tasks.run_until_stopped(signals, DEADLINE).await, Stopped::Hurried);
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_even_the_hard_stop_is_left_behind_by_name() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", OnExit::Ignore, std::future::pending());
        tasks.stop_now();
        let stopped = tasks.run_until_stopped(Signals::none(), DEADLINE).await;
        assert_eq!(stopped, Stopped::Abandoned(vec!["stuck"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_critical_task_that_ends_by_itself_stops_the_process_with_a_failure() {
        let tasks = Tasks::new();
        sleeper(&tasks, "worker", 1);
        tasks.spawn("listener", OnExit::StopProcess, async {});
        assert_eq!(tasks.run_until_stopped(Signals::none(), DEADLINE).await, Stopped::InTime);
        assert!(tasks.ended_badly());
    }

    #[tokio::test(start_paused = true)]
    async fn a_critical_task_that_panics_stops_the_process_with_a_failure_also_while_it_stops() {
        for stop_first in [false, true] {
            let tasks = Tasks::new();
            if stop_first {
                tasks.stop();
            }
            tasks.spawn("committer", OnExit::StopProcess, async { panic!("planted") });
            assert_eq!(tasks.run_until_stopped(Signals::none(), DEADLINE).await, Stopped::InTime);
            assert!(tasks.ended_badly());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_may_end_ends_alone_even_by_a_panic() {
        let tasks = Tasks::new();
        tasks.spawn("done", OnExit::Ignore, async {});
        tasks.spawn("broken", OnExit::Ignore, async { panic!("planted") });
        sleep(Duration::from_secs(1)).await;
        assert!(!tasks.soft().is_cancelled() && !tasks.ended_badly());
        assert_eq!(tasks.names(), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_thread_is_waited_for_and_its_panic_counts() {
        let tasks = Tasks::new();
        let watch = tasks.watch("writer", OnExit::StopProcess);
        let thread = std::thread::spawn(move || {
            let _watch = watch;
            panic!("planted");
        });
        assert_eq!(tasks.run_until_stopped(Signals::none(), DEADLINE).await, Stopped::InTime);
        assert!(tasks.ended_badly() && thread.join().is_err());
    }

    #[tokio::test]
    async fn a_real_signal_stops_softly() {
        let (tasks, signals) = (Tasks::new(), Signals::of_process().unwrap());
        sleeper(&tasks, "worker", 0);
        let us = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &us]).status().unwrap().success());
        assert_eq!(tasks.run_until_stopped(signals, DEADLINE).await, Stopped::InTime);
        assert!(!tasks.ended_badly());
    }
}
