//! The shared store on a real server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::test_server::{FAST, TestServer};
use super::{PostgresOptions, PostgresStore};
use crate::clock::SharedClock;
use crate::metrics::StoreMetrics;
use crate::store::Store;

/// One server for all tests of the process.
pub(super) fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(FAST))
}

pub(super) fn options(url: String, clock: Option<SharedClock>) -> PostgresOptions {
    PostgresOptions {
        url,
        roots: Vec::new(),
        connections: 4,
        statement_timeout: Duration::from_secs(10),
        queue_depth: 1024,
        group_events: 64,
        whole_days: Duration::ZERO,
        lease: None,
        clock,
        metrics: StoreMetrics::default(),
        keyring: None,
    }
}

mod conformance {
    use super::*;
    use crate::store::conformance::conformance;

    fn open(clock: SharedClock) -> (Arc<dyn Store>, ()) {
        let store = PostgresStore::open(options(server().database(), Some(clock))).unwrap();
        (Arc::new(store), ())
    }

    conformance!(open);
}
