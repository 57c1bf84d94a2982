//! Who is calling, and whether they may.
//!
//! The one place that makes a [`Caller`] out of a request. `front` has authenticated the call and found its row
//! in the table of methods; [`caller`] asks, with the organization that the request names, whether the caller
//! has the role there. Every refused call is told to the [`DenialListener`] here, once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Response};
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

use super::proto::v1;
use super::status::{Problem, REQUIRED_ROLE};
use crate::auth::access::Scope;
use crate::auth::authenticator::{Admitted, Authenticator, Credentials};
use crate::auth::denial::{Denial, DenialListener, DenialReason};
use crate::auth::{Caller, Role};
use crate::control::Control;
use crate::domain::id::{ORGANIZATION_ID_MAX_CHARS, OrganizationId};
use crate::domain::trace::{TRACEPARENT, TraceContext};

/// Who may call, and who is told when somebody may not.
pub struct Gate {
    /// Finds out who calls.
    pub authenticator: Arc<Authenticator>,
    /// Is told of refused calls.
    pub denials: Arc<dyn DenialListener>,
    /// Counts calls; `None` where nothing is counted.
    pub control: Option<Arc<Control>>,
    /// How often the credentials of a stream are looked at again.
    pub recheck: Duration,
}

/// A call that asks to be let in.
pub(super) struct Knock<'a> {
    pub(super) credentials: Credentials<'a>,
    pub(super) peer: SocketAddr,
    pub(super) request_id: Option<Arc<str>>,
    pub(super) method: &'a str,
    /// The role that its method needs, and where; `None` where being somebody is enough.
    pub(super) needs: Option<(Role, Scope)>,
}

/// A call that was let in; an extension of its request. Clones are one.
#[derive(Clone)]
pub struct Admission(Arc<Call>);

struct Call {
    gate: Arc<Gate>,
    admitted: Admitted,
    caller: Caller,
    method: String,
    needs: Option<(Role, Scope)>,
    /// The organization as the request names it.
    organization_id: OnceLock<String>,
    told: AtomicBool,
}

impl Gate {
    /// Finds out who calls, and whether they have the role that the method needs anywhere at all. Where they
    /// must have it follows from the request, which nobody has read yet.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `PERMISSION_DENIED`.
    pub(super) async fn admit(self: &Arc<Self>, knock: Knock<'_>) -> Result<Admission, Problem> {
        let Knock { credentials, peer, request_id, method, needs } = knock;
        let admitted = match self.authenticator.authenticate(credentials).await {
            Ok(admitted) => admitted,
            Err(reason) => {
                let caller = Caller::anonymous().calling_from(Some(peer), request_id);
                let method = method.to_owned();
                self.denials.denied(Denial { caller, method, organization_id: None, reason });
                return Err(problem_of(reason));
            }
        };
        let caller = admitted.caller.clone().calling_from(Some(peer), request_id);
        let call = Call {
            gate: Arc::clone(self),
            admitted,
            caller,
            method: method.to_owned(),
            needs,
            organization_id: OnceLock::new(),
            told: AtomicBool::new(false),
        };
        let admission = Admission(Arc::new(call));
        match needs {
            Some((role, Scope::Installation)) => admission.require(role, None)?,
            Some((role, _)) if !admission.0.caller.has_anywhere(role) => return Err(admission.deny(role)),
            Some(_) | None => {}
        }
        Ok(admission)
    }
}

impl Admission {
    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Whether the caller may do what the request asks for, in the organization that it names.
    ///
    /// An id that can't be one is let through: it is a mistake of the request, which the use case explains.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, where the organization's plan allows no more calls at present;
    /// `PERMISSION_DENIED`, the same for organizations that exist and for those that don't.
    pub fn authorize(&self, organization_id: &str) -> Result<Caller, Problem> {
        let Call { caller, needs, organization_id: named, .. } = &*self.0;
        let Some((role, scope)) = *needs else { return Ok(caller.clone()) };
        // Longer ones are none, and are told to be.
        let shown = organization_id.chars().take(ORGANIZATION_ID_MAX_CHARS).collect();
        named.set(shown).ok();
        match (scope, OrganizationId::parse(organization_id)) {
            // It was asked for before anything was read.
            (Scope::Installation, _) => {}
            (_, Ok(id)) => {
                self.require(role, Some(&id))?;
                // After the role, so that nobody uses up what is another's.
                self.count(&id)?;
            }
            (Scope::OrganizationOrAll, Err(_)) if organization_id.is_empty() => {
                self.require(Role::Operator, None)?;
            }
            (Scope::Organization | Scope::Organizations | Scope::OrganizationOrAll, Err(_)) => {}
        }
        Ok(caller.clone())
    }

    fn count(&self, id: &OrganizationId) -> Result<(), Problem> {
        let control = self.0.gate.control.as_ref();
        control.map_or(Ok(()), |control| control.count_call(id).map_err(Problem::from))
    }

    fn require(&self, role: Role, organization_id: Option<&OrganizationId>) -> Result<(), Problem> {
        self.0.caller.require(role, organization_id).map_err(|denied| {
            self.tell(role);
            crate::control::Error::from(denied).into()
        })
    }

    fn deny(&self, role: Role) -> Problem {
        self.tell(role);
        problem_of(DenialReason::RoleMissing(role))
    }

    /// Tells that the call was denied, unless that was told already.
    fn tell(&self, role: Role) {
        let Call { gate, caller, method, organization_id, told, .. } = &*self.0;
        if !told.swap(true, Ordering::Relaxed) {
            let organization_id = organization_id.get().filter(|id| !id.is_empty()).cloned();
            let (caller, method) = (caller.clone(), method.clone());
            let reason = DenialReason::RoleMissing(role);
            gate.denials.denied(Denial { caller, method, organization_id, reason });
        }
    }

    /// Looks at an answer: use cases deny, too, where more than the table is needed.
    pub(super) fn note<B>(&self, response: &Response<B>) {
        let status = response.headers().get("grpc-status");
        if let Some((role, _)) = self.0.needs.filter(|_| status.is_some_and(|code| code.as_bytes() == b"7")) {
            self.tell(required_role(response.headers()).unwrap_or(role));
        }
    }

    /// Resolves when the caller's credentials are no longer valid, or mean something else; looked at every so
    /// often, so at most that much later. For calls that last.
    pub async fn ended(&self) -> Problem {
        let Call { gate, admitted, .. } = &*self.0;
        while gate.authenticator.still_admits(admitted) {
            tokio::time::sleep(gate.recheck).await;
        }
        Problem::credentials_invalid()
    }
}

/// The role that a denial names: use cases may ask for another one than the table.
fn required_role(headers: &HeaderMap) -> Option<Role> {
    let details = Status::from_header_map(headers)?.get_error_details();
    details.error_info()?.metadata.get(REQUIRED_ROLE)?.parse().ok()
}

fn problem_of(reason: DenialReason) -> Problem {
    match reason {
        DenialReason::CredentialsMissing => Problem::credentials_missing(),
        DenialReason::CredentialsInvalid => Problem::credentials_invalid(),
        DenialReason::RoleMissing(role) => {
            crate::control::Error::from(crate::auth::Denied { role, organization_id: None }).into()
        }
    }
}

/// A request, for who may make it.
pub trait Concerns {
    /// The organization that it names; `None` for streams, whose messages name it.
    fn organization_id(&self) -> Option<&str>;
}

impl<T> Concerns for Streaming<T> {
    fn organization_id(&self) -> Option<&str> {
        None
    }
}

macro_rules! concerns {
    ($($request:ident),* $(,)?) => {$(
        impl Concerns for v1::$request {
            fn organization_id(&self) -> Option<&str> {
                Some(&self.organization_id)
            }
        }
    )*};
}

concerns!(
    BackUpStoreRequest,
    CancelDeliveryRequest,
    CancelReplayRequest,
    CreateDestinationRequest,
    CreateOrganizationRequest,
    DeleteDeadLettersRequest,
    DeleteDestinationRequest,
    DeleteOrganizationRequest,
    EmitBatchRequest,
    EmitRequest,
    EraseEventDataRequest,
    ExplainEventRequest,
    ExportDestinationRequest,
    GetDeliveryRequest,
    GetDestinationRequest,
    GetOrganizationRequest,
    GetReplayRequest,
    GetUsageRequest,
    ImportDestinationRequest,
    ListAuditEntriesRequest,
    ListContractsRequest,
    ListDeadLettersRequest,
    ListDeliveriesRequest,
    ListDestinationsRequest,
    ListOrganizationsRequest,
    ListReplaysRequest,
    PauseDestinationRequest,
    ReplayDeadLetterRequest,
    ReplayDeadLettersRequest,
    ReplayDeliveriesRequest,
    ResendDeliveryRequest,
    ResumeDestinationRequest,
    RotateSecretRequest,
    TestDestinationRequest,
    UpdateDestinationRequest,
    UpdateOrganizationRequest,
    WatchDeliveriesRequest,
);

/// The caller of a request, who may make it.
///
/// # Errors
/// `PERMISSION_DENIED`; `INTERNAL` where the request came past the front.
pub fn caller<T: Concerns>(request: &Request<T>) -> Result<Caller, Status> {
    let admission = admission(request)?;
    match request.get_ref().organization_id() {
        Some(organization_id) => admission.authorize(organization_id).map_err(Problem::into_status),
        None => Ok(admission.caller().clone()),
    }
}

/// The caller's trace, where it has one. What is no trace context is passed over, as the standard asks.
pub fn trace<T>(request: &Request<T>) -> Option<TraceContext> {
    let given = request.metadata().get(TRACEPARENT)?;
    TraceContext::parse(given.to_str().ok()?)
}

/// How a request was let in, for calls that last.
///
/// # Errors
/// `INTERNAL` where the request came past the front.
pub fn admission<T>(request: &Request<T>) -> Result<Admission, Status> {
    let admission = request.extensions().get::<Admission>().cloned();
    admission.ok_or_else(|| Problem::internal("a call came past the front of the server").into_status())
}
