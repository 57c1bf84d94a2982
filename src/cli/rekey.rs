//! `signalpost rekey`: seals all stored secrets anew, under the key that comes first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::domain::audit::{AuditChange, AuditEntry, AuditOutcome, SERVER_PRINCIPAL};
use crate::domain::id::AuditEntryId;
use crate::metrics::StoreMetrics;
use crate::shutdown::Signals;
use crate::store::StoreError;
use crate::store::audit::AuditStore;
use crate::store::keyring::KeyId;
use crate::store::sled::{Resealed, SledStore};
use crate::telemetry;

use super::exit::Exit;
use super::output::{complain, print, remark};
use super::runtime::block_on;

/// How often those who wait are told how far it is.
const REMARK_EVERY: Duration = Duration::from_secs(1);

/// `signalpost rekey`.
#[derive(Debug, Args)]
pub(super) struct RekeyArguments {
    /// The configuration file; without it SIGNALPOST_CONFIG, without that the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: &RekeyArguments) -> Exit {
    let config = match config::load(arguments.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(&error, Exit::Usage),
    };
    if let Err(error) = telemetry::logs::start(&config.log) {
        return complain(&error, Exit::Usage);
    }
    block_on(rekey(&config))
}

async fn rekey(config: &Config) -> anyhow::Result<Exit> {
    let mut signals = Signals::of_process()?;
    let store = app::open_embedded(config, &(Arc::new(SystemClock) as _), StoreMetrics::default()).await?;
    let key = store.sealing_key();
    let outdated = store.seals().await?.without(key);
    if outdated > 0 {
        let words = format!("sealing secrets anew under the key {key} has begun");
        record(&store, words, outdated).await?;
    }
    let resealed = until_interrupted(&store, &mut signals).await;
    if let Ok(done) = &resealed
        && outdated > 0
    {
        record(&store, told(done, key), done.secrets.total()).await?;
    }
    let seals = store.seals().await;
    store.close().await?;
    let (resealed, seals) = (resealed?, seals?);
    print(&summary(&resealed, key, seals.total()));
    if resealed.remaining > 0 {
        let rest = resealed.remaining;
        remark(&format!("Interrupted: {rest} destinations are left. Run it again to go on."));
        return Ok(Exit::Failure);
    }
    Ok(Exit::Success)
}

fn told(done: &Resealed, key: KeyId) -> String {
    let Resealed { destinations, remaining, .. } = done;
    let left = if *remaining > 0 { format!("; {remaining} are left") } else { String::new() };
    format!("secrets of {destinations} destinations have been sealed anew under the key {key}{left}")
}

/// Writes into the audit log what whoever runs the command does; they have proved to the system who they are, and
/// not to us.
async fn record(store: &SledStore, description: String, count: usize) -> Result<(), StoreError> {
    let at = SystemClock.now();
    let entry = AuditEntry {
        id: AuditEntryId::make(at, std::array::from_fn(|_| fastrand::u8(..))),
        at,
        organization_id: String::new(),
        principal: SERVER_PRINCIPAL.to_owned(),
        remote_address: None,
        method: String::new(),
        resource_id: String::new(),
        outcome: AuditOutcome::Changed,
        request_id: String::new(),
        change: AuditChange::default(),
        count: count as u64,
        description,
    };
    store.record_audit(vec![entry]).await
}

/// Seals anew until all is done or a signal comes; the step that is under way is finished first.
async fn until_interrupted(store: &SledStore, signals: &mut Signals) -> Result<Resealed, StoreError> {
    let interrupted = CancellationToken::new();
    let mut progress = Progress::default();
    let work = store.reseal(|done| {
        progress.show(done);
        !interrupted.is_cancelled()
    });
    tokio::pin!(work);
    tokio::select! {
        resealed = &mut work => resealed,
        _ = signals.next() => {
            interrupted.cancel();
            work.await
        }
    }
}

#[derive(Default)]
struct Progress {
    last: Option<Instant>,
}

impl Progress {
    fn show(&mut self, done: &Resealed) {
        if self.last.is_none_or(|last| last.elapsed() >= REMARK_EVERY) {
            self.last = Some(Instant::now());
            let (destinations, total) = (done.destinations, done.destinations + done.remaining);
            remark(&format!("{destinations} of {total} destinations are sealed anew"));
        }
    }
}

fn summary(done: &Resealed, key: KeyId, total: usize) -> String {
    let Resealed { destinations, secrets, .. } = done;
    let (sealed, clear) = (secrets.total(), secrets.clear);
    let mut text = format!(
        "Sealed {sealed} secrets of {destinations} destinations anew under the key {key}; {total} secrets are \
         stored in all.\n"
    );
    if clear > 0 {
        text.push_str(&format!(
            "{clear} of them had been stored in the clear. Their old form leaves the disk only when the store \
             writes over it: rotate them if others could read the folder.\n"
        ));
    }
    let others = secrets.by_key.keys().filter(|other| **other != key);
    for other in others.filter(|_| done.remaining == 0) {
        text.push_str(&format!("No secret needs the key {other} any more.\n"));
    }
    text
}
