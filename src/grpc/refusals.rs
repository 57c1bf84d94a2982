//! What the log says of peers that were refused: the first of a kind at once, the others of some time as their
//! number. Whoever floods us with connections must not be able to flood the log.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{ConnectionLimit, ConnectionMetrics};

/// How often a limit is told of.
const EVERY: Duration = Duration::from_secs(10);

/// Refusals by the limit that refused them.
#[derive(Debug, Default)]
pub struct Refusals {
    by_limit: Mutex<BTreeMap<ConnectionLimit, Refused>>,
    metrics: ConnectionMetrics,
}

#[derive(Debug)]
struct Refused {
    told_at: Instant,
    /// How many were not told of since.
    left_out: u64,
}

/// A line of the log that is due.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    limit: ConnectionLimit,
    left_out: u64,
}

impl Refusals {
    /// Counts what it notes.
    #[must_use]
    pub fn counted_by(metrics: ConnectionMetrics) -> Self {
        Self { by_limit: Mutex::default(), metrics }
    }

    /// Connections as they are counted.
    #[must_use]
    pub fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }

    /// Notes that a connection was refused or closed by a limit, and says so in the log if that is due.
    pub fn note(&self, limit: ConnectionLimit, address: IpAddr) {
        self.metrics.refused(limit);
        if let Some(left_out) = self.take(limit, Instant::now()) {
            let limit = limit.setting();
            tracing::warn!(%address, limit, left_out, "a connection was refused or closed");
        }
    }

    /// Says how many there were that the log does not have, where that is due.
    pub fn tell_due(&self) {
        self.tell(Instant::now());
    }

    /// The same, whether it is due or not.
    pub fn tell_all(&self) {
        self.tell(Instant::now() + EVERY);
    }

    /// Resolves when something is due.
    pub async fn due(&self) {
        let next = self.first_due();
        match next {
            Some(at) => tokio::time::sleep_until(at).await,
            None => pending().await,
        }
    }

    fn tell(&self, now: Instant) {
        for Due { limit, left_out } in self.take_due(now) {
            let limit = limit.setting();
            tracing::warn!(limit, left_out, "more connections were refused or closed");
        }
    }

    /// How many were left out, where a line is due now.
    fn take(&self, limit: ConnectionLimit, now: Instant) -> Option<u64> {
        let mut by_limit = self.by_limit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(refused) = by_limit.get_mut(&limit) else {
            by_limit.insert(limit, Refused { told_at: now, left_out: 0 });
            return Some(0);
        };
        if now < refused.told_at + EVERY {
            refused.left_out += 1;
            return None;
        }
        refused.told_at = now;
        Some(std::mem::take(&mut refused.left_out))
    }

    fn first_due(&self) -> Option<Instant> {
        let by_limit = self.by_limit.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = by_limit.values().filter(|refused| refused.left_out > 0);
        untold.map(|refused| refused.told_at + EVERY).min()
    }

    fn take_due(&self, now: Instant) -> Vec<Due> {
        let mut by_limit = self.by_limit.lock().unwrap_or_else(PoisonError::into_inner);
        let due = by_limit.iter_mut().filter(|(_, one)| one.left_out > 0 && one.told_at + EVERY <= now);
        let take = |(limit, refused): (&ConnectionLimit, &mut Refused)| {
            refused.told_at = now;
            Due { limit: *limit, left_out: std::mem::take(&mut refused.left_out) }
        };
        due.map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_line_in_ten_seconds_and_every_refusal_is_counted() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let (mut lines, mut told) = (0_u64, 0_u64);
        for tick in 0..100_000_u64 {
            if let Some(left_out) =
                refusals.take(ConnectionLimit::Connections, start + Duration::from_millis(tick))
            {
                (lines, told) = (lines + 1, told + 1 + left_out);
            }
        }
        assert_eq!(lines, 10);
        assert_eq!(
            refusals.take(ConnectionLimit::Handshakes, start),
            Some(0),
            "each limit has lines of its own"
        );
        let end = start + Duration::from_millis(100_000);
        assert_eq!(refusals.first_due(), Some(end));
        assert_eq!(refusals.take_due(end - Duration::from_millis(1)), []);
        let last = refusals.take_due(end);
        assert_eq!(last, [Due { limit: ConnectionLimit::Connections, left_out: 9999 }]);
        assert_eq!(told + last[0].left_out, 100_000);
        assert_eq!(refusals.first_due(), None);
    }
}
