//! Signalpost takes events from backends over gRPC, makes them durable before it answers, and delivers
//! them as signed webhooks to every destination that wants them.
//!
//! The crate is a grid: a folder is a layer, a file is a noun, and imports point down only
//! (`tests/architecture.rs` holds the table). Read it in this order:
//!
//! 1. [`domain`]: what exists. [`policy`]: decisions. [`contract`]: what receivers get. All pure.
//! 2. [`store`]: what is kept, as traits and their implementations. [`transport`]: how requests leave.
//! 3. [`engine`]: what happens by itself. [`control`]: what callers may ask. Neither imports the other.
//! 4. [`grpc`]: how it is asked. [`app`]: where everything is put together. [`cli`]: the commands.
//!
//! Beside them: [`config`], what the operator decides; [`shutdown`], who runs and how it all stops;
//! [`metrics`], what is counted; [`spans`], what is told of callers' traces;
//! [`telemetry`], the logs and the port for metrics.

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
pub mod control;
pub mod domain;
pub mod engine;
#[cfg(test)]
mod fuzz;
pub mod grpc;
pub mod metrics;
pub mod policy;
pub mod receiver;
pub mod shutdown;
pub mod spans;
pub mod store;
pub mod telemetry;
pub mod transport;
