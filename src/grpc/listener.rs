//! Takes connections in, as many as there may be, and makes them secure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, ConnectionState};
use super::frames::Io;
use super::front::Front;
use super::options::ListenerOptions;
use super::tls::ServerTls;

/// After the system refused a connection (no file descriptors, usually), it is asked again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Held by a connection that has not begun to speak HTTP/2.
pub type HandshakePermit = OwnedSemaphorePermit;

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
        let (doors, connections) = (Doors::new(options), TaskTracker::new());
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
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
            let (tls, front, stop) = (tls.clone(), Arc::clone(&front), stop.clone());
            connections.spawn(async move {
                open(stream, peer, tls, (front, handshake, stop)).await;
                drop(place);
            });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

async fn open(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<ServerTls>,
    (front, handshake, stop): (Arc<Front>, HandshakePermit, CancellationToken),
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

/// Counts who is in.
struct Doors {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    per_address: usize,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place for one connection.
struct Place {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Doors {
    fn new(options: ListenerOptions) -> Self {
        let permits = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: permits(options.connections),
            handshakes: permits(options.handshakes),
            per_address: options.connections_per_address,
            by_address: Arc::default(),
        }
    }

    fn enter(&self, address: IpAddr) -> Option<(Place, HandshakePermit)> {
        let refuse = |limit: &str| {
            tracing::warn!(%address, limit, "a connection was refused");
            None
        };
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            return refuse("limits.connections");
        };
        let Ok(handshake) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            return refuse("limits.handshakes");
        };
        let address = site_of(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address {
            return refuse("limits.connections_per_address");
        }
        *count += 1;
        let place = Place { address, by_address: Arc::clone(&self.by_address), _permit: permit };
        Some((place, handshake))
    }
}

/// Who counts as one: an IPv4 address, or the 64 bits of IPv6 that one subscriber is given.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_with_many_ipv6_addresses_counts_once() {
        let site = |text: &str| site_of(text.parse().unwrap());
        assert_eq!(site("2001:db8:1:2::3"), site("2001:db8:1:2:ffff::9"));
        assert_ne!(site("2001:db8:1:2::3"), site("2001:db8:1:3::3"));
        assert_ne!(site("192.0.2.1"), site("::ffff:192.0.2.2"));
    }

    #[test]
    fn places_are_counted_in_all_by_address_and_by_who_has_not_begun() {
        let doors = Doors::new(ListenerOptions { connections: 3, connections_per_address: 2, handshakes: 2 });
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let (first, handshake) = doors.enter(here).unwrap();
        let (second, _) = doors.enter(mapped).unwrap();
        assert!(doors.enter(here).is_none());
        let (third, silent) = doors.enter(there).unwrap();
        assert!(doors.enter(there).is_none());
        drop(third);
        assert!(doors.enter(there).is_none(), "two have not begun");
        drop(silent);
        assert!(doors.enter(there).is_some());
        drop((first, second, handshake));
        assert!(doors.by_address.lock().unwrap().is_empty());
        assert_eq!((doors.connections.available_permits(), doors.handshakes.available_permits()), (3, 2));
    }
}
