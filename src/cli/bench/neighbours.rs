//! Receivers for the isolation scenario, in the benchmark's own process: the healthy one, which tells when
//! each event arrived, and bad neighbours.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::sink::ANSWER;
use super::wire::read_request;

/// How long a slow neighbour takes to answer.
pub const SLOW_ANSWER: Duration = Duration::from_secs(2);
/// The header by which an event is recognised, as it is on the wire.
const EVENT_ID: &str = "signalpost-event-id: ";

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
    /// One that answers at once, and gets again what it had, at the pace where nobody says one.
    ReplayDefault,
    /// The same at the fastest pace.
    ReplayFastest,
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

    /// One of a bad kind; for the others nothing is served.
    ///
    /// # Errors
    /// No free port.
    pub async fn bad(neighbours: Neighbours) -> io::Result<Self> {
        match neighbours {
            Neighbours::Slow => Self::serving(answer_slowly).await,
            Neighbours::Silent => Self::serving(never_answer).await,
            Neighbours::Refusing
            | Neighbours::Nobody
            | Neighbours::ReplayDefault
            | Neighbours::ReplayFastest => {
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
    while let Some(request) = read_request(&mut stream).await? {
        if let Some(id) = request.header(EVENT_ID) {
            // Nobody waits any more once the measurement has ended.
            receipts.send((id.to_owned(), Instant::now())).await.ok();
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

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
