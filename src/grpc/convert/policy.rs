//! The effective policy: what is in force, setting by setting.

use std::time::Duration;

use super::count;
use super::settings::{write_guarantee, write_mode, write_retry};
use super::time::write_duration;
use crate::contract;
use crate::domain::contract::Contract;
use crate::domain::settings::EffectivePolicy;
use crate::grpc::proto::v1;
use crate::policy::retry::next_delay;

/// How many delays are written out.
const DELAYS_MAX: u32 = 20;

/// Writes every setting with the value that applies; what does not apply is left out.
pub fn write_policy(policy: &EffectivePolicy, contract: Contract) -> v1::DeliverySettings {
    let groups = contract::groups(contract, policy.cloudevents_mode);
    let cloudevents = contract == Contract::CloudEvents;
    let mode =
        if cloudevents { write_mode(policy.cloudevents_mode) } else { v1::CloudEventsMode::Unspecified };
    v1::DeliverySettings {
        timeout: Some(write_duration(policy.timeout)),
        retry_policy: Some(write_retry(&policy.retry)),
        throttle: Some(write_duration(policy.throttle)),
        max_batch_events: groups.then(|| count(policy.max_batch_events)),
        max_batch_bytes: groups.then(|| count(policy.max_batch_bytes)),
        discard_after: policy.discard_after.map(write_duration),
        lossy: Some(policy.lossy),
        guarantee: write_guarantee(policy.guarantee).into(),
        ordered: Some(policy.ordered),
        max_concurrency: Some(count(policy.max_concurrency)),
        allow_invalid_certificates: Some(policy.allow_invalid_certificates),
        cloud_events_mode: mode.into(),
        cloud_events_source: policy.cloudevents_source.clone().filter(|_| cloudevents),
        disable_after: policy.disable_after.map(write_duration),
        disable_on_gone: Some(policy.gone_disables),
        keep_response_bodies: Some(policy.keep_response_bodies),
    }
}

/// The delays before the second and later attempts, without jitter.
pub fn write_delays(policy: &EffectivePolicy) -> Vec<prost_types::Duration> {
    let delays = (1..=DELAYS_MAX).map_while(|attempts| next_delay(policy, attempts, 0.0));
    delays.map(|delay: Duration| write_duration(delay)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_apply_to_a_contract_is_left_out() {
        let workspace = write_policy(&contract::defaults(Contract::Workspace), Contract::Workspace);
        assert_eq!((workspace.max_batch_events, workspace.cloud_events_mode), (None, 0));
        assert_eq!(workspace.disable_on_gone, Some(false));
        let stalwart = write_policy(&contract::defaults(Contract::Stalwart), Contract::Stalwart);
        assert_eq!(stalwart.max_batch_events, Some(100));
    }

    #[test]
    fn the_delays_of_observer_are_those_of_its_promise() {
        let seconds = |contract| -> Vec<i64> {
            write_delays(&contract::defaults(contract)).iter().map(|delay| delay.seconds).collect()
        };
        assert_eq!(seconds(Contract::Observer), [5, 20, 80, 320, 1280, 3600, 3600]);
        assert_eq!(seconds(Contract::Workspace), [60, 300, 900]);
    }
}
