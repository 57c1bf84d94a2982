//! Who is calling.
//!
//! The one place that makes a [`Caller`] out of a request. There is no authentication yet, and a server
//! without it is reachable from its own machine only, so everyone is the local caller; tokens and
//! certificates will be read here and nowhere else.

use tonic::{Request, Status};

use crate::auth::Caller;

/// The caller of a request.
///
/// # Errors
/// None yet; `UNAUTHENTICATED` once there are credentials to be wrong.
pub fn caller<T>(_request: &Request<T>) -> Result<Caller, Status> {
    Ok(Caller::local())
}
