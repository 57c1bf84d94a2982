//! Plain HTTP: where requests go, and what becomes of them.

use std::process::Command;
use std::sync::mpsc;

use super::*;
use crate::domain::attempt::RESPONSE_KEPT_BYTES;

#[tokio::test]
async fn a_request_arrives_as_it_was_rendered_and_the_answer_is_recorded() {
    let (seen, requests) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| {
        seen.send(read_request(&mut stream).unwrap()).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    let sent = send(&receiver.url(), LONG).await;
    assert_eq!(sent.remote_address, Some(receiver.address));
    assert_eq!(answer(sent), (200, Bytes::from_static(b"ok")));
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /hook?token=planted HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("webhook-id: msg_1\r\n") && request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    for absent in ["accept-encoding", "referer", "cookie", "transfer-encoding"] {
        assert!(!request.contains(absent), "{request}");
    }
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    let plain = "transport::tests::http::a_request_arrives_as_it_was_rendered_and_the_answer_is_recorded";
    let tls = "transport::tests::tls::a_certificate_of_an_extra_root_is_trusted";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", plain, tls]).env_remove("NO_PROXY").env_remove("no_proxy");
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(variable, "http://127.0.0.1:1");
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("2 passed"), "{text}");
}

#[tokio::test]
async fn a_closed_port_is_a_refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/?token=planted", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(no_answer(send(&url, LONG).await), (Failure::Refused, "connection refused".into()));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    // RFC 6761: names below `invalid` never have an address.
    let sent = send("http://no-such-host.invalid/?token=planted", LONG).await;
    assert_eq!(no_answer(sent), (Failure::Dns, "the host name could not be resolved".into()));
}

#[tokio::test]
async fn a_connection_that_is_reset_before_the_request_is_read_is_a_reset() {
    // A socket that is closed with unread bytes in it sends RST.
    let receiver = Receiver::serving(|stream| drop(stream.peek(&mut [0])));
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!(failure, Failure::Reset);
    assert!(detail.contains("connection before answering"), "{detail}");
}

#[tokio::test]
async fn a_connection_that_is_closed_after_the_request_is_a_reset_and_is_not_tried_again() {
    let (seen, requests) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| seen.send(read_request(&mut stream)).unwrap());
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!(failure, Failure::Reset);
    assert_eq!(detail, "the receiver closed the connection before answering");
    assert_eq!((requests.try_iter().count(), receiver.connections()), (1, 1));
}

#[tokio::test]
async fn a_receiver_that_never_answers_runs_out_of_time() {
    let receiver = Receiver::serving(|mut stream| hold(&mut stream));
    let sent = send(&receiver.url(), SHORT).await;
    assert_eq!(no_answer(sent), (Failure::Timeout, "no answer within 0.2 s".into()));
}

#[tokio::test]
async fn half_an_answer_runs_out_of_time() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").unwrap();
        hold(&mut stream);
    });
    assert_eq!(no_answer(send(&receiver.url(), SHORT).await).0, Failure::Timeout);
}

#[tokio::test]
async fn a_body_that_never_ends_in_time_does_not_change_what_the_status_said() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").unwrap();
        hold(&mut stream);
    });
    assert_eq!(answer(send(&receiver.url(), SHORT).await), (200, Bytes::from_static(b"x")));
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_change_what_the_status_said() {
    let receiver = Receiver::answering_once("HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\nx");
    assert_eq!(answer(send(&receiver.url(), LONG).await), (500, Bytes::from_static(b"x")));
}

#[tokio::test]
async fn of_an_endless_body_the_start_is_kept_and_the_connection_is_dropped() {
    let (closed, mut was_closed) = tokio::sync::mpsc::channel(1);
    let receiver = Receiver::serving(move |mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        closed.blocking_send(()).unwrap();
    });
    let transport = transport(options());
    let (status, body) = answer(transport.send(request(&receiver.url()), within(LONG)).await);
    assert_eq!((status, body.len()), (200, RESPONSE_KEPT_BYTES));
    // The transport is alive still; it is the connection that was given up.
    tokio::time::timeout(LONG, was_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Receiver::answering(OK);
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.url();
        let receiver = Receiver::answering(format!(
            "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        ));
        assert_eq!(answer(send(&receiver.url(), LONG).await).0, status);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn more_than_a_hundred_headers_are_no_valid_answer() {
    let many: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    let receiver = Receiver::answering_once(format!("HTTP/1.1 200 OK\r\n{many}\r\n"));
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!(failure, Failure::InvalidResponse);
    assert!(detail.contains("headers"), "{detail}");
}

#[tokio::test]
async fn what_is_not_http_is_no_valid_answer() {
    for garbage in ["SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP/1.1 099 No\r\n\r\n", "\0\u{1}\u{2}\r\n\r\n"] {
        let receiver = Receiver::answering_once(garbage);
        let sent = send(&receiver.url(), LONG).await;
        assert_eq!(no_answer(sent), (Failure::InvalidResponse, "the answer is not HTTP".into()), "{garbage}");
    }
}

#[tokio::test]
async fn odd_answers_with_a_status_are_answers() {
    for (text, status) in [
        ("HTTP/1.0 204 No\r\n\r\n", 204),
        ("HTTP/1.1 999 Denied\r\ncontent-length: 0\r\n\r\n", 999),
        ("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 101),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", 202),
    ] {
        let receiver = Receiver::answering_once(text);
        assert_eq!(answer(send(&receiver.url(), LONG).await).0, status, "{text}");
    }
}

#[tokio::test]
async fn retry_after_is_read_from_the_answer() {
    for (value, wait) in [
        ("7", Some(Duration::from_secs(7))),
        ("Sun, 06 Nov 1983 08:49:37 GMT", Some(Duration::ZERO)),
        ("soon", None),
    ] {
        let receiver = Receiver::answering(format!(
            "HTTP/1.1 503 Busy\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"
        ));
        let Outcome::Answered { retry_after, .. } = send(&receiver.url(), LONG).await.outcome else {
            panic!("no answer")
        };
        assert_eq!(retry_after, wait, "{value}");
    }
}

#[tokio::test]
async fn two_requests_in_turn_share_one_connection() {
    let receiver = Receiver::answering(OK);
    let transport = transport(options());
    for _ in 0..2 {
        assert_eq!(answer(transport.send(request(&receiver.url()), within(LONG)).await).0, 200);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn addresses_of_this_machine_are_refused_by_default_as_literals_and_as_names() {
    let receiver = Receiver::answering(OK);
    let transport = transport(HttpOptions { address_policy: Arc::default(), ..options() });
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "LOCALHOST"] {
        let url = format!("http://{host}:{port}/?token=planted");
        let detail = refused(transport.send(request(&url), within(LONG)).await);
        assert!(detail.contains("loopback"), "{host}: {detail}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_allowed_range_lets_literals_and_names_through() {
    let receiver = Receiver::answering_once(OK);
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        assert_eq!(answer(send(&format!("http://{host}:{port}/"), LONG).await).0, 200, "{host}");
    }
}

#[tokio::test]
async fn plain_http_is_refused_unless_the_operator_allows_it() {
    let receiver = Receiver::answering(OK);
    let transport = transport(HttpOptions { plain_http: false, ..options() });
    let detail = refused(transport.send(request(&receiver.url()), within(LONG)).await);
    assert!(detail.contains("https://"), "{detail}");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_port_outside_the_policy_is_refused() {
    let receiver = Receiver::answering(OK);
    let mut policy = (*options().address_policy).clone();
    policy.allowed_ports = Some(vec![443]);
    let transport = transport(HttpOptions { address_policy: Arc::new(policy), ..options() });
    let detail = refused(transport.send(request(&receiver.url()), within(LONG)).await);
    assert!(detail.contains("443"), "{detail}");
}

#[tokio::test]
async fn no_response_body_is_kept_unless_the_operator_says_so() {
    let public = Some("93.184.215.14:443".parse().unwrap());
    assert!(!transport(HttpOptions::default()).keeps_body(public));
    for response_bodies in [ResponseBodies::Public, ResponseBodies::Always] {
        assert!(transport(HttpOptions { response_bodies, ..HttpOptions::default() }).keeps_body(public));
    }
}

#[tokio::test]
async fn bodies_out_of_an_opened_network_are_not_kept_unless_the_operator_says_so() {
    for (response_bodies, kept) in
        [(ResponseBodies::Public, 0), (ResponseBodies::Never, 0), (ResponseBodies::Always, 2)]
    {
        let receiver = Receiver::answering_once(OK);
        let transport = transport(HttpOptions { response_bodies, ..options() });
        let (status, body) = answer(transport.send(request(&receiver.url()), within(LONG)).await);
        assert_eq!((status, body.len()), (200, kept), "{response_bodies:?}");
    }
}
