//! The words of the tests: a server, a receiver, drafts of what is sent, and refusals.

mod callers;
mod certificates;
mod collector;
mod drafts;
mod postgres;
#[path = "../../../src/store/postgres/test_server.rs"]
mod postgres_server;
mod receiver;
mod refusal;
mod scrape;
mod server;

pub use callers::{Raw, TokenFile, call_any, naming, swap, with_token};
pub use certificates::{Authority, Pair, TlsFolder, secure_endpoint};
pub use collector::Collector;
pub use drafts::{DestinationDraft, EventDraft, destination, event, millis, number_of};
pub use postgres::{database, dump, is_store_shared};
pub use postgres_server::{FAST, TestServer};
pub use receiver::{Receiver, TestIdentity, event_ids, genuine, header};
pub use refusal::Refusal;
pub use scrape::{Page, Scrape};
pub use server::{ORGANIZATION, Server};

use std::time::Duration;

/// How long anything may take that the tests wait for. Far beyond what is needed: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; the only place that polls, for what tells nobody when it changes.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
