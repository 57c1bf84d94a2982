//! A receiver that verifies webhooks of one contract and prints their events.
//!
//! ```text
//! WEBHOOK_SECRET=s3cret cargo run -p signalpost-client --example receive -- WORKSPACE 127.0.0.1:9000
//! ```
//!
//! It speaks HTTP, for behind the proxy that ends TLS: Signalpost itself calls HTTPS only.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

mod verify;

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use verify::{Contract, verify};

/// Larger than any request of a destination with the default settings.
const BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let contract = match arguments.next().as_deref() {
        Some("SEMAPHOR") => Contract::Semaphor,
        Some("STALWART") => Contract::Stalwart,
        Some("WORKSPACE") => Contract::Workspace,
        Some("OBSERVER") => Contract::Observer,
        Some("STANDARD_WEBHOOKS") => Contract::StandardWebhooks,
        Some("CLOUDEVENTS") => Contract::CloudEvents,
        _ => return Err("usage: receive CONTRACT HOST:PORT, the secret in WEBHOOK_SECRET".into()),
    };
    let secret = std::env::var("WEBHOOK_SECRET")?;
    let listener = TcpListener::bind(arguments.next().unwrap_or("127.0.0.1:9000".into())).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        let secret = secret.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(contract, &secret, request));
            http1::Builder::new().serve_connection(TokioIo::new(connection), service).await
        });
    }
}

/// Answers 204 once the events are taken, which ends the delivery; anything else is tried again.
async fn answer(
    contract: Contract,
    secret: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX_BYTES).collect().await else {
        return Ok(status(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match verify(contract, &[secret], &head.headers, &body.to_bytes(), now) {
        Ok(events) => {
            events.iter().for_each(|event| println!("{} {}", event.event_type, event.id));
            Ok(status(StatusCode::NO_CONTENT))
        }
        Err(why) => {
            eprintln!("refused: {why}");
            Ok(status(StatusCode::UNAUTHORIZED))
        }
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
