//! The one table of methods and what they need. What has no row is refused.
//!
//! Use cases ask for their role once more; a test calls every method with every role and compares.

use super::Role;

/// What a method is about, which says where the caller must have the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The organization that the request names; it must name one.
    Organization,
    /// The organization that the request names, or all that the caller may see where it names none.
    Organizations,
    /// The organization that the request names; where it names none, only operators may call.
    OrganizationOrAll,
    /// Organizations as such: only operators may call, whatever the request names.
    Installation,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// It has an answer, and a deadline.
    Call,
    /// It goes on until one side ends it, and for as long as its credentials are valid.
    Stream,
}

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody may call it: health, for probes.
    Open(Lasting),
    /// Reflection, which has a setting of its own: anybody, or anybody with valid credentials.
    Reflection,
    /// A role, and where.
    Role {
        /// The least role.
        role: Role,
        /// Where the caller must have it.
        scope: Scope,
        /// How long it may take.
        lasting: Lasting,
    },
}

const fn needs(role: Role, scope: Scope) -> Access {
    Access::Role { role, scope, lasting: Lasting::Call }
}

const fn stream(role: Role) -> Access {
    Access::Role { role, scope: Scope::Organization, lasting: Lasting::Stream }
}

const READ: Access = needs(Role::Viewer, Scope::Organization);
const CHANGE: Access = needs(Role::Admin, Scope::Organization);
const OPERATE: Access = needs(Role::Operator, Scope::Installation);

/// Every method of the API, of health and of reflection.
pub const METHODS: &[(&str, Access)] = &[
    ("signalpost.v1.EventIngest/Emit", needs(Role::Emitter, Scope::Organization)),
    ("signalpost.v1.EventIngest/EmitBatch", needs(Role::Emitter, Scope::Organization)),
    ("signalpost.v1.EventIngest/EmitStream", stream(Role::Emitter)),
    ("signalpost.v1.DestinationAdmin/CreateDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/GetDestination", READ),
    ("signalpost.v1.DestinationAdmin/ListDestinations", READ),
    ("signalpost.v1.DestinationAdmin/UpdateDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/DeleteDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/PauseDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/ResumeDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/TestDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/RotateSecret", CHANGE),
    ("signalpost.v1.DestinationAdmin/ImportDestination", CHANGE),
    ("signalpost.v1.DestinationAdmin/ExportDestination", READ),
    ("signalpost.v1.DestinationAdmin/ListContracts", needs(Role::Viewer, Scope::Organizations)),
    ("signalpost.v1.DeliveryAdmin/ListDeliveries", READ),
    ("signalpost.v1.DeliveryAdmin/GetDelivery", READ),
    ("signalpost.v1.DeliveryAdmin/WatchDeliveries", stream(Role::Viewer)),
    ("signalpost.v1.DeliveryAdmin/ResendDelivery", CHANGE),
    ("signalpost.v1.DeliveryAdmin/CancelDelivery", CHANGE),
    ("signalpost.v1.DeliveryAdmin/ListDeadLetters", READ),
    ("signalpost.v1.DeliveryAdmin/ReplayDeadLetter", CHANGE),
    ("signalpost.v1.DeliveryAdmin/ReplayDeadLetters", CHANGE),
    ("signalpost.v1.DeliveryAdmin/ReplayDeliveries", CHANGE),
    ("signalpost.v1.DeliveryAdmin/GetReplay", READ),
    ("signalpost.v1.DeliveryAdmin/ListReplays", READ),
    ("signalpost.v1.DeliveryAdmin/CancelReplay", CHANGE),
    ("signalpost.v1.DeliveryAdmin/DeleteDeadLetters", CHANGE),
    ("signalpost.v1.DeliveryAdmin/ExplainEvent", READ),
    ("signalpost.v1.DeliveryAdmin/EraseEventData", CHANGE),
    ("signalpost.v1.OrganizationAdmin/CreateOrganization", OPERATE),
    ("signalpost.v1.OrganizationAdmin/GetOrganization", READ),
    ("signalpost.v1.OrganizationAdmin/ListOrganizations", needs(Role::Viewer, Scope::Organizations)),
    // A change of the plan needs an operator besides, which the use case asks for.
    ("signalpost.v1.OrganizationAdmin/UpdateOrganization", CHANGE),
    ("signalpost.v1.OrganizationAdmin/DeleteOrganization", OPERATE),
    ("signalpost.v1.OrganizationAdmin/GetUsage", READ),
    ("signalpost.v1.OrganizationAdmin/ListAuditEntries", needs(Role::Admin, Scope::OrganizationOrAll)),
    (
        "signalpost.v1.StoreAdmin/BackUpStore",
        Access::Role { role: Role::Operator, scope: Scope::Installation, lasting: Lasting::Stream },
    ),
    ("grpc.health.v1.Health/Check", Access::Open(Lasting::Call)),
    ("grpc.health.v1.Health/Watch", Access::Open(Lasting::Stream)),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::Reflection),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::Reflection),
];

/// A row of the table.
pub type Row = (&'static str, Access);

/// The row of a method, by the path of the request: `/package.Service/Method`.
#[must_use]
pub fn row_of(path: &str) -> Option<&'static Row> {
    let name = path.strip_prefix('/')?;
    METHODS.iter().find(|(method, _)| *method == name)
}

impl Access {
    /// How long a call of the method may take.
    #[must_use]
    pub const fn lasting(self) -> Lasting {
        match self {
            Access::Open(lasting) | Access::Role { lasting, .. } => lasting,
            Access::Reflection => Lasting::Stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_row_and_nothing_else_does() {
        assert_eq!(row_of("/signalpost.v1.EventIngest/Emit").unwrap().0, "signalpost.v1.EventIngest/Emit");
        for path in ["", "/", "signalpost.v1.EventIngest/Emit", "/signalpost.v1.EventIngest/emit"] {
            assert_eq!(row_of(path), None, "{path}");
        }
    }

    #[test]
    fn no_method_has_two_rows() {
        for (position, (method, _)) in METHODS.iter().enumerate() {
            assert!(METHODS.iter().skip(position + 1).all(|(other, _)| other != method), "{method}");
        }
    }
}
