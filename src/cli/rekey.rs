//! `signalpost rekey`: seals all stored secrets anew, under the key that comes first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::app::StoredSecrets;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::domain::audit::AuditEntry;
use crate::domain::id::AuditEntryId;
use crate::shutdown::Signals;
use crate::store::StoreError;
use crate::store::keyring::KeyId;
use crate::store::seals::Resealed;
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
    let store = StoredSecrets::open(config, &(Arc::new(SystemClock) as _)).await?;
    let resealed = until_interrupted(&store, &mut signals).await;
    let key = store.sealing_key();
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

/// Seals anew for as long as it may go on. That it has begun, and however it ended, is on the record where anything was
/// to be done.
async fn reseal(
    store: &StoredSecrets,
    may_go_on: impl FnMut(&Resealed) -> bool,
) -> Result<Resealed, StoreError> {
    let key = store.sealing_key();
    let outdated = store.seals().await?.without(key);
    if outdated > 0 {
        record(store, format!("sealing secrets anew under the key {key} has begun"), outdated).await?;
    }
    let resealed = store.reseal(may_go_on).await;
    record_end(store, &resealed, outdated > 0).await?;
    resealed
}

/// However it ended is on the record, where anything was to be done.
async fn record_end(
    store: &StoredSecrets,
    resealed: &Result<Resealed, StoreError>,
    begun: bool,
) -> Result<(), StoreError> {
    let key = store.sealing_key();
    let (words, count) = match resealed {
        Ok(done) if begun || done.removed_key.is_some() => (told(done, key), done.secrets.total()),
        Ok(_) => return Ok(()),
        Err(error) => (format!("sealing secrets anew under the key {key} was broken off: {error}"), 0),
    };
    record(store, words, count).await
}

fn told(done: &Resealed, key: KeyId) -> String {
    let Resealed { destinations, remaining, removed_key, .. } = done;
    let left = if *remaining > 0 { format!("; {remaining} are left") } else { String::new() };
    let removed = removed_key.map(|own| format!("; the key {own} was removed from the database"));
    let removed = removed.unwrap_or_default();
    format!("secrets of {destinations} destinations have been sealed anew under the key {key}{left}{removed}")
}

/// Writes into the audit log what whoever runs the command does; they have proved to the system who they are, and
/// not to us.
async fn record(store: &StoredSecrets, description: String, count: usize) -> Result<(), StoreError> {
    let at = SystemClock.now();
    let id = AuditEntryId::make(at, std::array::from_fn(|_| fastrand::u8(..)));
    let entry = AuditEntry::of_server(id, at, description, count as u64);
    store.record_audit(entry).await
}

/// Seals anew until all is done or a signal comes; the step that is under way is finished first.
async fn until_interrupted(store: &StoredSecrets, signals: &mut Signals) -> Result<Resealed, StoreError> {
    let interrupted = CancellationToken::new();
    let mut progress = Progress::default();
    let work = reseal(store, |done| {
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
    if let Some(own) = done.removed_key {
        text.push_str(&format!(
            "The key {own}, which the store had made for itself, is no longer in the database. Dumps that were made \
             before have it.\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::DestinationStore;
    use crate::store::audit::{AuditQuery, AuditStore};
    use crate::store::conformance::{full_of_secrets, manual_clock};
    use crate::store::keyring::{Keyring, SealingKey};
    use crate::store::postgres::test_server::{FAST, TestServer};
    use crate::store::postgres::{PostgresOptions, PostgresStore, Sealer};
    use crate::store::sled::{SledOptions, SledStore};

    fn keys() -> (KeyId, Keyring, Keyring) {
        let [old, new] = [(); 2].map(|()| SealingKey::generate().unwrap());
        let mut both = Keyring::new(new.clone());
        both.add(old.clone());
        (new.id(), Keyring::new(old), both)
    }

    async fn fill(store: &impl DestinationStore) {
        for number in 1..=40 {
            store.create_destination(full_of_secrets(number), None).await.unwrap();
        }
    }

    /// Seals anew until it is interrupted after the first step, and then the rest; and once more, when there is nothing to do.
    async fn in_two_runs(store: &StoredSecrets) {
        let mut steps = 0;
        let first_step = |_: &Resealed| {
            steps += 1;
            steps == 1
        };
        assert_eq!(reseal(store, first_step).await.unwrap().remaining, 8);
        assert_eq!(reseal(store, |_| true).await.unwrap().remaining, 0);
        assert_eq!(reseal(store, |_| true).await.unwrap(), Resealed::default());
    }

    async fn trail(store: &impl AuditStore) -> Vec<(String, u64)> {
        let query = AuditQuery { limit: 100, ..AuditQuery::default() };
        let entries = store.audit(query).await.unwrap().rows;
        entries.into_iter().rev().map(|entry| (entry.description, entry.count)).collect()
    }

    fn expected(key: KeyId) -> Vec<(String, u64)> {
        let begun = || format!("sealing secrets anew under the key {key} has begun");
        let ended = |count: usize| {
            format!("secrets of {count} destinations have been sealed anew under the key {key}")
        };
        vec![(begun(), 200), (ended(32) + "; 8 are left", 160), (begun(), 40), (ended(8), 40)]
    }

    #[tokio::test]
    async fn an_interrupted_rekey_and_the_one_that_went_on_are_on_the_record_of_an_embedded_store() {
        let folder = tempfile::tempdir().unwrap();
        let (key, old, both) = keys();
        let open = |ring: &Keyring| {
            let (_, clock) = manual_clock();
            let keyring = Some(ring.clone());
            let options = SledOptions { min_free_bytes: Some(0), keyring, ..SledOptions::new(clock) };
            Arc::new(SledStore::open(folder.path(), options).unwrap())
        };
        let store = open(&old);
        fill(store.as_ref()).await;
        drop(store);
        let store = open(&both);
        in_two_runs(&StoredSecrets::Embedded(Arc::clone(&store))).await;
        assert_eq!(trail(store.as_ref()).await, expected(key));
    }

    #[tokio::test]
    async fn an_interrupted_rekey_and_the_one_that_went_on_are_on_the_record_of_a_shared_store() {
        let server = TestServer::start(FAST);
        let (key, old, both) = keys();
        let options = |ring: &Keyring| {
            let text = format!("store.url = {:?}\n", server.url("t0"));
            let config = Config::from_toml(&text).unwrap();
            let shared = config.store.shared.as_ref().unwrap();
            let options = crate::app::shared_options(&config, shared, Default::default()).unwrap();
            PostgresOptions { keyring: Some(ring.clone()), lease: None, ..options }
        };
        server.database();
        let store = PostgresStore::open(options(&old)).unwrap();
        fill(&store).await;
        in_two_runs(&StoredSecrets::Shared(Sealer::open(options(&both)).await.unwrap())).await;
        assert_eq!(trail(&store).await, expected(key));
    }
}
