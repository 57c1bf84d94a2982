//! A forward proxy: only where the operator names one, and with what is still judged here.

use std::sync::mpsc::{self, Receiver as Requests};

use super::*;

/// A proxy that notes the first line of each request, opens the tunnel where it is asked to, and hands the
/// bytes on both ways; `origin` is where it connects to, whatever it is asked for.
fn proxy(origin: Option<SocketAddr>, answer: &'static str) -> (Receiver, Requests<String>) {
    let (seen, requests) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        seen.send(request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        let Some(origin) = origin else { return };
        let mut onward = TcpStream::connect(origin).unwrap();
        let (mut back, mut forth) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
        let returning = thread::spawn(move || std::io::copy(&mut onward, &mut back));
        std::io::copy(&mut stream, &mut forth).ok();
        forth.shutdown(std::net::Shutdown::Both).ok();
        returning.join().unwrap().ok();
    });
    (receiver, requests)
}

fn through(proxy: &Receiver) -> HttpOptions {
    let proxy = Some(Url::parse(&format!("http://{}", proxy.address)).unwrap());
    // The proxy is on loopback, and needs no permission: it is the operator's own word.
    HttpOptions { proxy, address_policy: Arc::default(), ..options() }
}

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn https_goes_through_a_tunnel_whose_end_is_verified_and_the_name_is_looked_up_by_the_proxy_alone() {
    let identity = tls::issued(&["receiver.invalid"], |_| {});
    let origin = tls::receiver(&identity);
    let (proxy, requests) = proxy(Some(origin.address), ESTABLISHED);
    let options = HttpOptions { extra_root_certificates: vec![identity.root.clone()], ..through(&proxy) };
    // RFC 6761: nobody can look this name up; only the proxy knows where it leads.
    let sent =
        transport(options).send(request("https://receiver.invalid/hook?token=planted"), within(LONG)).await;
    assert_eq!(sent.remote_address, None, "the proxy's address is nobody's business");
    assert_eq!(answer(sent).0, 200);
    let connect = requests.recv().unwrap();
    assert!(connect.starts_with("CONNECT receiver.invalid:443 HTTP/1.1\r\n"), "{connect}");
    assert!(!connect.contains("planted") && !connect.contains("webhook-id"), "{connect}");
}

#[tokio::test]
async fn plain_http_is_asked_of_the_proxy_itself() {
    let (proxy, requests) = proxy(None, OK);
    let sent = transport(through(&proxy)).send(request("http://receiver.invalid/hook"), within(LONG)).await;
    assert_eq!(answer(sent).0, 200);
    assert!(requests.recv().unwrap().starts_with("POST http://receiver.invalid/hook HTTP/1.1\r\n"));
}

#[tokio::test]
async fn what_the_url_itself_tells_is_judged_before_the_proxy_is_asked() {
    let (proxy, _) = proxy(None, OK);
    let mut options = through(&proxy);
    options.address_policy = Arc::new(AddressPolicy {
        deny_hosts: vec!["corp.example".into()],
        allowed_ports: Some(vec![443]),
        ..AddressPolicy::default()
    });
    let transport = transport(options);
    for host in [
        "127.0.0.1",
        "2130706433",
        "[::ffff:10.0.0.1]",
        "169.254.169.254",
        "metadata.google.internal",
        "localhost",
        "db.corp.example",
        "receiver.example:8443",
    ] {
        refused(transport.send(request(&format!("https://{host}/?token=planted")), within(LONG)).await);
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_not_there_is_named_as_the_cause_without_its_address() {
    let words = "the operator's proxy did not open a connection to the host";
    let (refusing, _requests) = proxy(None, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let url = "https://receiver.example/?token=planted";
    let sent = transport(through(&refusing)).send(request(url), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Connect, words.into()));
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Some(Url::parse(&format!("http://{gone}")).unwrap());
    let sent = transport(HttpOptions { proxy, ..options() }).send(request(url), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Connect, words.into()));
}

#[tokio::test]
async fn bodies_that_come_through_a_proxy_are_kept_only_where_the_operator_says_so() {
    for (response_bodies, kept) in
        [(ResponseBodies::Public, 0), (ResponseBodies::Never, 0), (ResponseBodies::Always, 2)]
    {
        let (proxy, _requests) = proxy(None, OK);
        let transport = transport(HttpOptions { response_bodies, ..through(&proxy) });
        let sent = transport.send(request("http://receiver.invalid/"), within(LONG)).await;
        assert_eq!(answer(sent).1.len(), kept, "{response_bodies:?}");
    }
}
