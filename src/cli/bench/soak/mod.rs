//! `signalpost bench soak`: hours of ordinary trouble in some minutes, and a count of what came through.
//!
//! Organizations emit at a steady pace, each event with an id that is tried until it is acknowledged.
//! Receivers fail, stall and reset; destinations are paused, changed and replayed; the server is killed
//! and stopped and started again, all drawn from a seed. In the last third of the time the server is
//! left alone, so that its memory can be judged. Then all receivers are healthy, and everything that
//! was acknowledged must arrive.

pub(super) mod cast;
pub(super) mod emitters;
pub(super) mod ledger;
pub(super) mod plan;
pub(super) mod receivers;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::cast::{ORGANIZATIONS, Player};
use self::emitters::Emitter;
use self::plan::{Ending, Fault, Mood, Size};
use self::receivers::Book;
use self::report::{Report, Restarted, Sample};
use super::report::{Machine, json};
use super::server::{Server, Setup};
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::receiver::TlsIdentity;

/// How long is waited at the end for what has not arrived.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(180);
/// How long a request may take; longer than a slow receiver does.
const TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 3, nanos: 0 };
/// How often is looked, and dead letters are replayed, at the end.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What arrives twice at the very end arrives within that.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// How many samples of memory and disk are taken.
const SAMPLES: u32 = 60;

/// `signalpost bench soak`.
#[derive(Debug, Clone, Args)]
pub struct SoakArguments {
    /// How long faults and restarts go on.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1440))]
    minutes: u32,

    /// Events a second, over all organizations; each goes to three destinations.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    rate: u32,

    /// Which faults happen when; a random one if not given. It is printed either way.
    #[arg(long)]
    seed: Option<u64>,

    /// Where the temporary store is made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the soak and says what came of it.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or ends by itself.
pub async fn run(arguments: &SoakArguments) -> anyhow::Result<Exit> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    remark(&format!("soak of {} minutes with seed {seed}", arguments.minutes));
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let identity = TlsIdentity::self_signed(["localhost", "127.0.0.1"])?;
    let certificate = folder.path().join("receivers.pem");
    std::fs::write(&certificate, identity.certificate_pem()).context("writing a certificate")?;
    let length = Duration::from_secs(60) * arguments.minutes;
    let setup =
        Setup { certificate: Some(certificate), history_seconds: Some(history(length)), ..Setup::default() };
    let server = Server::start(folder.path(), setup).await?;
    let book = Book::new(cast::ledger());
    let players = cast::assemble(&server, &book, &TlsAcceptor::from(identity.config()), TIMEOUT).await?;
    let report = Report::new(Machine::read(), seed, arguments.minutes, arguments.rate);
    let size = Size { length, organizations: ORGANIZATIONS, destinations: players.len() };
    let mut soak = Soak { server, book, players, report, size, kills: Vec::new() };
    let failed = soak.go(arguments.rate, seed).await;
    let Soak { report, server, .. } = soak;
    if failed.is_err() || !report.passed() {
        // The store is what tells why.
        let kept = server.keep();
        drop(folder.keep());
        let kept = format!("the store is kept in {}", kept.display());
        failed.with_context(|| format!("seed {seed}; {kept}"))?;
        remark(&kept);
    } else {
        drop(server);
        folder.close().context("removing the temporary folder")?;
    }
    let printed = print(&if arguments.json { json(&report)? } else { report.table() });
    Ok(if report.passed() { printed } else { Exit::Failure })
}

/// So short that what is removed and what comes in soon balance; longer than a restart takes.
fn history(length: Duration) -> u32 {
    u32::try_from(length.as_secs() / 20).unwrap_or(60).clamp(10, 60)
}

struct Soak {
    server: Server,
    book: Book,
    players: Vec<Player>,
    report: Report,
    size: Size,
    kills: Vec<Duration>,
}

impl Soak {
    async fn go(&mut self, rate: u32, seed: u64) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let mut emitters = JoinSet::new();
        for organization in 0..ORGANIZATIONS {
            let (client, book) = (self.server.events(organization)?, self.book.clone());
            let rate = f64::from(rate) / ORGANIZATIONS as f64;
            emitters.spawn(Emitter { organization, rate, client, book }.run(stop.clone()));
        }
        tokio::select! {
            ended = self.suffer(seed) => ended?,
            Some(ended) = emitters.join_next() => {
                ended?.context("emitting")?;
                anyhow::bail!("an emitter ended by itself");
            }
        }
        stop.cancel();
        while let Some(ended) = emitters.join_next().await {
            ended?.context("emitting")?;
        }
        self.recover().await?;
        self.report.stopped_ms = Some(self.server.stop().await?.as_millis());
        Ok(())
    }

    /// All faults, one after the other, with samples between them.
    async fn suffer(&mut self, seed: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        let every = self.size.length / SAMPLES;
        let mut next_sample = every;
        let last = std::iter::once((self.size.length, None));
        let planned = plan::plan(seed, self.size).into_iter().map(|(at, fault)| (at, Some(fault)));
        for (at, fault) in planned.chain(last) {
            while next_sample <= at {
                tokio::time::sleep_until(began + next_sample).await;
                self.sample()?;
                next_sample += every;
            }
            tokio::time::sleep_until(began + at).await;
            if let Some(fault) = fault {
                self.apply(fault).await.with_context(|| format!("{fault:?} after {at:?}"))?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.report.faults += 1;
        match fault {
            Fault::Mood(place, mood) => {
                if let Some(player) = self.players.get(place) {
                    player.receiver.set_mood(mood);
                }
            }
            Fault::Pause(place) => {
                if let Some(player) = self.players.get(place) {
                    player.pause(&self.server).await?;
                }
            }
            Fault::Resume(place) => {
                if let Some(player) = self.players.get(place) {
                    player.resume(&self.server).await?;
                }
            }
            Fault::Change(place) => {
                if let Some(player) = self.players.get_mut(place) {
                    player.change(&self.server).await?;
                }
            }
            Fault::Replay(organization) => {
                self.report.replayed += cast::replay(&self.server, organization).await?;
            }
            Fault::Restart(ending) => self.restart(ending).await?,
        }
        Ok(())
    }

    async fn restart(&mut self, ending: Ending) -> anyhow::Result<()> {
        let at = self.book.now();
        let stop = match ending {
            Ending::Kill => {
                self.kills.push(at);
                self.server.kill()?;
                None
            }
            Ending::Terminate => Some(self.server.stop().await?),
        };
        let ready = self.server.start_again().await?;
        self.server.wait_until_reached().await?;
        self.report.restarts.push(Restarted::new(ending, at, stop, ready));
        Ok(())
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        let (usage, disk_bytes) = (self.server.usage()?, self.server.disk_bytes()?);
        let (acknowledged, taken) = self.book.with(|ledger| ledger.counts());
        self.report.samples.push(Sample {
            at: self.book.now(),
            quiet: self.book.now() >= self.size.quiet_from(),
            acknowledged,
            taken,
            restarts: self.report.restarts.len(),
            resident_bytes: usage.resident_bytes,
            disk_bytes,
        });
        Ok(())
    }

    /// Everybody is healthy again, and what waits must arrive.
    async fn recover(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        for player in &mut self.players {
            player.receiver.set_mood(Mood::Healthy);
            player.resume(&self.server).await?;
            player.change(&self.server).await?;
        }
        while began.elapsed() < ARRIVAL_LIMIT && !self.book.with(|ledger| ledger.is_complete()) {
            for organization in 0..ORGANIZATIONS {
                self.report.replayed += cast::replay(&self.server, organization).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.report.recovered_ms = Some(began.elapsed().as_millis());
        tokio::time::sleep(AFTERWARDS).await;
        self.report.outcome = self.book.with(|ledger| ledger.judge(&self.kills));
        Ok(())
    }
}
