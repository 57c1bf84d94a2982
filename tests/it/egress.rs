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
