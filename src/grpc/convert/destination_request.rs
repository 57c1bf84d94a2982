//! What requests say of destinations, besides the destination itself.

use super::destination::{read_draft, read_etag};
use super::{required, states};
use crate::control::destination_test::TestSubject;
use crate::domain::id::DestinationId;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::test_destination_request::Subject;

/// The largest document that can be imported, in bytes.
const DOCUMENT_MAX_BYTES: usize = 64 * 1024;
/// The longest name of an actor, in characters.
const ACTOR_MAX_CHARS: usize = 128;

/// Reads a filter of states.
pub fn read_states(raw: &[i32], found: &mut Violations) -> Vec<v1::DestinationState> {
    let named = |state| (state != v1::DestinationState::Unspecified).then_some(state);
    states(raw, "states", found, named)
}

/// Reads who asks for a test.
pub fn read_actor<'a>(actor_id: &'a str, found: &mut Violations) -> Option<&'a str> {
    let length = actor_id.chars().count();
    if length > ACTOR_MAX_CHARS {
        let description = format!("has {length} characters; at most {ACTOR_MAX_CHARS} are allowed");
        found.add_as(Rule::TooLong, "actor_id", description);
    }
    Some(actor_id).filter(|actor_id| !actor_id.is_empty())
}

/// Reads what to test.
pub fn read_subject(subject: Option<Subject>, found: &mut Violations) -> Option<TestSubject> {
    match subject {
        Some(Subject::DestinationId(id)) => Some(TestSubject::Saved(id)),
        Some(Subject::Destination(form)) => {
            let id = Some(&form.destination_id).filter(|id| !id.is_empty());
            let id = id.map(|id| found.check("destination.destination_id", DestinationId::parse(id)));
            let draft = read_draft(form, found)?;
            Some(TestSubject::Form { draft: Box::new(draft), destination_id: id.flatten() })
        }
        None => {
            required("subject", "give either `destination_id` or `destination`", found);
            None
        }
    }
}

/// Checks what to import, and reads the revision that is expected.
///
/// # Errors
/// Every violated field.
pub fn read_import(request: &v1::ImportDestinationRequest) -> Result<Option<u64>, Violations> {
    let mut found = Violations::new();
    let size = request.json_document.len();
    if size == 0 {
        required("json_document", "give the object as JSON text", &mut found);
    } else if size > DOCUMENT_MAX_BYTES {
        let description = format!("has {size} bytes; at most {DOCUMENT_MAX_BYTES} are allowed");
        found.add_as(Rule::TooLong, "json_document", description);
    }
    let expected = read_etag(&request.etag, "etag", &mut found);
    found.into_result(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_needs_a_subject_and_a_form_a_contract() {
        let mut found = Violations::new();
        assert_eq!(read_subject(None, &mut found), None);
        assert_eq!(read_subject(Some(Subject::Destination(v1::Destination::default())), &mut found), None);
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["subject", "destination.contract"]);
    }

    #[test]
    fn an_import_needs_a_document_of_at_most_64_kib() {
        for (size, ok) in [(0, false), (1, true), (DOCUMENT_MAX_BYTES, true), (DOCUMENT_MAX_BYTES + 1, false)]
        {
            let json_document = vec![b'x'; size].into();
            let request = v1::ImportDestinationRequest { json_document, ..Default::default() };
            assert_eq!(read_import(&request).is_ok(), ok, "{size}");
        }
    }
}
