//! The keys of `[store]`: the embedded store's folder, or the database that replicas share.

use std::time::Duration;

use super::reader::Reader;
use super::resolved::{SharedStoreConfig, StoreConfig, StoreUrl};
use super::units::{duration, name, number, or_word, path, size};
use super::validate::{MIB, TIB};
use crate::domain::secret::Secret;

const URL: &str = "store.url";
const URL_FILE: &str = "store.url_file";
/// How many events a group gathers at most: one fsync for each, and two round trips where there is a network.
const GROUP_EMBEDDED: usize = 64;
const GROUP_SHARED: usize = 500;

pub(super) fn store(reader: &mut Reader<'_>) -> Option<StoreConfig> {
    let folder = reader.one("store.path", "signalpost-data", path);
    let cache = reader.one("store.cache", "256MiB", size(MIB, TIB));
    let min_free = reader.one("store.min_free", "auto", or_word("auto", size(0, 1024 * TIB)));
    let group_events = reader.one("store.group_events", "auto", or_word("auto", number(1, 1000)));
    let queue_depth = reader.one("store.queue_depth", "4096", number(1, 1_000_000));
    let shared = shared(reader);
    if reader.is_filled("store.path") && (reader.is_filled(URL) || reader.is_filled(URL_FILE)) {
        reader.problem(
            "store.path",
            "is the embedded store's, and store.url names another one; give one of them",
        );
    }
    let shared = shared?;
    let usual = if shared.is_some() { GROUP_SHARED } else { GROUP_EMBEDDED };
    Some(StoreConfig {
        path: folder?,
        shared,
        cache_bytes: cache?,
        min_free_bytes: min_free?,
        group_events: group_events?.unwrap_or(usual),
        queue_depth: queue_depth?,
    })
}

/// The shared store, where one is named; nothing where something is wrong with it.
fn shared(reader: &mut Reader<'_>) -> Option<Option<SharedStoreConfig>> {
    let url = reader.secret(URL, or_word("", url));
    let url_file = reader.one(URL_FILE, "", or_word("", path));
    let ca_file = reader.one("store.ca_file", "", or_word("", path));
    let connections = reader.one("store.connections", "8", number(1, 1000));
    let statement_timeout = duration(Duration::from_millis(100), Duration::from_secs(600));
    let statement_timeout = reader.one("store.statement_timeout", "10s", statement_timeout);
    let lease = duration(Duration::from_secs(1), Duration::from_secs(600));
    let lease = reader.one("store.lease", "10s", lease);
    let replica = reader.one("store.replica", "", or_word("", name(1, 128)));
    let url = match (url?, url_file?) {
        (Some(_), Some(_)) => {
            reader.problem(URL_FILE, "and store.url are both set; give one of them");
            return None;
        }
        (Some(url), None) => Some(StoreUrl::Given(url)),
        (None, Some(file)) => Some(StoreUrl::File(file)),
        (None, None) => None,
    };
    let (ca_file, connections, statement_timeout) = (ca_file?, connections?, statement_timeout?);
    let (lease, replica) = (lease?, replica?);
    Some(url.map(|url| SharedStoreConfig { url, ca_file, connections, statement_timeout, lease, replica }))
}

/// A connection string. It may hold a password, so what is wrong with it is said without it.
fn url(text: &str) -> Result<Secret, String> {
    let is_known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    if is_known {
        Ok(Secret::new(text))
    } else {
        Err("is no connection string; write postgres://user:password@host/database".into())
    }
}
