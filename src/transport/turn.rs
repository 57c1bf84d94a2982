//! The right to make one attempt now: everybody whom it could hit has been asked.

use std::sync::PoisonError;

use tokio::time::Instant;

use super::courier::Courier;
use super::{SendOptions, Sent};
use crate::domain::destination::Destination;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::policy::host_rate::HostKey;

/// The right to make one attempt, given by [`Courier::take_turn`].
#[derive(Debug)]
pub struct Turn {
    /// When the attempt began.
    pub(super) begun: Instant,
    /// The same, to be recorded.
    pub(super) begun_at: Timestamp,
    /// What becomes of it, where nobody can be reached.
    pub(super) unreachable: Option<Sent>,
}

/// The organization sends to one of the hosts as fast as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack {
    /// From when on it may again.
    pub until: Timestamp,
    /// How many requests a second it may send there.
    pub per_second: u32,
}

impl Courier {
    /// Finds out whom an attempt would hit now and counts it for all of them, but for those in `counted`, for whom
    /// it counts already. Where a name leads is asked here and used for the connection that follows.
    ///
    /// # Errors
    /// [`HeldBack`], and it counts for nobody.
    pub async fn take_turn(
        &self,
        destination: &Destination,
        policy: &EffectivePolicy,
        counted: &[HostKey],
    ) -> Result<Turn, HeldBack> {
        let (begun, begun_at) = (Instant::now(), self.clock.now());
        let turn = |unreachable| Turn { begun, begun_at, unreachable };
        let Some(rates) = &self.rates else { return Ok(turn(None)) };
        let options = SendOptions::of(policy);
        let found = self.transport.find_third_parties(destination.url.as_url(), options).await;
        let hosts = match found {
            Ok(hosts) => hosts,
            Err(sent) => return Ok(turn(Some(sent))),
        };
        let keys = hosts.iter().map(|host| HostKey::new(&destination.organization_id, host));
        let keys: Vec<HostKey> = keys.filter(|key| !counted.contains(key)).collect();
        let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        let per_second = rates.per_second();
        let taken = rates.take_all(&keys, self.clock.now());
        taken.map(|()| turn(None)).map_err(|until| HeldBack { until, per_second })
    }
}
