//! The tables against the registries' rows, written down once more, and at the edges of each range.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::policy::address::is_public;

/// The IANA IPv4 special-purpose address registry, row by row, then multicast (RFC 5771).
const REGISTRY_V4: &str = "
    0.0.0.0/8           This network                      RFC 791
    0.0.0.0/32          This host on this network         RFC 1122
    10.0.0.0/8          Private-Use                       RFC 1918
    100.64.0.0/10       Shared Address Space              RFC 6598
    127.0.0.0/8         Loopback                          RFC 1122
    169.254.0.0/16      Link Local                        RFC 3927
    172.16.0.0/12       Private-Use                       RFC 1918
    192.0.0.0/24        IETF Protocol Assignments         RFC 6890
    192.0.0.0/29        IPv4 Service Continuity Prefix    RFC 7335
    192.0.0.8/32        IPv4 dummy address                RFC 7600
    192.0.0.9/32        Port Control Protocol Anycast     RFC 7723
    192.0.0.10/32       TURN Anycast                      RFC 8155
    192.0.0.170/32      NAT64/DNS64 Discovery             RFC 8880
    192.0.0.171/32      NAT64/DNS64 Discovery             RFC 8880
    192.0.2.0/24        Documentation (TEST-NET-1)        RFC 5737
    192.31.196.0/24     AS112-v4                          RFC 7535
    192.52.193.0/24     AMT                               RFC 7450
    192.88.99.0/24      6to4 Relay Anycast (deprecated)   RFC 7526
    192.88.99.2/32      6a44-relay anycast address        RFC 6751
    192.168.0.0/16      Private-Use                       RFC 1918
    192.175.48.0/24     Direct Delegation AS112 Service   RFC 7534
    198.18.0.0/15       Benchmarking                      RFC 2544
    198.51.100.0/24     Documentation (TEST-NET-2)        RFC 5737
    203.0.113.0/24      Documentation (TEST-NET-3)        RFC 5737
    240.0.0.0/4         Reserved                          RFC 1112
    255.255.255.255/32  Limited Broadcast                 RFC 919
    224.0.0.0/4         Multicast                         RFC 5771";

/// The IANA IPv6 special-purpose address registry, row by row, but for the two ranges that are IPv4 in other
/// clothes (`::ffff:0:0/96`, `64:ff9b::/96`); then what RFC 4291 and RFC 3879 reserve.
const REGISTRY_V6: &str = "
    ::1/128             Loopback Address                  RFC 4291
    ::/128              Unspecified Address               RFC 4291
    64:ff9b:1::/48      IPv4-IPv6 Translation             RFC 8215
    100::/64            Discard-Only Address Block        RFC 6666
    100:0:0:1::/64      Dummy IPv6 Prefix                 RFC 9780
    2001::/23           IETF Protocol Assignments         RFC 2928
    2001::/32           TEREDO                            RFC 4380
    2001:1::1/128       Port Control Protocol Anycast     RFC 7723
    2001:1::2/128       TURN Anycast                      RFC 8155
    2001:1::3/128       DNS-SD SRP Anycast                RFC 9665
    2001:2::/48         Benchmarking                      RFC 5180
    2001:3::/32         AMT                               RFC 7450
    2001:4:112::/48     AS112-v6                          RFC 7535
    2001:10::/28        ORCHID (deprecated)               RFC 4843
    2001:20::/28        ORCHIDv2                          RFC 7343
    2001:30::/28        Drone Remote ID Entity Tags       RFC 9374
    2001:db8::/32       Documentation                     RFC 3849
    2002::/16           6to4                              RFC 3056
    2620:4f:8000::/48   Direct Delegation AS112 Service   RFC 7534
    3fff::/20           Documentation                     RFC 9637
    5f00::/16           Segment Routing (SRv6) SIDs       RFC 9602
    fc00::/7            Unique-Local                      RFC 4193
    fe80::/10           Link-Local Unicast                RFC 4291
    ::/96               IPv4-compatible                   RFC 4291
    ::ffff:0:0:0/96     IPv4-translated                   RFC 2765
    fec0::/10           Site-Local (deprecated)           RFC 3879
    ff00::/8            Multicast                         RFC 4291
    ::/3                outside of what is allocated      RFC 4291
    4000::/2            outside of what is allocated      RFC 4291
    8000::/1            outside of what is allocated      RFC 4291";

fn rows_v4() -> Vec<Ipv4Net> {
    REGISTRY_V4.lines().filter_map(|row| row.split_whitespace().next()?.parse().ok()).collect()
}

fn rows_v6() -> Vec<Ipv6Net> {
    REGISTRY_V6.lines().filter_map(|row| row.split_whitespace().next()?.parse().ok()).collect()
}

/// What the registry says: in no row, and no metadata service.
fn is_global_v4(ip: Ipv4Addr) -> bool {
    !rows_v4().iter().any(|row| row.contains(&ip)) && ip != Ipv4Addr::new(168, 63, 129, 16)
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    !rows_v6().iter().any(|row| row.contains(&ip))
}

#[test]
fn the_rows_are_all_read() {
    assert_eq!((rows_v4().len(), rows_v6().len()), (27, 30));
}

#[test]
fn the_first_and_the_last_address_of_every_ipv4_row_are_refused_and_their_neighbours_by_their_own_rows() {
    for row in rows_v4() {
        let (first, last) = (u32::from(row.network()), u32::from(row.broadcast()));
        for inside in [first, first + (last - first) / 2, last].map(Ipv4Addr::from) {
            assert!(!is_public(inside.into()), "{inside} of {row} passed");
        }
        let around = [first.checked_sub(1), last.checked_add(1)].into_iter().flatten().map(Ipv4Addr::from);
        for neighbour in around {
            assert_eq!(is_public(neighbour.into()), is_global_v4(neighbour), "{neighbour} beside {row}");
        }
    }
}

#[test]
fn the_first_and_the_last_address_of_every_ipv6_row_are_refused_and_their_neighbours_by_their_own_rows() {
    for row in rows_v6() {
        let (first, last) = (u128::from(row.network()), u128::from(row.broadcast()));
        for inside in [first, first + (last - first) / 2, last].map(Ipv6Addr::from) {
            assert!(!is_public(inside.into()), "{inside} of {row} passed");
        }
        let around = [first.checked_sub(1), last.checked_add(1)].into_iter().flatten().map(Ipv6Addr::from);
        for neighbour in around {
            assert_eq!(is_public(neighbour.into()), is_global_v6(neighbour), "{neighbour} beside {row}");
        }
    }
}

#[test]
fn neighbours_that_pass_are_there_on_both_sides() {
    // So that the two tests above can't be true of a policy that refuses everything.
    for ip in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "168.63.129.15",
        "168.63.129.17",
        "2000::",
        "2001:200::",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db9::",
        "2003::",
        "2620:4f:7fff::1",
        "2620:4f:8001::1",
        "3ffe:ffff::1",
        "3fff:1000::1",
        "2a00:1450:4001::200e",
    ] {
        assert!(is_public(ip.parse().unwrap()), "{ip} was refused");
    }
}

#[test]
fn an_ipv4_address_is_found_in_every_form_in_which_ipv6_carries_it() {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let inner = Ipv4Addr::new(10, 1, 2, 3);
    for is in ["::ffff:10.1.2.3", "64:ff9b::10.1.2.3"] {
        assert_eq!(carried(ip(is)), Carried::Is(inner), "{is}");
    }
    for leads_to in [
        "::10.1.2.3",
        "::ffff:0:10.1.2.3",
        "2002:a01:203::1",
        "2606:4700::5efe:10.1.2.3",
        "2606:4700::200:5efe:10.1.2.3",
    ] {
        assert_eq!(carried(ip(leads_to)), Carried::LeadsTo([inner; 2]), "{leads_to}");
    }
    // RFC 4380, section 4: the server 65.54.227.120 and the client 192.0.2.45.
    let teredo = [Ipv4Addr::new(65, 54, 227, 120), Ipv4Addr::new(192, 0, 2, 45)];
    assert_eq!(carried(ip("2001:0:4136:e378:8000:63bf:3fff:fdd2")), Carried::LeadsTo(teredo));
    // RFC 6052, section 2.4, with the local prefix: 192.0.2.33 behind 48, 56, 64 and 96 bits.
    for (text, place) in [
        ("64:ff9b:1:c000:2:2100::", 0),
        ("64:ff9b:1:c0:0:221::", 1),
        ("64:ff9b:1:0:c0:2:2100::", 2),
        ("64:ff9b:1::192.0.2.33", 3),
    ] {
        let Carried::MayLeadTo(readings) = carried(ip(text)) else { panic!("{text}") };
        assert_eq!(readings[place], Ipv4Addr::new(192, 0, 2, 33), "{text}");
    }
    for own in ["::", "::1", "2606:4700::1111", "fe80::1"] {
        assert_eq!(carried(ip(own)), Carried::Nothing, "{own}");
    }
}

proptest! {
    #[test]
    fn any_ipv4_address_is_public_as_the_registry_says_and_so_is_each_form_that_is_the_same(bits: u32) {
        let ip = Ipv4Addr::from(bits);
        let expected = is_global_v4(ip);
        prop_assert_eq!(is_public(IpAddr::V4(ip)), expected);
        prop_assert_eq!(is_public(ip.to_ipv6_mapped().into()), expected);
        let nat64 = u128::from(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)) | u128::from(bits);
        prop_assert_eq!(is_public(Ipv6Addr::from(nat64).into()), expected);
    }

    #[test]
    fn any_ipv6_address_that_passes_is_in_no_row(bits: u128) {
        let ip = Ipv6Addr::from(bits);
        if is_public(ip.into()) {
            prop_assert!(is_global_v6(ip));
        }
        // Most of all addresses are outside of 2000::/3; these are inside.
        let inside = Ipv6Addr::from((bits >> 3) | (1 << 125));
        if carried(inside) == Carried::Nothing {
            prop_assert_eq!(is_public(inside.into()), is_global_v6(inside));
        }
    }
}
