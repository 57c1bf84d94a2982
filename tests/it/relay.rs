//! A network between a replica and its database that can be slow, or let nothing through without saying so.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// They go on at once.
    Open,
    /// They go on so much later.
    Late(Duration),
    /// They wait until it is open again; the connections stay.
    Shut,
}

/// A way to a database on this machine, for as long as it lives.
pub struct Relay {
    url: String,
    passage: watch::Sender<Passage>,
    _connections: JoinSet<()>,
}

impl Relay {
    /// A way to the database of this URL, open.
    pub async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, database) = url.rsplit_once('/').unwrap();
        let (before, port) = server.rsplit_once(':').unwrap();
        let to = port.parse().unwrap();
        let url = format!("{before}:{}/{database}", listener.local_addr().unwrap().port());
        let (passage, state) = watch::channel(Passage::Open);
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, to, state));
        Self { url, passage, _connections: connections }
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }

    /// How the database is reached by this way.
    pub fn url(&self) -> &str {
        &self.url
    }
}

async fn accept(listener: TcpListener, to: u16, state: watch::Receiver<Passage>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        connections.spawn(pump(near_in, far_out, state.clone()));
        connections.spawn(pump(far_in, near_out, state.clone()));
    }
}

/// Ends with the first error, like a connection does; closes the other side with this one.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Passage>,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or_default();
        let Ok(passage) = state.wait_for(|passage| *passage != Passage::Shut).await.map(|passage| *passage)
        else {
            return;
        };
        if let Passage::Late(by) = passage {
            tokio::time::sleep(by).await;
        }
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            to.shutdown().await.ok();
            return;
        }
    }
}
