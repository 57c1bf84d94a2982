//! Places that are limited in number, in all and for one address, so that nobody can take all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Places of one kind. Clones are one.
#[derive(Debug, Clone)]
pub struct Shares {
    most: usize,
    most_of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Share {
    address: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShare {
    /// All of so many are taken.
    Anywhere(usize),
    /// The address has so many, which is as many as one may have.
    ForThisAddress(usize),
}

impl Shares {
    /// So many places in all, and so many of them for one address.
    #[must_use]
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, taken: Arc::default() }
    }

    /// Takes a place for an address.
    ///
    /// # Errors
    /// [`NoShare`]. An address that has its share learns that, and not whether others have theirs.
    pub fn take(&self, address: IpAddr) -> Result<Share, NoShare> {
        let address = site_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        if own >= self.most_of_one {
            return Err(NoShare::ForThisAddress(self.most_of_one));
        }
        if taken.all >= self.most {
            return Err(NoShare::Anywhere(self.most));
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        Ok(Share { address, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the 64 bits of IPv6 that one subscriber is given.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subscriber_with_many_ipv6_addresses_counts_once() {
        let site = |text: &str| site_of(ip(text));
        assert_eq!(site("2001:db8:1:2::3"), site("2001:db8:1:2:ffff::9"));
        assert_ne!(site("2001:db8:1:2::3"), site("2001:db8:1:3::3"));
        assert_ne!(site("192.0.2.1"), site("::ffff:192.0.2.2"));
    }

    #[test]
    fn no_address_takes_the_places_of_others_and_places_come_back() {
        let shares = Shares::new(3, 2);
        let first = shares.take(ip("192.0.2.1")).unwrap();
        let second = shares.take(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(shares.take(ip("192.0.2.1")).unwrap_err(), NoShare::ForThisAddress(2));
        let third = shares.take(ip("2001:db8::1")).unwrap();
        assert_eq!(shares.take(ip("2001:db8::2")).unwrap_err(), NoShare::Anywhere(3));
        drop(first);
        let fourth = shares.take(ip("2001:db8::ffff")).unwrap();
        assert_eq!(shares.take(ip("2001:db8::2")).unwrap_err(), NoShare::ForThisAddress(2));
        drop((second, third, fourth));
        let taken = shares.taken.lock().unwrap();
        assert!(taken.all == 0 && taken.by_address.is_empty());
    }
}
