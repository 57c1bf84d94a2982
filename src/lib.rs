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

pub mod clock;
pub mod contract;
pub mod domain;
pub mod grpc;
pub mod policy;
pub mod store;
pub mod transport;
