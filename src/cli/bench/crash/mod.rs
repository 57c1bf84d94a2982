//! `signalpost bench crash`: the server is killed again and again, at moments that chance decides, while callers of
//! each kind emit and receivers fail. After each of the first twenty kills, and then after each tenth, a copy of the
//! store is looked through; in the end everything that was acknowledged must arrive.
//!
//! The soak shows that a service goes on for hours. This shows that no moment is a bad one to be killed in.

mod emitters;
mod image;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use self::emitters::{Emitter, Style};
use self::image::Image;
use self::report::Report;
use super::report::{Machine, json};
use super::server::{Server, Setup};
use super::soak::cast::{self, ORGANIZATIONS, Player};
use super::soak::ledger::Number;
use super::soak::plan::Mood;
use super::soak::receivers::Book;
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::receiver::TlsIdentity;
use crate::store::sled::{Inspection, SledStore};

/// How long the server lives in a round, in milliseconds from its being ready.
const LIFE: std::ops::Range<u64> = 5..350;
/// In one round of so many the server is killed once more, while it starts.
const KILLED_IN_START: u64 = 4;
/// How long after its beginning, in milliseconds.
const START: std::ops::Range<u64> = 0..80;
/// How long is waited at the end for what has not arrived.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(300);
/// How long a request may take. No receiver is slow, and a machine that is must not look as if one were.
const TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 20, nanos: 0 };
/// How often is looked at the end.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What arrives twice at the very end arrives within that.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// How often it is told how far it is.
const REMARK_EVERY: u32 = 25;
/// What a receiver may do in a round. None of it takes longer than a round.
const MOODS: [Mood; 8] = [
    Mood::Healthy,
    Mood::Healthy,
    Mood::Healthy,
    Mood::Failing,
    Mood::Busy,
    Mood::Resetting,
    Mood::Cutting,
    Mood::Refusing,
];
/// How the callers of the organizations emit.
const STYLES: [Style; ORGANIZATIONS] = [Style::Unary, Style::Batch, Style::Stream];

/// `signalpost bench crash`.
#[derive(Debug, Clone, Args)]
pub struct CrashArguments {
    /// How often the server is killed under load.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// When it is killed and who fails when; a random one if not given. It is printed either way.
    #[arg(long)]
    seed: Option<u64>,

    /// Cut the power instead of killing: only what reached the disk is kept, which is an image that is mounted for it.
    /// For root.
    #[arg(long)]
    power_cuts: bool,

    /// Where the temporary store is made; the system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the campaign and says what came of it.
///
/// # Errors
/// A process can't be started, the folder can't be written, or the server refuses or ends by itself.
pub async fn run(arguments: &CrashArguments) -> anyhow::Result<Exit> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    remark(&format!("{} kills with seed {seed}", arguments.rounds));
    let folder = super::temporary_folder(arguments.folder.as_deref())?;
    let mut campaign = Campaign::prepare(folder.path(), seed, arguments.power_cuts).await?;
    let failed = campaign.go(arguments.rounds).await;
    let Campaign { report, server, mut disk, .. } = campaign;
    if failed.is_err() || !report.passed() {
        // The store is what tells why.
        let kept = server.keep();
        disk.iter_mut().for_each(Image::keep);
        drop((disk, folder.keep()));
        let kept = format!("the store is kept in {}", kept.display());
        failed.with_context(|| format!("seed {seed}; {kept}"))?;
        remark(&kept);
    } else {
        drop((server, disk));
        folder.close().context("removing the temporary folder")?;
    }
    let printed = print(&if arguments.json { json(&report)? } else { report.table() });
    Ok(if report.passed() { printed } else { Exit::Failure })
}

struct Campaign {
    server: Server,
    book: Book,
    players: Vec<Player>,
    report: Report,
    chance: Rng,
    kills: Vec<Duration>,
    /// Where each caller goes on.
    next: [Number; ORGANIZATIONS],
    folder: PathBuf,
    /// Where the power is cut.
    disk: Option<Image>,
}

impl Campaign {
    async fn prepare(folder: &Path, seed: u64, power_cuts: bool) -> anyhow::Result<Self> {
        let identity = TlsIdentity::self_signed(["localhost", "127.0.0.1"])?;
        let certificate = folder.join("receivers.pem");
        std::fs::write(&certificate, identity.certificate_pem()).context("writing a certificate")?;
        let disk = power_cuts.then(|| Image::make(folder)).transpose()?;
        let of_server = disk.as_ref().map_or(folder, Image::folder);
        let setup = Setup { certificate: Some(certificate), ..Setup::default() };
        let server = Server::start(of_server, setup).await?;
        let book = Book::new(cast::ledger());
        let players = cast::assemble(&server, &book, &TlsAcceptor::from(identity.config()), TIMEOUT).await?;
        Ok(Self {
            server,
            book,
            players,
            report: Report::new(Machine::read(), seed, power_cuts),
            chance: Rng::with_seed(seed),
            kills: Vec::new(),
            next: [1; ORGANIZATIONS],
            folder: folder.to_owned(),
            disk,
        })
    }

    async fn go(&mut self, rounds: u32) -> anyhow::Result<()> {
        for round in 1..=rounds {
            self.round().await.with_context(|| format!("round {round}"))?;
            if round.is_multiple_of(REMARK_EVERY) {
                let (acknowledged, taken) = self.book.with(|ledger| ledger.counts());
                remark(&format!(
                    "{round} kills: {acknowledged} events acknowledged, {taken} deliveries taken"
                ));
            }
        }
        self.recover().await?;
        self.report.stopped_ms = Some(self.server.stop().await?.as_millis());
        let found = self.inspect(&self.server.store()).await?;
        anyhow::ensure!(found.was_closed, "the store was not closed in an orderly way");
        self.report.inspected(found);
        Ok(())
    }

    /// The server is ready; it is killed under load, and started again.
    async fn round(&mut self) -> anyhow::Result<()> {
        for player in &self.players {
            player.receiver.set_mood(self.chance.choice(MOODS).unwrap_or(Mood::Healthy));
        }
        let mut emitters = self.emitters()?;
        // The moment of the kill is the only thing that is waited for.
        tokio::time::sleep(Duration::from_millis(self.chance.u64(LIFE))).await;
        self.end()?;
        while let Some(ended) = emitters.join_next().await {
            let (organization, number) = ended?.context("emitting")?;
            if let Some(next) = self.next.get_mut(organization) {
                *next = number;
            }
        }
        self.report.killed_under_load += 1;
        if let Some(disk) = &mut self.disk {
            disk.go_back()?;
        }
        if is_inspected(self.report.killed_under_load) {
            let found = self.inspect_copy().await?;
            self.report.inspected(found);
        }
        self.start().await
    }

    /// Kills the server, or has it do nothing more while the disk is copied as it is.
    fn end(&mut self) -> anyhow::Result<()> {
        if let Some(disk) = &self.disk {
            self.server.freeze()?;
            disk.copy()?;
        }
        self.kills.push(self.book.now());
        self.server.kill()
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        while self.chance.u64(..KILLED_IN_START) == 0 {
            let after = Duration::from_millis(self.chance.u64(START));
            self.kills.push(self.book.now());
            self.server.kill_while_starting(after).await?;
            self.report.killed_while_starting += 1;
        }
        let took = self.server.start_again().await?;
        self.report.started(took);
        self.server.wait_until_reached().await
    }

    fn emitters(&self) -> anyhow::Result<JoinSet<anyhow::Result<(usize, Number)>>> {
        let mut emitters = JoinSet::new();
        for (organization, (style, next)) in STYLES.into_iter().zip(self.next).enumerate() {
            let (client, book) = (self.server.events(organization)?, self.book.clone());
            emitters.spawn(Emitter { organization, next, style, client, book }.run());
        }
        Ok(emitters)
    }

    /// The server itself must recover from what the kill left, so a copy is looked through.
    async fn inspect_copy(&self) -> anyhow::Result<Inspection> {
        let (store, copy) = (self.server.store(), tempfile::tempdir_in(&self.folder)?);
        copy_files(&store, copy.path()).context("copying the store")?;
        self.inspect(copy.path()).await
    }

    async fn inspect(&self, folder: &Path) -> anyhow::Result<Inspection> {
        let folder = folder.to_owned();
        let inspected = tokio::task::spawn_blocking(move || SledStore::inspect(&folder)).await?;
        inspected.context("looking through the store")
    }

    /// Everybody is healthy again, and what waits must arrive.
    async fn recover(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        for player in &mut self.players {
            player.receiver.set_mood(Mood::Healthy);
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

/// An inspection takes as long as the store is large, so later ones are seldom.
const fn is_inspected(round: u32) -> bool {
    round <= 20 || round.is_multiple_of(10)
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.metadata()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
