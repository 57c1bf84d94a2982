use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(list: &str) -> impl Iterator<Item = IpAddr> {
    list.split_whitespace().map(ip)
}

fn ranges(list: &str) -> Vec<IpNet> {
    list.split_whitespace().map(|text| text.parse().unwrap()).collect()
}

fn allowing(list: &str) -> AddressPolicy {
    AddressPolicy { allow: ranges(list), ..AddressPolicy::default() }
}

/// Special addresses out of the tables of known guards against forged requests: stripe/smokescreen's
/// classifier, ssrf-req-filter, request-filtering-agent, private-ip, and cujanovic/SSRF-Testing.
const BAD: &str = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 \
    127.255.255.254 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 \
    192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 \
    239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 100.100.100.200 192.0.0.192 \
    :: ::1 ::127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:192.168.1.1 \
    64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2002:c0a8:101::1 \
    2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::f5ff:fffe \
    2001:2::1 2001:10::1 2001:20::1 2001:db8::1 3fff::1 100::1 fc00::1 fd00:ec2::254 fd12::1 \
    fe80::1 fec0::1 ff02::1 5f00::1 4000::1 ::8.8.8.8 2002:808:808::1 2001:0:808:808::f7f7:f7f7 \
    2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:169.254.169.254 2620:4f:8000::1 192.31.196.1";

const GOOD: &str = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 2606:4700::1111 2a00:1450:4001::200e \
    2001:4860:4860::8888 2400:cb00::1 ::ffff:8.8.8.8 64:ff9b::808:808 2606:4700::5efe:8.8.8.8";

#[test]
fn only_global_unicast_addresses_pass_by_default() {
    let policy = AddressPolicy::default();
    for ip in addresses(BAD) {
        assert!(policy.check_address(ip).is_err(), "{ip} passed");
    }
    for ip in addresses(GOOD) {
        assert_eq!(policy.check_address(ip), Ok(()), "{ip} was refused");
    }
    assert_eq!((addresses(BAD).count(), addresses(GOOD).count()), (62, 11));
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
fn an_allowed_range_opens_its_addresses_in_each_form_that_is_the_same_and_no_others() {
    let policy = allowing("10.0.0.0/8 127.0.0.0/8");
    for ip in addresses("10.1.2.3 127.0.0.1 ::ffff:10.1.2.3 64:ff9b::a01:203") {
        assert_eq!(policy.check_address(ip), Ok(()), "{ip}");
    }
    for ip in addresses("192.168.0.1 ::1 fd00::1 ::ffff:192.168.0.1 2002:a01:203:: ::10.1.2.3") {
        assert!(policy.check_address(ip).is_err(), "{ip}");
    }
    let tunnels = allowing("2002::/16 2001::/32");
    assert_eq!(tunnels.check_address(ip("2002:808:808::1")), Ok(()));
    assert!(tunnels.check_address(ip("2002:a01:203::1")).is_err(), "what a tunnel leads to must pass, too");
    assert!(tunnels.check_address(ip("2001:0:808:808::f5ff:fffe")).is_err());
}

#[test]
fn metadata_services_and_the_unspecified_address_stay_closed_even_inside_an_allowed_range() {
    let policy = allowing("0.0.0.0/0 ::/0");
    let closed = "169.254.169.254 169.254.169.253 169.254.170.2 169.254.170.23 169.254.0.23 169.254.42.42 \
        100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 \
        fd00:c1::a9fe:a9fe fd00:a9fe:a9fe::1 fd00:100::100:200 fe80::a9fe:a9fe \
        ::ffff:169.254.169.254 ::169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: ::ffff:0:169.254.169.254 \
        64:ff9b:1::a9fe:a9fe 64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:a9:fe:a9fe:: 64:ff9b:1:0:a9:fea9:fe00:: \
        2606:4700::5efe:169.254.169.254";
    for ip in addresses(closed) {
        assert!(policy.check_address(ip).unwrap_err().contains("metadata"), "{ip}");
    }
    for ip in addresses("0.0.0.0 :: ::ffff:0.0.0.0") {
        assert!(policy.check_address(ip).is_err(), "{ip}");
    }
    for ip in addresses("127.0.0.1 ::1 10.0.0.1 fd00::1 169.254.1.1 64:ff9b:1::a01:203 2002:a01:203::") {
        assert_eq!(policy.check_address(ip), Ok(()), "{ip}");
    }
}

#[test]
fn what_the_operator_denies_stays_closed_in_every_form_whatever_is_allowed() {
    let policy = AddressPolicy { deny: ranges("8.8.8.0/24 2606:4700::/32"), ..allowing("0.0.0.0/0 ::/0") };
    for ip in addresses("8.8.8.8 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808:: 2606:4700::1111") {
        assert!(policy.check_address(ip).unwrap_err().contains("operator"), "{ip}");
    }
    assert_eq!(policy.check_address(ip("8.8.4.4")), Ok(()));
    // A whole prefix of a translator, whose addresses are something else by their numbers.
    let translator = AddressPolicy { deny: ranges("64:ff9b::/96"), ..AddressPolicy::default() };
    assert!(translator.check_address(ip("64:ff9b::808:808")).is_err());
}

#[test]
fn our_own_listeners_are_never_called_also_where_they_are_bound_to_every_address() {
    let own = |listener: &str| AddressPolicy {
        own_listeners: vec![listener.parse().unwrap()],
        ..allowing("0.0.0.0/0 ::/0")
    };
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let local = |ip: IpAddr| ip.is_loopback() || ip == self::ip("192.168.7.7");
    let one = own("127.0.0.1:8080");
    for address in ["127.0.0.1:8080", "[::ffff:127.0.0.1]:8080"] {
        assert!(one.check_own(at(address), local).unwrap_err().contains("itself"), "{address}");
    }
    for address in ["127.0.0.1:8081", "127.0.0.2:8080", "192.168.7.7:8080"] {
        assert_eq!(one.check_own(at(address), local), Ok(()), "{address}");
    }
    for wildcard in ["0.0.0.0:8080", "[::]:8080"] {
        for address in ["127.0.0.1:8080", "127.9.9.9:8080", "[::1]:8080", "192.168.7.7:8080"] {
            assert!(own(wildcard).check_own(at(address), local).is_err(), "{address} at {wildcard}");
        }
        for address in ["192.168.7.8:8080", "127.0.0.1:8081", "8.8.8.8:8080"] {
            assert_eq!(own(wildcard).check_own(at(address), local), Ok(()), "{address} at {wildcard}");
        }
    }
    assert!(one.is_own_port(8080) && !one.is_own_port(8081));
}

#[test]
fn ports_pass_as_the_operator_says() {
    let open = AddressPolicy::default();
    assert_eq!(open.check_port(8443), Ok(()));
    assert!(open.check_port(0).is_err());
    let strict = AddressPolicy { allowed_ports: Some(vec![443, 8443]), ..AddressPolicy::default() };
    assert_eq!(strict.check_port(443), Ok(()));
    assert!(strict.check_port(22).unwrap_err().contains("443, 8443"));
}

#[test]
fn a_denied_host_is_denied_in_capitals_with_a_dot_at_its_end_and_with_all_names_below_it() {
    let strict = AddressPolicy { deny_hosts: vec!["corp.example".into()], ..AddressPolicy::default() };
    for host in ["corp.example", "CORP.example.", "db.corp.example", "a.b.Corp.Example", "corp.example..."] {
        assert!(strict.check_host(host).is_err(), "{host}");
    }
    for host in ["mycorp.example", "example", "corp.example.org"] {
        assert_eq!(strict.check_host(host), Ok(()), "{host}");
    }
}

#[test]
fn names_that_mean_this_machine_or_a_metadata_service_are_known_without_a_look_up() {
    let policy = allowing("10.0.0.0/8");
    for host in ["metadata.google.internal", "Metadata.Google.Internal.", "metadata", "instance-data"] {
        assert!(policy.check_host(host).unwrap_err().contains("metadata"), "{host}");
    }
    for host in ["localhost", "LOCALHOST.", "a.localhost"] {
        assert!(policy.check_host(host).unwrap_err().contains("loopback"), "{host}");
        assert_eq!(allowing("127.0.0.0/8").check_host(host), Ok(()), "{host}");
        assert_eq!(allowing("::1/128").check_host(host), Ok(()), "{host}");
    }
    for host in ["notlocalhost", "localhost.example", "mymetadata.goog"] {
        assert_eq!(policy.check_host(host), Ok(()), "{host}");
    }
}
