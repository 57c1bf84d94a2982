//! Importing and exporting a destination as Stalwart's JSON object.

use super::audit::{Act, Action};
use super::destination::{DestinationView, Target};
use super::destination_draft::draft_of;
use super::{Condition, Control, Error, stalwart};
use crate::auth::{Caller, Role};
use crate::domain::contract::Contract;
use crate::domain::destination::{Destination, DestinationDraft};
use crate::domain::violation::Violations;

/// The name of the request's field, before all paths within the object.
const FIELD: &str = "json_document";

/// Where an imported object goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportInto<'a> {
    /// A new destination.
    New {
        /// Whose it will be.
        organization_id: &'a str,
        /// Its name.
        display_name: String,
    },
    /// An existing one, whose id, name and history stay, and those settings that the object can't say.
    Existing(Target<'a>),
}

/// A destination as Stalwart's JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The object, as JSON text.
    pub json: String,
    /// What it can't say, as paths of the destination.
    pub omitted_fields: Vec<&'static str>,
}

impl Control {
    /// Creates or replaces a `STALWART` destination from Stalwart's object; with `validate_only`
    /// everything is checked and nothing changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths below `json_document`, in the object's own keys;
    /// [`Error::Precondition`] for a destination of another contract; and those of
    /// [`Control::create_destination`] and [`Control::update_destination`].
    pub async fn import_destination(
        &self,
        caller: &Caller,
        into: ImportInto<'_>,
        json: &[u8],
        validate_only: bool,
    ) -> Result<DestinationView, Error> {
        let act = Act::new(caller, Action::ImportDestination);
        match into {
            ImportInto::New { organization_id, display_name } => {
                let id = self.enter(caller, Role::Admin, organization_id)?;
                let patch = stalwart::parse(json).map_err(under_document)?;
                let blank =
                    DestinationDraft { display_name, ..DestinationDraft::new(Contract::Stalwart, "") };
                let draft = patch.apply(blank).map_err(of_object)?;
                let checked = self.check_draft(Some(&id), draft).map_err(of_object)?;
                self.store_new(act, id, checked, validate_only).await
            }
            ImportInto::Existing(target) => {
                let entry = self.find_target(caller, target)?;
                check_contract(&entry.destination)?;
                let patch = stalwart::parse(json).map_err(under_document)?;
                let draft = patch.apply(draft_of(&entry.destination)).map_err(of_object)?;
                let checked = self.check_draft(Some(&entry.destination.organization_id), draft);
                let changed = checked.map_err(of_object)?.into_changed(&entry.destination, self.clock.now());
                self.store_changed(act, &entry, changed, validate_only).await
            }
        }
    }

    /// Writes a `STALWART` destination as Stalwart's object, without the values of secrets and headers.
    /// Importing it into the same destination keeps them.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] for a destination of another contract.
    pub fn export_destination(
        &self,
        caller: &Caller,
        organization_id: &str,
        destination_id: &str,
    ) -> Result<Exported, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        let entry = self.find_destination(&id, destination_id)?;
        check_contract(&entry.destination)?;
        let json = stalwart::write(&entry.destination);
        Ok(Exported { json, omitted_fields: stalwart::omitted(&entry.destination) })
    }
}

fn check_contract(destination: &Destination) -> Result<(), Error> {
    let contract = destination.contract;
    if contract == Contract::Stalwart {
        return Ok(());
    }
    Err(Error::Precondition {
        kind: Condition::ContractMismatch { contract },
        subject: destination.id.to_string(),
        message: format!("the destination is of {contract}; only one of STALWART has this JSON object"),
    })
}

fn under_document(violations: Violations) -> Error {
    let mut found = Violations::new();
    for violation in violations.iter() {
        let path = match violation.field.as_str() {
            "" => FIELD.to_owned(),
            key => format!("{FIELD}.{key}"),
        };
        found.add(path, violation.description.clone());
    }
    Error::Invalid(found)
}

/// Violations of the destination that the object describes, told in the object's keys. What it can't say
/// keeps the destination's path.
fn of_object(violations: Violations) -> Error {
    let mut found = Violations::new();
    for violation in violations.iter() {
        let path = match stalwart::key_of(&violation.field) {
            Some(key) => format!("{FIELD}.{key}"),
            None => format!("destination.{}", violation.field),
        };
        found.add(path, violation.description.clone());
    }
    Error::Invalid(found)
}
