//! What exists: organizations, destinations, events, deliveries and attempts.
//!
//! This layer is pure. It reads no clock, draws no random numbers, does no input or output and
//! knows nothing of gRPC, stores or HTTP clients. A value that exists is valid: text is parsed
//! once, at the edge, into these types.
//!
//! The life of a delivery:
//!
//! ```text
//!            accepted                    2xx
//!   (event) ─────────► Waiting ───────────────────► Succeeded
//!                       ▲   │  attempts run out
//!            retry time │   ├───────────────────────► DeadLettered ──replay──► Waiting
//!                       └───┤  too old, lossy, deleted
//!                           ├───────────────────────► Discarded
//!                           │  CancelDelivery
//!                           └───────────────────────► Cancelled
//! ```

pub mod attempt;
pub mod audit;
pub mod circuit;
pub mod contract;
pub mod delivery;
pub mod destination;
pub mod event;
pub mod facts;
pub mod id;
pub mod operational;
pub mod organization;
pub mod payload;
pub mod place;
pub mod plan;
pub mod replay;
pub mod retention;
pub mod secret;
pub mod settings;
pub mod subscription;
pub mod time;
pub mod trace;
pub mod violation;
