//! Which addresses a request may reach: the guard around name resolution.
//!
//! Between the check of an address and the connection to it there is no second look-up, by construction:
//!
//! - an address in the URL itself is judged by [`vet`] before each attempt (literals never ask a resolver);
//! - a name is resolved by [`GuardedResolver`] and nothing else, which judges each address it finds and
//!   hands on only those that pass. The connection is opened to exactly these, so a name that answers
//!   with a public address first and a private one later (DNS rebinding) gains nothing;
//! - redirects and proxies, which would go elsewhere, are off (see `http`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// It has none, or the resolver did not answer.
    #[error("the host name could not be resolved")]
    Unresolved(#[source] std::io::Error),
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
        Some(Host::Ipv4(ip)) => policy.check_address(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => policy.check_address(IpAddr::V6(ip)),
        Some(Host::Domain(name)) => policy.check_host(name),
        None => Err("the URL has no host".into()),
    };
    verdict.map_err(AddressRefused)
}

/// Resolves names with the system's resolver, and lets through only addresses that the policy allows.
///
/// Answers are remembered for some seconds; failures never are, so a name that comes back is found at the
/// next attempt.
#[derive(Debug)]
pub struct GuardedResolver {
    policy: Arc<AddressPolicy>,
    cache: Mutex<HashMap<String, Remembered>>,
}

#[derive(Debug, Clone)]
struct Remembered {
    addresses: Arc<[SocketAddr]>,
    until: Instant,
}

impl GuardedResolver {
    /// A resolver under this policy, with an empty memory.
    #[must_use]
    pub fn new(policy: Arc<AddressPolicy>) -> Self {
        Self { policy, cache: Mutex::default() }
    }

    /// The addresses of a name that may be called, at least one; their port is 0.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] where none of them passes, [`ResolveError::Unresolved`] where there is none.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[SocketAddr]>, ResolveError> {
        if let Some(addresses) = self.recall(name, Instant::now()) {
            return Ok(addresses);
        }
        let found = tokio::net::lookup_host((name, 0)).await.map_err(ResolveError::Unresolved)?;
        let addresses: Arc<[SocketAddr]> = sift(found, &self.policy)?.into();
        self.remember(name, Arc::clone(&addresses), Instant::now());
        Ok(addresses)
    }

    fn recall(&self, name: &str, now: Instant) -> Option<Arc<[SocketAddr]>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(name).filter(|known| known.until > now).map(|known| Arc::clone(&known.addresses))
    }

    fn remember(&self, name: &str, addresses: Arc<[SocketAddr]>, now: Instant) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_NAMES_MAX {
            cache.retain(|_, known| known.until > now);
        }
        // Full of live names: start again, rather than to keep an order of age for so rare a case.
        if cache.len() >= CACHE_NAMES_MAX {
            cache.clear();
        }
        cache.insert(name.to_owned(), Remembered { addresses, until: now + CACHE_TTL });
    }
}

/// Keeps the addresses that pass; refuses with the first reason where none does.
fn sift(
    found: impl Iterator<Item = SocketAddr>,
    policy: &AddressPolicy,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut passed = Vec::new();
    let mut refused = None;
    for address in found {
        match policy.check_address(address.ip()) {
            Ok(()) if passed.len() < ADDRESSES_MAX => passed.push(address),
            Ok(()) => {}
            Err(reason) => refused = refused.or(Some(AddressRefused(reason))),
        }
    }
    match (passed.is_empty(), refused) {
        (false, _) => Ok(passed),
        (true, Some(refused)) => Err(refused.into()),
        (true, None) => Err(ResolveError::Unresolved(std::io::ErrorKind::NotFound.into())),
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

    #[test]
    fn every_spelling_of_a_private_address_is_refused_before_the_attempt() {
        for host in [
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
            "%31%32%37.0.0.1",
            "169.254.169.254",
            "10.1",
            "0xa.1",
            "192.168.257",
            "[fd00:ec2::254]",
            "user@127.0.0.1",
        ] {
            let url = Url::parse(&format!("https://{host}/hook?token=planted")).unwrap();
            let refused = vet(&url, &AddressPolicy::default()).unwrap_err();
            assert!(!refused.to_string().contains("planted"), "{host}");
        }
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
        let found = ["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111", "169.254.169.254"].map(socket);
        let passed = sift(found.into_iter(), &AddressPolicy::default()).unwrap();
        assert_eq!(passed, ["1.1.1.1", "2606:4700::1111"].map(socket));
        let private = sift([socket("10.0.0.1")].into_iter(), &AddressPolicy::default());
        assert!(matches!(private, Err(ResolveError::Refused(_))));
        let nothing = sift(std::iter::empty(), &AddressPolicy::default());
        assert!(matches!(nothing, Err(ResolveError::Unresolved(_))));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_unless_loopback_is_allowed() {
        let guarded = GuardedResolver::new(Arc::new(AddressPolicy::default()));
        assert!(matches!(guarded.resolve("localhost").await, Err(ResolveError::Refused(_))));
        let open = GuardedResolver::new(loopback_allowed());
        assert!(open.resolve("localhost").await.unwrap().iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn an_answer_is_remembered_for_a_while_and_the_memory_is_bounded() {
        let resolver = GuardedResolver::new(loopback_allowed());
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
