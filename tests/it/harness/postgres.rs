//! The database of tests on a shared store.

use std::sync::OnceLock;

use super::{FAST, TestServer};

/// With this variable all tests that use a server in this process run on the shared store.
const ON_POSTGRES: &str = "SIGNALPOST_TESTS_ON_POSTGRES";

/// Whether the tests of this run use the shared store where they don't say which.
pub fn is_store_shared() -> bool {
    std::env::var_os(ON_POSTGRES).is_some()
}

/// One server for all tests of the process.
fn database_server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(FAST))
}

/// A new, empty database.
pub fn database() -> String {
    database_server().database()
}

/// Everything that is stored in a database that [`database`] has made.
pub fn dump(url: &str) -> Vec<u8> {
    database_server().dump(url.rsplit_once('/').unwrap().1)
}
