//! Who may do what: every method with every role, in the caller's own organization and in another one.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use signalpost::auth::access::METHODS;
use signalpost::grpc::proto::{DESCRIPTORS, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{PATIENCE, Refusal, Server, TokenFile, call_any, event, eventually, naming, with_token};

const OWN: &str = "org_own";
const OTHER: &str = "org_other";
const NOWHERE: &str = "org_nowhere";

/// A server that asks for tokens, with two organizations.
struct House {
    server: Server,
    tokens: TokenFile,
    operator: String,
}

impl House {
    async fn open() -> Self {
        Self::with(&[]).await
    }

    async fn with(changes: &[(&str, &str)]) -> Self {
        let mut tokens = TokenFile::new();
        let operator = tokens.add("ops", "operator");
        let path = tokens.setting();
        let mut settings = vec![("auth.tokens_file", path.as_str()), ("auth.reload", r#""50ms""#)];
        settings.extend_from_slice(changes);
        let server = Server::with(&settings).await;
        let house = Self { server, tokens, operator };
        for organization_id in [OWN, OTHER] {
            let request =
                v1::CreateOrganizationRequest { organization_id: organization_id.into(), organization: None };
            let request = with_token(&house.operator, request);
            house.server.organizations().create_organization(request).await.unwrap();
        }
        house
    }

    /// A new token, once the server knows it.
    async fn token(&mut self, grants: &str) -> String {
        let token = self.tokens.add("caller", grants);
        let channel = self.server.channel();
        eventually("the server knows a new token", async || {
            let request = with_token(&token, naming(OWN));
            let answer = call_any(&channel, "signalpost.v1.EventIngest/Emit", request).await.unwrap_err();
            (answer.code() != Code::Unauthenticated).then_some(())
        })
        .await;
        token
    }

    async fn call(&self, token: &str, method: &str, organization_id: &str) -> Result<(), Status> {
        call_any(&self.server.channel(), method, with_token(token, naming(organization_id))).await
    }
}

/// Every method of our own services, from the descriptors that the server serves.
pub fn described() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files = set.file.iter().filter(|file| file.package() == "signalpost.v1");
    let methods = files.flat_map(|file| {
        file.service.iter().flat_map(|service| {
            service.method.iter().map(|method| format!("signalpost.v1.{}/{}", service.name(), method.name()))
        })
    });
    methods.collect()
}

/// What the documents say, without a look at the table: the least role that a method needs.
fn documented(method: &str) -> &'static str {
    let name = method.split_once('/').unwrap().1;
    let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    match name {
        "CreateOrganization" | "DeleteOrganization" | "BackUpStore" => "operator",
        "ListAuditEntries" => "admin",
        name if name.starts_with("Emit") => "emitter",
        _ if begins(&["Get", "List", "Watch", "Explain", "Export"]) => "viewer",
        _ => "admin",
    }
}

pub fn may(role: &str, method: &str) -> bool {
    let needed = documented(method);
    role == needed || role == "operator" || (role == "admin" && needed != "operator")
}

pub fn was_denied(answer: &Result<(), Status>) -> bool {
    matches!(answer, Err(status) if status.code() == Code::PermissionDenied)
}

#[test]
fn every_method_has_a_row_and_there_is_none_too_many() {
    let rows: BTreeSet<String> = METHODS.iter().map(|(method, _)| (*method).to_owned()).collect();
    let (own, standard): (BTreeSet<_>, BTreeSet<_>) =
        rows.into_iter().partition(|method| method.starts_with("signalpost."));
    assert_eq!(own, described());
    assert_eq!(
        standard.into_iter().collect::<Vec<_>>(),
        [
            "grpc.health.v1.Health/Check",
            "grpc.health.v1.Health/Watch",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ]
    );
}

#[tokio::test]
async fn an_organization_without_rights_answers_as_one_that_does_not_exist_to_the_last_byte() {
    let mut house = House::open().await;
    let token = house.token(&format!("admin@{OWN},emitter@{OWN}")).await;
    for method in &described() {
        let answers = [OTHER, NOWHERE].map(|organization| house.call(&token, method, organization));
        let [exists, does_not] = answers.map(|answer| async { answer.await.unwrap_err() });
        let (exists, does_not) = (exists.await, does_not.await);
        assert_eq!(exists.code(), Code::PermissionDenied, "{method}");
        assert_eq!(
            (exists.code(), exists.message(), exists.details()),
            (does_not.code(), does_not.message(), does_not.details()),
            "{method}"
        );
        let refusal = Refusal::from(exists);
        assert_eq!((refusal.reason.as_str(), refusal.resource), ("ROLE_MISSING", None), "{method}");
        assert!(!refusal.message.contains(OTHER), "{method}");
    }
}

#[tokio::test]
async fn without_valid_credentials_there_is_nothing_but_health() {
    let mut house = House::open().await;
    let token = house.token(&format!("admin@{OWN}")).await;
    house.tokens.remove(&token);
    let channel = house.server.channel();
    eventually("a token is withdrawn", async || {
        let answer = house.call(&token, "signalpost.v1.DeliveryAdmin/ListDeliveries", OWN).await;
        answer.err().filter(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    let mut methods = described();
    methods.insert("grpc.reflection.v1.ServerReflection/ServerReflectionInfo".into());
    methods.insert("signalpost.v1.Nothing/AtAll".into());
    for method in &methods {
        let nobody = call_any(&channel, method, Request::new(naming(OWN))).await.unwrap_err();
        assert_eq!(Refusal::from(nobody).reason, "CREDENTIALS_MISSING", "{method}");
        let mut both = with_token(&house.operator, naming(OWN));
        both.metadata_mut().append("authorization", "Bearer x".parse().unwrap());
        let guess = with_token(&"spt1_guess".repeat(5), naming(OWN));
        for wrong in [with_token(&token, naming(OWN)), guess, both] {
            let shown = wrong.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
            let status = call_any(&channel, method, wrong).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{method}");
            let secret = shown.trim_start_matches("Bearer ");
            assert!(!format!("{status:?}").contains(secret), "{method}");
            assert_eq!(status.get_error_details().error_info().unwrap().reason, "CREDENTIALS_INVALID");
        }
    }
    call_any(&channel, "grpc.health.v1.Health/Check", Request::new(Bytes::new())).await.unwrap();
    let known = house.call(&house.operator, "signalpost.v1.Nothing/AtAll", OWN).await.unwrap_err();
    let refusal = Refusal::from(known);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unimplemented, "METHOD_NOT_AVAILABLE"));
}

#[tokio::test]
async fn reflection_is_for_whom_the_setting_says() {
    let method = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list = || Bytes::from_static(&[0x3a, 0x00]);
    for (setting, nobody, somebody) in [
        (r#""open""#, Code::Ok, Code::Ok),
        (r#""authenticated""#, Code::Unauthenticated, Code::Ok),
        (r#""off""#, Code::Unauthenticated, Code::Unimplemented),
    ] {
        let house = House::with(&[("listen.reflection", setting)]).await;
        let channel = house.server.channel();
        let code = |answer: Result<(), Status>| answer.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(code(call_any(&channel, method, Request::new(list())).await), nobody, "{setting}");
        let known = call_any(&channel, method, with_token(&house.operator, list())).await;
        assert_eq!(code(known), somebody, "{setting}");
    }
}

#[tokio::test]
async fn a_list_of_organizations_shows_those_that_the_caller_may_see() {
    let mut house = House::open().await;
    let token = house.token(&format!("viewer@{OWN}")).await;
    let seen = async |token: &str| {
        let request = with_token(token, v1::ListOrganizationsRequest::default());
        let answer = house.server.organizations().list_organizations(request).await.unwrap().into_inner();
        answer.organizations.into_iter().map(|one| one.organization_id).collect::<Vec<_>>()
    };
    assert_eq!(seen(&token).await, [OWN]);
    assert_eq!(seen(&house.operator).await, [OTHER, OWN]);
}

#[tokio::test]
async fn a_plan_is_changed_by_operators_alone() {
    let mut house = House::open().await;
    let token = house.token(&format!("admin@{OWN}")).await;
    let change = |token: &str, path: &str| {
        let request = v1::UpdateOrganizationRequest {
            organization_id: OWN.into(),
            organization: Some(v1::Organization { plan: "default".into(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec![path.into()] }),
        };
        with_token(token, request)
    };
    let mut organizations = house.server.organizations();
    organizations.update_organization(change(&token, "display_name")).await.unwrap();
    let refusal = organizations.update_organization(change(&token, "plan")).await.unwrap_err();
    let refusal = Refusal::from(refusal);
    assert_eq!(
        (refusal.code, refusal.metadata["required_role"].as_str()),
        (Code::PermissionDenied, "operator")
    );
    organizations.update_organization(change(&house.operator, "plan")).await.unwrap();
}

#[tokio::test]
async fn open_streams_end_when_their_token_is_withdrawn() {
    let mut house = House::open().await;
    let token = house.token(&format!("admin@{OWN}")).await;
    let watch = v1::WatchDeliveriesRequest { organization_id: OWN.into(), ..Default::default() };
    let mut deliveries = house.server.deliveries();
    let mut watch = deliveries.watch_deliveries(with_token(&token, watch)).await.unwrap().into_inner();
    let (sender, receiver) = mpsc::channel(1);
    let mut events = house.server.events();
    let stream = events.emit_stream(with_token(&token, ReceiverStream::new(receiver))).await.unwrap();
    let mut stream = stream.into_inner();
    let message = v1::EmitStreamRequest {
        organization_id: OWN.into(),
        sequence: 1,
        event: Some(event("agent.offline").data("{}").0),
        acknowledgement_mode: 0,
    };
    sender.send(message).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().acknowledged_sequence, 1);
    house.tokens.remove(&token);
    for ended in [
        tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().map(|_| ()),
        tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().map(|_| ()),
    ] {
        let refusal = Refusal::from(ended.unwrap_err());
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    }
}

#[tokio::test]
async fn a_stream_of_events_is_denied_where_its_first_message_names_a_foreign_organization() {
    let mut house = House::open().await;
    let token = house.token(&format!("emitter@{OWN}")).await;
    let message = v1::EmitStreamRequest {
        organization_id: OTHER.into(),
        sequence: 1,
        event: Some(event("agent.offline").data("{}").0),
        acknowledgement_mode: 0,
    };
    let stream = with_token(&token, tokio_stream::once(message));
    let mut answers = house.server.events().emit_stream(stream).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn tokens_are_rotated_under_load_without_a_failed_call_and_a_broken_file_changes_nothing() {
    let mut house = House::open().await;
    let mut token = house.token(&format!("emitter@{OWN}")).await;
    let (switch, current) = tokio::sync::watch::channel(token.clone());
    let calls: Vec<_> = (0..4).map(|_| emit_until_told(house.server.channel(), current.clone())).collect();
    drop(current);
    let load = futures_join(calls);
    let rotate = async {
        for _ in 0..5 {
            let path = house.tokens.path();
            let good = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, "half a li").unwrap();
            tokio::time::sleep(Duration::from_millis(120)).await;
            std::fs::write(&path, good).unwrap();
            let next = house.token(&format!("emitter@{OWN}")).await;
            switch.send(next.clone()).unwrap();
            // Calls that began with the old token end before it is withdrawn, as when a deployment rolls over.
            tokio::time::sleep(Duration::from_millis(200)).await;
            house.tokens.remove(&token);
            token = next;
        }
        drop(switch);
    };
    let (made, ()) = tokio::join!(load, rotate);
    assert!(made > 100, "{made} calls");
}

/// Emits until the sender of tokens is gone; how often. Panics at the first failure.
async fn emit_until_told(channel: Channel, tokens: tokio::sync::watch::Receiver<String>) -> u64 {
    let mut client = v1::event_ingest_client::EventIngestClient::new(channel);
    let mut made = 0;
    while tokens.has_changed().is_ok() {
        let token = tokens.borrow().clone();
        let event = Some(event("agent.offline").data("{}").0);
        let request = v1::EmitRequest { organization_id: OWN.into(), event };
        client.emit(with_token(&token, request)).await.unwrap();
        made += 1;
    }
    made
}

async fn futures_join(calls: Vec<impl Future<Output = u64> + Send + 'static>) -> u64 {
    let mut tasks = tokio::task::JoinSet::new();
    for call in calls {
        tasks.spawn(call);
    }
    tasks.join_all().await.into_iter().sum()
}
