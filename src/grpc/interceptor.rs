//! Who is calling, and in which trace.
//!
//! The one place that makes a [`Caller`] out of a request. There is no authentication yet, and a server
//! without it is reachable from its own machine only, so everyone is the local caller; tokens and
//! certificates will be read here and nowhere else.

use tonic::{Request, Status};

use crate::auth::Caller;
use crate::domain::trace::{TRACEPARENT, TraceContext};

/// The caller of a request.
///
/// # Errors
/// None yet; `UNAUTHENTICATED` once there are credentials to be wrong.
pub fn caller<T>(_request: &Request<T>) -> Result<Caller, Status> {
    Ok(Caller::local())
}

/// The caller's trace, where it has one. What is no trace context is passed over, as the standard asks.
pub fn trace<T>(request: &Request<T>) -> Option<TraceContext> {
    let given = request.metadata().get(TRACEPARENT)?;
    TraceContext::parse(given.to_str().ok()?)
}
