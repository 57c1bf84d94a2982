//! The ceiling of delivery: a hand-written keep-alive POST loop against the sink.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::figures::per_second;
use super::sink::ANSWER;

/// Requests in flight, each on its connection.
pub const CONNECTIONS: usize = 64;
/// Not measured: connections open, buffers grow.
const WARM_UP: Duration = Duration::from_millis(200);
/// What is measured at a time.
const MEASURED: Duration = Duration::from_millis(700);
/// An answer that takes longer fails the measurement.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Requests a second over plain HTTP with bodies of these bytes.
///
/// # Errors
/// The sink can't be reached or answers something else than 200.
pub async fn measure(sink: SocketAddr, body: &[u8]) -> anyhow::Result<f64> {
    let request = Arc::new(request(body));
    let count = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + WARM_UP + MEASURED;
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(post(sink, Arc::clone(&request), Arc::clone(&count), until));
    }
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (Instant::now(), count.load(Ordering::Relaxed));
    tokio::time::sleep(MEASURED).await;
    let (took, after) = (began.elapsed(), count.load(Ordering::Relaxed));
    let all = async {
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(ANSWER_LIMIT, all).await.context("the sink did not answer")??;
    Ok(per_second(after - before, took))
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /hook HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn post(
    sink: SocketAddr,
    request: Arc<Vec<u8>>,
    count: Arc<AtomicU64>,
    until: Instant,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(sink).await?;
    stream.set_nodelay(true)?;
    let mut answer = vec![0; ANSWER.len()];
    while Instant::now() < until {
        stream.write_all(&request).await?;
        stream.read_exact(&mut answer).await?;
        anyhow::ensure!(answer == ANSWER, "the sink answered something else than 200");
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
