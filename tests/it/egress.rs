//! Where a whole server sends to, and where it does not.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::receiver::Answer;

use crate::harness::{Receiver, Server, destination, event};

#[tokio::test]
async fn a_destination_at_our_own_ports_is_refused_although_loopback_is_allowed() {
    let server = Server::start().await;
    for address in [server.grpc_address(), server.health_address()] {
        for host in ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"] {
            let url = format!("https://{host}:{}/", address.port());
            let refusal = server.try_create(destination(Contract::Observer).url(url)).await.unwrap_err();
            let about = refusal.about("destination.url");
            assert!(about.contains("this server itself"), "{about}");
        }
    }
}

#[tokio::test]
async fn a_name_that_leads_to_our_own_port_is_refused_when_it_is_called_without_telling_where_it_leads() {
    let server = Server::with(&[("egress.allow", r#"["127.0.0.0/8", "::1"]"#)]).await;
    let url = format!("https://localhost:{}/", server.grpc_address().port());
    server.create(destination(Contract::Workspace).url(url).one_attempt()).await;
    let emitted = server.emit(event("kpi.alert")).await;
    let delivery = server.until(&emitted.event_id, v1::DeliveryState::DeadLettered).await;
    let attempt = server.delivery(&delivery.delivery_id).await.attempts.remove(0);
    assert_eq!(attempt.outcome_kind(), v1::OutcomeKind::AddressNotAllowed);
    assert!(attempt.error.contains("host name") && !attempt.error.contains("127"), "{}", attempt.error);
    assert_eq!(attempt.remote_address, "");
}

#[tokio::test]
async fn bodies_and_addresses_inside_an_opened_network_are_not_in_the_history_by_default() {
    for (setting, kept) in [(r#""public""#, ""), (r#""never""#, ""), (r#""always""#, "planted")] {
        let (server, receiver) =
            (Server::with(&[("egress.response_bodies", setting)]).await, Receiver::start().await);
        receiver.always_answers("/hook", Answer::from(StatusCode::OK).with_body("planted"));
        server.create(destination(Contract::Workspace).url(receiver.url("/hook"))).await;
        let emitted = server.emit(event("kpi.alert")).await;
        let delivery = server.until(&emitted.event_id, v1::DeliveryState::Succeeded).await;
        let attempt = server.delivery(&delivery.delivery_id).await.attempts.remove(0);
        assert_eq!(attempt.response_body, kept.as_bytes(), "{setting}");
        assert_eq!(attempt.remote_address, "", "{setting}");
    }
}

#[tokio::test]
async fn a_destination_that_keeps_no_response_bodies_has_none_in_its_history() {
    let mut server = Server::with(&[("egress.response_bodies", r#""always""#)]).await;
    let receiver = Receiver::start().await;
    receiver.always_answers("/hook", Answer::from(StatusCode::OK).with_body("planted"));
    let draft = destination(Contract::Workspace).url(receiver.url("/hook"));
    let created = server.create(draft.settings(|settings| settings.keep_response_bodies = Some(false))).await;
    let kept_of_next = async |server: &Server| {
        let emitted = server.emit(event("kpi.alert")).await;
        let delivery = server.until(&emitted.event_id, v1::DeliveryState::Succeeded).await;
        let attempt = server.delivery(&delivery.delivery_id).await.attempts.remove(0);
        assert_eq!(attempt.status_code, Some(200));
        attempt.response_body
    };
    assert!(kept_of_next(&server).await.is_empty());
    // It is a setting like any other: it is stored, read back, and changed.
    server.restart().await;
    let mut found = server.get(&created.destination_id).await;
    assert_eq!(found.settings.as_ref().unwrap().keep_response_bodies, Some(false));
    let policy = found.effective_policy.clone().unwrap();
    assert_eq!(policy.settings.unwrap().keep_response_bodies, Some(false));
    assert!(policy.overridden_fields.contains(&"keep_response_bodies".to_owned()));
    assert!(kept_of_next(&server).await.is_empty());
    found.settings.as_mut().unwrap().keep_response_bodies = None;
    let updated = server.update(found, &["settings.keep_response_bodies"]).await;
    assert_eq!(updated.effective_policy.unwrap().settings.unwrap().keep_response_bodies, Some(true));
    assert_eq!(kept_of_next(&server).await, "planted");
}
