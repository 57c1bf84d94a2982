//! A stop under load, as its callers see it: those who follow health have no failed call, and nothing is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use signalpost::receiver::{Answer, Received, Receiver, ReceiverOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::binary::{Home, Process};
use crate::harness::{ORGANIZATION, destination, event, eventually, header};

const CALLERS: usize = 8;
/// How long a request of the receiver takes: long enough that some are under way at the signal.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What happened when, from the signal on.
#[derive(Clone, Default)]
struct Timeline {
    arrived: Arc<Mutex<BTreeMap<String, u32>>>,
    acknowledged: Arc<Mutex<Vec<(Instant, String)>>>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Timeline {
    async fn receiver(&self) -> Receiver {
        let arrived = Arc::clone(&self.arrived);
        let behaviour = move |request: &Received| {
            let id = header(request, "signalpost-event-id").to_owned();
            *arrived.lock().unwrap().entry(id).or_default() += 1;
            Answer::from(StatusCode::OK).after(ROUND_TRIP)
        };
        Receiver::start(ReceiverOptions::local(Arc::new(behaviour))).await.unwrap()
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn missing(&self) -> usize {
        let arrived = self.arrived.lock().unwrap();
        self.acknowledged.lock().unwrap().iter().filter(|(_, id)| !arrived.contains_key(id)).count()
    }
}

/// Emits for as long as health says that calls are welcome.
async fn emit_while_serving(
    channel: Channel,
    serving: watch::Receiver<bool>,
    timeline: Timeline,
    name: usize,
) {
    let mut client = EventIngestClient::new(channel);
    for number in 0.. {
        if !*serving.borrow() {
            return;
        }
        let id = format!("{name}-{number}");
        let event = event("auth.success").id(&id).data(r#"{"load":true}"#).0;
        let request = v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event) };
        match client.emit(request).await {
            Ok(_) => timeline.acknowledged.lock().unwrap().push((Instant::now(), id)),
            Err(status) => timeline.failed.lock().unwrap().push(format!("{id}: {status}")),
        }
    }
}

/// Passes on what a health watch on the port of the calls says; returns when it said that the stop has begun.
async fn follow_health(channel: Channel, serving: watch::Sender<bool>) -> Instant {
    let request = HealthCheckRequest { service: "signalpost.v1.EventIngest".into() };
    let mut health = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    while let Some(answer) = health.message().await.unwrap() {
        let is_serving = answer.status() == ServingStatus::Serving;
        serving.send_replace(is_serving);
        if !is_serving {
            return Instant::now();
        }
    }
    panic!("the watch ended before it told of the stop")
}

async fn serve(home: &Home) -> Process {
    home.start_with(&[("SIGNALPOST_LISTEN_STOP_NOTICE", "500ms")]).await
}

#[tokio::test]
async fn callers_who_follow_health_have_no_failed_call_at_a_stop_and_nothing_is_lost_or_sent_twice() {
    let home = Home::with(&[("delivery.plain_http_contracts", r#"["STALWART"]"#)]);
    let timeline = Timeline::default();
    let receiver = timeline.receiver().await;
    let process = serve(&home).await;
    let draft = destination(Contract::Stalwart).url(receiver.url("/hook")).settings(|settings| {
        settings.throttle = Some(prost_types::Duration::default());
        settings.max_batch_events = Some(1);
    });
    process.create(draft).await;

    let (sender, serving) = watch::channel(true);
    let mut callers = JoinSet::new();
    for name in 0..CALLERS {
        let channel = process.channel.clone();
        callers.spawn(emit_while_serving(channel, serving.clone(), timeline.clone(), name));
    }
    let mut follower = JoinSet::new();
    follower.spawn(follow_health(process.channel.clone(), sender));
    eventually("the load runs", async || (timeline.acknowledged() > 200).then_some(())).await;

    let signal = Instant::now();
    let exit = process.terminate();
    let (told, code) = tokio::join!(follower.join_next(), exit);
    let exited = signal.elapsed();
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let told = told.unwrap().unwrap().duration_since(signal);
    let last = timeline.acknowledged.lock().unwrap().iter().map(|(at, _)| *at).max().unwrap();
    let waiting = timeline.missing();
    println!(
        "NOT_SERVING after {told:?}, last call answered after {:?}, exit after {exited:?}; {} acknowledged, {waiting} of them \
         still waiting",
        last.duration_since(signal),
        timeline.acknowledged(),
    );
    assert_eq!(code, Some(0));
    assert_eq!(*timeline.failed.lock().unwrap(), Vec::<String>::new(), "no call failed");

    let process = serve(&home).await;
    eventually("what waited arrives", async || (timeline.missing() == 0).then_some(())).await;
    let twice: Vec<String> = timeline
        .arrived
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(twice, Vec::<String>::new(), "an orderly stop repeats nothing");
    assert_eq!(process.terminate().await, Some(0));
}
