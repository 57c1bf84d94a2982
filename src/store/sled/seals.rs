//! What stored secrets are sealed under: the keys are complete before anything is read, and sealing anew.

use std::path::Path;

use super::group::Group;
use super::open::{Rows, destination_of, grouped};
use super::reader::Reader;
use super::writer::{Command, Writer};
use super::{Patience, SledStore, config, keys};
use crate::domain::id::DestinationId;
use crate::store::StoreError;
use crate::store::key_file::{OWN_KEY_FILE, create, read_if_there};
use crate::store::keyring::{KeyId, Keyring, SealingKey};
use crate::store::record::{Seals, encode_destination, seals_of_destination};
use crate::store::seals::{self, RESEALED_AT_ONCE, Resealed};

/// All keys that the store needs: the operator's and, where there is one, the store's own. Where neither
/// is there, and nothing was sealed yet, the store makes one.
pub(super) fn complete(
    folder: &Path,
    configured: Option<Keyring>,
    destinations: &Rows,
) -> Result<Keyring, String> {
    let seals = count(destinations).map_err(|error| error.to_string())?;
    let own = read_if_there(&folder.join(OWN_KEY_FILE))?;
    let is_own = configured.is_none();
    let keyring = match (configured, own) {
        (Some(mut keyring), own) => {
            own.iter().for_each(|own| keyring.add_all(own));
            keyring
        }
        (None, Some(own)) => own,
        (None, None) if seals.by_key.is_empty() => make_own(folder)?,
        (None, None) => return Err(seals::no_key(&seals)),
    };
    seals::check(&seals, &keyring)?;
    if is_own {
        tracing::warn!(
            file = %folder.join(OWN_KEY_FILE).display(),
            "secrets are sealed under a key that lies beside them; set secrets.key_file for one that does not"
        );
    }
    if seals.clear > 0 {
        let count = seals.clear;
        tracing::warn!(
            count,
            "secrets of an earlier version are stored in the clear; `signalpost rekey` seals them"
        );
    }
    Ok(keyring)
}

fn make_own(folder: &Path) -> Result<Keyring, String> {
    let key = SealingKey::generate().map_err(|error| error.to_string())?;
    let made = create(&folder.join(OWN_KEY_FILE), &key);
    made.map_err(|error| super::open::explain("a sealing key can't be written there", &error))?;
    Ok(Keyring::new(key))
}

fn count(destinations: &Rows) -> Result<Seals, StoreError> {
    let mut seals = Seals::default();
    for (prefix, chunks) in destinations {
        seals.extend(&seals_of_destination(destination_of(prefix)?, chunks)?);
    }
    Ok(seals)
}

impl Reader {
    /// The destinations that have secrets which are not sealed under this key, and what all secrets are
    /// sealed under.
    fn seals(&self, active: KeyId) -> Result<(Vec<DestinationId>, Seals), StoreError> {
        let destinations = grouped(&self.db, keys::DESTINATIONS)?;
        let mut others = Vec::new();
        let mut seals = Seals::default();
        for (prefix, chunks) in &destinations {
            let id = destination_of(prefix)?;
            let found = seals_of_destination(id, chunks)?;
            if !found.are_under(active) {
                others.push(id);
            }
            seals.extend(&found);
        }
        Ok((others, seals))
    }
}

impl Writer {
    /// Writes these destinations once more, and answers what their secrets were sealed under. Nothing else
    /// of them changes, and nobody is told.
    pub(super) fn reseal(&mut self, group: &mut Group, ids: &[DestinationId]) -> Result<Seals, StoreError> {
        let mut before = Seals::default();
        for id in ids {
            // It may have been deleted meanwhile.
            let Some(destination) = self.destinations.get(id) else { continue };
            let prefix = keys::destination(*id);
            before.extend(&seals_of_destination(*id, &config::chunks(group, &prefix)?)?);
            config::put_chunks(group, &prefix, encode_destination(destination, &self.keyring)?)?;
        }
        Ok(before)
    }
}

impl SledStore {
    /// The key that seals.
    #[must_use]
    pub fn sealing_key(&self) -> KeyId {
        self.keyring.active()
    }

    /// What stored secrets are sealed under.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub async fn seals(&self) -> Result<Seals, StoreError> {
        let active = self.sealing_key();
        self.read(move |reader| reader.seals(active)).await.map(|(_, seals)| seals)
    }

    /// Seals all secrets under the active key that are not, some destinations at a time, each time durably.
    /// It goes on while `may_go_on`, which is told how far it has come, answers so; what was done stays
    /// done, and a later call does the rest.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub async fn reseal(&self, mut may_go_on: impl FnMut(&Resealed) -> bool) -> Result<Resealed, StoreError> {
        let active = self.sealing_key();
        let (others, _) = self.read(move |reader| reader.seals(active)).await?;
        let mut done = Resealed { remaining: others.len(), ..Resealed::default() };
        for ids in others.chunks(RESEALED_AT_ONCE) {
            if !may_go_on(&done) {
                break;
            }
            let ids = ids.to_vec();
            done.destinations += ids.len();
            done.remaining -= ids.len();
            let before = self.submit(Patience::Wait, |reply| Command::Reseal(ids, reply)).await?;
            done.secrets.extend(&before);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use tempfile::TempDir;

    use super::*;
    use crate::domain::destination::Destination;
    use crate::domain::id::OrganizationId;
    use crate::domain::secret::{HttpAuth, Secret, SecretSource};
    use crate::store::conformance::{destination_id, full_of_secrets, manual_clock};
    use crate::store::sled::SledOptions;
    use crate::store::{DestinationStore, Store};

    /// A destination as a version stored it that did not seal secrets yet, with its key.
    const IN_THE_CLEAR: (&str, &str) = (
        "436401a2211ba25a7d42bcb230681f5e542c0000",
        "0171edc1b6080112bd010a0461636d6512036f6c641a1e68747470733a2f2f72656365697665722e6578616d706c652f686f\
         6f6b7320052a02080232003a300a2e77687365635f63477868626e526c5a43317a615764756157356e4c584e6c59334a6c64\
         433176626d55744d513d3d5204757365725a180a16706c616e7465642d62617369632d70617373776f726462210a09782d61\
         70692d6b65791214706c616e7465642d6865616465722d76616c756568018001b489dd91c4688801b489dd91c468900101",
    );

    fn open(folder: &TempDir, keyring: Option<Keyring>) -> Result<SledStore, StoreError> {
        let (_, clock) = manual_clock();
        let options = SledOptions {
            cache_bytes: 16 << 20,
            min_free_bytes: Some(0),
            keyring,
            ..SledOptions::new(clock)
        };
        SledStore::open(folder.path(), options)
    }

    fn problem(opened: Result<SledStore, StoreError>) -> String {
        opened.err().unwrap().to_string()
    }

    fn key() -> SealingKey {
        SealingKey::generate().unwrap()
    }

    fn ring(keys: &[&SealingKey]) -> Keyring {
        let mut ring = Keyring::new(keys[0].clone());
        keys.iter().for_each(|key| ring.add((*key).clone()));
        ring
    }

    /// Everything in the folder, one file behind the other.
    fn bytes_of(folder: &TempDir) -> Vec<u8> {
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).flat_map(|path| fs::read(path).unwrap()).collect()
    }

    fn contains(bytes: &[u8], planted: &str) -> bool {
        bytes.windows(planted.len()).any(|part| part == planted.as_bytes())
    }

    #[tokio::test]
    async fn without_a_key_the_store_makes_one_that_only_its_user_may_read() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, None).unwrap();
        let created = store.create_destination(full_of_secrets(1), None).await.unwrap();
        let seals = store.seals().await.unwrap();
        assert_eq!((seals.total(), seals.are_under(store.sealing_key())), (5, true));
        store.close().await.unwrap();
        let active = store.sealing_key();
        drop(store);
        let path = folder.path().join(OWN_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(!contains(&bytes_of(&folder), "planted"));
        let store = open(&folder, None).unwrap();
        assert_eq!(store.sealing_key(), active);
        let entry = store.directory().destination(destination_id(1)).unwrap();
        assert_eq!(entry.destination, created);
        drop(store);
        fs::remove_file(&path).unwrap();
        let refused = problem(open(&folder, None));
        for part in ["5 of its secrets are sealed", "no key is configured", &active.to_string()] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(!path.exists(), "a new key would not open them");
    }

    #[tokio::test]
    async fn a_key_that_stored_secrets_need_can_go_only_after_they_are_sealed_anew() {
        let folder = TempDir::new().unwrap();
        let (old, new) = (key(), key());
        let store = open(&folder, Some(ring(&[&old]))).unwrap();
        assert!(!folder.path().join(OWN_KEY_FILE).exists());
        for number in 1..=100 {
            store.create_destination(full_of_secrets(number), None).await.unwrap();
        }
        drop(store);
        let refused = problem(open(&folder, Some(ring(&[&new]))));
        for part in ["500 of its secrets", &old.id().to_string(), "is not configured", &new.id().to_string()]
        {
            assert!(refused.contains(part), "{refused}");
        }
        let store = open(&folder, Some(ring(&[&new, &old]))).unwrap();
        store.update_destination(full_of_secrets(1), 1).await.unwrap();
        assert_eq!(store.seals().await.unwrap().by_key, [(new.id(), 5), (old.id(), 495)].into());
        let mut steps = 0;
        let stopped = store
            .reseal(|_| {
                steps += 1;
                steps <= 2
            })
            .await
            .unwrap();
        assert_eq!((stopped.destinations, stopped.remaining), (64, 35));
        assert_eq!(stopped.secrets.by_key, [(old.id(), 320)].into());
        drop(store);
        let store = open(&folder, Some(ring(&[&new, &old]))).unwrap();
        let rest = store.reseal(|_| true).await.unwrap();
        assert_eq!((rest.destinations, rest.remaining), (35, 0));
        assert_eq!(store.reseal(|_| true).await.unwrap(), Resealed::default());
        store.close().await.unwrap();
        drop(store);
        let store = open(&folder, Some(ring(&[&new]))).unwrap();
        for number in 2..=100 {
            let entry = store.directory().destination(destination_id(number)).unwrap();
            assert_eq!(*entry.destination, full_of_secrets(number), "nothing else of it changed");
        }
    }

    #[tokio::test]
    async fn the_stores_own_key_goes_on_opening_when_the_operator_gives_another() {
        let folder = TempDir::new().unwrap();
        let store = open(&folder, None).unwrap();
        store.create_destination(full_of_secrets(1), None).await.unwrap();
        let own = store.sealing_key();
        drop(store);
        let given = key();
        let store = open(&folder, Some(ring(&[&given]))).unwrap();
        assert_eq!(store.seals().await.unwrap().by_key, [(own, 5)].into());
        store.reseal(|_| true).await.unwrap();
        drop(store);
        fs::remove_file(folder.path().join(OWN_KEY_FILE)).unwrap();
        let store = open(&folder, Some(ring(&[&given]))).unwrap();
        assert!(store.seals().await.unwrap().are_under(given.id()));
    }

    #[tokio::test]
    async fn a_store_with_secrets_in_the_clear_opens_and_they_are_sealed_by_a_write_or_by_all() {
        let folder = TempDir::new().unwrap();
        drop(open(&folder, None).unwrap());
        let db = sled::Config::new().path(folder.path()).open().unwrap();
        let (stored_key, stored) = IN_THE_CLEAR;
        db.insert(hex::decode(stored_key).unwrap(), hex::decode(stored).unwrap()).unwrap();
        drop(db);
        let store = open(&folder, None).unwrap();
        let acme = OrganizationId::parse("acme").unwrap();
        let entry = store.directory().destinations(&acme).first().cloned().unwrap();
        let old = Destination::clone(&entry.destination);
        let signing = old.signing.current.clone().unwrap();
        let expected = "whsec_cGxhbnRlZC1zaWduaW5nLXNlY3JldC1vbmUtMQ==";
        assert_eq!(signing, SecretSource::Value(Secret::new(expected)));
        assert_eq!(old.headers[0].value.expose(), "planted-header-value");
        assert_eq!(old.url.as_str(), "https://receiver.example/hooks");
        assert!(matches!(&old.http_auth, HttpAuth::Basic { secret: SecretSource::Value(secret), .. }
            if secret.expose() == "planted-basic-password"));
        assert_eq!(store.seals().await.unwrap(), Seals { clear: 4, ..Seals::default() });
        let resealed = store.reseal(|_| true).await.unwrap();
        assert_eq!((resealed.destinations, resealed.secrets.clear), (1, 4));
        assert!(store.seals().await.unwrap().are_under(store.sealing_key()));
        drop(store);
        let store = open(&folder, None).unwrap();
        assert_eq!(*store.directory().destination(old.id).unwrap().destination, old);
    }

    #[test]
    fn a_secret_that_was_moved_to_another_destination_does_not_open_there() {
        let keyring = ring(&[&key()]);
        let chunks = encode_destination(&full_of_secrets(1), &keyring).unwrap();
        let moved = crate::store::record::decode_destination(destination_id(2), &chunks, &keyring);
        let problem = moved.unwrap_err().to_string();
        assert!(problem.contains("another place") && !problem.contains("planted"), "{problem}");
    }
}
