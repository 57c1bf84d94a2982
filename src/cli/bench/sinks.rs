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

/// More destinations than these share ports.
const PORTS_MAX: u32 = 256;

/// A sink that runs in a process of its own.
pub struct Sink {
    addresses: Vec<SocketAddr>,
    scheme: &'static str,
    counts: TcpStream,
    _process: Process,
}

impl Sink {
    /// Starts a sink on some ports; over HTTPS if there is a file to write its certificate to.
    ///
    /// # Errors
    /// The process can't be started, or can't be reached.
    pub async fn start(ports: u32, certificate: Option<&Path>) -> anyhow::Result<Self> {
        let ports = ports.clamp(1, PORTS_MAX).to_string();
        let mut arguments = vec!["bench-sink".into(), "--ports".into(), ports.into()];
        if let Some(path) = certificate {
            arguments.extend(["--certificate".into(), path.as_os_str().to_owned()]);
        }
        let (process, ready) = Process::start(&arguments).await.context("the sink")?;
        let addresses: Result<Vec<SocketAddr>, _> = ready.split(' ').map(str::parse).collect();
        let mut addresses = addresses.context("the sink's addresses")?.into_iter();
        let counts = TcpStream::connect(addresses.next().context("an address")?).await.context("the sink")?;
        counts.set_nodelay(true)?;
        let scheme = if certificate.is_some() { "https" } else { "http" };
        Ok(Self { addresses: addresses.collect(), scheme, counts, _process: process })
    }

    /// Where the destination of that number posts to; each has a port of its own while there are some.
    ///
    /// # Errors
    /// Never in practice: a sink has at least one port.
    pub fn address(&self, number: u32) -> anyhow::Result<SocketAddr> {
        let turn = usize::try_from(number)? % self.addresses.len().max(1);
        self.addresses.get(turn).copied().context("a port of the sink")
    }

    /// The URL of the destination of that number.
    ///
    /// # Errors
    /// As [`Sink::address`].
    pub fn url(&self, number: u32) -> anyhow::Result<String> {
        Ok(format!("{}://{}/hook/{number}", self.scheme, self.address(number)?))
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
