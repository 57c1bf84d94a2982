//! Several replicas on one database, each a process of its own: who has which lane, and what bad days can't take away.

use std::time::{Duration, Instant};

use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tokio::task::JoinSet;
use tonic_types::StatusExt;

use crate::fleet::{Fleet, LEASE, ORDERED, accounted, event_type, ordered, ordered_load};
use crate::harness::{FAST, ORGANIZATION, Receiver, TestServer, event, eventually};
use crate::relay::{Passage, Relay};

#[tokio::test]
async fn an_event_accepted_by_any_replica_arrives_once_whoever_has_the_lane() {
    let (fleet, receiver) = (Fleet::start(3).await, Receiver::start().await);
    let mut sent = 0;
    for number in 0..12 {
        let path = format!("/hook-{number}");
        fleet.create(number % 3, ordered(&receiver, &path)).await;
        // The next event that any other replica accepts goes there.
        let emitted = fleet.process((number + 1) % 3).emit(event(&event_type(&path))).await;
        assert_eq!(emitted.delivery_count, 1, "destination {number}");
        sent += 1;
    }
    for round in 0..10 {
        for number in 0..12 {
            let path = format!("/hook-{number}");
            fleet.process((number + round) % 3).emit(event(&event_type(&path))).await;
            sent += 1;
        }
    }
    eventually("everything arrives", async || (receiver.all().len() >= sent).then_some(())).await;
    assert_eq!(receiver.all().len(), sent);
    let owners = fleet.sql("SELECT count(DISTINCT owner) FROM buckets").await;
    assert_eq!(owners, "3");
    for (_, process) in fleet.replicas {
        assert_eq!(process.unwrap().terminate().await, Some(0));
    }
    assert_eq!(
        fleet.database.sql("t0", "SELECT count(*) FROM members"),
        "0",
        "leases are given back at a stop"
    );
}

#[tokio::test]
async fn an_organization_that_all_replicas_use_first_at_once_is_made_once() {
    let fleet = Fleet::start(3).await;
    for round in 0..20 {
        let organization_id = format!("new-{round}");
        let calls: JoinSet<_> = fleet
            .channels()
            .into_iter()
            .map(|channel| {
                let request = v1::EmitRequest {
                    organization_id: organization_id.clone(),
                    event: Some(event("order.made").0),
                };
                async move { EventIngestClient::new(channel).emit(request).await }
            })
            .collect();
        for answer in calls.join_all().await {
            answer.unwrap();
        }
    }
}

#[tokio::test]
async fn killing_replicas_under_load_loses_nothing_and_keeps_the_order() {
    let (mut fleet, receiver) = (Fleet::start(3).await, Receiver::start().await);
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    let mut longest = Duration::ZERO;
    for round in 0..6 {
        let victim = round % 3;
        load.goes_on(100).await;
        let killed_at = Instant::now();
        fleet.take(victim).kill();
        load.follow(&fleet);
        // All lanes of the victim run elsewhere before it is back.
        let everywhere = async || {
            (fleet.shares().await.iter().sum::<usize>() == 256 && fleet.shares().await.len() == 2)
                .then_some(())
        };
        eventually("the lanes are taken over", everywhere).await;
        longest = longest.max(killed_at.elapsed());
        fleet.start_again(victim).await;
        load.follow(&fleet);
        fleet.balanced().await;
    }
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    println!("longest take-over {longest:?}");
    // What was under way, and what had come to its end and was not stored yet.
    assert!(account.doubled <= 6 * 4 * ORDERED, "{account:?}");
    assert!(longest < LEASE * 3, "{longest:?}");
}

#[tokio::test]
async fn a_replica_that_stood_still_for_longer_than_its_lease_settles_nothing_and_comes_back() {
    let (fleet, receiver) = (Fleet::start(2).await, Receiver::start().await);
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(200).await;
    for _ in 0..3 {
        fleet.process(1).send("-STOP");
        *load.channels.lock().unwrap() = vec![fleet.process(0).channel.clone()];
        eventually("the other has all lanes", async || (fleet.shares().await == [256]).then_some(())).await;
        load.goes_on(100).await;
        fleet.process(1).send("-CONT");
        load.follow(&fleet);
        fleet.balanced().await;
    }
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    // What was under way, and what had come to its end and was not stored yet.
    assert!(account.doubled <= 3 * 4 * ORDERED, "{account:?}");
    assert!(fleet.logs().contains("the leases of this replica have lapsed and were taken over"));
}

#[tokio::test]
async fn a_database_that_goes_away_is_an_error_for_callers_and_a_pause_for_lanes() {
    let (fleet, receiver) = (Fleet::start(2).await, Receiver::start().await);
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(100).await;
    // A crash and a recovery.
    fleet.database(TestServer::crash).await;
    let mut client = EventIngestClient::new(fleet.process(0).channel.clone());
    let request =
        v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event("order-x.made").0) };
    let refused = client.emit(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.get_error_details().retry_info().is_some(), "the answer says when to come back");
    fleet.database(TestServer::start_again).await;
    load.goes_on(100).await;
    // Like a fail-over of a proxy: every connection ends at once.
    for _ in 0..3 {
        fleet
            .database(|database| {
                database.sql(
                    "postgres",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 't0'",
                )
            })
            .await;
        load.goes_on(100).await;
    }
    // Somebody holds locks for longer than a statement may take.
    let held = "BEGIN; LOCK TABLE waiting IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT";
    fleet.sql(held).await;
    load.goes_on(100).await;
    accounted(&fleet, &receiver, (&load, emitters)).await;
    for (_, process) in fleet.replicas {
        assert_eq!(process.unwrap().terminate().await, Some(0));
    }
}

/// How late everything is on the way to a slow database, each way.
const SLOW: Duration = Duration::from_millis(40);

#[tokio::test]
async fn a_replica_that_is_cut_off_from_the_database_loses_its_lanes_and_comes_back() {
    let (mut fleet, receiver) = (Fleet::start(1).await, Receiver::start().await);
    let relay = Relay::start(&fleet.url).await;
    fleet.add_on(relay.url(), &[]).await;
    fleet.balanced().await;
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(100).await;
    for _ in 0..2 {
        // Nothing comes through in either direction, and nothing says so: connections stay open.
        relay.set(Passage::Shut);
        eventually("the other has all lanes", async || (fleet.shares().await == [256]).then_some(())).await;
        // A call to the one that is cut off takes until its deadline, and goes to the other then.
        load.goes_on(10).await;
        relay.set(Passage::Open);
        fleet.balanced().await;
    }
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    // What was under way, and what had come to its end and was not stored yet.
    assert!(account.doubled <= 2 * 4 * ORDERED, "{account:?}");
}

#[tokio::test]
async fn a_slow_database_makes_everything_slower_and_nothing_wrong() {
    let (mut fleet, receiver) = (Fleet::empty(TestServer::start(FAST)), Receiver::start().await);
    let relay = Relay::start(&fleet.url).await;
    for _ in 0..2 {
        fleet.add_on(relay.url(), &[]).await;
    }
    fleet.balanced().await;
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(100).await;
    relay.set(Passage::Late(SLOW));
    load.goes_on(100).await;
    assert_eq!(fleet.shares().await.len(), 2, "a database that is slow takes no lease away");
    relay.set(Passage::Open);
    load.goes_on(100).await;
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    assert_eq!(account.doubled, 0, "{account:?}");
}

#[tokio::test]
async fn a_full_disk_of_the_database_is_said_to_callers_and_over_when_there_is_room() {
    let (mut fleet, receiver) = (Fleet::empty(TestServer::on_small_disk()), Receiver::start().await);
    for _ in 0..2 {
        fleet.add(&[]).await;
    }
    fleet.balanced().await;
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(100).await;
    fleet.database(TestServer::fill_disk).await;
    let mut client = EventIngestClient::new(fleet.process(0).channel.clone());
    let data = format!("{{\"fill\":\"{}\"}}", "x".repeat(100_000));
    let refused = eventually("the full disk is said", async || {
        let event = event("filler.made").data(&data).0;
        let request = v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event) };
        client.emit(request).await.err().filter(|status| status.code() == tonic::Code::ResourceExhausted)
    })
    .await;
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "STORE_FULL");
    fleet.database(TestServer::empty_disk).await;
    load.goes_on(100).await;
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    assert_eq!(account.doubled, 0, "{account:?}");
}

#[tokio::test]
async fn a_replica_whose_clock_is_wrong_by_an_hour_works_like_the_others() {
    let (mut fleet, receiver) = (Fleet::start(1).await, Receiver::start().await);
    let library = faketime();
    for wrong in ["+1h", "-1h"] {
        let variables =
            [("LD_PRELOAD", library.as_str()), ("FAKETIME", wrong), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        fleet.add(&variables).await;
    }
    fleet.balanced().await;
    let (load, emitters) = ordered_load(&fleet, &receiver).await;
    load.goes_on(1000).await;
    // Lanes go from right clocks to wrong ones and back.
    assert_eq!(fleet.take(0).terminate().await, Some(0));
    load.follow(&fleet);
    fleet.balanced().await;
    load.goes_on(200).await;
    let account = accounted(&fleet, &receiver, (&load, emitters)).await;
    assert_eq!(account.doubled, 0, "{account:?}");
    for number in [1, 2] {
        assert!(fleet.log(number).contains("clock"), "replica {number} says that its clock is wrong");
    }
}

/// The library that gives a process another time.
fn faketime() -> String {
    let known =
        ["x86_64", "aarch64"].map(|cpu| format!("/usr/lib/{cpu}-linux-gnu/faketime/libfaketime.so.1"));
    let found = known.into_iter().find(|path| std::path::Path::new(path).exists());
    found.expect("this test needs libfaketime (Debian: apt-get install libfaketime)")
}
