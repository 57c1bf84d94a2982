//! Another organization's things answer one organization's caller exactly as things that do not exist, by every
//! method that takes the id of one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use tonic::Code;

use crate::callers::described;
use crate::harness::{
    Receiver, Refusal, Server, TokenFile, call_any, destination, event, eventually, with_token,
};

const MINE: &str = "org_mine";
const THEIRS: &str = "org_theirs";
const STALWART_OBJECT: &str = include_str!("../golden/stalwart/destination.json");

/// Methods that take no id of a thing within an organization.
const WITHOUT_IDS: [&str; 16] = [
    "DeliveryAdmin/ListReplays",
    "DestinationAdmin/CreateDestination",
    "DestinationAdmin/ListContracts",
    "DestinationAdmin/ListDestinations",
    "EventIngest/Emit",
    "EventIngest/EmitBatch",
    "EventIngest/EmitStream",
    "OrganizationAdmin/CreateOrganization",
    "OrganizationAdmin/DeleteOrganization",
    "OrganizationAdmin/GetOrganization",
    "OrganizationAdmin/GetUsage",
    "OrganizationAdmin/ListAuditEntries",
    "OrganizationAdmin/ListOrganizations",
    "OrganizationAdmin/UpdateOrganization",
    "StoreAdmin/BackUpStore",
    // A list of ids: those that are not there count as nothing, which `operations` looks at.
    "DeliveryAdmin/DeleteDeadLetters",
];

/// One id of each kind.
#[derive(Debug, Clone)]
struct Ids {
    destination: String,
    event: String,
    delivery: String,
    replay: String,
}

impl Ids {
    /// Of nothing, in the form that such ids have.
    fn of_nothing() -> Self {
        Self {
            destination: format!("dest_{}", "0".repeat(32)),
            event: "evt-nobodys".into(),
            delivery: format!("dlv_{}", "0".repeat(64)),
            replay: format!("rpl_{}", "0".repeat(32)),
        }
    }

    /// A text without them, so that answers about different things can be compared.
    fn hidden_in(&self, text: &str) -> String {
        [&self.destination, &self.event, &self.delivery, &self.replay]
            .into_iter()
            .fold(text.to_owned(), |text, id| text.replace(id.as_str(), "ID"))
    }
}

/// A call of a method about a thing, in an organization.
type Ask = fn(organization_id: String, ids: Ids) -> Vec<u8>;

/// Every method that takes an id; what removes comes last.
const METHODS: [(&str, Ask); 23] = [
    ("DestinationAdmin/GetDestination", |organization_id, ids| {
        v1::GetDestinationRequest { organization_id, destination_id: ids.destination }.encode_to_vec()
    }),
    ("DestinationAdmin/UpdateDestination", |organization_id, ids| {
        let destination = v1::Destination { destination_id: ids.destination, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
        let destination = Some(destination);
        v1::UpdateDestinationRequest { organization_id, destination, update_mask, validate_only: false }
            .encode_to_vec()
    }),
    ("DestinationAdmin/PauseDestination", |organization_id, ids| {
        v1::PauseDestinationRequest { organization_id, destination_id: ids.destination }.encode_to_vec()
    }),
    ("DestinationAdmin/ResumeDestination", |organization_id, ids| {
        v1::ResumeDestinationRequest { organization_id, destination_id: ids.destination }.encode_to_vec()
    }),
    ("DestinationAdmin/TestDestination", |organization_id, ids| {
        let subject = Some(v1::test_destination_request::Subject::DestinationId(ids.destination));
        v1::TestDestinationRequest { organization_id, subject, actor_id: String::new() }.encode_to_vec()
    }),
    ("DestinationAdmin/RotateSecret", |organization_id, ids| {
        v1::RotateSecretRequest { organization_id, destination_id: ids.destination, ..Default::default() }
            .encode_to_vec()
    }),
    ("DestinationAdmin/ExportDestination", |organization_id, ids| {
        v1::ExportDestinationRequest { organization_id, destination_id: ids.destination }.encode_to_vec()
    }),
    ("DestinationAdmin/ImportDestination", |organization_id, ids| {
        let (json_document, destination_id) = (STALWART_OBJECT.into(), ids.destination);
        v1::ImportDestinationRequest {
            organization_id,
            json_document,
            destination_id,
            validate_only: true,
            ..Default::default()
        }
        .encode_to_vec()
    }),
    ("DeliveryAdmin/GetDelivery", |organization_id, ids| {
        v1::GetDeliveryRequest { organization_id, delivery_id: ids.delivery, view: 0 }.encode_to_vec()
    }),
    ("DeliveryAdmin/ListDeliveries", |organization_id, ids| {
        v1::ListDeliveriesRequest { organization_id, filter: of_destination(ids), ..Default::default() }
            .encode_to_vec()
    }),
    ("DeliveryAdmin/ListDeadLetters", |organization_id, ids| {
        v1::ListDeadLettersRequest { organization_id, filter: of_destination(ids), ..Default::default() }
            .encode_to_vec()
    }),
    ("DeliveryAdmin/WatchDeliveries", |organization_id, ids| {
        v1::WatchDeliveriesRequest { organization_id, filter: of_destination(ids), ..Default::default() }
            .encode_to_vec()
    }),
    ("DeliveryAdmin/ExplainEvent", |organization_id, ids| {
        v1::ExplainEventRequest { organization_id, event_id: ids.event, ..Default::default() }.encode_to_vec()
    }),
    ("DeliveryAdmin/GetReplay", |organization_id, ids| {
        v1::GetReplayRequest { organization_id, replay_id: ids.replay }.encode_to_vec()
    }),
    ("DeliveryAdmin/CancelReplay", |organization_id, ids| {
        v1::CancelReplayRequest { organization_id, replay_id: ids.replay }.encode_to_vec()
    }),
    ("DeliveryAdmin/CancelDelivery", |organization_id, ids| {
        v1::CancelDeliveryRequest { organization_id, delivery_id: ids.delivery }.encode_to_vec()
    }),
    ("DeliveryAdmin/ReplayDeadLetters", |organization_id, ids| {
        let selection = of_destination(ids).map(v1::replay_dead_letters_request::Selection::Filter);
        v1::ReplayDeadLettersRequest { organization_id, selection, validate_only: true, ..Default::default() }
            .encode_to_vec()
    }),
    ("DeliveryAdmin/ReplayDeliveries", |organization_id, ids| {
        replay_missed(organization_id, ids.destination, false).encode_to_vec()
    }),
    // With a preview, too.
    ("DeliveryAdmin/ReplayDeliveries", |organization_id, ids| {
        replay_missed(organization_id, ids.destination, true).encode_to_vec()
    }),
    ("DeliveryAdmin/ResendDelivery", |organization_id, ids| {
        v1::ResendDeliveryRequest { organization_id, delivery_id: ids.delivery }.encode_to_vec()
    }),
    ("DeliveryAdmin/ReplayDeadLetter", |organization_id, ids| {
        v1::ReplayDeadLetterRequest { organization_id, delivery_id: ids.delivery }.encode_to_vec()
    }),
    ("DestinationAdmin/DeleteDestination", |organization_id, ids| {
        v1::DeleteDestinationRequest { organization_id, destination_id: ids.destination, etag: String::new() }
            .encode_to_vec()
    }),
    ("DeliveryAdmin/EraseEventData", |organization_id, ids| {
        v1::EraseEventDataRequest { organization_id, event_id: ids.event }.encode_to_vec()
    }),
];

fn of_destination(ids: Ids) -> Option<v1::DeliveryFilter> {
    Some(v1::DeliveryFilter { destination_id: ids.destination, ..Default::default() })
}

fn replay_missed(
    organization_id: String,
    destination_id: String,
    validate_only: bool,
) -> v1::ReplayDeliveriesRequest {
    let start_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let missed = v1::MissedEvents { start_time, ..Default::default() };
    let selection = Some(v1::replay_deliveries_request::Selection::Missed(missed));
    let deliveries_per_second = None;
    v1::ReplayDeliveriesRequest {
        organization_id,
        destination_id,
        selection,
        deliveries_per_second,
        validate_only,
    }
}

/// One of everything, made by the operator in another organization.
async fn things(server: &Server, operator: &str, receiver: &Receiver) -> Ids {
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    let draft = destination(Contract::Stalwart).url(receiver.url("/hook")).one_attempt();
    let request = v1::CreateDestinationRequest {
        organization_id: THEIRS.into(),
        destination: Some(draft.0),
        validate_only: false,
    };
    let made = server.destinations().create_destination(with_token(operator, request)).await.unwrap();
    let destination_id = made.into_inner().destination.unwrap().destination_id;
    for (organization_id, event_id) in [(THEIRS, "evt-of-others"), (MINE, "evt-of-mine")] {
        let draft = event("agent.offline").id(event_id);
        let request = v1::EmitRequest { organization_id: organization_id.into(), event: Some(draft.0) };
        server.events().emit(with_token(operator, request)).await.unwrap();
    }
    let delivery = eventually("their delivery is a dead letter", async || {
        let request = v1::ListDeadLettersRequest { organization_id: THEIRS.into(), ..Default::default() };
        let answer = server.deliveries().list_dead_letters(with_token(operator, request)).await.unwrap();
        answer.into_inner().dead_letters.pop()
    })
    .await;
    let request = replay_missed(THEIRS.into(), destination_id.clone(), false);
    let replay = server.deliveries().replay_deliveries(with_token(operator, request)).await.unwrap();
    Ids {
        destination: destination_id,
        event: "evt-of-others".into(),
        delivery: delivery.delivery_id,
        replay: replay.into_inner().replay.unwrap().replay_id,
    }
}

/// All that an answer says, in one order.
fn said(refusal: &Refusal) -> String {
    let metadata: BTreeMap<_, _> = refusal.metadata.iter().collect();
    let Refusal { code, message, reason, violations, resource, quota, .. } = refusal;
    format!("{code:?} {reason} {message} {metadata:?} {violations:?} {resource:?} {quota:?}")
}

#[test]
fn every_method_is_in_the_table_or_takes_no_id() {
    let named = METHODS.iter().map(|(method, _)| *method).chain(WITHOUT_IDS);
    let named: BTreeSet<String> = named.map(|method| format!("signalpost.v1.{method}")).collect();
    assert_eq!(named, described());
}

#[tokio::test]
async fn no_method_tells_another_organizations_things_from_things_that_do_not_exist() {
    let mut tokens = TokenFile::new();
    let (operator, mine) = (tokens.add("ops", "operator"), tokens.add("mine", &format!("admin@{MINE}")));
    let path = tokens.setting();
    let settings = [("auth.tokens_file", path.as_str())];
    let (server, receiver) = (Server::with(&settings).await, Receiver::start().await);
    let (real, unreal) = (things(&server, &operator, &receiver).await, Ids::of_nothing());
    let call = async |token: &str, organization_id: &str, (method, ask): (&str, Ask), ids: &Ids| {
        let message = Bytes::from(ask(organization_id.to_owned(), ids.clone()));
        let method = format!("signalpost.v1.{method}");
        call_any(&server.channel(), &method, with_token(token, message)).await.map_err(Refusal::from)
    };
    for row in METHODS {
        let foreign = call(&mine, MINE, row, &real).await.unwrap_err();
        let unknown = call(&mine, MINE, row, &unreal).await.unwrap_err();
        assert_eq!(foreign.code, Code::NotFound, "{}: {foreign:?}", row.0);
        assert_eq!(real.hidden_in(&said(&foreign)), unreal.hidden_in(&said(&unknown)), "{}", row.0);
        assert!(!said(&foreign).contains(THEIRS), "{}: {foreign:?}", row.0);
    }
    // The same calls find the same things where they are, so what was compared is not a call that never works.
    for row in METHODS {
        let answer = call(&operator, THEIRS, row, &real).await;
        let code = answer.as_ref().err().map(|refusal| refusal.code);
        assert!(matches!(code, None | Some(Code::FailedPrecondition)), "{}: {answer:?}", row.0);
    }
}
