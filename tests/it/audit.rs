//! The audit log: who changed what, who was not allowed to, and that it can't be flooded or emptied.

use std::collections::BTreeSet;

use http::StatusCode;
use prost_types::FieldMask;
use prost_types::value::Kind;
use signalpost::auth::Role;
use signalpost::auth::access::{Access, METHODS};
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::store_admin_client::StoreAdminClient;
use tonic::{Code, Request};

use crate::harness::{
    DestinationDraft, ORGANIZATION, Receiver, Refusal, Server, TokenFile, call_any, destination, event,
    eventually, naming, with_token,
};

const STALWART_OBJECT: &str = include_str!("../golden/stalwart/destination.json");

impl Server {
    async fn audit(&self, organization_id: &str, filter: v1::AuditFilter) -> Vec<v1::AuditEntry> {
        let request = v1::ListAuditEntriesRequest {
            organization_id: organization_id.into(),
            filter: Some(filter),
            page_size: 1000,
            ..v1::ListAuditEntriesRequest::default()
        };
        self.organizations().list_audit_entries(request).await.unwrap().into_inner().audit_entries
    }

    async fn audited_methods(&self) -> BTreeSet<String> {
        let entries = self.audit("", v1::AuditFilter::default()).await;
        entries.into_iter().map(|entry| entry.method).collect()
    }

    /// Creates a destination and an event of the type for it, which becomes a dead letter.
    async fn dead_letter(&self, receiver: &Receiver, draft: &DestinationDraft, id: &str) -> v1::Delivery {
        receiver.always_answers("/dead", StatusCode::INTERNAL_SERVER_ERROR);
        let draft = draft.clone().url(receiver.url("/dead")).one_attempt();
        self.create(draft.include(&[id])).await;
        self.emit(event(id).id(id)).await;
        self.until(id, v1::DeliveryState::DeadLettered).await
    }
}

fn text(fields: &prost_types::Struct, path: &str) -> String {
    match fields.fields.get(path).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{path}: {other:?} in {fields:?}"),
    }
}

/// The methods that change something or have a request sent, from the table of what methods need.
fn changing() -> BTreeSet<String> {
    let needs_rights =
        |access: &Access| matches!(access, Access::Role { role: Role::Admin | Role::Operator, .. });
    let methods = METHODS.iter().filter(|(_, access)| needs_rights(access)).map(|(method, _)| *method);
    // Of backups, which only the embedded store has, there is a test of its own.
    let nothing = ["/ListAuditEntries", "/BackUpStore"];
    let changing = methods.filter(|method| !nothing.iter().any(|end| method.ends_with(end)));
    changing.map(str::to_owned).collect()
}

fn target(id: &str) -> (String, String) {
    (ORGANIZATION.into(), id.into())
}

#[tokio::test]
async fn every_method_that_changes_something_leaves_an_entry() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let mut organizations = server.organizations();
    let create = v1::CreateOrganizationRequest { organization_id: ORGANIZATION.into(), organization: None };
    organizations.create_organization(create).await.unwrap();
    let named = v1::Organization { display_name: "Acme".into(), ..v1::Organization::default() };
    let update_mask = Some(FieldMask { paths: vec!["display_name".into()] });
    let update = v1::UpdateOrganizationRequest {
        organization_id: ORGANIZATION.into(),
        organization: Some(named),
        update_mask,
    };
    organizations.update_organization(update).await.unwrap();
    let draft = destination(Contract::StandardWebhooks).url(receiver.url("/hook")).include(&["a"]);
    let created = server.create(draft.clone()).await;
    let id = created.destination_id.clone();
    server.update(created, &["display_name"]).await;
    server.pause(&id).await;
    let test = v1::TestDestinationRequest {
        organization_id: ORGANIZATION.into(),
        subject: Some(v1::test_destination_request::Subject::DestinationId(id.clone())),
        ..v1::TestDestinationRequest::default()
    };
    server.destinations().test_destination(test).await.unwrap();
    server.emit(event("a").id("waits")).await;
    let waiting = server.deliveries_of("waits").await.swap_remove(0);
    server.try_cancel(&waiting.delivery_id).await.unwrap();
    server.resume_destination(&id).await;
    server.try_resend(&waiting.delivery_id).await.unwrap();
    server.until("waits", v1::DeliveryState::Succeeded).await;
    let (organization_id, destination_id) = target(&id);
    let rotate = v1::RotateSecretRequest { organization_id, destination_id, ..Default::default() };
    server.destinations().rotate_secret(rotate).await.unwrap();
    let import = v1::ImportDestinationRequest {
        organization_id: ORGANIZATION.into(),
        json_document: STALWART_OBJECT.as_bytes().to_vec().into(),
        ..v1::ImportDestinationRequest::default()
    };
    server.destinations().import_destination(import).await.unwrap();
    let dead = server.dead_letter(&receiver, &draft, "dead-1").await;
    server.try_replay(&dead.delivery_id).await.unwrap();
    replay_and_delete(&server, &receiver, &id).await;
    let erase = v1::EraseEventDataRequest { organization_id: ORGANIZATION.into(), event_id: "waits".into() };
    eventually("the event is not in flight", async || {
        server.deliveries().erase_event_data(erase.clone()).await.ok()
    })
    .await;
    let (organization_id, destination_id) = target(&id);
    let delete = v1::DeleteDestinationRequest { organization_id, destination_id, ..Default::default() };
    server.destinations().delete_destination(delete).await.unwrap();
    server.try_emit_in("org_by_use", event("a")).await.unwrap();
    let delete = v1::DeleteOrganizationRequest {
        organization_id: ORGANIZATION.into(),
        confirm_organization_id: ORGANIZATION.into(),
        etag: String::new(),
    };
    organizations.delete_organization(delete).await.unwrap();
    let mut left = server.audited_methods().await;
    assert!(left.remove("signalpost.v1.EventIngest/Emit"), "an organization came into being");
    assert_eq!(left, changing());
}

/// Replays of dead letters and of what succeeded, one of them cancelled, and dead letters deleted.
async fn replay_and_delete(server: &Server, receiver: &Receiver, healthy: &str) {
    let mut deliveries = server.deliveries();
    for number in 0..4 {
        let id = format!("again-{number}");
        server.emit(event("a").id(&id)).await;
        server.until(&id, v1::DeliveryState::Succeeded).await;
    }
    let range = v1::SucceededDeliveries {
        start_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        end_time: Some(prost_types::Timestamp { seconds: 100_000_000_000, nanos: 0 }),
        event_types: Vec::new(),
    };
    let slowly = v1::ReplayDeliveriesRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: healthy.into(),
        selection: Some(v1::replay_deliveries_request::Selection::Succeeded(range)),
        deliveries_per_second: Some(1),
        validate_only: false,
    };
    let replay = deliveries.replay_deliveries(slowly).await.unwrap().into_inner().replay.unwrap();
    let replay_id = replay.replay_id;
    let cancel = v1::CancelReplayRequest { organization_id: ORGANIZATION.into(), replay_id };
    deliveries.cancel_replay(cancel).await.unwrap();
    let draft = destination(Contract::StandardWebhooks).name("second");
    server.dead_letter(receiver, &draft, "dead-2").await;
    let all = v1::ReplayDeadLettersRequest {
        organization_id: ORGANIZATION.into(),
        selection: Some(v1::replay_dead_letters_request::Selection::All(true)),
        ..v1::ReplayDeadLettersRequest::default()
    };
    deliveries.replay_dead_letters(all).await.unwrap();
    let delete = v1::DeleteDeadLettersRequest {
        organization_id: ORGANIZATION.into(),
        selection: Some(v1::delete_dead_letters_request::Selection::All(true)),
        validate_only: false,
    };
    eventually("dead letters are there again and are deleted", async || {
        let deleted = server.deliveries().delete_dead_letters(delete.clone()).await.unwrap();
        (deleted.into_inner().deleted_count > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_entry_says_who_what_when_and_from_where_with_the_changed_fields_and_no_secret() {
    let server = Server::start().await;
    let draft = destination(Contract::Observer).url("https://example.com/").name("old");
    let created = server.create(draft.secret("planted-signing").header("X-Key", "planted-header")).await;
    let id = created.destination_id.clone();
    let changed = v1::Destination { display_name: "new".into(), ..created };
    let update_mask = Some(FieldMask { paths: vec!["display_name".into()] });
    let mut update = Request::new(v1::UpdateDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination: Some(changed),
        update_mask,
        validate_only: false,
    });
    update.metadata_mut().insert("x-request-id", "req-7".parse().unwrap());
    server.destinations().update_destination(update).await.unwrap();
    let about = v1::AuditFilter { resource_id: id.clone(), ..v1::AuditFilter::default() };
    let [updated, made] = server.audit(ORGANIZATION, about).await.try_into().unwrap();
    assert!(updated.audit_entry_id > made.audit_entry_id && updated.audit_entry_id.starts_with("aud_"));
    assert_eq!(updated.method, "signalpost.v1.DestinationAdmin/UpdateDestination");
    assert_eq!((updated.principal.as_str(), updated.organization_id.as_str()), ("local", ORGANIZATION));
    assert!(updated.remote_address.starts_with("127.0.0.1:"), "{}", updated.remote_address);
    assert_eq!((updated.request_id.as_str(), updated.count), ("req-7", 1));
    assert_eq!(updated.outcome(), v1::AuditOutcome::Changed);
    assert_eq!(updated.changed_fields, ["display_name"]);
    assert_eq!(text(updated.before.as_ref().unwrap(), "display_name"), "old");
    assert_eq!(text(updated.after.as_ref().unwrap(), "display_name"), "new");
    assert!(made.before.is_none());
    let after = made.after.as_ref().unwrap();
    assert_eq!((text(after, "signing_secret"), text(after, "headers.x-key")), ("set".into(), "set".into()));
    assert!(!format!("{made:?}{updated:?}").contains("planted"));
}

#[tokio::test]
async fn what_the_server_decides_itself_is_in_the_log_too() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    receiver.always_answers("/gone", StatusCode::GONE);
    let id = server.create(destination(Contract::StandardWebhooks).url(receiver.url("/gone"))).await;
    server.emit(event("invoice.paid")).await;
    let by_us = v1::AuditFilter { principal: "signalpost".into(), ..v1::AuditFilter::default() };
    let entry = eventually("the destination is disabled", async || {
        server.audit(ORGANIZATION, by_us.clone()).await.pop()
    })
    .await;
    assert_eq!(entry.resource_id, id.destination_id);
    assert_eq!((entry.method.as_str(), entry.remote_address.as_str()), ("", ""));
    assert!(text(entry.after.as_ref().unwrap(), "state").contains("410"), "{entry:?}");
}

#[tokio::test]
async fn the_log_survives_a_restart_and_of_an_erased_organization_keeps_no_values() {
    let mut server = Server::start().await;
    server.create(destination(Contract::Observer).url("https://example.com/").name("planted")).await;
    server.restart().await;
    let before = server.audit(ORGANIZATION, v1::AuditFilter::default()).await;
    assert!(format!("{before:?}").contains("planted"));
    let delete = v1::DeleteOrganizationRequest {
        organization_id: ORGANIZATION.into(),
        confirm_organization_id: ORGANIZATION.into(),
        etag: String::new(),
    };
    server.organizations().delete_organization(delete).await.unwrap();
    let left = eventually("values are gone", async || {
        let entries = server.audit(ORGANIZATION, v1::AuditFilter::default()).await;
        (!format!("{entries:?}").contains("planted")).then_some(entries)
    })
    .await;
    assert_eq!(left.len(), before.len() + 1, "the entries themselves stay, and one says who erased it");
}

#[tokio::test]
async fn entries_are_paged_and_wrong_ranges_and_tokens_are_refused() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.create(destination(Contract::Observer).url("https://example.com/").name(name)).await;
    }
    let mut request = v1::ListAuditEntriesRequest { page_size: 2, ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = server.organizations().list_audit_entries(request.clone()).await.unwrap().into_inner();
        ids.extend(page.audit_entries.into_iter().map(|entry| entry.audit_entry_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids.len(), 4, "three destinations and the organization");
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
    let moment = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let filter = v1::AuditFilter { start_time: moment(9), end_time: moment(9), ..Default::default() };
    let wrong = v1::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
    let refusal = Refusal::from(server.organizations().list_audit_entries(wrong).await.unwrap_err());
    assert_eq!((refusal.code, refusal.fields()), (Code::InvalidArgument, vec!["filter.end_time"]));
}

#[tokio::test]
async fn a_call_that_a_use_case_denies_is_in_the_log_with_the_role_that_was_missing() {
    let mut tokens = TokenFile::new();
    let (operator, admin) = (tokens.add("ops", "operator"), tokens.add("keeper", "admin@acme"));
    let server = Server::with(&[("auth.tokens_file", tokens.setting().as_str())]).await;
    let create = v1::CreateOrganizationRequest { organization_id: "acme".into(), organization: None };
    server.organizations().create_organization(with_token(&operator, create)).await.unwrap();
    // The table lets an admin change an organization; of its plan only the use case knows.
    let change = v1::UpdateOrganizationRequest {
        organization_id: "acme".into(),
        organization: Some(v1::Organization { plan: "default".into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["plan".into()] }),
    };
    let denied = server.organizations().update_organization(with_token(&admin, change)).await.unwrap_err();
    assert_eq!(Refusal::from(denied).metadata["required_role"], "operator");
    let filter = v1::AuditFilter { principal: "token:keeper".into(), ..v1::AuditFilter::default() };
    let request = v1::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
    let entry = eventually("the denial is written", async || {
        let listed = server.organizations().list_audit_entries(with_token(&operator, request.clone())).await;
        listed.unwrap().into_inner().audit_entries.pop()
    })
    .await;
    assert_eq!(
        (entry.outcome(), entry.error_reason()),
        (v1::AuditOutcome::Denied, v1::ErrorReason::RoleMissing)
    );
    assert_eq!(
        (entry.method.as_str(), entry.organization_id.as_str()),
        ("signalpost.v1.OrganizationAdmin/UpdateOrganization", "acme")
    );
    assert!(entry.description.contains("operator"), "{}", entry.description);
}

#[tokio::test]
async fn whoever_has_a_test_sent_is_in_the_log_with_the_host_and_nothing_of_the_rest_of_the_url() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = destination(Contract::StandardWebhooks).url(receiver.url("/planted-path-token"));
    let form = v1::Destination { destination_id: String::new(), ..draft.0 };
    let test = v1::TestDestinationRequest {
        organization_id: ORGANIZATION.into(),
        subject: Some(v1::test_destination_request::Subject::Destination(form)),
        ..v1::TestDestinationRequest::default()
    };
    server.emit(event("a")).await;
    server.destinations().test_destination(test).await.unwrap();
    receiver.first("/planted-path-token").await;
    let method = "signalpost.v1.DestinationAdmin/TestDestination";
    let filter = v1::AuditFilter { method: method.into(), ..v1::AuditFilter::default() };
    let [entry] = server.audit(ORGANIZATION, filter).await.try_into().unwrap();
    assert!(entry.remote_address.starts_with("127.0.0.1:"));
    let origin = receiver.url("/");
    assert_eq!(text(entry.after.as_ref().unwrap(), "url"), format!("{origin}…"));
    assert!(!format!("{entry:?}").contains("planted"));
}

#[tokio::test]
async fn whoever_takes_a_backup_is_in_the_log_before_anything_is_handed_out() {
    let mut tokens = TokenFile::new();
    let (operator, admin) = (tokens.add("ops", "operator"), tokens.add("keeper", "admin@*"));
    let server = Server::embedded_with(&[("auth.tokens_file", tokens.setting().as_str())]).await;
    let mut stores = StoreAdminClient::new(server.channel());
    let ask = |token: &str| with_token(token, v1::BackUpStoreRequest::default());
    assert_eq!(stores.back_up_store(ask(&admin)).await.unwrap_err().code(), Code::PermissionDenied);
    let mut parts = stores.back_up_store(ask(&operator)).await.unwrap().into_inner();
    parts.message().await.unwrap().unwrap();
    let filter = v1::AuditFilter { principal: "token:ops".into(), ..v1::AuditFilter::default() };
    let request = v1::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
    let listed = server.organizations().list_audit_entries(with_token(&operator, request)).await.unwrap();
    let [entry] = listed.into_inner().audit_entries.try_into().unwrap();
    assert_eq!(entry.method, "signalpost.v1.StoreAdmin/BackUpStore");
    assert!(entry.description.contains("backup") && entry.remote_address.starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn denied_calls_are_in_the_log_and_a_flood_of_them_leaves_few_entries() {
    let mut tokens = TokenFile::new();
    let (operator, viewer) =
        (tokens.add("ops", "operator"), tokens.add("auditor", "viewer@acme,admin@globex"));
    let server = Server::with(&[("auth.tokens_file", tokens.setting().as_str())]).await;
    let method = "signalpost.v1.DestinationAdmin/DeleteDestination";
    for _ in 0..200 {
        call_any(&server.channel(), method, with_token(&viewer, naming("acme"))).await.unwrap_err();
        call_any(&server.channel(), method, with_token("planted-token", naming("acme"))).await.unwrap_err();
    }
    let list = async |token: &str, organization_id: &str| {
        let request = v1::ListAuditEntriesRequest {
            organization_id: organization_id.into(),
            ..v1::ListAuditEntriesRequest::default()
        };
        server.organizations().list_audit_entries(with_token(token, request)).await
    };
    let entries = eventually("denied calls are written", async || {
        let entries = list(&operator, "").await.unwrap().into_inner().audit_entries;
        (entries.len() >= 2).then_some(entries)
    })
    .await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    let by = |principal: &str| entries.iter().find(|entry| entry.principal == principal).unwrap();
    let (auditor, nobody) = (by("token:auditor"), by("anonymous"));
    assert_eq!(auditor.error_reason(), v1::ErrorReason::RoleMissing);
    assert_eq!((auditor.method.as_str(), auditor.organization_id.as_str()), (method, "acme"));
    assert!(auditor.remote_address.starts_with("127.0.0.1:"));
    assert_eq!(auditor.outcome(), v1::AuditOutcome::Denied);
    assert_eq!(nobody.error_reason(), v1::ErrorReason::CredentialsInvalid);
    assert!(!format!("{entries:?}").contains("planted"));
    assert_eq!(list(&viewer, "acme").await.unwrap_err().code(), Code::PermissionDenied);
}
