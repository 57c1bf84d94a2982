//! The receivers of a soak: one for each destination, in the benchmark's own process, whose moods change.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ledger::{Ledger, Number};
use super::plan::Mood;
use crate::cli::bench::sink::ANSWER;
use crate::cli::bench::wire::{Request, read_request};

/// How long a slow receiver takes; less than the timeout of the destinations.
pub const SLOW_ANSWER: Duration = Duration::from_millis(1500);
const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-le";
/// What comes before the number in the data of an event.
const MARK: &[u8] = br#""soak":"#;

/// The ledger that all share, and when the run began.
#[derive(Clone)]
pub struct Book {
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
}

impl Book {
    /// A book that begins now.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger: Arc::new(Mutex::new(ledger)), began: Instant::now() }
    }

    /// How long ago it began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Reads or writes in the ledger.
    pub fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A receiver; it ends when this is dropped.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Begins to receive for the destination of that number; over TLS with an acceptor.
    ///
    /// # Errors
    /// No free port.
    pub async fn start(destination: usize, book: Book, acceptor: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = listener.local_addr()?;
        let mood = Arc::new(Mutex::new(Mood::Healthy));
        let serving = Serving { destination, book, mood: Arc::clone(&mood) };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serving.clone().connection(stream, acceptor.clone()));
                // What has ended is let go; a connection that breaks is the client's affair.
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, mood, _tasks: tasks })
    }

    /// Changes how it behaves with the next request.
    pub fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }
}

#[derive(Clone)]
struct Serving {
    destination: usize,
    book: Book,
    mood: Arc<Mutex<Mood>>,
}

impl Serving {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) -> io::Result<()> {
        if self.mood() == Mood::Refusing {
            return Ok(());
        }
        stream.set_nodelay(true)?;
        match acceptor {
            None => self.serve(stream).await,
            Some(acceptor) => self.serve(acceptor.accept(stream).await?).await,
        }
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        while let Some(request) = read_request(&mut stream).await? {
            let numbers = numbers(&request);
            match self.mood() {
                Mood::Healthy => self.take(&mut stream, &numbers).await?,
                Mood::Slow => {
                    tokio::time::sleep(SLOW_ANSWER).await;
                    self.take(&mut stream, &numbers).await?;
                }
                Mood::Failing => answer(&mut stream, FAILED).await?,
                Mood::Busy => answer(&mut stream, BUSY).await?,
                Mood::Silent => {
                    // Until the client gives up.
                    stream.read_to_end(&mut Vec::new()).await?;
                    return Ok(());
                }
                Mood::Cutting => return answer(&mut stream, HALF).await,
                Mood::Resetting | Mood::Refusing => return Ok(()),
            }
        }
        Ok(())
    }

    /// What could not be answered was not taken.
    async fn take(&self, stream: &mut (impl AsyncWrite + Unpin), numbers: &[Number]) -> io::Result<()> {
        answer(stream, ANSWER).await?;
        let now = self.book.now();
        self.book.with(|ledger| ledger.take(self.destination, numbers, now));
        Ok(())
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The numbers of all events in a request, in order, whatever the contract puts around them.
fn numbers(request: &Request) -> Vec<Number> {
    let mut numbers = Vec::new();
    let mut rest = request.body.as_slice();
    while let Some(place) = rest.windows(MARK.len()).position(|window| window == MARK) {
        rest = rest.get(place + MARK.len()..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
        numbers.extend(text.and_then(|text| text.parse::<Number>().ok()));
    }
    numbers
}

/// The data of the event of that number: about so many bytes.
#[must_use]
pub fn data(number: Number, text: &str) -> bytes::Bytes {
    format!(r#"{{"soak":{number},"text":"{text}"}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_all_events_of_a_batch_are_found() {
        let body = [&br#"{"events":[{"data":"#[..], &data(7, "x"), b"},{", &data(12, "y"), b"}]}"].concat();
        assert_eq!(numbers(&Request { head: Vec::new(), body }), [7, 12]);
        assert!(numbers(&Request { head: Vec::new(), body: b"{}".to_vec() }).is_empty());
    }

    #[tokio::test]
    async fn only_what_was_answered_as_taken_is_in_the_ledger() {
        let book = Book::new(Ledger::new(1, vec![(0, false)]));
        let receiver = Receiver::start(0, book.clone(), None).await.unwrap();
        for (number, mood) in
            [(1, Mood::Failing), (2, Mood::Healthy), (3, Mood::Resetting), (4, Mood::Cutting)]
        {
            receiver.set_mood(mood);
            let mut stream = TcpStream::connect(receiver.address).await.unwrap();
            let data = data(number, "x");
            let head = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", data.len());
            stream.write_all(&[head.as_bytes(), &data].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
        // The answer may be read a moment before it is written down.
        while book.with(|ledger| ledger.counts()) != (0, 1) {
            tokio::task::yield_now().await;
        }
        book.with(|ledger| ledger.acknowledge(0, 2, false, Duration::ZERO));
        assert!(book.with(|ledger| ledger.is_complete()));
    }
}
