//! Places that are limited in number, in all and for one of those who take them, so that nobody can take all.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::{Caller, CallerKind};

/// Places of one kind, for those who count as one each. Clones are one.
#[derive(Debug, Clone)]
pub struct Shares<One: Eq + Hash = Site> {
    most: usize,
    most_of_one: usize,
    taken: Arc<Mutex<Taken<One>>>,
}

#[derive(Debug)]
struct Taken<One> {
    all: usize,
    by_one: HashMap<One, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Share<One: Eq + Hash = Site> {
    one: One,
    taken: Arc<Mutex<Taken<One>>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShare {
    /// All of so many are taken.
    Anywhere(usize),
    /// Who asks has so many, which is as many as one may have.
    ForThisOne(usize),
}

impl<One: Eq + Hash + Clone> Shares<One> {
    /// So many places in all, and so many of them for one.
    #[must_use]
    pub fn new(most: usize, most_of_one: usize) -> Self {
        let taken = Taken { all: 0, by_one: HashMap::new() };
        Self { most, most_of_one, taken: Arc::new(Mutex::new(taken)) }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`NoShare`]. Who has its share learns that, and not whether others have theirs.
    pub fn take(&self, one: One) -> Result<Share<One>, NoShare> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_one.get(&one).copied().unwrap_or(0);
        if own >= self.most_of_one {
            return Err(NoShare::ForThisOne(self.most_of_one));
        }
        if taken.all >= self.most {
            return Err(NoShare::Anywhere(self.most));
        }
        taken.all += 1;
        taken.by_one.insert(one.clone(), own + 1);
        Ok(Share { one, taken: Arc::clone(&self.taken) })
    }
}

impl<One: Eq + Hash> Drop for Share<One> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_one.get_mut(&self.one) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_one.remove(&self.one);
            }
        }
    }
}

/// Which addresses count as one: an IPv4 address, or the 64 bits of IPv6 that one subscriber is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(IpAddr);

impl Site {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

/// Which calls count as one caller's: those with the same principal. Without authentication everybody has the same
/// one, so an address stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Who has proved to be it.
    Principal(Arc<str>),
    /// Somebody at this address.
    Address(Site),
}

impl Holder {
    /// That of a call.
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        match (caller.kind(), caller.peer()) {
            (CallerKind::Local | CallerKind::Anonymous, Some(peer)) => Self::Address(Site::of(peer.ip())),
            _ => Self::Principal(caller.principal().into()),
        }
    }

    /// What it is called where a limit is told of.
    #[must_use]
    pub const fn scope(&self) -> &'static str {
        match self {
            Self::Principal(_) => "caller",
            Self::Address(_) => "address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Site {
        Site::of(text.parse().unwrap())
    }

    #[test]
    fn a_subscriber_with_many_ipv6_addresses_counts_once() {
        assert_eq!(ip("2001:db8:1:2::3"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::3"), ip("2001:db8:1:3::3"));
        assert_ne!(ip("192.0.2.1"), ip("::ffff:192.0.2.2"));
    }

    #[test]
    fn a_caller_counts_once_from_everywhere_and_nobody_in_particular_counts_by_address() {
        let from = |caller: Caller, address: &str| {
            Holder::of(&caller.calling_from(Some(address.parse().unwrap()), None))
        };
        let named = |subject: &str| Caller::with_grants(subject, "emitter@acme");
        assert_eq!(from(named("a"), "192.0.2.1:1"), from(named("a"), "192.0.2.2:1"));
        assert_ne!(from(named("a"), "192.0.2.1:1"), from(named("b"), "192.0.2.1:1"));
        assert_eq!(from(Caller::local(), "192.0.2.1:1"), from(Caller::local(), "192.0.2.1:2"));
        assert_ne!(from(Caller::local(), "192.0.2.1:1"), from(Caller::local(), "192.0.2.2:1"));
        let scopes = [from(named("a"), "192.0.2.1:1").scope(), from(Caller::local(), "192.0.2.1:1").scope()];
        assert_eq!(scopes, ["caller", "address"]);
    }

    #[test]
    fn no_address_takes_the_places_of_others_and_places_come_back() {
        let shares = Shares::new(3, 2);
        let first = shares.take(ip("192.0.2.1")).unwrap();
        let second = shares.take(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(shares.take(ip("192.0.2.1")).unwrap_err(), NoShare::ForThisOne(2));
        let third = shares.take(ip("2001:db8::1")).unwrap();
        assert_eq!(shares.take(ip("2001:db8::2")).unwrap_err(), NoShare::Anywhere(3));
        drop(first);
        let fourth = shares.take(ip("2001:db8::ffff")).unwrap();
        assert_eq!(shares.take(ip("2001:db8::2")).unwrap_err(), NoShare::ForThisOne(2));
        drop((second, third, fourth));
        let taken = shares.taken.lock().unwrap();
        assert!(taken.all == 0 && taken.by_one.is_empty());
    }
}
