//! From an embedded store to a database: the way that docs/SCALING.md describes, step by step, while events come in.

use std::collections::BTreeSet;
use std::sync::Mutex;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tonic::transport::Channel;

use crate::binary::{Home, Process};
use crate::commands::succeeds;
use crate::harness::{ORGANIZATION, Receiver, database, destination, event, eventually, genuine, header};

const SECRET: &str = "known-to-both";

/// A caller who emits one event after the other, wherever it is told to.
struct Caller {
    to: Mutex<Option<Channel>>,
    acknowledged: Mutex<Vec<String>>,
}

impl Caller {
    async fn run(&self) {
        for number in 0.. {
            let Some(channel) = self.to.lock().unwrap().clone() else { return };
            let id = format!("evt-{number:05}");
            let event = event("metric.no_data").id(&id).0;
            let request = v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event) };
            EventIngestClient::new(channel).emit(request).await.unwrap();
            self.acknowledged.lock().unwrap().push(id);
        }
    }

    async fn goes_on(&self) {
        let count = || self.acknowledged.lock().unwrap().len();
        let before = count();
        eventually("events are accepted", async || (count() > before + 50).then_some(())).await;
    }
}

/// How many deliveries have not ended.
async fn waiting(process: &Process) -> usize {
    let states = vec![v1::DeliveryState::Waiting.into(), v1::DeliveryState::InFlight.into()];
    let request = v1::ListDeliveriesRequest {
        organization_id: ORGANIZATION.into(),
        filter: Some(v1::DeliveryFilter { states, ..v1::DeliveryFilter::default() }),
        ..v1::ListDeliveriesRequest::default()
    };
    let mut client = DeliveryAdminClient::new(process.channel.clone());
    client.list_deliveries(request).await.unwrap().into_inner().deliveries.len()
}

#[tokio::test]
async fn an_embedded_store_is_moved_to_a_database_under_load_and_nothing_is_lost() {
    let url = format!("{:?}", database());
    // A circuit that opens would only make it slower.
    let patient = ("delivery.circuit_opens_after", "1000000");
    let (old, new) = (Home::with(&[patient]), Home::with(&[patient, ("store.url", &url)]));
    let (from, receiver) = (old.start().await, Receiver::start().await);
    receiver.always_answers("/hook", StatusCode::OK);
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).secret(SECRET);
    let made = from.create(draft.retry_after(&[300; 32])).await;
    let caller = Caller { to: Mutex::new(Some(from.channel.clone())), acknowledged: Mutex::new(Vec::new()) };
    let move_over = async {
        caller.goes_on().await;
        // A receiver that is away leaves something in the old store.
        receiver.always_answers("/hook", StatusCode::SERVICE_UNAVAILABLE);
        caller.goes_on().await;
        let to = new.start().await;
        let (file, secrets) = (old.path("destinations.jsonl"), old.path("secrets.json"));
        std::fs::write(&file, succeeds(&old, &from, &["export"]).await).unwrap();
        let known = serde_json::json!({ made.destination_id.as_str(): { "signing_secret": SECRET } });
        std::fs::write(&secrets, known.to_string()).unwrap();
        let (file, secrets) = (file.to_str().unwrap(), secrets.to_str().unwrap());
        succeeds(&new, &to, &["import", file, "--secrets", secrets]).await;
        *caller.to.lock().unwrap() = Some(to.channel.clone());
        caller.goes_on().await;
        assert!(waiting(&from).await > 0, "the old one has something to deliver");
        receiver.always_answers("/hook", StatusCode::OK);
        eventually("nothing waits in the old one", async || (waiting(&from).await == 0).then_some(())).await;
        assert_eq!(from.terminate().await, Some(0));
        caller.goes_on().await;
        *caller.to.lock().unwrap() = None;
        to
    };
    let ((), to) = tokio::join!(caller.run(), move_over);
    eventually("nothing waits in the new one", async || (waiting(&to).await == 0).then_some(())).await;
    assert_eq!(to.terminate().await, Some(0));
    let delivered = receiver.got("/hook").into_iter().map(|request| {
        genuine(Contract::Observer, SECRET, &request).unwrap();
        header(&request, "signalpost-event-id").to_owned()
    });
    let delivered: BTreeSet<String> = delivered.collect();
    assert_eq!(delivered, caller.acknowledged.into_inner().unwrap().into_iter().collect());
}
