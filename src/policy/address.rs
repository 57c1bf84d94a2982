//! Which addresses may be called.
//!
//! Pure, and asked at two places: for a literal in the URL before each attempt, and for each address that
//! the resolver finds. Without configuration only global unicast addresses pass, so a destination can't
//! reach the operator's own machines (server-side request forgery). Sources: the IANA special-purpose
//! registries (RFC 6890) for the ranges; the clouds' manuals for the metadata addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses, hosts and ports may be called.
///
/// The default is what the internet needs and no more: global unicast addresses, any port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    /// Ranges that pass although they are special: private networks, loopback for tests.
    pub allow: Vec<IpNet>,
    /// Host names that never pass, with all names below them; in lower case, no trailing dot.
    pub deny_hosts: Vec<String>,
    /// The only ports that pass; `None` is any.
    pub allowed_ports: Option<Vec<u16>>,
}

/// Ranges of IPv4 that are not global unicast.
const SPECIAL_V4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 0, 8), "of this network (RFC 791)"),
    (v4(10, 0, 0, 0, 8), "private (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "loopback (RFC 1122)"),
    (v4(169, 254, 0, 0, 16), "link-local (RFC 3927)"),
    (v4(172, 16, 0, 0, 12), "private (RFC 1918)"),
    (v4(192, 0, 0, 0, 24), "for protocols (RFC 6890)"),
    (v4(192, 0, 2, 0, 24), "for documentation (RFC 5737)"),
    (v4(192, 88, 99, 0, 24), "of a 6to4 relay (RFC 7526)"),
    (v4(192, 168, 0, 0, 16), "private (RFC 1918)"),
    (v4(198, 18, 0, 0, 15), "for benchmarks (RFC 2544)"),
    (v4(198, 51, 100, 0, 24), "for documentation (RFC 5737)"),
    (v4(203, 0, 113, 0, 24), "for documentation (RFC 5737)"),
    (v4(224, 0, 0, 0, 4), "multicast (RFC 5771)"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112)"),
];

/// Ranges of IPv6 with a name of their own. Whatever else is outside [`GLOBAL_V6`] doesn't pass either.
const SPECIAL_V6: [(Ipv6Net, &str); 9] = [
    (v6(Ipv6Addr::UNSPECIFIED, 128), "unspecified (RFC 4291)"),
    (v6(Ipv6Addr::LOCALHOST, 128), "loopback (RFC 4291)"),
    (v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7), "private (RFC 4193)"),
    (v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local (RFC 4291)"),
    (v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "multicast (RFC 4291)"),
    (v6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48), "for local translation (RFC 8215)"),
    (v6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), "for protocols (RFC 2928)"),
    (v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), "for documentation (RFC 3849)"),
    (v6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), "for documentation (RFC 9637)"),
];

/// All that is global unicast so far (RFC 4291, section 2.4, and the IANA registry).
const GLOBAL_V6: Ipv6Net = v6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Where clouds hand out credentials to whoever asks from inside. No receiver lives there, so no allowed
/// range opens them: a range like `169.254.0.0/16` or `10.0.0.0/8` is never meant to.
const METADATA_V4: [Ipv4Addr; 8] = [
    Ipv4Addr::new(169, 254, 169, 254), // AWS, Azure, Google, Hetzner, DigitalOcean, OpenStack
    Ipv4Addr::new(169, 254, 170, 2),   // AWS ECS: credentials of a task
    Ipv4Addr::new(169, 254, 170, 23),  // AWS EKS: credentials of a pod
    Ipv4Addr::new(169, 254, 0, 23),    // Tencent
    Ipv4Addr::new(169, 254, 42, 42),   // Scaleway
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle
    Ipv4Addr::new(168, 63, 129, 16),   // Azure's host; a global address by its number
];

/// The same for IPv6.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // AWS
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),  // AWS EKS
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),   // Scaleway
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, prefix)
}

impl AddressPolicy {
    /// Whether a connection to this address may be opened.
    ///
    /// An IPv6 address that carries an IPv4 address is judged by what it carries, for that is where the
    /// packets go.
    ///
    /// # Errors
    /// A sentence for people that says why not; it never names the address.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), String> {
        match ip {
            IpAddr::V4(ip) => self.check_v4(ip),
            IpAddr::V6(ip) => match carried_v4(ip) {
                Carried::Nothing => self.check_v6(ip),
                Carried::One(inner) => self.check_v4(inner),
                Carried::Two(first, second) => self.check_v4(first).and_then(|()| self.check_v4(second)),
            },
        }
    }

    /// Whether this port may be called.
    ///
    /// # Errors
    /// A sentence for people that names the ports that pass.
    pub fn check_port(&self, port: u16) -> Result<(), String> {
        match &self.allowed_ports {
            Some(ports) if !ports.contains(&port) => {
                let names = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                Err(format!("port {port} is not allowed here; allowed are: {names}"))
            }
            _ if port == 0 => Err("port 0 can't be called; use a port from 1 to 65535".into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this host name may be called, as far as the name alone tells.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn check_host(&self, host: &str) -> Result<(), String> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_denied = self.deny_hosts.iter().any(|denied| is_at_or_below(&host, denied));
        if is_denied { Err("the operator's policy does not allow this host".into()) } else { Ok(()) }
    }

    fn check_v4(&self, ip: Ipv4Addr) -> Result<(), String> {
        if METADATA_V4.contains(&ip) {
            return Err(metadata());
        }
        match SPECIAL_V4.iter().find(|(range, _)| range.contains(&ip)) {
            Some((_, kind)) if !self.is_allowed(IpAddr::V4(ip)) => Err(special(kind)),
            _ => Ok(()),
        }
    }

    fn check_v6(&self, ip: Ipv6Addr) -> Result<(), String> {
        if METADATA_V6.contains(&ip) {
            return Err(metadata());
        }
        if self.is_allowed(IpAddr::V6(ip)) {
            return Ok(());
        }
        match SPECIAL_V6.iter().find(|(range, _)| range.contains(&ip)) {
            Some((_, kind)) => Err(special(kind)),
            None if GLOBAL_V6.contains(&ip) => Ok(()),
            None => Err(special("not global unicast (RFC 4291)")),
        }
    }

    fn is_allowed(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|range| range.contains(&ip))
    }
}

/// The IPv4 addresses inside an IPv6 address.
enum Carried {
    Nothing,
    One(Ipv4Addr),
    /// Teredo: the server that relays, and the client behind it.
    Two(Ipv4Addr, Ipv4Addr),
}

fn carried_v4(ip: Ipv6Addr) -> Carried {
    let low = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        // The unspecified address and loopback are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Carried::Nothing,
        // Mapped (RFC 4291), compatible (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff | 0, g, h]
        | [0, 0, 0, 0, 0xffff, 0, g, h]
        | [0x64, 0xff9b, 0, 0, 0, 0, g, h] => Carried::One(low(g, h)),
        // 6to4 (RFC 3056).
        [0x2002, b, c, ..] => Carried::One(low(b, c)),
        // Teredo (RFC 4380): the client's address has all its bits turned over.
        [0x2001, 0, c, d, _, _, g, h] => Carried::Two(low(c, d), low(!g, !h)),
        _ => Carried::Nothing,
    }
}

fn is_at_or_below(host: &str, parent: &str) -> bool {
    host.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn special(kind: &str) -> String {
    format!("the address is {kind}; only global addresses are allowed here")
}

fn metadata() -> String {
    "the address is a cloud's metadata service, which is never called".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 \
        127.255.255.254 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 \
        192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 \
        239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 100.100.100.200 192.0.0.192 \
        :: ::1 ::127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:192.168.1.1 \
        64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2002:c0a8:101::1 \
        2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::f5ff:fffe \
        2001:2::1 2001:10::1 2001:20::1 2001:db8::1 3fff::1 100::1 fc00::1 fd00:ec2::254 fd12::1 \
        fe80::1 fec0::1 ff02::1 5f00::1 4000::1";

    const GOOD: &str = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 \
        172.32.0.0 192.0.1.1 198.17.255.255 223.255.255.255 2606:4700::1111 2a00:1450:4001::200e \
        2001:4860:4860::8888 2400:cb00::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1 \
        2001:0:808:808::f7f7:f7f7";

    fn addresses(list: &str) -> impl Iterator<Item = IpAddr> {
        list.split_whitespace().map(|text| text.parse().unwrap())
    }

    #[test]
    fn only_global_unicast_addresses_pass_by_default() {
        let policy = AddressPolicy::default();
        assert!(addresses(BAD).count() >= 44);
        for ip in addresses(BAD) {
            assert!(policy.check_address(ip).is_err(), "{ip} passed");
        }
        for ip in addresses(GOOD) {
            assert_eq!(policy.check_address(ip), Ok(()), "{ip} was refused");
        }
        assert_eq!(addresses(GOOD).count(), 19);
    }

    #[test]
    fn a_refusal_never_names_the_address() {
        let policy = AddressPolicy::default();
        for ip in addresses(BAD) {
            let problem = policy.check_address(ip).unwrap_err();
            assert!(!problem.contains(&ip.to_string()) || ip.to_string() == "::", "{problem}");
        }
    }

    #[test]
    fn an_allowed_range_opens_its_addresses_in_every_form_and_no_others() {
        let allow = vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
        let policy = AddressPolicy { allow, ..AddressPolicy::default() };
        for ip in addresses("10.1.2.3 127.0.0.1 ::ffff:10.1.2.3 64:ff9b::a01:203 2002:a01:203::") {
            assert_eq!(policy.check_address(ip), Ok(()), "{ip}");
        }
        for ip in addresses("192.168.0.1 ::1 fd00::1 ::ffff:192.168.0.1") {
            assert!(policy.check_address(ip).is_err(), "{ip}");
        }
    }

    #[test]
    fn metadata_services_stay_closed_even_inside_an_allowed_range() {
        let allow = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let policy = AddressPolicy { allow, ..AddressPolicy::default() };
        let mut all: Vec<IpAddr> = METADATA_V4.map(IpAddr::V4).into();
        all.extend(METADATA_V4.map(|ip| IpAddr::V6(ip.to_ipv6_mapped())));
        all.extend(METADATA_V6.map(IpAddr::V6));
        for ip in all {
            assert!(policy.check_address(ip).unwrap_err().contains("metadata"), "{ip}");
        }
        for ip in addresses("127.0.0.1 ::1 10.0.0.1 fd00::1 169.254.1.1") {
            assert_eq!(policy.check_address(ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn ports_and_hosts_pass_as_the_operator_says() {
        let open = AddressPolicy::default();
        assert_eq!(open.check_port(8443), Ok(()));
        assert!(open.check_port(0).is_err());
        let strict = AddressPolicy {
            deny_hosts: vec!["corp.example".into()],
            allowed_ports: Some(vec![443, 8443]),
            ..AddressPolicy::default()
        };
        assert_eq!(strict.check_port(443), Ok(()));
        assert!(strict.check_port(22).unwrap_err().contains("443, 8443"));
        for host in ["corp.example", "CORP.example.", "db.corp.example"] {
            assert!(strict.check_host(host).is_err(), "{host}");
        }
        for host in ["mycorp.example", "example"] {
            assert_eq!(strict.check_host(host), Ok(()), "{host}");
        }
    }
}
