//! `signalpost dead-letters replay`, `follow` and `cancel`.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tonic::Code;

use crate::grpc::proto::v1;
use crate::grpc::proto::v1::replay_dead_letters_request::Selection;
use crate::shutdown::Signals;

use super::{Call, Chosen};
use crate::cli::client::{Connection, Failure};
use crate::cli::exit::Exit;
use crate::cli::output::{complain, print, remark};
use crate::cli::show::{Progress, as_json};
use crate::cli::words;

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// `signalpost dead-letters replay`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Check and count, and start nothing.
    #[arg(long)]
    dry_run: bool,
    /// How many a second, 1 to 10,000; the server's default is 100.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    rate: Option<i32>,
    /// Start it and return; `follow` shows how far it is.
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Wait for the outcomes as well: until each has succeeded or failed again.
    #[arg(long, conflicts_with_all = ["dry_run", "detach"])]
    wait: bool,
    #[command(flatten)]
    call: Call,
}

/// `signalpost dead-letters follow` and `cancel`.
#[derive(Debug, Args)]
pub(in crate::cli) struct OneArguments {
    /// The replay.
    #[arg(value_name = "REPLAY")]
    replay: String,
    #[command(flatten)]
    call: Call,
}

pub(super) async fn run(arguments: ReplayArguments) -> anyhow::Result<Exit> {
    arguments.chosen.check()?;
    // Before anything is started: from here on Ctrl-C has a meaning.
    let mut signals = Signals::of_process()?;
    let connection = arguments.call.connect().await?;
    if !arguments.chosen.ids.is_empty() {
        return one_by_one(&connection, &arguments).await;
    }
    let replay = start(&connection, &arguments).await?;
    if arguments.dry_run {
        return show(
            &arguments.call,
            &replay,
            &format!("Would replay {} dead letters.\n", replay.total_count),
        );
    }
    if arguments.detach {
        let text = format!(
            "{} is running; `signalpost dead-letters follow {}` shows how far it is\n",
            replay.replay_id, replay.replay_id
        );
        return show(&arguments.call, &replay, &text);
    }
    let watch = Watch { connection: &connection, call: &arguments.call, outcomes: arguments.wait };
    tokio::select! {
        ended = watch.to_the_end(&replay.replay_id) => finish(&arguments.call, &ended?),
        _ = signals.next() => interrupt(&connection, &arguments.call, &replay.replay_id).await,
    }
}

pub(super) async fn follow(arguments: OneArguments) -> anyhow::Result<Exit> {
    let mut signals = Signals::of_process()?;
    let connection = arguments.call.connect().await?;
    let watch = Watch { connection: &connection, call: &arguments.call, outcomes: false };
    tokio::select! {
        ended = watch.to_the_end(&arguments.replay) => finish(&arguments.call, &ended?),
        _ = signals.next() => {
            remark("The replay goes on by itself.");
            Ok(Exit::Interrupted)
        }
    }
}

pub(super) async fn cancel(arguments: OneArguments) -> anyhow::Result<Exit> {
    let connection = arguments.call.connect().await?;
    let replay = end(&connection, &arguments.call, &arguments.replay).await?;
    show(&arguments.call, &replay, &summary(&replay))
}

async fn start(connection: &Connection, arguments: &ReplayArguments) -> anyhow::Result<v1::Replay> {
    let selection = match arguments.chosen.all {
        true => Selection::All(true),
        false => Selection::Filter(arguments.chosen.selection.filter()),
    };
    let request = v1::ReplayDeadLettersRequest {
        organization_id: arguments.call.organization_id(),
        selection: Some(selection),
        deliveries_per_second: arguments.rate,
        validate_only: arguments.dry_run,
    };
    let answer = connection.answer(connection.deliveries().replay_dead_letters(request).await)?;
    answer.replay.context("the server answered without a replay")
}

/// Single ones go back one by one; what can't go back is told, and the others go on.
async fn one_by_one(connection: &Connection, arguments: &ReplayArguments) -> anyhow::Result<Exit> {
    if arguments.dry_run {
        return Err(Failure::usage("--dry-run counts a selection; with ids there is nothing to count").into());
    }
    let mut exit = Exit::Success;
    for delivery_id in &arguments.chosen.ids {
        let request = v1::ReplayDeadLetterRequest {
            organization_id: arguments.call.organization_id(),
            delivery_id: delivery_id.clone(),
        };
        match connection.answer(connection.deliveries().replay_dead_letter(request).await) {
            Ok(answer) => {
                let delivery = answer.delivery.unwrap_or_default();
                print(&match arguments.call.output.is_json() {
                    true => format!("{}\n", as_json(&delivery)?),
                    false => format!("{delivery_id} waits again\n"),
                });
            }
            Err(failure) => {
                exit = failure.exit();
                complain(&std::io::Error::other(format!("{delivery_id}: {failure}")), exit);
            }
        }
    }
    Ok(exit)
}

struct Watch<'a> {
    connection: &'a Connection,
    call: &'a Call,
    outcomes: bool,
}

impl Watch<'_> {
    /// Asks until the replay has ended, and shows how far it is.
    async fn to_the_end(&self, replay_id: &str) -> Result<v1::Replay, Failure> {
        let mut progress = Progress::of(0, "put back");
        loop {
            match self.ask(replay_id).await {
                Ok(replay) => {
                    let count = |count: i64| u64::try_from(count).unwrap_or(0);
                    let passed = replay.replayed_count + replay.skipped_count;
                    progress.at(count(passed), count(replay.total_count.max(passed)));
                    if self.has_ended(&replay) {
                        progress.end();
                        return Ok(replay);
                    }
                }
                // The replay survives a restart of the server; so does who watches it.
                Err(failure) if failure.is_transient() => {}
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn has_ended(&self, replay: &v1::Replay) -> bool {
        let outcomes = replay.succeeded_count + replay.failed_count >= replay.replayed_count;
        match replay.state() {
            v1::ReplayState::Running | v1::ReplayState::Unspecified => false,
            v1::ReplayState::Completed => !self.outcomes || outcomes,
            v1::ReplayState::Cancelled | v1::ReplayState::Failed => true,
        }
    }

    async fn ask(&self, replay_id: &str) -> Result<v1::Replay, Failure> {
        let request = v1::GetReplayRequest {
            organization_id: self.call.organization_id(),
            replay_id: replay_id.to_owned(),
        };
        let answer = self.connection.answer(self.connection.deliveries().get_replay(request).await)?;
        Ok(answer.replay.unwrap_or_default())
    }
}

async fn interrupt(connection: &Connection, call: &Call, replay_id: &str) -> anyhow::Result<Exit> {
    match end(connection, call, replay_id).await {
        Ok(replay) => {
            show(call, &replay, &summary(&replay))?;
            Ok(Exit::Interrupted)
        }
        // It was faster.
        Err(Failure::Refused(refusal)) if refusal.code == Code::FailedPrecondition => {
            remark("The replay had put all back before it could be cancelled.");
            Ok(Exit::Success)
        }
        Err(failure) => {
            remark(&format!("The replay {replay_id} could not be cancelled and goes on by itself."));
            Err(failure.into())
        }
    }
}

async fn end(connection: &Connection, call: &Call, replay_id: &str) -> Result<v1::Replay, Failure> {
    let request =
        v1::CancelReplayRequest { organization_id: call.organization_id(), replay_id: replay_id.to_owned() };
    let answer = connection.answer(connection.deliveries().cancel_replay(request).await)?;
    Ok(answer.replay.unwrap_or_default())
}

fn finish(call: &Call, replay: &v1::Replay) -> anyhow::Result<Exit> {
    show(call, replay, &summary(replay))?;
    Ok(match replay.state() {
        v1::ReplayState::Completed => Exit::Success,
        _ => Exit::Failure,
    })
}

fn summary(replay: &v1::Replay) -> String {
    let (state, id) = (words::replay_state(replay.state()), &replay.replay_id);
    let mut text = format!(
        "{id} {state}: {} of {} put back, {} skipped; so far {} succeeded, {} failed again\n",
        replay.replayed_count,
        replay.total_count,
        replay.skipped_count,
        replay.succeeded_count,
        replay.failed_count
    );
    if !replay.error.is_empty() {
        text.push_str(&format!("  because: {}\n", replay.error));
    }
    text
}

fn show(call: &Call, replay: &v1::Replay, text: &str) -> anyhow::Result<Exit> {
    Ok(print(&match call.output.is_json() {
        true => format!("{}\n", as_json(replay)?),
        false => text.to_owned(),
    }))
}
