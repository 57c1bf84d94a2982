//! How many calls and events a second each organization makes, where its plan says how many it may.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Control, Error, Quota};
use crate::domain::id::OrganizationId;
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::policy::rate::TokenBucket;

/// When there are so many buckets, those that are full again are forgotten: they mean nothing.
const BUCKETS_KEPT: usize = 10_000;

/// The buckets of all organizations.
#[derive(Default)]
pub(super) struct Rates {
    buckets: Mutex<HashMap<(OrganizationId, Quota), (TokenBucket, u32)>>,
}

impl Rates {
    /// Takes one of so many a second.
    ///
    /// # Errors
    /// How long to wait until there is one.
    fn take(&self, id: &OrganizationId, what: Quota, limit: u32, now: Timestamp) -> Result<(), Duration> {
        // No code panics while it holds the lock, and a bucket has no invariant that a panic could break.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_KEPT {
            buckets.retain(|_, (bucket, limit)| !bucket.is_full(*limit, now));
        }
        let fresh = || (TokenBucket::full(limit, now), limit);
        let (bucket, known_limit) = buckets.entry((id.clone(), what)).or_insert_with(fresh);
        *known_limit = limit;
        bucket.take(limit, now)
    }
}

impl Control {
    /// Counts a call of an organization.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], where its plan allows no more at present.
    pub fn count_call(&self, id: &OrganizationId) -> Result<(), Error> {
        if self.settings.plans.values().all(|plan| plan.max_calls_per_second.is_none()) {
            return Ok(());
        }
        let organization = self.directory().organization(id);
        let plan = self.settings.plan_of(organization.as_deref());
        let limit = plan.and_then(|plan| Some((plan, plan.max_calls_per_second?)));
        self.take_one(id, Quota::CallsPerSecond, limit, self.clock.now())
    }

    /// Counts an event of an organization.
    pub(super) fn count_event(
        &self,
        id: &OrganizationId,
        plan: Option<&Plan>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let limit = plan.and_then(|plan| Some((plan, plan.max_events_per_second?)));
        self.take_one(id, Quota::EventsPerSecond, limit, now)
    }

    fn take_one(
        &self,
        id: &OrganizationId,
        what: Quota,
        limit: Option<(&Plan, u32)>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some((plan, limit)) = limit else { return Ok(()) };
        self.rates.take(id, what, limit, now).map_err(|wait| Error::QuotaExceeded {
            subject: format!("organization:{id}"),
            plan: plan.name.clone(),
            what,
            limit: limit.into(),
            usage: limit.into(),
            retry_after: Some(wait),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_events_of_each_organization_are_counted_apart_and_quiet_ones_are_forgotten() {
        let rates = Rates::default();
        let id = |number: usize| OrganizationId::parse(&format!("org_{number}")).unwrap();
        let at = Timestamp::from_millis;
        assert!(rates.take(&id(0), Quota::CallsPerSecond, 1, at(0)).is_ok());
        assert!(rates.take(&id(0), Quota::CallsPerSecond, 1, at(0)).is_err());
        assert!(rates.take(&id(0), Quota::EventsPerSecond, 1, at(0)).is_ok());
        for number in 0..BUCKETS_KEPT {
            rates.take(&id(number), Quota::CallsPerSecond, 1, at(0)).ok();
        }
        assert!(rates.take(&id(1), Quota::CallsPerSecond, 1, at(5_000)).is_ok());
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
