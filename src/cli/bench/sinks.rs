//! The benchmark's side of a sink: starts it and asks for its count.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Process;
use super::sink::{COUNT_DIGITS, COUNT_HEAD};

/// An answer that takes longer fails the measurement.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A sink that runs in a process of its own.
pub struct Sink {
    /// Where it takes posts.
    pub address: SocketAddr,
    scheme: &'static str,
    counts: TcpStream,
    _process: Process,
}

impl Sink {
    /// Starts a sink; over HTTPS if there is a file to write its certificate to.
    ///
    /// # Errors
    /// The process can't be started, or can't be reached.
    pub async fn start(certificate: Option<&Path>) -> anyhow::Result<Self> {
        let mut arguments = vec!["bench-sink".into()];
        if let Some(path) = certificate {
            arguments.extend(["--certificate".into(), path.as_os_str().to_owned()]);
        }
        let (process, ready) = Process::start(&arguments).await.context("the sink")?;
        let (address, counts) = ready.split_once(' ').context("the sink's addresses")?;
        let (address, counts): (SocketAddr, SocketAddr) = (address.parse()?, counts.parse()?);
        let counts = TcpStream::connect(counts).await.context("the sink")?;
        counts.set_nodelay(true)?;
        let scheme = if certificate.is_some() { "https" } else { "http" };
        Ok(Self { address, scheme, counts, _process: process })
    }

    /// The URL of a path that begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// How many POSTs the sink has answered since it started.
    ///
    /// # Errors
    /// The sink has gone.
    pub async fn count(&mut self) -> anyhow::Result<u64> {
        let mut answer = [0; COUNT_HEAD.len() + COUNT_DIGITS];
        let ask = async {
            self.counts.write_all(b"GET /count HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
            self.counts.read_exact(&mut answer).await
        };
        tokio::time::timeout(ANSWER_LIMIT, ask).await.context("the sink did not answer")??;
        let digits = answer.get(COUNT_HEAD.len()..).unwrap_or_default();
        Ok(std::str::from_utf8(digits)?.parse()?)
    }
}
