//! Emits one event, a batch, and a stream of numbered events.
//!
//! ```text
//! cargo run -p signalpost-client --example emit -- http://127.0.0.1:8080 acme 1000
//! ```
//!
//! Prints `acknowledged ID` for each event of the stream.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use signalpost_client::{Client, Error, Event};
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default: &str| arguments.next().unwrap_or(default.into());
    let (target, organization) = (argument("http://127.0.0.1:8080"), argument("acme"));
    let count = argument("10").parse().unwrap_or(10);

    // A token is sent where one is set; a server without authentication does not ask for it.
    let mut builder = Client::builder(target).organization(organization);
    if let Ok(token) = std::env::var("SIGNALPOST_TOKEN") {
        builder = builder.token(token);
    }
    let client = builder.build()?;

    emit_one(&client).await?;
    emit_batch(&client).await?;
    emit_stream(&client, count).await
}

// [emit]
/// One event: the answer means that it is on disk.
async fn emit_one(client: &Client) -> Result<(), Error> {
    let event = Event::new("invoice.paid").json(r#"{"invoice":"inv_1","total":10.00}"#);
    let accepted = client.emit(event).await?;
    println!("{} goes to {} destinations", accepted.event_id, accepted.delivery_count);
    Ok(())
}
// [/emit]

// [batch]
/// Several at once, each with its own result.
async fn emit_batch(client: &Client) -> Result<(), Error> {
    let events =
        ["inv_2", "inv_3"].map(|id| Event::new("invoice.paid").json(format!(r#"{{"invoice":"{id}"}}"#)));
    for result in client.emit_batch(events).await? {
        match result {
            Ok(accepted) => println!("{} is accepted", accepted.event_id),
            Err(refusal) => eprintln!("refused: {refusal}"),
        }
    }
    Ok(())
}
// [/batch]

// [stream]
/// Many: sent again after a broken connection, and acknowledged once each is on disk.
async fn emit_stream(client: &Client, count: u32) -> Result<(), Error> {
    let stream = client.stream();
    let mut waiting = JoinSet::new();
    for number in 0..count {
        let event = Event::new("invoice.paid").json(format!(r#"{{"number":{number}}}"#));
        // Waits here while too much is in flight.
        let acknowledgement = stream.send(event).await?;
        waiting.spawn(async move {
            match acknowledgement.await {
                Ok(accepted) => println!("acknowledged {}", accepted.event_id),
                Err(error) => eprintln!("refused: {error}"),
            }
        });
    }
    stream.close().await?;
    waiting.join_all().await;
    Ok(())
}
// [/stream]
