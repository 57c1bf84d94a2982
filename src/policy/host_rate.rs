//! How many requests a second an organization may send to one host that is somebody else's.
//!
//! An organization may have any number of destinations, and names cost nothing: without this bound they could
//! all be aimed at one third party. So each request counts for everybody whom it could hit: for its host's name,
//! and for each address to which the name leads, or led while connections of that time may still be open.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::domain::id::OrganizationId;
use crate::domain::time::Timestamp;

const MICROS: i64 = 1_000_000;
/// From so many on, hosts that have their whole rate again are forgotten.
const HOSTS_MAX: usize = 65_536;
/// Who has the lower part of an IPv6 address has all of it (RFC 4291, section 2.5.4).
const SITE_MASK: u128 = !(u64::MAX as u128);

/// A host, as the rate sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// By where it is.
    Address(IpAddr),
    /// By its name, wherever it is.
    Name(String),
}

impl Host {
    /// The host at this address.
    #[must_use]
    pub fn at(ip: IpAddr) -> Self {
        Self::Address(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & SITE_MASK).into(),
        })
    }
}

/// An organization and a host. Two that fall together by chance share a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostKey(u64);

impl HostKey {
    /// The key of these two.
    #[must_use]
    pub fn new(organization_id: &OrganizationId, host: &Host) -> Self {
        let mut hasher = DefaultHasher::new();
        (organization_id, host).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The rates of hosts, for all who send.
pub type SharedRates = Arc<Mutex<HostRates>>;

/// The rates of all hosts: each has one second's worth at first, and never more.
#[derive(Debug)]
pub struct HostRates {
    per_second: u32,
    /// Microseconds from one request to the next.
    gap: i64,
    /// When each host would have its whole rate again, in microseconds since 1970.
    full_at: HashMap<HostKey, i64>,
}

impl HostRates {
    /// So many requests a second to each host, at least one.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let gap = (MICROS + i64::from(per_second) - 1) / i64::from(per_second);
        Self { per_second, gap, full_at: HashMap::new() }
    }

    /// How many requests a second there may be to each host.
    #[must_use]
    pub const fn per_second(&self) -> u32 {
        self.per_second
    }

    /// From when on a request may begin that counts for all of these.
    #[must_use]
    pub fn all_free_at(&self, keys: &[HostKey], now: Timestamp) -> Timestamp {
        keys.iter().map(|key| self.free_at(*key, now)).max().unwrap_or(now)
    }

    /// A request begins that counts for all of these, or for none of them.
    ///
    /// # Errors
    /// From when on it may.
    pub fn take_all(&mut self, keys: &[HostKey], now: Timestamp) -> Result<(), Timestamp> {
        let free_at = self.all_free_at(keys, now);
        if free_at > now {
            return Err(free_at);
        }
        keys.iter().for_each(|key| self.take(*key, now));
        Ok(())
    }

    /// How many requests may begin now.
    #[must_use]
    pub fn available(&self, key: HostKey, now: Timestamp) -> usize {
        let taken = self.full_at(key, now) - micros(now);
        usize::try_from((MICROS - taken) / self.gap).unwrap_or(0)
    }

    /// From when on one may begin; that may be now.
    #[must_use]
    pub fn free_at(&self, key: HostKey, now: Timestamp) -> Timestamp {
        let free = (self.full_at(key, now) - MICROS + self.gap).max(micros(now));
        // Rounded up: a moment earlier it would not be free.
        Timestamp::from_millis(free.saturating_add(999).div_euclid(1000)).max(now)
    }

    /// A request begins.
    pub fn take(&mut self, key: HostKey, now: Timestamp) {
        if self.full_at.len() >= HOSTS_MAX && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > micros(now));
        }
        let full_at = self.full_at(key, now) + self.gap;
        self.full_at.insert(key, full_at);
    }

    /// A clock that was set back holds nobody up for longer than the whole rate does.
    fn full_at(&self, key: HostKey, now: Timestamp) -> i64 {
        let known = self.full_at.get(&key).copied().unwrap_or(i64::MIN);
        known.clamp(micros(now), micros(now).saturating_add(MICROS))
    }
}

const fn micros(moment: Timestamp) -> i64 {
    moment.as_millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);

    fn key(organization: &str, host: Host) -> HostKey {
        HostKey::new(&OrganizationId::parse(organization).unwrap(), &host)
    }

    fn at(text: &str) -> Host {
        Host::at(text.parse().unwrap())
    }

    /// How many begin within so many milliseconds, if each begins as soon as it may.
    fn within(rates: &mut HostRates, key: HostKey, millis: u64) -> usize {
        let (mut now, end, mut count) = (START, START + Duration::from_millis(millis), 0);
        while now < end {
            for _ in 0..rates.available(key, now) {
                rates.take(key, now);
                count += 1;
            }
            now = rates.free_at(key, now).max(now + Duration::from_millis(1));
        }
        count
    }

    #[test]
    fn a_second_worth_may_begin_at_once_and_then_as_many_as_the_rate_says() {
        for (per_second, millis, most) in
            [(1, 10_000, 10), (10, 1, 10), (10, 10_000, 109), (1000, 3000, 3999)]
        {
            let count = within(&mut HostRates::new(per_second), key("acme", at("8.8.8.8")), millis);
            let least = most - most / 20;
            assert!((least..=most).contains(&count), "{per_second}/s for {millis} ms: {count}");
        }
    }

    #[test]
    fn each_host_and_each_organization_has_its_own_rate() {
        let mut rates = HostRates::new(1);
        let (one, other) = (key("acme", at("8.8.8.8")), key("other", at("8.8.8.8")));
        rates.take(one, START);
        assert_eq!(
            (rates.available(one, START), rates.free_at(one, START)),
            (0, START + Duration::from_secs(1))
        );
        assert_eq!((rates.available(other, START), rates.free_at(other, START)), (1, START));
        assert_eq!(rates.available(key("acme", at("8.8.4.4")), START), 1);
        assert_eq!(rates.available(key("acme", Host::Name("dns.google".into())), START), 1);
    }

    #[test]
    fn a_request_counts_for_everybody_whom_it_could_hit_or_for_nobody() {
        let mut rates = HostRates::new(1);
        let (name, victim, other) = (
            key("acme", Host::Name("a.example".into())),
            key("acme", at("8.8.8.8")),
            key("acme", at("8.8.4.4")),
        );
        assert_eq!(rates.take_all(&[name, victim], START), Ok(()));
        let second = START + Duration::from_secs(1);
        // Another name of the victim, and another address of the name.
        assert_eq!(rates.take_all(&[other, victim], START), Err(second));
        assert_eq!(rates.take_all(&[other, name], START), Err(second));
        assert_eq!(rates.take_all(&[other], START), Ok(()), "a refused request has counted for nobody");
        assert_eq!(rates.take_all(&[], START), Ok(()));
    }

    #[test]
    fn addresses_of_one_site_are_one_host() {
        assert_eq!(at("::ffff:8.8.8.8"), at("8.8.8.8"));
        assert_eq!(at("2606:4700::1"), at("2606:4700::2:3:4:5"));
        assert_ne!(at("2606:4700:0:1::1"), at("2606:4700:0:2::1"));
    }

    #[test]
    fn a_clock_that_goes_back_holds_nobody_up_for_longer_than_a_second() {
        let mut rates = HostRates::new(10);
        let key = key("acme", at("8.8.8.8"));
        (0..10).for_each(|_| rates.take(key, START + Duration::from_secs(3600)));
        assert!(rates.free_at(key, START) <= START + Duration::from_secs(1));
    }

    #[test]
    fn hosts_that_have_their_whole_rate_again_are_forgotten() {
        let mut rates = HostRates::new(1000);
        for number in 0..2 * u32::try_from(HOSTS_MAX).unwrap() {
            let host = key("acme", Host::Name(number.to_string()));
            rates.take(host, START + Duration::from_millis(number.into()));
        }
        assert!(rates.full_at.len() <= HOSTS_MAX);
    }
}
