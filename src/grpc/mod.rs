//! gRPC: how the use cases are asked. The only layer that knows tonic.
//!
//! A service's file is thin: it reads the request (`convert`), calls [`Control`](crate::control::Control),
//! and writes the answer. `status` is the only map from errors to status codes, `page` makes the tokens of
//! lists, `health` answers probes, `server` puts it all together.
//!
//! A call comes in through `listener` (who may connect: `shares`, `refusals`; `tls`), `connection` (how long it may last, `frames`),
//! `front` (who calls which method, by when; `meter` counts) and `interceptor` (whether they may, in that organization).
//!
//! What changes something runs in a tracked task, because tonic drops a handler when its caller goes away.

pub mod connection;
pub mod context;
pub mod convert;
pub mod delivery;
pub mod destination;
pub mod emit_stream;
pub mod event;
pub mod frames;
pub mod front;
pub mod health;
pub mod interceptor;
pub mod listener;
pub mod meter;
pub mod options;
pub mod organization;
pub mod page;
pub mod proto;
pub mod refusals;
pub mod server;
pub mod shares;
pub mod status;
mod store;
pub mod tls;
pub mod watch;

pub use health::HealthState;
pub use options::Limits;
pub use server::{GrpcServer, ServeError, serve_health};

#[cfg(test)]
mod smoke_tests;
