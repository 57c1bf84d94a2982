//! The client of Signalpost: hand it events, and they are delivered
//! as signed webhooks.
//!
//! ```no_run
//! use signalpost_client::{Client, Event};
//!
//! # async fn example() -> Result<(), signalpost_client::Error> {
//! let client = Client::builder("http://127.0.0.1:8080").organization("acme").build()?;
//!
//! // One event: the answer means that it is on disk.
//! let accepted = client.emit(Event::new("kpi.alert").json(r#"{"kpi":"churn"}"#)).await?;
//! println!("{} goes to {} destinations", accepted.event_id, accepted.delivery_count);
//!
//! // Many events: bounded in flight, sent again after a broken connection or a restart of the server.
//! let stream = client.stream();
//! let acknowledgement = stream.send(Event::new("kpi.computed")).await?;
//! acknowledgement.await?;
//! stream.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every event gets its id before the first attempt, so repeating is safe: the server accepts an id once.
//! Everything else of the API is in [`proto::v1`] and reached by [`Client::destinations`] and its siblings.

mod client;
mod connect;
mod error;
mod event;
mod ledger;
pub mod proto;
mod retry;
mod stream;
mod tls;

pub use client::{Authorized, Bearer, Client};
pub use connect::ClientBuilder;
pub use error::{Error, FieldViolation, Refusal};
pub use event::{Accepted, Event};
pub use proto::v1::{ErrorReason, Level};
pub use stream::{Acknowledgement, EventStream, StreamOptions};
pub use tls::Tls;
pub use tonic::Code;
