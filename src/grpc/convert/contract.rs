//! What a contract gives to receivers. The sample is a real request, rendered for the test event.

use super::destination::write_contract;
use super::policy::{write_delays, write_policy};
use super::subscription::write_effective;
use crate::contract::{self, Catalogue, RenderContext, ResolvedSecrets, TestOrder};
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::destination::{Destination, DestinationState, DestinationUrl};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::{DeliverySettings, EffectivePolicy};
use crate::domain::time::Timestamp;
use crate::grpc::proto::v1;

/// 2025-01-15T10:30:00Z, the moment of the samples.
const SAMPLE_MOMENT: Timestamp = Timestamp::from_millis(1_736_937_000_000);
const SAMPLE_URL: &str = "https://example.com/webhooks";

/// Describes a contract.
pub fn write_contract_info(contract: Contract) -> v1::ContractInfo {
    let defaults = contract::defaults(contract);
    let catalogue = contract::catalogue(contract);
    let (event_types, closed) = match catalogue {
        Catalogue::Closed(types) => (types, true),
        Catalogue::Open(types) => (types, false),
    };
    let sample = sample(contract, &defaults).unwrap_or_default();
    let batches = contract::groups(contract, CloudEventsMode::Structured)
        || contract::groups(contract, CloudEventsMode::Batch);
    v1::ContractInfo {
        contract: write_contract(contract).into(),
        display_name: display_name(contract).to_owned(),
        event_types: event_types.iter().map(ToString::to_string).collect(),
        closed_catalogue: closed,
        defaults: Some(v1::EffectivePolicy {
            settings: Some(write_policy(&defaults, contract)),
            overridden_fields: Vec::new(),
            subscription: Some(write_effective(&contract::default_subscription(contract), catalogue)),
            retry_delays: write_delays(&defaults),
            signed: false,
        }),
        signature_header: contract::signature_header(contract).to_owned(),
        signature_format: signature_format(contract).to_owned(),
        content_type: sample.content_type,
        user_agent: sample.user_agent,
        batches,
        plain_http_possible: contract == Contract::Stalwart,
        test_event_type: sample.event_type,
        sample_body: sample.body,
    }
}

#[derive(Default)]
struct Sample {
    event_type: String,
    content_type: String,
    user_agent: String,
    body: String,
}

fn sample(contract: Contract, policy: &EffectivePolicy) -> Option<Sample> {
    let destination = sample_destination(contract)?;
    let order = TestOrder {
        organization_id: &destination.organization_id,
        destination_id: destination.id,
        url: SAMPLE_URL,
        actor_id: "user_abc123",
        now: SAMPLE_MOMENT,
        draw: 0,
    };
    let event = contract::test_event(contract, order);
    let secrets = ResolvedSecrets::default();
    let context = RenderContext {
        destination: &destination,
        policy,
        secrets: &secrets,
        now: SAMPLE_MOMENT,
        attempt_number: 1,
        trace: None,
    };
    let request = contract::render(context, &[&event]).ok()?;
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let text = |name: &str| header(name).unwrap_or_default().to_owned();
    Some(Sample {
        event_type: event.event_type.to_string(),
        content_type: text("content-type"),
        user_agent: text("user-agent"),
        body: String::from_utf8_lossy(request.body()).into_owned(),
    })
}

fn sample_destination(contract: Contract) -> Option<Destination> {
    Some(Destination {
        id: DestinationId::make(SAMPLE_MOMENT, [0; 10]),
        organization_id: OrganizationId::parse("org_abc123").ok()?,
        display_name: String::new(),
        url: DestinationUrl::parse(SAMPLE_URL, false).ok()?,
        contract,
        subscription: contract::default_subscription(contract),
        settings: DeliverySettings::default(),
        signing: SigningSecrets::default(),
        http_auth: HttpAuth::default(),
        headers: Vec::new(),
        state: DestinationState::Active,
        created_at: SAMPLE_MOMENT,
        updated_at: SAMPLE_MOMENT,
        revision: 1,
    })
}

const fn display_name(contract: Contract) -> &'static str {
    match contract {
        Contract::Semaphor => "Semaphor telemetry webhooks",
        Contract::Stalwart => "Stalwart webhooks",
        Contract::Workspace => "Workspace webhooks",
        Contract::Observer => "Observer outbound webhooks",
        Contract::StandardWebhooks => "Standard Webhooks 1.0.0",
        Contract::CloudEvents => "CloudEvents 1.0 over HTTP",
    }
}

const fn signature_format(contract: Contract) -> &'static str {
    match contract {
        Contract::Semaphor | Contract::Workspace | Contract::Observer => {
            "sha256= and the lower-case hex HMAC-SHA256 of the body"
        }
        Contract::Stalwart => "the HMAC-SHA256 of the body in padded standard base64",
        Contract::StandardWebhooks | Contract::CloudEvents => {
            "v1, and the base64 HMAC-SHA256 of webhook-id.webhook-timestamp.body, \
             or v1a, and the base64 Ed25519 signature; several are separated by spaces"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_has_a_sample_that_is_json() {
        for contract in Contract::ALL {
            let info = write_contract_info(contract);
            let body: Result<serde_json::Value, _> = serde_json::from_str(&info.sample_body);
            assert!(body.is_ok(), "{contract}: {}", info.sample_body);
            assert!(info.content_type.contains("json") && !info.user_agent.is_empty(), "{contract}");
            assert!(!info.test_event_type.is_empty() && !info.signature_header.is_empty(), "{contract}");
        }
    }

    #[test]
    fn closed_catalogues_are_told_from_open_ones() {
        let observer = write_contract_info(Contract::Observer);
        assert_eq!((observer.closed_catalogue, observer.event_types.len()), (true, 6));
        assert!(!write_contract_info(Contract::Stalwart).closed_catalogue);
        assert!(write_contract_info(Contract::CloudEvents).batches);
    }
}
