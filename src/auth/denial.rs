//! What is known of a call that was refused for who called it.

use super::{Caller, Role};

/// Why a call was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialReason {
    /// It had no credentials.
    CredentialsMissing,
    /// Its credentials are unknown, malformed, expired or withdrawn.
    CredentialsInvalid,
    /// The caller has not got the role that the call needs, there.
    RoleMissing(Role),
}

impl DenialReason {
    /// The name of the reason in the API's errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DenialReason::CredentialsMissing => "CREDENTIALS_MISSING",
            DenialReason::CredentialsInvalid => "CREDENTIALS_INVALID",
            DenialReason::RoleMissing(_) => "ROLE_MISSING",
        }
    }
}

/// A call that was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Who called, from where and under which request id; [`Caller::anonymous`] where that was not proved.
    pub caller: Caller,
    /// The method, for example `signalpost.v1.EventIngest/Emit`; at most 256 bytes, as the caller wrote it.
    pub method: String,
    /// The organization as the caller wrote it, where the call got so far; at most 128 bytes.
    pub organization_id: Option<String>,
    /// Why.
    pub reason: DenialReason,
}

/// Is told of every denied call, once, before the caller gets its answer.
///
/// Called on the thread that serves calls: hand the denial on, and do not wait.
pub trait DenialListener: Send + Sync {
    /// A call was denied.
    fn denied(&self, denial: Denial);
}

/// Writes denied calls to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogDenials;

impl DenialListener for LogDenials {
    fn denied(&self, denial: Denial) {
        let Denial { caller, method, organization_id, reason } = denial;
        tracing::info!(
            caller.principal = caller.principal(),
            caller.peer = caller.peer().map(tracing::field::display),
            request.id = caller.request_id(),
            rpc.method = %method.escape_debug(),
            organization.id = organization_id.map(|id| id.escape_debug().to_string()),
            reason = reason.as_str(),
            "a call was denied"
        );
    }
}
