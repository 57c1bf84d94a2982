//! Which addresses are special: the tables, and which IPv4 addresses an IPv6 address carries.
//!
//! Sources: the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890, as of 2025), every row of
//! them, also those that are globally reachable: they are anycast services of the network itself, where no
//! receiver lives. Besides: multicast (RFC 5771, RFC 4291), site-local (RFC 3879), and of IPv6 all that is
//! outside of 2000::/3, since nothing there is global unicast yet. `special_tests.rs` holds the registries'
//! rows once more, and compares.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Ranges of IPv4 that are not global unicast.
const SPECIAL_V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 8), "of this network (RFC 791)"),
    (v4(10, 0, 0, 0, 8), "private (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "loopback (RFC 1122)"),
    (v4(169, 254, 0, 0, 16), "link-local (RFC 3927)"),
    (v4(172, 16, 0, 0, 12), "private (RFC 1918)"),
    (v4(192, 0, 0, 0, 24), "for protocols (RFC 6890)"),
    (v4(192, 0, 2, 0, 24), "for documentation (RFC 5737)"),
    (v4(192, 31, 196, 0, 24), "of AS112 (RFC 7535)"),
    (v4(192, 52, 193, 0, 24), "for multicast tunnels (RFC 7450)"),
    (v4(192, 88, 99, 0, 24), "of a 6to4 relay (RFC 7526)"),
    (v4(192, 168, 0, 0, 16), "private (RFC 1918)"),
    (v4(192, 175, 48, 0, 24), "of AS112 (RFC 7534)"),
    (v4(198, 18, 0, 0, 15), "for benchmarks (RFC 2544)"),
    (v4(198, 51, 100, 0, 24), "for documentation (RFC 5737)"),
    (v4(203, 0, 113, 0, 24), "for documentation (RFC 5737)"),
    (v4(224, 0, 0, 0, 4), "multicast (RFC 5771)"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112)"),
];

/// Ranges of IPv6 with a name of their own. Whatever else is outside [`GLOBAL_V6`] is special as well.
const SPECIAL_V6: [(Ipv6Net, &str); 17] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "IPv4-compatible (RFC 4291)"),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "IPv4-translated (RFC 2765)"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "for local translation (RFC 8215)"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discarded (RFC 6666)"),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), "a dummy (RFC 9780)"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "for protocols (RFC 2928)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "for documentation (RFC 3849)"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4 (RFC 3056)"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "of AS112 (RFC 7534)"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "for documentation (RFC 9637)"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "for segment routing (RFC 9602)"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "private (RFC 4193)"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local (RFC 4291)"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local (RFC 3879)"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast (RFC 4291)"),
];

/// All that is global unicast so far (RFC 4291, section 2.4, and the IANA registry).
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Where clouds hand out credentials to whoever asks from inside. No receiver lives there, so no allowed
/// range opens them: a range like `169.254.0.0/16` or `10.0.0.0/8` is never meant to.
const METADATA_V4: [Ipv4Net; 7] = [
    v4(169, 254, 169, 0, 24), // AWS, Azure, Google, Hetzner, DigitalOcean, OpenStack, Oracle
    v4(169, 254, 170, 0, 24), // AWS: credentials of ECS tasks and of EKS pods
    v4(169, 254, 0, 23, 32),  // Tencent
    v4(169, 254, 42, 42, 32), // Scaleway
    v4(100, 100, 100, 200, 32), // Alibaba
    v4(192, 0, 0, 192, 32),   // Oracle
    v4(168, 63, 129, 16, 32), // Azure's host; a global address by its number
];

/// The same for IPv6. All are local addresses, so they matter where an allowed range has them.
const METADATA_V6: [Ipv6Addr; 8] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // AWS
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),  // AWS EKS
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),   // Scaleway
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), // Oracle (OCI)
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1), // Akamai (Linode): "Use the Metadata service API"
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200), // Alibaba
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), // OpenStack (Neutron), Akamai
];

/// The names of the same services. Where we look names up their addresses are refused anyway; a forward
/// proxy looks them up itself.
const METADATA_HOSTS: [&str; 9] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "rancher-metadata",
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What kind of special address it is, looking at nothing that it carries; `None` for global unicast.
#[must_use]
pub fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().find(|(range, _)| range.contains(&ip)).map(|(_, kind)| *kind),
        IpAddr::V6(ip) => {
            let named = SPECIAL_V6.iter().find(|(range, _)| range.contains(&ip)).map(|(_, kind)| *kind);
            let nameless = || (!GLOBAL_V6.contains(&ip)).then_some("not global unicast (RFC 4291)");
            named.or_else(nameless)
        }
    }
}

/// Whether the address itself is that of a cloud's metadata service.
#[must_use]
pub fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => METADATA_V4.iter().any(|range| range.contains(&ip)),
        IpAddr::V6(ip) => METADATA_V6.contains(&ip),
    }
}

/// Whether the name, in lower case and without a dot at its end, is that of a metadata service.
#[must_use]
pub fn is_metadata_host(host: &str) -> bool {
    METADATA_HOSTS.contains(&host)
}

/// The IPv4 addresses inside an IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// It is an address of its own.
    Nothing,
    /// It *is* this one: packets go there as IPv4, from here or from the translator of an IPv6-only network.
    Is(Ipv4Addr),
    /// It is an address of its own, from which packets go on to these.
    LeadsTo([Ipv4Addr; 2]),
    /// It may lead to any of these, by the length of the translator's prefix, which nobody but the operator
    /// knows (RFC 6052, section 2.2).
    MayLeadTo([Ipv4Addr; 4]),
}

/// What an IPv6 address carries.
#[must_use]
pub fn carried(ip: Ipv6Addr) -> Carried {
    let two = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        // The unspecified address and loopback are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Carried::Nothing,
        // Mapped (RFC 4291), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, g, h] | [0x64, 0xff9b, 0, 0, 0, 0, g, h] => Carried::Is(two(g, h)),
        // Compatible (RFC 4291), translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, g, h] | [0, 0, 0, 0, 0xffff, 0, g, h] => Carried::LeadsTo([two(g, h); 2]),
        // 6to4 (RFC 3056).
        [0x2002, b, c, ..] => Carried::LeadsTo([two(b, c); 2]),
        // Teredo (RFC 4380): the relaying server, and the client with all its bits turned over.
        [0x2001, 0, c, d, _, _, g, h] => Carried::LeadsTo([two(c, d), two(!g, !h)]),
        // Local NAT64 (RFC 8215), where the octet of bits 64 to 71 is passed over.
        [0x64, 0xff9b, 1, d, e, f, g, h] => {
            let from_48 = two(d, (e << 8) | (f >> 8));
            let from_56 = two((d << 8) | (e & 0xff), f);
            let from_64 = two((e << 8) | (f >> 8), (f << 8) | (g >> 8));
            Carried::MayLeadTo([from_48, from_56, from_64, two(g, h)])
        }
        // ISATAP (RFC 5214), below whatever prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, g, h] => Carried::LeadsTo([two(g, h); 2]),
        _ => Carried::Nothing,
    }
}

#[cfg(test)]
#[path = "special_tests.rs"]
mod tests;
