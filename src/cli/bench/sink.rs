//! `signalpost bench-sink`: answers 200 to every POST and counts them, as cheaply as tokio allows.
//!
//! Hand-written, so that the receiving side is not what is measured. It listens on free
//! ports of the loopback interface, one to ask for the count and some for the posts, and ends when its
//! standard input closes, so it can't outlive the benchmark.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::{Buf, BytesMut};
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::cli::exit::Exit;
use crate::cli::output::print;
use crate::receiver::TlsIdentity;

/// What every POST is answered.
pub(super) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// What comes before the count, which has [`COUNT_DIGITS`] digits.
pub(super) const COUNT_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n";
/// The digits of the count, zeros first.
pub(super) const COUNT_DIGITS: usize = 20;

/// Longer heads are refused.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Longer bodies are refused.
const BODY_MAX_BYTES: usize = 16 << 20;

/// `signalpost bench-sink`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SinkArguments {
    /// Serve HTTPS, and write the self-signed certificate to this file.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// On how many ports posts are taken.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    ports: u16,
}

/// Answers until nobody holds its standard input any more.
///
/// # Errors
/// No port, or the certificate can't be made or written.
pub(in crate::cli) async fn run(arguments: SinkArguments) -> anyhow::Result<Exit> {
    let acceptor = acceptor(arguments.certificate)?;
    let count = Arc::new(AtomicU64::new(0));
    let mut listeners = JoinSet::new();
    // The count is in plaintext even where the posts are not, so that asking costs little.
    let counts = listener().await?;
    let mut ready = format!("ready {}", counts.local_addr()?);
    listeners.spawn(accept(counts, None, Arc::clone(&count)));
    for _ in 0..arguments.ports {
        let posts = listener().await?;
        ready.push_str(&format!(" {}", posts.local_addr()?));
        listeners.spawn(accept(posts, acceptor.clone(), Arc::clone(&count)));
    }
    print(&format!("{ready}\n"));
    let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink()));
    tokio::select! {
        Some(result) = listeners.join_next() => result?.context("accepting connections")?,
        _ = ended => {}
    }
    Ok(Exit::Success)
}

async fn listener() -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
}

fn acceptor(certificate: Option<PathBuf>) -> anyhow::Result<Option<TlsAcceptor>> {
    let Some(path) = certificate else { return Ok(None) };
    let identity = TlsIdentity::self_signed(["localhost", "127.0.0.1"])?;
    std::fs::write(&path, identity.certificate_pem())
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(Some(TlsAcceptor::from(identity.config())))
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    count: Arc<AtomicU64>,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&count)));
    }
}

/// A connection that breaks is the client's affair; it notices.
async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, count: Arc<AtomicU64>) {
    let Some(acceptor) = acceptor else {
        serve(stream, &count).await.ok();
        return;
    };
    if let Ok(stream) = acceptor.accept(stream).await {
        serve(stream, &count).await.ok();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        while let Some((request, length)) = first_request(&buffer)? {
            buffer.advance(length);
            match request {
                Request::Post => {
                    count.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(ANSWER).await?;
                }
                Request::Count => {
                    let digits = format!("{:0COUNT_DIGITS$}", count.load(Ordering::Relaxed));
                    stream.write_all(&[COUNT_HEAD, digits.as_bytes()].concat()).await?;
                }
            }
            stream.flush().await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// Something to count.
    Post,
    /// Asks for the count.
    Count,
}

/// The first whole request of the bytes, and how long it is; `None` as long as some of it is missing.
fn first_request(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX_BYTES { Err(invalid("the head is too long")) } else { Ok(None) };
    };
    let head = bytes.get(..end).unwrap_or_default();
    let request = match head.split(|byte| *byte == b' ').next() {
        Some(b"POST") => Request::Post,
        Some(b"GET") => Request::Count,
        _ => return Err(invalid("neither POST nor GET")),
    };
    let length = end + 4 + content_length(head)?;
    Ok((bytes.len() >= length).then_some((request, length)))
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    const NAME: &[u8] = b"content-length:";
    let named = |line: &&[u8]| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
    let Some(line) = head.split(|byte| *byte == b'\n').find(named) else { return Ok(0) };
    let value = line.get(NAME.len()..).and_then(|value| std::str::from_utf8(value).ok());
    match value.and_then(|value| value.trim().parse().ok()) {
        Some(length) if length <= BODY_MAX_BYTES => Ok(length),
        _ => Err(invalid("no usable content-length")),
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_complete_with_the_last_byte_of_its_body() {
        let whole = b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\n\r\nabcPOST";
        assert_eq!(first_request(whole).unwrap(), Some((Request::Post, whole.len() - 4)));
        for end in 0..whole.len() - 4 {
            assert_eq!(first_request(&whole[..end]).unwrap(), None, "{end} bytes");
        }
    }

    #[test]
    fn the_count_is_asked_for_without_a_body() {
        let request = b"GET /count HTTP/1.1\r\n\r\n";
        assert_eq!(first_request(request).unwrap(), Some((Request::Count, request.len())));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bytes in [&b"PUT / HTTP/1.1\r\n\r\n"[..], b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"] {
            assert!(first_request(bytes).is_err());
        }
        assert!(first_request(&vec![b'a'; HEAD_MAX_BYTES + 1]).is_err());
        assert!(first_request(b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n").is_err());
    }
}
