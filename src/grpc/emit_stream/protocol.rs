//! The rules of a stream of events. Pure.

use tonic::Code;

use crate::domain::id::OrganizationId;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::convert::{known, required};
use crate::grpc::proto::v1::{AcknowledgementMode, EmitStreamRequest, ErrorReason};
use crate::grpc::status::Problem;

/// What the messages of a stream must agree with.
#[derive(Debug, Default)]
pub struct Protocol {
    organization_id: Option<String>,
    mode: AcknowledgementMode,
    sequence: i64,
}

impl Protocol {
    /// The organization of the stream; empty before the first message.
    pub fn organization_id(&self) -> &str {
        self.organization_id.as_deref().unwrap_or_default()
    }

    /// How the stream is acknowledged.
    pub const fn mode(&self) -> AcknowledgementMode {
        self.mode
    }

    /// Checks the next message; one that breaks a rule ends the stream.
    pub fn check(&mut self, message: &EmitStreamRequest) -> Result<(), Problem> {
        let mode = read_mode(message.acknowledgement_mode)?;
        match &self.organization_id {
            None => {
                self.organization_id = Some(check_organization(&message.organization_id)?);
                self.mode = explicit(mode);
            }
            Some(first) => {
                check_same_organization(&message.organization_id, first)?;
                if mode != AcknowledgementMode::Unspecified && mode != self.mode {
                    return Err(mode_changed(message.sequence));
                }
            }
        }
        if message.sequence <= self.sequence {
            return Err(sequence_invalid(message.sequence, self.sequence));
        }
        self.sequence = message.sequence;
        Ok(())
    }
}

/// Unspecified is cumulative.
const fn explicit(mode: AcknowledgementMode) -> AcknowledgementMode {
    match mode {
        AcknowledgementMode::Unspecified => AcknowledgementMode::Cumulative,
        AcknowledgementMode::Cumulative | AcknowledgementMode::PerEvent => mode,
    }
}

fn read_mode(raw: i32) -> Result<AcknowledgementMode, Problem> {
    let mut found = Violations::new();
    known(raw, "acknowledgement_mode", &mut found).ok_or_else(|| Problem::from(found))
}

fn check_organization(text: &str) -> Result<String, Problem> {
    let mut found = Violations::new();
    if text.is_empty() {
        required("organization_id", "name the organization in the first message", &mut found);
    } else if let Err(problem) = OrganizationId::parse(text) {
        found.add_as(Rule::Malformed, "organization_id", problem);
    }
    found.into_result(text.to_owned()).map_err(Problem::from)
}

fn check_same_organization(text: &str, first: &str) -> Result<(), Problem> {
    if text.is_empty() || text == first {
        return Ok(());
    }
    let message = format!(
        "the stream is for `{first}`, and a message names another organization; use a stream for each"
    );
    let problem = Problem::new(Code::InvalidArgument, ErrorReason::StreamOrganizationChanged, message);
    Err(problem.with("organization_id", text).with("first_organization_id", first))
}

fn mode_changed(sequence: i64) -> Problem {
    let message = "a message asks for another acknowledgement mode than the first; open a new stream for it";
    Problem::new(Code::InvalidArgument, ErrorReason::StreamModeChanged, message).with("sequence", sequence)
}

fn sequence_invalid(sequence: i64, previous: i64) -> Problem {
    let message = format!(
        "the sequence {sequence} is not above {previous}; open a new stream and number the events from 1 in rising order"
    );
    Problem::new(Code::InvalidArgument, ErrorReason::StreamSequenceInvalid, message)
        .with("sequence", sequence)
        .with("previous_sequence", previous)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    fn message(organization_id: &str, sequence: i64, mode: AcknowledgementMode) -> EmitStreamRequest {
        let organization_id = organization_id.to_owned();
        EmitStreamRequest { organization_id, sequence, event: None, acknowledgement_mode: mode.into() }
    }

    fn reason_of(messages: &[EmitStreamRequest]) -> Option<String> {
        let mut protocol = Protocol::default();
        let problem = messages.iter().find_map(|message| protocol.check(message).err())?;
        let status = problem.into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        Some(status.get_error_details().error_info().unwrap().reason.clone())
    }

    #[test]
    fn rising_sequences_of_one_organization_and_mode_are_a_stream() {
        use AcknowledgementMode::{PerEvent, Unspecified};
        let messages =
            [message("org_a", 1, PerEvent), message("", 2, Unspecified), message("org_a", 9, PerEvent)];
        assert_eq!(reason_of(&messages), None);
    }

    #[test]
    fn each_broken_rule_ends_the_stream_with_its_reason() {
        use AcknowledgementMode::{Cumulative, PerEvent, Unspecified};
        let first = || message("org_a", 5, Unspecified);
        for (messages, reason) in [
            (vec![message("", 1, Unspecified)], "FIELD_REQUIRED"),
            (vec![message("org a", 1, Unspecified)], "FIELD_MALFORMED"),
            (vec![message("org_a", 0, Unspecified)], "STREAM_SEQUENCE_INVALID"),
            (vec![first(), message("", 5, Unspecified)], "STREAM_SEQUENCE_INVALID"),
            (vec![first(), message("org_b", 6, Unspecified)], "STREAM_ORGANIZATION_CHANGED"),
            (vec![first(), message("", 6, PerEvent)], "STREAM_MODE_CHANGED"),
            (vec![message("org_a", 1, PerEvent), message("", 6, Cumulative)], "STREAM_MODE_CHANGED"),
        ] {
            assert_eq!(reason_of(&messages).as_deref(), Some(reason));
        }
        let cumulative = [first(), message("", 6, Cumulative)];
        assert_eq!(reason_of(&cumulative), None, "unspecified is cumulative");
    }
}
