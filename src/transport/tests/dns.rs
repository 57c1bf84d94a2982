//! Names: a DNS server of our own on loopback, which lies, changes its mind, is slow, or says nothing.
//!
//! The server speaks DNS over UDP, and so does the look-up that stands in for the system's: what is tried is
//! all that lies between an answer of a resolver and the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::domain::contract::Contract;
use crate::domain::destination::{Destination, DestinationState, DestinationUrl};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::policy::host_rate::{Host, HostRates};
use crate::transport::account::Account;
use crate::transport::courier::Courier;
use crate::transport::resolve::{LookUp, NameSource};

/// Answers the questions for IPv4 addresses, one list after the other; the last one again and again.
struct DnsServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl DnsServer {
    fn answering(script: &[&[&str]]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let mut script: Vec<Vec<Ipv4Addr>> =
            script.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).rev().collect();
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                noted.lock().unwrap().push(question(&query[..length]));
                let addresses = script.last().unwrap().clone();
                if script.len() > 1 {
                    script.pop();
                }
                socket.send_to(&response(&query[..length], &addresses), from).unwrap();
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// A transport that looks names up here, with or without loopback allowed.
    fn transport(&self, policy: AddressPolicy) -> HttpTransport {
        let names = NameSource { look_up: Arc::new(DnsClient(self.address)), timeout: LONG };
        transport(HttpOptions { names, address_policy: Arc::new(policy), ..options() })
    }
}

/// The name in a query (RFC 1035, section 4.1.2).
fn question(query: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut rest = &query[12..];
    while rest[0] > 0 {
        let (label, after) = rest[1..].split_at(usize::from(rest[0]));
        labels.push(String::from_utf8(label.to_vec()).unwrap());
        rest = after;
    }
    labels.join(".")
}

/// The response to a query: its question again, and an A record for each address, not to be kept (TTL 0).
fn response(query: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let count = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    let mut response = query.to_vec();
    // A response, recursion available; no name of that kind where there is no address.
    response[2..4].copy_from_slice(&[0x81, if addresses.is_empty() { 0x83 } else { 0x80 }]);
    response[6..8].copy_from_slice(&count);
    for address in addresses {
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        response.extend(address.octets());
    }
    response
}

/// Asks a DNS server for IPv4 addresses.
#[derive(Debug)]
struct DnsClient(SocketAddr);

#[async_trait]
impl LookUp for DnsClient {
    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        socket.send_to(&query, self.0).await?;
        let mut answer = [0; 4096];
        let (length, _) = socket.recv_from(&mut answer).await?;
        if answer[3] & 0xf == 3 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let records = answer[query.len()..length].chunks_exact(16);
        Ok(records
            .map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]).into())
            .collect())
    }
}

fn loopback_allowed() -> AddressPolicy {
    (*options().address_policy).clone()
}

/// Only 127.0.0.1 may be called, so that other addresses of loopback are the operator's network.
fn one_address_allowed() -> AddressPolicy {
    AddressPolicy { allow: vec!["127.0.0.1/32".parse().unwrap()], ..AddressPolicy::default() }
}

/// Two receivers at the same port: a harmless one at 127.0.0.1, and one inside, at 127.0.0.2.
fn outside_and_inside() -> (Receiver, Receiver) {
    let outside = Receiver::answering_once(OK);
    let port = outside.address.port();
    let inside = Receiver::serving_at(&format!("127.0.0.2:{port}"), drop);
    (outside, inside)
}

#[tokio::test]
async fn a_name_that_is_bound_to_another_address_after_its_check_gains_nothing() {
    let (outside, inside) = outside_and_inside();
    // The classic: harmless when it is checked, inside when it is used, in turn.
    let dns = DnsServer::answering(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let transport = dns.transport(one_address_allowed());
    let url = format!("http://rebind.example:{}/hook?token=planted", outside.address.port());
    assert_eq!(answer(transport.send(request(&url), within(LONG)).await).0, 200);
    assert_eq!(dns.asked(), 1, "the address that was checked is the one that was called");
    assert_eq!((outside.connections(), inside.connections()), (1, 0));
    // Once it is asked again, the name is refused, with words that do not tell where it leads.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    let detail = refused(transport.send(request(&url), within(LONG)).await);
    assert!(!detail.contains("127.0.0.2") && !detail.contains("loopback"), "{detail}");
    assert_eq!((dns.asked(), inside.connections()), (2, 0));
}

#[tokio::test]
async fn of_an_answer_with_good_and_bad_addresses_only_the_good_ones_are_called() {
    let (outside, inside) = outside_and_inside();
    let dns = DnsServer::answering(&[&["127.0.0.2", "10.0.0.1", "127.0.0.1", "169.254.169.254"]]);
    let transport = dns.transport(one_address_allowed());
    let url = format!("http://mixed.example:{}/", outside.address.port());
    assert_eq!(answer(transport.send(request(&url), within(LONG)).await).0, 200);
    assert_eq!((outside.connections(), inside.connections()), (1, 0));
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_in_the_same_words_wherever_it_leads_and_whatever_listens_there()
{
    let listening = Receiver::answering(OK);
    let (open, closed) = (listening.address.port(), 1);
    let mut words = Vec::new();
    for (address, port) in [
        ("127.0.0.1", open),
        ("127.0.0.1", closed),
        ("10.0.0.1", 443),
        ("169.254.169.254", 80),
        ("0.0.0.0", open),
    ] {
        let dns = DnsServer::answering(&[&[address]]);
        let url = format!("http://inside.example:{port}/?token=planted");
        let transport = dns.transport(AddressPolicy::default());
        words.push(refused(transport.send(request(&url), within(LONG)).await));
    }
    assert!(words.iter().all(|sentence| *sentence == words[0]), "{words:?}");
    assert_eq!(listening.connections(), 0);
}

#[tokio::test]
async fn a_name_is_never_called_at_a_port_where_we_listen_ourselves_even_where_loopback_is_allowed() {
    let ours = Receiver::answering_once(OK);
    let other = Receiver::answering_once(OK);
    let dns = DnsServer::answering(&[&["127.0.0.1"]]);
    for bound in [ours.address, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), ours.address.port())] {
        let policy = AddressPolicy { own_listeners: vec![bound], ..loopback_allowed() };
        let transport = dns.transport(policy);
        for host in ["us.example", "127.0.0.1", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{}/?token=planted", ours.address.port());
            refused(transport.send(request(&url), within(LONG)).await);
            let url = format!("http://{host}:{}/?token=planted", other.address.port());
            assert_eq!(answer(transport.send(request(&url), within(LONG)).await).0, 200, "{host}");
        }
    }
    assert_eq!(ours.connections(), 0);
}

#[tokio::test]
async fn a_name_that_has_no_address_says_so() {
    let dns = DnsServer::answering(&[&[]]);
    let transport = dns.transport(loopback_allowed());
    let sent = transport.send(request("http://gone.example/?token=planted"), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Dns, "the host name could not be resolved".into()));
    assert_eq!(*dns.asked.lock().unwrap(), ["gone.example"]);
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_is_a_dns_failure_and_says_how_long_it_was_waited_for() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let look_up = Arc::new(DnsClient(silent.local_addr().unwrap()));
    let transport = transport(HttpOptions { names: NameSource { look_up, timeout: SHORT }, ..options() });
    let sent = transport.send(request("http://slow.example/?token=planted"), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Dns, "the host name was not resolved within 0.2 s".into()));
}

#[tokio::test]
async fn a_name_with_many_addresses_is_called_at_one_that_answers_and_costs_no_more_than_a_few_tries() {
    let receiver = Receiver::answering(OK);
    // Nobody listens at the first ones: they refuse, and the next one is tried.
    let mut many = vec!["127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.1"];
    let dns = DnsServer::answering(&[&many]);
    let url = format!("http://many.example:{}/", receiver.address.port());
    assert_eq!(answer(dns.transport(loopback_allowed()).send(request(&url), within(LONG)).await).0, 200);
    // A good address behind more bad ones than are ever tried.
    many.splice(0..0, std::iter::repeat_n("127.0.0.6", 20));
    let dns = DnsServer::answering(&[&many]);
    let sent = dns.transport(loopback_allowed()).send(request(&url), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Refused, "connection refused".into()));
}

#[tokio::test]
async fn a_receiver_that_moves_is_followed_once_what_was_remembered_is_too_old() {
    let (first, second) = (Receiver::answering_once(OK), "127.0.0.7");
    let port = first.address.port();
    let second = Receiver::serving_at(&format!("{second}:{port}"), |mut stream| {
        read_request(&mut stream);
        stream.write_all(OK.as_bytes()).unwrap();
    });
    let dns = DnsServer::answering(&[&["127.0.0.1"], &["127.0.0.7"]]);
    let transport = dns.transport(loopback_allowed());
    let url = format!("http://moving.example:{port}/");
    for _ in 0..2 {
        assert_eq!(answer(transport.send(request(&url), within(LONG)).await).0, 200);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[tokio::test]
async fn a_denied_host_is_not_even_looked_up() {
    let dns = DnsServer::answering(&[&["127.0.0.1"]]);
    let policy = AddressPolicy { deny_hosts: vec!["corp.example".into()], ..loopback_allowed() };
    let transport = dns.transport(policy);
    for host in ["corp.example", "DB.corp.Example.", "localhost"] {
        let sent = transport.send(request(&format!("http://{host}:1/?token=planted")), within(LONG)).await;
        if host == "localhost" {
            assert_eq!(no_answer(sent).0, Failure::Refused, "loopback is allowed here");
        } else {
            assert!(refused(sent).contains("policy"), "{host}");
        }
    }
    assert_eq!(*dns.asked.lock().unwrap(), ["localhost"]);
}

fn destination(organization: &str, url: &str) -> Destination {
    let now = Timestamp::from_millis(784_111_777_000);
    Destination {
        id: DestinationId::make(now, [7; 10]),
        organization_id: OrganizationId::parse(organization).unwrap(),
        display_name: String::new(),
        url: DestinationUrl::parse(url, false).unwrap(),
        contract: Contract::Observer,
        subscription: Subscription::default(),
        settings: DeliverySettings::default(),
        signing: SigningSecrets { current: None, retiring: None },
        http_auth: HttpAuth::Unauthenticated,
        headers: Vec::new(),
        state: DestinationState::Active,
        created_at: now,
        updated_at: now,
        revision: 1,
    }
}

fn named(name: &str) -> Host {
    Host::Name(name.into())
}

fn hosts_at<const N: usize>(name: &str, addresses: [&str; N]) -> Vec<Host> {
    let at = addresses.map(|text| Host::at(text.parse().unwrap()));
    at.into_iter().chain([named(name)]).collect()
}

#[tokio::test]
async fn a_request_counts_for_its_name_and_every_address_behind_it_and_the_operators_own_hosts_have_no_rate()
{
    // Public addresses behind two names, in any order; nothing is sent there.
    let dns = DnsServer::answering(&[&["9.9.9.9", "9.9.9.8"], &["9.9.9.8", "1.1.1.1"], &["127.0.0.1"]]);
    let transport = dns.transport(loopback_allowed());
    let url = |name: &str| Url::parse(&format!("http://{name}:8443/")).unwrap();
    let found = async |name: &str| transport.find_third_parties(&url(name), within(LONG)).await.unwrap();
    let names = ["a.example", "b.example", "own.example"];
    for name in names {
        assert_eq!(transport.known_third_parties(&url(name)), [named(name)], "nobody knows yet");
    }
    let wanted = [
        hosts_at("a.example", ["9.9.9.9", "9.9.9.8"]),
        hosts_at("b.example", ["9.9.9.8", "1.1.1.1"]),
        vec![],
    ];
    for (name, wanted) in names.into_iter().zip(&wanted) {
        assert_eq!(found(name).await, *wanted);
        assert_eq!(transport.known_third_parties(&url(name)), *wanted, "it is known without asking now");
    }
    let literal = vec![Host::at("9.9.9.8".parse().unwrap())];
    assert_eq!(found("[::ffff:9.9.9.8]").await, literal);
    assert_eq!(found("127.0.0.1").await, []);
    assert_eq!(dns.asked(), 3);
}

#[tokio::test]
async fn a_name_server_that_points_elsewhere_for_each_request_saves_nobody_a_rate() {
    let dns = DnsServer::answering(&[&["9.9.9.9"], &["1.1.1.1"], &["8.8.8.8"]]);
    let transport = dns.transport(AddressPolicy::default());
    let url = Url::parse("https://moving.example/").unwrap();
    let found = async || transport.find_third_parties(&url, within(LONG)).await.unwrap();
    let later = async |seconds: u64| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    assert_eq!(found().await, hosts_at("moving.example", ["9.9.9.9"]));
    later(6).await;
    // A connection to the first one may be open.
    assert_eq!(found().await, hosts_at("moving.example", ["1.1.1.1", "9.9.9.9"]));
    // What is almost too old to be used for the connection is asked for anew.
    later(4).await;
    let all = hosts_at("moving.example", ["8.8.8.8", "9.9.9.9", "1.1.1.1"]);
    assert_eq!((found().await, dns.asked()), (all, 3));
    later(61).await;
    assert_eq!(found().await, hosts_at("moving.example", ["8.8.8.8"]));
}

#[tokio::test]
async fn an_attempt_gets_no_turn_where_any_of_its_hosts_has_enough() {
    let dns = DnsServer::answering(&[&["9.9.9.9"], &["9.9.9.9", "1.1.1.1"], &["8.8.8.8"]]);
    let courier = Courier {
        transport: Arc::new(dns.transport(AddressPolicy::default())),
        secrets: Arc::default(),
        clock: Arc::new(TokioClock::starting_at(Timestamp::from_millis(784_111_777_000))),
        account: Account::default(),
        rates: Some(Arc::new(Mutex::new(HostRates::new(1)))),
    };
    let turn = async |organization: &str, host: &str| {
        let destination = destination(organization, &format!("https://{host}/"));
        let policy = crate::contract::effective_policy(&destination);
        courier.take_turn(&destination, &policy, &[]).await.map(drop).map_err(|held| held.per_second)
    };
    assert_eq!(turn("acme", "one.example").await, Ok(()));
    assert_eq!(turn("acme", "two.example").await, Err(1), "it leads to the same address");
    assert_eq!(turn("acme", "9.9.9.9").await, Err(1), "the address itself");
    assert_eq!(turn("acme", "1.1.1.1").await, Ok(()), "who got no turn has counted for nobody");
    assert_eq!(turn("acme", "one.example").await, Err(1));
    assert_eq!(turn("globex", "two.example").await, Ok(()), "another organization");
    assert_eq!(turn("acme", "three.example").await, Ok(()));
}
