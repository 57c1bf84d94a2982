//! Who is calling, and what they may ask for.
//!
//! A [`Caller`] is a proof: it can be made only here, and every use case takes one first and asks it with
//! [`Caller::require`] before it does anything. How callers prove who they are changes how a `Caller` is
//! made, and no use case.
//!
//! Ways in: `token` and `token_file` (static tokens), `jwt` and `jwks` (JSON Web Tokens),
//! `certificate` (client certificates); `authenticator` asks
//! them in turn. `reload` keeps files that change in force without a restart. `access` is the one table of methods and the
//! roles that they need; `role` and `grant` say who may do what where; `denial` is what is known of a call that
//! was refused; `expiry` tells when certificates end.

pub mod access;
pub mod authenticator;
mod caller;
pub mod certificate;
pub mod denial;
pub mod expiry;
pub mod grant;
pub mod jwks;
pub mod jwt;
mod jwt_ring;
pub mod reload;
mod role;
pub mod token;
pub mod token_file;

pub use caller::{Caller, CallerKind, Denied};
pub use role::Role;
