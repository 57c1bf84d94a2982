//! The keys of the shared store's secrets. They are complete before anything is read, and no replica seals under a
//! key that another living one has not got: each says in its row which keys it has, and looks at the rows of the others
//! before it becomes a member.

use deadpool_postgres::Object;
use tokio_postgres::Row;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::connect::{Tx, query};
use super::fault::Fault;
use super::rows::{destination, limit};
use super::start::{cannot, explain};
use crate::store::keyring::{KeyId, Keyring, SealingKey};
use crate::store::record::{Seals, seals_of_destination};
use crate::store::{StoreError, seals};

/// How many destinations one look takes.
const ROWS_AT_ONCE: usize = 500;

/// All keys that are at hand.
pub(super) struct Keys {
    /// The operator's, and the store's own where there is one.
    pub(super) ring: Keyring,
    /// The one that the store made for itself, and that lies in the database.
    pub(super) own: Option<KeyId>,
}

/// The operator's keys, and the store's own where there is one. Where there is neither, and nothing was sealed yet,
/// the store makes one.
pub(super) async fn complete(client: &Object, configured: Option<Keyring>) -> Result<Keys, StoreError> {
    let seals = all_seals(client).await.map_err(explain)?.total;
    let own = own_key(client).await?;
    let is_own = configured.is_none();
    let (ring, own) = match (configured, own) {
        (Some(mut ring), own) => {
            own.iter().for_each(|own| ring.add_all(own));
            (ring, own.map(|own| own.active()))
        }
        (None, Some(own)) => (own.clone(), Some(own.active())),
        (None, None) if seals.by_key.is_empty() => {
            let own = make_own(client).await?;
            (own.clone(), Some(own.active()))
        }
        (None, None) => return Err(cannot(&seals::no_key(&seals))),
    };
    seals::check(&seals, &ring).map_err(|problem| cannot(&problem))?;
    forget_unneeded(client, &ring).await.map_err(explain)?;
    if is_own {
        tracing::warn!(
            "secrets are sealed under a key that lies in the database beside them; set secrets.key_file for one that does not"
        );
    }
    Ok(Keys { ring, own })
}

async fn make_own(client: &Object) -> Result<Keyring, StoreError> {
    let key = SealingKey::generate().map_err(|error| cannot(&error.to_string()))?;
    let text: &str = &key.to_text();
    query(client, "UPDATE installation SET own_key = coalesce(own_key, $1)", &[&text])
        .await
        .map_err(explain)?;
    // Another replica may have been faster.
    own_key(client).await?.ok_or_else(|| cannot("its sealing key was not kept"))
}

async fn own_key(client: &Object) -> Result<Option<Keyring>, StoreError> {
    let rows = query(client, "SELECT own_key FROM installation", &[]).await.map_err(explain)?;
    let text = rows.first().and_then(|row| row.get::<_, Option<String>>(0)).map(Zeroizing::new);
    let own = text.map(|text| Keyring::parse(&text)).transpose();
    own.map_err(|problem| cannot(&format!("its own sealing key is unreadable: {problem}")))
}

/// What everything is sealed under.
#[derive(Default)]
pub(super) struct AllSeals {
    pub(super) total: Seals,
    /// The destinations that have secrets, and under which keys.
    pub(super) by_destination: Vec<(Uuid, Seals)>,
}

impl AllSeals {
    /// The destinations that have secrets which are not sealed under this key.
    pub(super) fn without(&self, key: KeyId) -> Vec<Uuid> {
        let others = self.by_destination.iter().filter(|(_, seals)| !seals.are_under(key));
        others.map(|(id, _)| *id).collect()
    }

    fn take(&mut self, row: &Row) -> Result<Uuid, StoreError> {
        let id: Uuid = row.get(0);
        let found = seals_of(row)?;
        self.total.extend(&found);
        self.by_destination.push((id, found));
        Ok(id)
    }
}

/// What the secrets of a destination are sealed under; the row's columns are its id and its record.
pub(super) fn seals_of(row: &Row) -> Result<Seals, StoreError> {
    seals_of_destination(destination(row.get(0)), &row.get::<_, Vec<Vec<u8>>>(1))
}

/// Looks at all destinations, some at a time.
pub(super) async fn all_seals(client: &Object) -> Result<AllSeals, Fault> {
    let (mut seals, mut after) = (AllSeals::default(), Uuid::nil());
    loop {
        let rows = query(client, DESTINATIONS, &[&after, &limit(ROWS_AT_ONCE)]).await?;
        for row in &rows {
            after = seals.take(row)?;
        }
        if rows.len() < ROWS_AT_ONCE {
            return Ok(seals);
        }
    }
}

/// Takes the row of the installation until the transaction ends, so that nobody becomes a member meanwhile. Answers
/// under which key everything was sealed anew last.
pub(super) async fn hold_installation(tx: &Tx) -> Result<Option<String>, Fault> {
    let rows = tx.query("SELECT sealed_under FROM installation FOR UPDATE", &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Where everything was sealed anew under a key that is not at hand, and nothing is sealed under it any more, it is
/// asked for no longer.
async fn forget_unneeded(client: &Object, ring: &Keyring) -> Result<(), Fault> {
    let rows = query(client, "SELECT sealed_under FROM installation", &[]).await?;
    let Some(under) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) else { return Ok(()) };
    if ring.ids().any(|id| id.to_string() == under) {
        return Ok(());
    }
    client.batch_execute("BEGIN").await?;
    let forget = async {
        query(client, "SELECT 1 FROM installation FOR UPDATE", &[]).await?;
        let needed = all_seals(client).await?.total;
        if needed.by_key.keys().all(|id| id.to_string() != under) {
            query(client, "UPDATE installation SET sealed_under = NULL WHERE sealed_under = $1", &[&under])
                .await?;
        }
        Ok(())
    };
    let forgotten: Result<(), Fault> = forget.await;
    client.batch_execute(if forgotten.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    forgotten
}

/// Another replica that lives.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) name: String,
    /// The ids of its keys, the one that it seals under first; a version before this one doesn't say.
    pub(super) keys: Option<Vec<String>>,
}

impl Neighbour {
    fn of(row: &Row) -> Self {
        Self { name: row.get(0), keys: row.get(1) }
    }

    /// The key that it seals under.
    pub(super) fn active(&self) -> Option<&str> {
        self.keys.as_ref()?.first().map(String::as_str)
    }
}

/// The ids of the keys, as the database has them.
pub(super) fn ids(ring: &Keyring) -> Vec<String> {
    ring.ids().map(|id| id.to_string()).collect()
}

/// Whether a replica with these keys may work beside the others. Pure.
fn fits(ring: &Keyring, sealed_under: Option<&str>, neighbours: &[Neighbour]) -> Result<(), String> {
    let (mine, active) = (ids(ring), ring.active().to_string());
    let missing = |id: &str| mine.iter().all(|one| one != id);
    if let Some(under) = sealed_under.filter(|under| missing(under)) {
        return Err(format!(
            "its secrets are being sealed under the key {under}, which is not configured (there is {}); add it to the \
             key file below the key that seals",
            mine.join(", ")
        ));
    }
    for Neighbour { name, keys } in neighbours {
        // One of an earlier version is taken to have been given the same keys.
        let Some(theirs) = keys else { continue };
        if let Some(theirs) = theirs.first().filter(|id| missing(id)) {
            return Err(format!(
                "the replica {name} seals under the key {theirs}, which is not configured (there is {}); add it to the \
                 key file below the key that seals",
                mine.join(", ")
            ));
        }
        if theirs.iter().all(|id| *id != active) {
            return Err(format!(
                "this replica would seal under the key {active}, which the replica {name} has not got and so could not \
                 open; give every replica that key below the one that seals now, restart them, and put it first after \
                 that (a replica that has ended without a word counts until its lease has lapsed)"
            ));
        }
    }
    Ok(())
}

/// Refuses to start beside replicas that could not open what this one seals, or the other way round.
pub(super) async fn check_company(client: &Object, ring: &Keyring) -> Result<(), StoreError> {
    let rows = query(client, "SELECT sealed_under FROM installation", &[]).await.map_err(explain)?;
    let under: Option<String> = rows.first().and_then(|row| row.get(0));
    let rows = query(client, NEIGHBOURS, &[&Uuid::nil()]).await.map_err(explain)?;
    let neighbours: Vec<Neighbour> = rows.iter().map(Neighbour::of).collect();
    fits(ring, under.as_deref(), &neighbours).map_err(|problem| cannot(&problem))
}

/// The same in the transaction in which this replica becomes a member.
pub(super) async fn check_joining(tx: &Tx, ring: &Keyring, me: Uuid) -> Result<(), Fault> {
    let under = hold_installation(tx).await?;
    let fits = fits(ring, under.as_deref(), &neighbours(tx, me).await?);
    fits.map_err(|problem| StoreError::Unavailable(problem).into())
}

/// The replicas that live, but for this one.
pub(super) async fn neighbours(tx: &Tx, me: Uuid) -> Result<Vec<Neighbour>, Fault> {
    Ok(tx.query(NEIGHBOURS, &[&me]).await?.iter().map(Neighbour::of).collect())
}

const DESTINATIONS: &str = "SELECT id, record FROM destinations WHERE id > $1 ORDER BY id LIMIT $2";
const NEIGHBOURS: &str =
    "SELECT name, keys FROM members WHERE expires_at >= clock_timestamp() AND id <> $1 ORDER BY name";

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey::generate().unwrap()
    }

    fn ring(keys: &[&SealingKey]) -> Keyring {
        let mut ring = Keyring::new(keys[0].clone());
        keys.iter().for_each(|key| ring.add((*key).clone()));
        ring
    }

    fn neighbour(keys: &[&SealingKey]) -> Neighbour {
        Neighbour { name: "other".into(), keys: Some(ids(&ring(keys))) }
    }

    #[test]
    fn replicas_work_side_by_side_where_each_opens_what_the_others_seal() {
        let (old, new) = (key(), key());
        // A new key goes round in two steps, and no step is refused.
        for (mine, theirs) in [
            (vec![&old], vec![&old]),
            (vec![&old, &new], vec![&old]),
            (vec![&new, &old], vec![&old, &new]),
            (vec![&new], vec![&new, &old]),
        ] {
            for (mine, theirs) in [(&mine, &theirs), (&theirs, &mine)] {
                assert_eq!(fits(&ring(mine), None, &[neighbour(theirs)]), Ok(()));
            }
        }
        // In one step it would be.
        let refused = fits(&ring(&[&new, &old]), None, &[neighbour(&[&old])]).unwrap_err();
        assert!(refused.contains("the replica other has not got") && refused.contains(&new.id().to_string()));
        let refused = fits(&ring(&[&old]), None, &[neighbour(&[&new, &old])]).unwrap_err();
        assert!(refused.contains("the replica other seals under"), "{refused}");
        let refused = fits(&ring(&[&old]), Some(&new.id().to_string()), &[]).unwrap_err();
        assert!(refused.contains("being sealed under") && refused.contains(&old.id().to_string()));
        let earlier = Neighbour { name: "earlier".into(), keys: None };
        assert_eq!(fits(&ring(&[&new, &old]), Some(&old.id().to_string()), &[earlier]), Ok(()));
    }
}
