//! A receiver of webhooks: it verifies what it gets, and answers as it is told to.
//!
//! `signalpost listen`, `signalpost demo` and the tests use it to see what a customer's receiver sees. It
//! therefore has a code path of its own, written from the products' documentation: it imports
//! nothing of `contract`, and computes with `ring` where the sender uses other crates. A mistake on
//! one side can't be hidden by the same mistake on the other.
//!
//! - [`verify`](mod@verify) (pure): is the request genuine, and which events does it carry? The headers of
//!   Standard Webhooks are in `standard`, the bodies in `events` and
//!   `cloud_events`.
//! - [`server`]: sockets, with [`tls`] where wanted; [`log`] keeps what came.
//! - [`behaviour`]: what is answered: always the same, by a script, or after verification.
//! - [`listen`]: verifies and prints; `report` has the form of what is printed.

pub mod behaviour;
mod cloud_events;
mod events;
pub mod listen;
pub mod log;
mod report;
pub mod server;
mod standard;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod verify;

pub use behaviour::{Answer, Behaviour, Script, Verdict, Verifying, always};
pub use log::{NotSeen, Received};
pub use server::{Receiver, ReceiverOptions};
pub use tls::TlsIdentity;
pub use verify::{ReceivedEvent, Rejection, Verified, verify};
