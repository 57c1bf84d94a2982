//! Which deliveries a command is about: the flags of the API's filter.

use clap::Args;

use crate::clock::{Clock, SystemClock};
use crate::config::parse_duration;
use crate::domain::time::Timestamp;
use crate::grpc::proto::v1;

/// Selects deliveries. What is left out does not restrict.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Selection")]
pub(super) struct Selection {
    /// Only those for this destination.
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only events of this type; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only those of this event.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only those from then on: a time such as 2027-01-01T00:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only those before then.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// A time, or how long ago it was.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(length) = parse_duration(text) {
        return Ok(SystemClock.now() - length);
    }
    Timestamp::parse_rfc3339(text)
        .map_err(|_| "write a time such as 2027-01-01T00:00:00Z, or how long ago, such as 2h".to_owned())
}

/// A moment for the API.
pub(super) fn stamp(at: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.as_millis().rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds: at.as_seconds(), nanos }
}

impl Selection {
    /// Whether anything restricts.
    pub(super) fn is_empty(&self) -> bool {
        let texts = self.destination.is_none() && self.types.is_empty() && self.event.is_none();
        texts && self.since.is_none() && self.until.is_none()
    }

    /// For the API.
    pub(super) fn filter(&self) -> v1::DeliveryFilter {
        v1::DeliveryFilter {
            destination_id: self.destination.clone().unwrap_or_default(),
            states: Vec::new(),
            event_types: self.types.clone(),
            event_id: self.event.clone().unwrap_or_default(),
            start_time: self.since.map(stamp),
            end_time: self.until.map(stamp),
        }
    }
}
