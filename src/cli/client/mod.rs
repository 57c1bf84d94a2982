//! How commands reach a server: one set of flags and variables, one way to connect, one way to say what
//! went wrong.

mod arguments;
mod connection;
mod failure;
mod pages;
mod reach;

pub(super) use arguments::{OrganizationArguments, ServerArguments};
pub(super) use connection::Connection;
pub(super) use failure::Failure;
pub(super) use pages::Pages;
