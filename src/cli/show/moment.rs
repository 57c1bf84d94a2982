//! Times and lengths of time, short enough to be read at a glance.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// The domain's moment of one of protocol buffers.
pub fn moment(stamp: prost_types::Timestamp) -> Timestamp {
    let millis = stamp.seconds.saturating_mul(1000).saturating_add(i64::from(stamp.nanos / 1_000_000));
    Timestamp::from_millis(millis)
}

/// `10:30:00.123`, in UTC.
pub fn clock_time(at: Timestamp) -> String {
    let text = at.to_rfc3339_millis();
    text.split_once('T').map_or_else(|| text.clone(), |(_, time)| time.trim_end_matches('Z').to_owned())
}

/// `2025-01-15 10:30:00 (3 min ago)`, in UTC.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let text = at.to_rfc3339_seconds().replace('T', " ");
    format!("{} ({} ago)", text.trim_end_matches('Z'), elapsed(now.since(at)))
}

/// `in 3 min`, or `now` where the time has come.
pub fn in_time(at: Timestamp, now: Timestamp) -> String {
    if at <= now { "now".to_owned() } else { format!("in {}", elapsed(at.since(now))) }
}

/// `34 ms`, `12.3 s`, `5 min`, `3 h`, `2 d`: the largest unit of which there is one.
pub fn elapsed(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{:.1} s", length.as_secs_f64()),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_unit_that_people_would_say() {
        for (millis, text) in
            [(34, "34 ms"), (12_340, "12.3 s"), (125_000, "2 min"), (7_300_000, "2 h"), (172_800_000, "2 d")]
        {
            assert_eq!(elapsed(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn what_is_due_is_now() {
        let now = Timestamp::from_millis(1_749_997_928_491);
        assert_eq!(in_time(now, now), "now");
        assert_eq!(in_time(now + Duration::from_secs(300), now), "in 5 min");
        assert_eq!(clock_time(now), "14:32:08.491");
        assert_eq!(ago(now, now + Duration::from_secs(60)), "2025-06-15 14:32:08 (1 min ago)");
    }
}
