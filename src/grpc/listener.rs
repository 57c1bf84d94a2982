//! Takes connections in, as many as there may be, and makes them secure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, ConnectionState};
use super::frames::Io;
use super::front::Front;
use super::options::ListenerOptions;
use super::refusals::Refusals;
use super::shares::{NoShare, Share, Shares, Site};
use super::tls::ServerTls;
use crate::metrics::ConnectionLimit;

/// After the system refused a connection (no file descriptors, usually), it is asked again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port, and what is behind it.
pub struct Listening {
    /// The port.
    pub listener: TcpListener,
    /// How connections are made secure; `None` for plaintext.
    pub tls: Option<ServerTls>,
    /// How many there may be.
    pub options: ListenerOptions,
    /// What answers their calls.
    pub front: Arc<Front>,
}

impl Listening {
    /// Takes connections in until `stop` is cancelled; then lets them finish what runs, and returns.
    pub async fn serve(self, stop: CancellationToken) {
        let Listening { listener, tls, options, front } = self;
        let (refusals, connections) = (Arc::clone(&front.refusals), TaskTracker::new());
        let doors = Doors::new(options, Arc::clone(&refusals));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                () = refusals.due() => {
                    refusals.tell_due();
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken in");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Dropping the stream tells the peer more quickly than letting it wait.
            let Some((place, handshake)) = doors.enter(peer.ip()) else { continue };
            let open_connection = refusals.metrics().open();
            let (tls, front, stop) = (tls.clone(), Arc::clone(&front), stop.clone());
            connections.spawn(async move {
                open(stream, peer, tls, (front, handshake, stop)).await;
                drop((place, open_connection));
            });
        }
        refusals.tell_all();
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

async fn open(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<ServerTls>,
    (front, handshake, stop): (Arc<Front>, Share, CancellationToken),
) {
    // Without TCP_NODELAY, answers wait for the peer's delayed acknowledgements: a seventh of the calls a second.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "a connection ended before it began");
        return;
    }
    let (io, certificate): (Box<dyn Io>, _) = match tls {
        None => (Box::new(stream), None),
        Some(tls) => match timeout(front.connection.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok((stream, certificate))) => (Box::new(stream), certificate),
            Ok(Err(error)) => {
                tracing::debug!(%error, %peer, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "a TLS handshake took too long");
                return;
            }
        },
    };
    let state = ConnectionState::new(peer, certificate, handshake, &front.connection);
    connection::serve(io, state, front, stop).await;
}

/// Who may come in.
struct Doors {
    connections: Shares,
    handshakes: Shares,
    refusals: Arc<Refusals>,
}

impl Doors {
    fn new(options: ListenerOptions, refusals: Arc<Refusals>) -> Self {
        Self {
            connections: Shares::new(options.connections, options.connections_per_address),
            handshakes: Shares::new(options.handshakes, options.handshakes_per_address),
            refusals,
        }
    }

    /// A place for a connection, and one for its beginning.
    fn enter(&self, address: IpAddr) -> Option<(Share, Share)> {
        let handshake = self.handshakes.take(Site::of(address)).map_err(|why| match why {
            NoShare::Anywhere(_) => ConnectionLimit::Handshakes,
            NoShare::ForThisOne(_) => ConnectionLimit::HandshakesPerAddress,
        });
        let connection = self.connections.take(Site::of(address)).map_err(|why| match why {
            NoShare::Anywhere(_) => ConnectionLimit::Connections,
            NoShare::ForThisOne(_) => ConnectionLimit::ConnectionsPerAddress,
        });
        match connection.and_then(|connection| Ok((connection, handshake?))) {
            Ok(places) => Some(places),
            Err(limit) => {
                self.refusals.note(limit, address);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_silent_takes_places_of_its_own_and_not_of_others() {
        let options = ListenerOptions {
            connections: 5,
            connections_per_address: 3,
            handshakes: 3,
            handshakes_per_address: 2,
        };
        let doors = Doors::new(options, Arc::default());
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (first, silent) = doors.enter(here).unwrap();
        let (second, also_silent) = doors.enter(here).unwrap();
        assert!(doors.enter(here).is_none(), "two of it have not begun");
        let (third, handshake) = doors.enter(there).unwrap();
        assert!(doors.enter(there).is_none(), "three have not begun");
        drop((silent, also_silent, handshake));
        let (fourth, _) = doors.enter(here).unwrap();
        assert!(doors.enter(here).is_none(), "it has three connections");
        let (fifth, _) = doors.enter(there).unwrap();
        assert!(doors.enter(there).is_none(), "there are five connections");
        drop((first, second, third, fourth, fifth));
        assert!(doors.enter(here).is_some());
    }
}
