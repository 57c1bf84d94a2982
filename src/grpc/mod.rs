//! gRPC: how the use cases are asked. The only layer that knows tonic.
//!
//! A service's file is thin: it reads the request (`convert`), calls [`Control`](crate::control::Control),
//! and writes the answer. `status` is the only map from errors to status codes, `page` makes the tokens of
//! lists, `interceptor` says who is calling, `meter` counts, `health` answers probes, `server` puts it all behind sockets.
//!
//! What changes something runs in a tracked task, because tonic drops a handler when its caller goes away.

pub mod context;
pub mod convert;
pub mod delivery;
pub mod destination;
pub mod emit_stream;
pub mod event;
pub mod health;
pub mod interceptor;
pub mod meter;
pub mod organization;
pub mod page;
pub mod proto;
pub mod server;
pub mod status;
pub mod watch;

pub use health::HealthState;
pub use server::{GrpcServer, Limits, ServeError, serve_health};

#[cfg(test)]
mod smoke_tests;
