//! Waking each other: a short notification in the transaction of a change, heard by all replicas in the order of
//! commits. It only ever says where to look; what was not heard is found by the poll behind it (`keeper`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::Notification;
use uuid::Uuid;

use super::Core;
use super::connect::Tx;
use super::fault::Fault;
use super::lease::Leases;
use crate::domain::id::{DeliveryId, EventKey, ReplayId};
use crate::domain::time::Timestamp;
use crate::store::DueEntry;

pub(super) const NOTIFY: &str = "SELECT pg_notify($1, $2)";

/// So many deliveries are named in one notification; the database allows 8000 bytes.
const NAMED: usize = 100;
/// How soon a lost connection is made again.
const RETRY: Duration = Duration::from_millis(300);
/// Entries that callers made so long before a connection was lost are looked at again.
const OVERLAP: Duration = Duration::from_secs(10);

/// Events were accepted, up to this key.
pub(super) fn accepted(leases: &Leases, last: EventKey) -> String {
    format!("{} a {last}", leases.holder())
}

/// Organizations or destinations have changed.
pub(super) fn configured(leases: &Leases) -> String {
    format!("{} c", leases.holder())
}

/// Buckets are free, or a member has come.
pub(super) fn buckets_moved(leases: &Leases) -> String {
    format!("{} b", leases.holder())
}

pub(super) fn replay_changed(leases: &Leases, id: ReplayId) -> String {
    format!("{} r {id}", leases.holder())
}

/// These deliveries wait again.
pub(super) fn requeued(leases: &Leases, entries: &[DueEntry]) -> Vec<String> {
    let ids: Vec<DeliveryId> = entries.iter().map(|entry| entry.id).collect();
    named(leases, 'q', &ids)
}

/// These deliveries have ended.
pub(super) fn ended(leases: &Leases, ids: &[DeliveryId]) -> Vec<String> {
    named(leases, 'e', ids)
}

fn named(leases: &Leases, kind: char, ids: &[DeliveryId]) -> Vec<String> {
    let name = |ids: &[DeliveryId]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        format!("{} {kind} {}", leases.holder(), ids.join(","))
    };
    ids.chunks(NAMED).map(name).collect()
}

/// What a notification says.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Accepted(EventKey),
    Configured,
    BucketsMoved,
    ReplayChanged(ReplayId),
    Requeued(Vec<DeliveryId>),
    Ended(Vec<DeliveryId>),
}

/// Who sent it, and what it says; `None` where a later version says something that this one does not know.
fn read(payload: &str) -> Option<(Uuid, News)> {
    let mut parts = payload.splitn(3, ' ');
    let sender = Uuid::try_parse(parts.next()?).ok()?;
    let kind = parts.next()?;
    let rest = parts.next().unwrap_or_default();
    let ids = || rest.split(',').map(|id| DeliveryId::parse(id).ok()).collect::<Option<Vec<_>>>();
    let news = match kind {
        "a" => News::Accepted(EventKey::from_bytes(*Uuid::try_parse(rest).ok()?.as_bytes())),
        "c" => News::Configured,
        "b" => News::BucketsMoved,
        "r" => News::ReplayChanged(ReplayId::parse(rest).ok()?),
        "q" => News::Requeued(ids()?),
        "e" => News::Ended(ids()?),
        _ => return None,
    };
    Some((sender, news))
}

/// Listens until the store is closed.
pub(super) async fn run(core: Arc<Core>) {
    // Since when nothing is heard.
    let mut deaf_since = None;
    while !core.closing.is_cancelled() {
        tokio::select! {
            () = core.closed.cancelled() => return,
            listened = core.listen(deaf_since) => match listened {
                Ok(()) => deaf_since = Some(core.now()),
                Err(fault) => {
                    tracing::warn!(%fault, "notifications of the database can't be heard");
                    deaf_since = deaf_since.or(Some(core.now()));
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Core {
    /// Listens until the connection ends. Where an earlier one was lost, what was missed is looked for.
    async fn listen(&self, deaf_since: Option<Timestamp>) -> Result<(), Fault> {
        let (client, mut notifications) = self.connector.listening().await?;
        client.batch_execute(&format!("LISTEN \"{}\"", self.channel)).await?;
        if let Some(moment) = deaf_since {
            let entries = self.requeued_since(moment - OVERLAP).await?;
            self.tell_requeued(&entries).await;
        }
        self.lease_call.notify_one();
        while let Some(first) = notifications.recv().await {
            let heard = all(first, &mut notifications);
            if let Err(fault) = self.hear(heard).await {
                tracing::warn!(%fault, "news of other replicas could not be followed");
                self.lease_call.notify_one();
            }
        }
        Ok(())
    }

    async fn hear(&self, heard: Vec<Notification>) -> Result<(), Fault> {
        let me = self.leases.holder();
        let news = heard.iter().filter_map(|one| read(one.payload()));
        let (mut last, mut configured, mut requeued) = (None, false, Vec::new());
        let mut ended = BTreeSet::new();
        for (sender, news) in news {
            match news {
                News::BucketsMoved => self.lease_call.notify_one(),
                _ if sender == me => {}
                News::Accepted(key) => last = last.max(Some(key)),
                News::Configured => configured = true,
                News::ReplayChanged(id) => self.tell(|listener| listener.replay_changed(id)),
                News::Requeued(ids) => requeued.extend(ids),
                News::Ended(ids) => ended.extend(ids),
            }
        }
        if configured {
            self.refresh().await?;
        }
        if let Some(last) = last {
            self.catch_up(last).await?;
        }
        if !ended.is_empty() {
            let ended: Vec<DeliveryId> = ended.into_iter().collect();
            self.tell_ended(&ended).await;
        }
        if !requeued.is_empty() {
            // What is stored counts: one that was ended since does not wait.
            let entries = self.due_entries(&requeued).await?;
            self.tell_requeued(&entries).await;
        }
        Ok(())
    }

    /// Adds notifications to a transaction, where others are there to hear them.
    pub(super) async fn notify(&self, tx: &Tx, news: Vec<String>) -> Result<(), Fault> {
        if self.leases.has_company() {
            for one in news {
                tx.query(NOTIFY, &[&self.channel, &one]).await?;
            }
        }
        Ok(())
    }
}

/// The first notification and all that wait behind it: many of one kind need one look.
fn all(first: Notification, notifications: &mut mpsc::Receiver<Notification>) -> Vec<Notification> {
    let mut heard = vec![first];
    while let Ok(next) = notifications.try_recv() {
        heard.push(next);
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::DestinationId;

    #[test]
    fn what_is_written_is_read() {
        let leases = Leases::new(None);
        let me = leases.holder();
        let id = DeliveryId::new(EventKey::MAX, DestinationId::from_bytes([7; 16]));
        let cases = [
            (accepted(&leases, EventKey::MAX), News::Accepted(EventKey::MAX)),
            (configured(&leases), News::Configured),
            (buckets_moved(&leases), News::BucketsMoved),
            (
                replay_changed(&leases, ReplayId::from_bytes([1; 16])),
                News::ReplayChanged(ReplayId::from_bytes([1; 16])),
            ),
            (ended(&leases, &[id]).remove(0), News::Ended(vec![id])),
        ];
        for (text, news) in cases {
            assert_eq!(read(&text), Some((me, news)));
        }
        for later in ["", "x", &format!("{me} z 1"), &format!("{me} a nothing")] {
            assert_eq!(read(later), None);
        }
    }

    #[test]
    fn a_notification_is_never_longer_than_the_database_allows() {
        let leases = Leases::new(None);
        let ids: Vec<DeliveryId> =
            (0..250).map(|n| DeliveryId::new(EventKey::MAX, DestinationId::from_bytes([n; 16]))).collect();
        let texts = ended(&leases, &ids);
        assert_eq!(texts.len(), 3);
        assert!(texts.iter().all(|text| text.len() < 8000));
    }
}
