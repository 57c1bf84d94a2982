//! How deliveries stand, and what became of an event.

use super::delivery::{Attempts, write_delivery};
use super::event::write_event;
use super::time::write_timestamp;
use crate::control::explain::{Explained, Explanation, Verdict};
use crate::control::standing::{Standing, WaitReason};
use crate::domain::event::Event;
use crate::grpc::proto::v1;

/// Adds what is true at this moment to a delivery as it is on record.
pub fn add_standing(mut written: v1::Delivery, standing: Standing) -> v1::Delivery {
    written.expire_time = standing.expires_at.map(write_timestamp);
    if standing.in_flight {
        written.set_state(v1::DeliveryState::InFlight);
        written.set_reason(v1::DeliveryReason::Unspecified);
        written.next_attempt_time = None;
    } else if standing.cancel_pending {
        written.set_reason(v1::DeliveryReason::CancelRequested);
    } else if let Some(wait) = standing.wait {
        written.set_reason(reason_of(wait));
        written.next_attempt_time = standing.next_attempt_at.map(write_timestamp);
    }
    written
}

const fn reason_of(wait: WaitReason) -> v1::DeliveryReason {
    match wait {
        WaitReason::RetryNotDue => v1::DeliveryReason::RetryNotDue,
        WaitReason::LaneBusy => v1::DeliveryReason::LaneBusy,
        WaitReason::Paused => v1::DeliveryReason::DestinationPaused,
        WaitReason::Disabled => v1::DeliveryReason::DestinationDisabled,
        WaitReason::OrderHeld => v1::DeliveryReason::OrderHeld,
        WaitReason::HostRate => v1::DeliveryReason::HostRate,
        WaitReason::CircuitOpen => v1::DeliveryReason::CircuitOpen,
        WaitReason::SwitchedOff => v1::DeliveryReason::SwitchedOff,
        WaitReason::Deleted => v1::DeliveryReason::DestinationDeleted,
    }
}

/// Writes an event, with its data or without.
pub fn write_event_head(event: &Event, with_data: bool) -> v1::Event {
    let mut written = write_event(event);
    if !with_data || event.erased_at.is_some() {
        written.data = None;
    }
    written
}

/// Writes what became of an event; `standing` says how each delivery stands.
pub fn write_explained(
    explained: &Explained,
    with_bodies: bool,
    standing: impl Fn(&crate::domain::delivery::Delivery) -> Standing,
) -> v1::ExplainEventResponse {
    let event = &explained.event;
    let rows = explained.rows.iter();
    v1::ExplainEventResponse {
        event: Some(write_event_head(event, with_bodies)),
        accept_time: Some(write_timestamp(event.accepted_at)),
        erase_time: event.erased_at.map(write_timestamp),
        explanations: rows.map(|row| write_explanation(row, with_bodies, &standing)).collect(),
        next_page_token: String::new(),
    }
}

fn write_explanation(
    row: &Explanation,
    with_bodies: bool,
    standing: &impl Fn(&crate::domain::delivery::Delivery) -> Standing,
) -> v1::DestinationExplanation {
    let delivery = row.delivery.as_ref().map(|delivery| {
        add_standing(write_delivery(delivery, Attempts::All { with_bodies }), standing(delivery))
    });
    v1::DestinationExplanation {
        destination_id: row.destination_id.to_string(),
        display_name: row.display_name.clone(),
        verdict: write_verdict(row.verdict).into(),
        explanation: row.sentence.clone(),
        deciding_field: row.deciding_field.to_owned(),
        delivery,
        ahead_count: row.ahead.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        changed_since: row.changed_since,
    }
}

const fn write_verdict(verdict: Verdict) -> v1::EventVerdict {
    match verdict {
        Verdict::NotSubscribed => v1::EventVerdict::NotSubscribed,
        Verdict::BelowLevel => v1::EventVerdict::BelowLevel,
        Verdict::CreatedLater => v1::EventVerdict::CreatedLater,
        Verdict::Disabled => v1::EventVerdict::Disabled,
        Verdict::SubscribedLater => v1::EventVerdict::SubscribedLater,
        Verdict::AboutItself => v1::EventVerdict::AboutItself,
        Verdict::Paused => v1::EventVerdict::Paused,
        Verdict::Waiting => v1::EventVerdict::Waiting,
        Verdict::InFlight => v1::EventVerdict::InFlight,
        Verdict::Succeeded => v1::EventVerdict::Succeeded,
        Verdict::Discarded => v1::EventVerdict::Discarded,
        Verdict::DeadLettered => v1::EventVerdict::DeadLettered,
        Verdict::Cancelled => v1::EventVerdict::Cancelled,
        Verdict::RecordDeleted => v1::EventVerdict::RecordDeleted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_of_the_api_is_one_of_ours() {
        for number in 1.. {
            let Ok(verdict) = v1::EventVerdict::try_from(number) else { break };
            assert!(Verdict::ALL.into_iter().any(|ours| write_verdict(ours) == verdict), "{verdict:?}");
        }
    }

    #[test]
    fn every_reason_of_the_api_is_what_a_delivery_waits_for_or_how_it_ended() {
        use crate::domain::delivery::EndReason;
        use crate::grpc::convert::delivery::write_reason;
        // Those that follow from more than the state.
        let mut known = vec![
            v1::DeliveryReason::CancelRequested,
            v1::DeliveryReason::CancelledByCaller,
            v1::DeliveryReason::NotRenderable,
        ];
        known.extend(WaitReason::ALL.map(reason_of));
        known.extend(EndReason::ALL.map(write_reason));
        for number in 1.. {
            let Ok(reason) = v1::DeliveryReason::try_from(number) else { break };
            assert!(known.contains(&reason), "{reason:?}");
        }
    }
}
