//! Receivers for the isolation scenario, in the benchmark's own process: the healthy one, which tells when
//! each event arrived, and bad neighbours.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::sink::ANSWER;

/// How long a slow neighbour takes to answer.
pub const SLOW_ANSWER: Duration = Duration::from_secs(2);
/// The header by which an event is recognised, as it is on the wire.
const EVENT_ID: &[u8] = b"signalpost-event-id: ";
/// Longer requests are not ours.
const REQUEST_MAX_BYTES: usize = 64 << 10;

/// How the neighbours of the healthy destination behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbours {
    /// There are none.
    Nobody,
    /// Nothing listens at their port.
    Refusing,
    /// They accept connections and never answer.
    Silent,
    /// They answer 200 after [`SLOW_ANSWER`].
    Slow,
}

/// An event that arrived.
pub type Receipt = (String, Instant);

/// A receiver; it ends when this is dropped.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// The URL of a path that begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A healthy one, which answers at once.
    ///
    /// # Errors
    /// No free port.
    pub async fn healthy(receipts: mpsc::Sender<Receipt>) -> io::Result<Self> {
        Self::serving(move |stream| receive(stream, receipts.clone())).await
    }

    /// One of a bad kind.
    ///
    /// # Errors
    /// No free port.
    pub async fn bad(neighbours: Neighbours) -> io::Result<Self> {
        match neighbours {
            Neighbours::Slow => Self::serving(answer_slowly).await,
            Neighbours::Silent => Self::serving(never_answer).await,
            Neighbours::Refusing | Neighbours::Nobody => {
                let address = listener().await?.local_addr()?;
                Ok(Self { address, _tasks: JoinSet::new() })
            }
        }
    }

    async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = listener().await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                // What has ended is let go; a connection that breaks is the client's affair.
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

async fn listener() -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
}

async fn receive(mut stream: TcpStream, receipts: mpsc::Sender<Receipt>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(head) = read_request(&mut stream).await? {
        if let Some(id) = event_id(&head) {
            // Nobody waits any more once the measurement has ended.
            receipts.send((id, Instant::now())).await.ok();
        }
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

async fn answer_slowly(mut stream: TcpStream) -> io::Result<()> {
    while read_request(&mut stream).await?.is_some() {
        tokio::time::sleep(SLOW_ANSWER).await;
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

async fn never_answer(mut stream: TcpStream) -> io::Result<()> {
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

/// Reads one whole request and hands its head back; `None` where the connection ends instead.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = bytes.get(..end + 2).unwrap_or_default();
            let length: usize =
                header(head, b"content-length: ").and_then(|value| value.parse().ok()).unwrap_or(0);
            // The server sends one request at a time on a connection, so nothing follows the body.
            if bytes.len() >= end + 4 + length {
                return Ok(Some(head.to_vec()));
            }
        }
        if bytes.len() > REQUEST_MAX_BYTES || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn event_id(head: &[u8]) -> Option<String> {
    header(head, EVENT_ID).map(str::to_owned)
}

/// The value of a header; `name` with its colon and blank, in lower case as the server sends it.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let line = head.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
    std::str::from_utf8(line.get(name.len()..)?).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_is_told_from_the_head_of_a_request() {
        let head = b"POST / HTTP/1.1\r\ncontent-length: 12\r\nsignalpost-event-id: evt_1\r\n";
        assert_eq!(event_id(head).as_deref(), Some("evt_1"));
        assert_eq!(header(head, b"content-length: "), Some("12"));
        assert_eq!(event_id(b"POST / HTTP/1.1\r\n"), None);
    }

    #[tokio::test]
    async fn the_healthy_receiver_answers_and_tells_what_arrived() {
        let (sender, mut receipts) = mpsc::channel(4);
        let receiver = Receiver::healthy(sender).await.unwrap();
        let mut stream = TcpStream::connect(receiver.address).await.unwrap();
        for id in ["a", "b"] {
            let request =
                format!("POST / HTTP/1.1\r\nsignalpost-event-id: {id}\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = vec![0; ANSWER.len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(receipts.recv().await.unwrap().0, id);
        }
    }

    #[tokio::test]
    async fn a_refusing_neighbour_refuses() {
        let receiver = Receiver::bad(Neighbours::Refusing).await.unwrap();
        assert!(TcpStream::connect(receiver.address).await.is_err());
    }
}
