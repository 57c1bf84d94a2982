//! Which addresses a request may reach: the guard around name resolution.
//!
//! Between the check of an address and the connection to it there is no second look-up, by construction:
//!
//! - an address in the URL itself is judged by [`vet`] before each attempt (literals never ask a resolver);
//! - a name is resolved by [`GuardedResolver`] and nothing else, which judges each address it finds and
//!   hands on only those that pass. The connection is opened to exactly these, so a name that answers
//!   with a public address first and a private one later (DNS rebinding) gains nothing;
//! - redirects, which would go elsewhere, are off, and so are proxies unless the operator names one
//!   (see `http`).
//!
//! An answer in which some addresses pass and some do not is used without the latter: the connection can go
//! nowhere else, and a receiver with one odd address stays reachable.
//!
//! What a name resolves to is not told to whoever named it. The operator's log has it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use url::{Host, Url};

use crate::policy::address::AddressPolicy;

/// How long an answer is used again. Short, because a receiver that moves expects to be followed; long
/// enough that a burst of new connections asks once.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// The most names that are remembered; a bound of memory, about 2 MB.
const CACHE_NAMES_MAX: usize = 10_000;
/// The most addresses of one name that are handed on; more only make a failing connection slow.
const ADDRESSES_MAX: usize = 16;
/// What is left of an answer's time at least where somebody asks where a request will go.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How long an address counts for a name that has moved on: connections to it may still be in use. Longer than
/// idle ones are kept.
const EARLIER_FOR: Duration = Duration::from_secs(60);

/// The policy does not allow to call there: a sentence for people, without the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressRefused(pub String);

/// Why a name gave no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It has addresses, but none that may be called.
    #[error("none of the host's addresses may be called")]
    Refused(#[from] AddressRefused),
    /// It has none, or the resolver could not tell.
    #[error("the host name could not be resolved")]
    Unresolved(#[source] io::Error),
    /// The resolver did not answer within this time.
    #[error("the host name was not resolved within {} s", .0.as_secs_f64())]
    Slow(Duration),
}

/// Looks names up. There is one implementation, but in tests.
#[async_trait]
pub trait LookUp: Debug + Send + Sync {
    /// All addresses of a name.
    ///
    /// # Errors
    /// Where the name has none, or nobody could tell.
    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver, with what the machine's files say (hosts, search domains).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookUp;

#[async_trait]
impl LookUp for SystemLookUp {
    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Judges what the URL itself tells: port, host name, and the address where the host is one.
///
/// The url crate reads every spelling of an address (`2130706433`, `0x7f.1`, `[::ffff:127.0.0.1]` …) as
/// the address that it means, so one match is enough.
///
/// # Errors
/// [`AddressRefused`] with the reason.
pub fn vet(url: &Url, policy: &AddressPolicy) -> Result<(), AddressRefused> {
    let port = url.port_or_known_default().unwrap_or(0);
    policy.check_port(port).map_err(AddressRefused)?;
    let verdict = match url.host() {
        Some(Host::Ipv4(ip)) => judge(policy, IpAddr::V4(ip), Some(port)),
        Some(Host::Ipv6(ip)) => judge(policy, IpAddr::V6(ip), Some(port)),
        Some(Host::Domain(name)) => policy.check_host(name),
        None => Err("the URL has no host".into()),
    };
    verdict.map_err(AddressRefused)
}

/// Whether this address may be connected to. `own_port` is the port, if this process listens there.
fn judge(policy: &AddressPolicy, ip: IpAddr, own_port: Option<u16>) -> Result<(), String> {
    policy.check_address(ip)?;
    own_port.map_or(Ok(()), |port| policy.check_own(SocketAddr::new(ip, port), is_local))
}

/// Whether an address belongs to this machine: only then a socket can be bound to it. Where nobody can tell,
/// it counts as one.
fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

/// Resolves names, and lets through only addresses that the policy allows.
///
/// Answers are remembered for some seconds; failures never are, so a name that comes back is found at the
/// next attempt.
#[derive(Debug)]
pub struct GuardedResolver {
    policy: Arc<AddressPolicy>,
    source: NameSource,
    /// The port of the requests, where this process listens on it as well.
    own_port: Option<u16>,
    cache: Mutex<HashMap<String, Remembered>>,
}

/// Who looks names up, and how long that may take.
#[derive(Debug, Clone)]
pub struct NameSource {
    /// Who.
    pub look_up: Arc<dyn LookUp>,
    /// How long.
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
struct Remembered {
    addresses: Arc<[SocketAddr]>,
    until: Instant,
    /// Where it led before, or an answer came from, and when that was known last; the latest come last.
    earlier: Vec<(IpAddr, Instant)>,
}

impl Remembered {
    fn note(&mut self, ip: IpAddr, now: Instant) {
        self.earlier.retain(|(known, seen_at)| *known != ip && now.duration_since(*seen_at) < EARLIER_FOR);
        if self.earlier.len() >= ADDRESSES_MAX {
            self.earlier.remove(0);
        }
        self.earlier.push((ip, now));
    }
}

impl GuardedResolver {
    /// A resolver under this policy, with an empty memory, for requests to any port at which this process
    /// does not listen.
    #[must_use]
    pub fn new(policy: Arc<AddressPolicy>, source: NameSource) -> Self {
        Self { policy, source, own_port: None, cache: Mutex::default() }
    }

    /// The same for requests to a port at which this process listens: its own addresses don't pass. A
    /// resolver is told of names only, so that each such port has its own.
    #[must_use]
    pub fn for_own_port(policy: Arc<AddressPolicy>, source: NameSource, port: u16) -> Self {
        Self { own_port: Some(port), ..Self::new(policy, source) }
    }

    /// The addresses of a name that may be called, at least one; their port is 0.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] where none of them passes, the others where there is none.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[SocketAddr]>, ResolveError> {
        match self.recall(name, Instant::now()) {
            Some(addresses) => Ok(addresses),
            None => self.ask(name).await,
        }
    }

    async fn ask(&self, name: &str) -> Result<Arc<[SocketAddr]>, ResolveError> {
        let NameSource { look_up, timeout } = &self.source;
        let found = tokio::time::timeout(*timeout, look_up.look_up(name)).await;
        let found = found.map_err(|_| ResolveError::Slow(*timeout))?.map_err(ResolveError::Unresolved)?;
        let addresses: Arc<[SocketAddr]> = self.sift(name, found)?.into();
        self.remember(name, Arc::clone(&addresses), Instant::now());
        Ok(addresses)
    }

    /// Every address that a request to the name may reach in the next moments: over a new connection, since what is
    /// remembered now is used for that, or over one that is open.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn reach(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if self.recall(name, Instant::now() + FRESH_FOR).is_none() {
            self.ask(name).await?;
        }
        Ok(self.known(name))
    }

    /// The same as far as it is known without asking; empty where nothing is.
    #[must_use]
    pub fn known(&self, name: &str) -> Vec<IpAddr> {
        let (cache, now) = (self.cache.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let Some(known) = cache.get(name) else { return Vec::new() };
        let earlier = known.earlier.iter().filter(|(_, seen_at)| now.duration_since(*seen_at) < EARLIER_FOR);
        known.addresses.iter().map(SocketAddr::ip).chain(earlier.map(|(ip, _)| *ip)).collect()
    }

    /// An answer came from there: a connection may be open that is used again, wherever the name leads now.
    pub fn note_answer(&self, name: &str, ip: IpAddr) {
        let (mut cache, now) = (self.cache.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let Some(known) = cache.get_mut(name) else { return };
        if !known.addresses.iter().any(|address| address.ip() == ip) {
            known.note(ip, now);
        }
    }

    /// Keeps the addresses that pass. Which ones did not, and why, is for the operator alone.
    fn sift(&self, name: &str, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
        if found.is_empty() {
            return Err(ResolveError::Unresolved(io::ErrorKind::NotFound.into()));
        }
        let mut passed = Vec::new();
        for ip in found {
            match judge(&self.policy, ip, self.own_port) {
                Ok(()) => passed.push(SocketAddr::new(ip, 0)),
                Err(reason) => tracing::info!(host = name, address = %ip, reason, "address refused"),
            }
        }
        passed.truncate(ADDRESSES_MAX);
        if passed.is_empty() {
            let words = "the host name does not lead to an address that may be called from here; only public \
                         addresses are allowed";
            return Err(AddressRefused(words.into()).into());
        }
        Ok(passed)
    }

    fn recall(&self, name: &str, now: Instant) -> Option<Arc<[SocketAddr]>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(name).filter(|known| known.until > now).map(|known| Arc::clone(&known.addresses))
    }

    fn remember(&self, name: &str, addresses: Arc<[SocketAddr]>, now: Instant) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_NAMES_MAX {
            cache.retain(|_, known| known.until + EARLIER_FOR > now);
        }
        // Full of live names: start again, rather than to keep an order of age for so rare a case.
        if cache.len() >= CACHE_NAMES_MAX {
            cache.clear();
        }
        let entry = cache.entry(name.to_owned()).or_insert_with(|| Remembered {
            addresses: Arc::from([]),
            until: now,
            earlier: Vec::new(),
        });
        let before = std::mem::replace(&mut entry.addresses, addresses);
        entry.until = now + CACHE_TTL;
        before.iter().for_each(|address| entry.note(address.ip(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 0)
    }

    fn loopback_allowed() -> Arc<AddressPolicy> {
        let allow = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        Arc::new(AddressPolicy { allow, ..AddressPolicy::default() })
    }

    fn guarded(policy: Arc<AddressPolicy>) -> GuardedResolver {
        GuardedResolver::new(policy, system())
    }

    fn system() -> NameSource {
        NameSource { look_up: Arc::new(SystemLookUp), timeout: Duration::from_secs(20) }
    }

    fn sift(list: &[&str]) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = list.iter().map(|text| text.parse().unwrap()).collect();
        guarded(Arc::default()).sift("host.example", found)
    }

    #[test]
    fn a_name_is_left_to_the_resolver_and_a_port_to_the_policy() {
        let url = Url::parse("https://example.com:8443/").unwrap();
        assert_eq!(vet(&url, &AddressPolicy::default()), Ok(()));
        let strict = AddressPolicy { allowed_ports: Some(vec![443]), ..AddressPolicy::default() };
        assert!(vet(&url, &strict).unwrap_err().0.contains("8443"));
        assert_eq!(vet(&Url::parse("https://example.com/").unwrap(), &strict), Ok(()));
    }

    #[test]
    fn of_a_mixed_answer_only_the_allowed_addresses_are_handed_on() {
        let passed = sift(&["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111", "169.254.169.254"]).unwrap();
        assert_eq!(passed, ["1.1.1.1", "2606:4700::1111"].map(socket));
        assert!(matches!(sift(&["10.0.0.1"]), Err(ResolveError::Refused(_))));
        assert!(matches!(sift(&[]), Err(ResolveError::Unresolved(_))));
    }

    #[test]
    fn the_words_for_a_refused_name_are_the_same_whatever_it_leads_to() {
        let words = ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00::1", "224.0.0.1", "192.168.0.1"]
            .map(|address| sift(&[address]).unwrap_err())
            .map(|error| match error {
                ResolveError::Refused(refused) => refused.0,
                other => panic!("{other}"),
            });
        assert!(words.iter().all(|sentence| *sentence == words[0]), "{words:?}");
        assert!(!words[0].contains("10.0.0.1") && words[0].contains("public"), "{}", words[0]);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_unless_loopback_is_allowed() {
        let closed = guarded(Arc::default());
        assert!(matches!(closed.resolve("localhost").await, Err(ResolveError::Refused(_))));
        let open = guarded(loopback_allowed());
        assert!(open.resolve("localhost").await.unwrap().iter().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_our_own_listener_is_refused_also_where_loopback_is_allowed() {
        for bound in ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", "[::]:8080"] {
            let own_listeners = vec![bound.parse().unwrap(), "[::1]:8080".parse().unwrap()];
            let policy = Arc::new(AddressPolicy {
                own_listeners: [own_listeners, vec!["127.0.0.1:8080".parse().unwrap()]].concat(),
                ..(*loopback_allowed()).clone()
            });
            let beside = GuardedResolver::for_own_port(Arc::clone(&policy), system(), 8080);
            assert!(matches!(beside.resolve("localhost").await, Err(ResolveError::Refused(_))), "{bound}");
            assert!(guarded(policy).resolve("localhost").await.is_ok(), "another port is free");
        }
    }

    #[test]
    fn the_addresses_of_this_machine_are_known_from_others() {
        for local in ["127.0.0.1", "127.200.0.7"] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["8.8.8.8", "192.0.2.1", "2606:4700::1111"] {
            let ip: IpAddr = other.parse().unwrap();
            // Where there is no IPv6 at all, nobody can tell.
            assert!(!is_local(ip) || ip.is_ipv6(), "{other}");
        }
    }

    #[test]
    fn an_answer_is_remembered_for_a_while_and_the_memory_is_bounded() {
        let resolver = guarded(loopback_allowed());
        let now = Instant::now();
        let addresses: Arc<[SocketAddr]> = vec![socket("1.1.1.1")].into();
        resolver.remember("a.example", Arc::clone(&addresses), now);
        assert_eq!(resolver.recall("a.example", now), Some(Arc::clone(&addresses)));
        assert_eq!(resolver.recall("a.example", now + CACHE_TTL), None);
        for number in 0..2 * CACHE_NAMES_MAX {
            resolver.remember(&format!("{number}.example"), Arc::clone(&addresses), now);
        }
        assert!(resolver.cache.lock().unwrap().len() <= CACHE_NAMES_MAX);
    }
}
