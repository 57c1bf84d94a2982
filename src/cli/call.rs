//! What every command about an organization has: which one, at which server, and how results look.

use clap::Args;

use super::client::{Connection, Failure, OrganizationArguments, ServerArguments};
use super::show::OutputArguments;

/// The arguments of a command about an organization.
#[derive(Debug, Args)]
pub(super) struct Call {
    #[command(flatten)]
    organization: OrganizationArguments,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

impl Call {
    /// The organization's id, as requests have it.
    pub(super) fn organization_id(&self) -> String {
        self.organization.id()
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// Mistakes in the arguments, and [`Failure::Unreachable`].
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        self.server.connect().await
    }
}
