//! What rides on a change of the store: committed together with it, or not at all.

use crate::domain::audit::AuditEntry;
use crate::domain::event::NewEvent;

/// What rides on the next change of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Riders {
    /// What the audit log is to say of it.
    pub(super) entry: Option<Box<AuditEntry>>,
    /// Events that tell of it.
    pub(super) told: Vec<NewEvent>,
}

impl Riders {
    /// With this entry of the audit log.
    pub(super) fn noting(&self, entry: AuditEntry) -> Self {
        Self { entry: Some(Box::new(entry)), told: self.told.clone() }
    }

    /// With these events, too.
    pub(super) fn telling(&self, events: Vec<NewEvent>) -> Self {
        let told = self.told.iter().cloned().chain(events).collect();
        Self { entry: self.entry.clone(), told }
    }
}
