//! Receivers that misbehave, each on a real socket: what is recorded, and in which words.

use std::sync::mpsc;

use super::*;

/// The pace of receivers that dawdle: much faster than any time limit here.
const PACE: Duration = Duration::from_millis(20);

/// Waits for one beat; `false` once the other side has closed.
fn beat(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PACE)).unwrap();
    let mut byte = [0];
    !matches!(stream.peek(&mut byte), Ok(0))
}

/// Writes these bytes one by one, a beat between them, for ever, until the other side has closed.
fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if !beat(stream) || stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

/// Reads the request but for its last byte, so that closing the connection resets it.
fn read_all_but_one(stream: &mut TcpStream) {
    let whole = b"{\"a\":1}";
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(&whole[..whole.len() - 1]) {
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    // What is not read yet must have arrived, or there is nothing to reset for.
    stream.peek(&mut byte).unwrap();
}

#[tokio::test]
async fn a_reset_within_the_request_is_a_reset() {
    let receiver = Receiver::serving(|mut stream| read_all_but_one(&mut stream));
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!((failure, receiver.connections()), (Failure::Reset, 1));
    assert_eq!(detail, "the receiver reset the connection before answering");
}

#[tokio::test]
async fn a_reset_within_the_head_of_the_answer_is_a_reset_and_not_half_an_answer() {
    let receiver = Receiver::serving(|mut stream| {
        read_all_but_one(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-").unwrap();
    });
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!((failure, receiver.connections()), (Failure::Reset, 1));
    assert!(detail.starts_with("the receiver"), "{detail}");
}

#[tokio::test]
async fn a_connection_that_is_closed_within_the_head_of_the_answer_is_a_reset() {
    let receiver = Receiver::answering_once("HTTP/1.1 200 OK\r\nx-");
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!(failure, Failure::Reset);
    assert_eq!(detail, "the receiver closed the connection before answering");
}

#[tokio::test]
async fn a_reset_after_the_status_does_not_change_what_it_said() {
    let receiver = Receiver::serving(|mut stream| {
        read_all_but_one(&mut stream);
        stream.write_all(b"HTTP/1.1 202 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    });
    // Which of the two is seen first is the network's affair; nothing else may be.
    match send(&receiver.url(), LONG).await.outcome {
        Outcome::Answered { status, .. } => assert_eq!(status, 202),
        Outcome::NoAnswer { failure, .. } => assert_eq!(failure, Failure::Reset),
        other @ Outcome::NotSent { .. } => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_byte_by_byte_runs_out_of_time_however_steadily_it_comes() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").unwrap();
        drip(&mut stream, b"a");
    });
    let sent = send(&receiver.url(), SHORT).await;
    assert_eq!(no_answer(sent), (Failure::Timeout, "no answer within 0.2 s".into()));
}

#[tokio::test]
async fn a_body_byte_by_byte_is_cut_at_the_time_limit_and_the_status_counts() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").unwrap();
        drip(&mut stream, b"ab");
    });
    let (status, body) = answer(send(&receiver.url(), SHORT).await);
    assert_eq!(status, 500);
    assert!(body.len() < 20 && b"abababababababababab".starts_with(&body), "{body:?}");
}

#[tokio::test]
async fn a_huge_header_is_no_valid_answer() {
    let huge = "x".repeat(1 << 20);
    let receiver = Receiver::serving(move |mut stream| {
        read_request(&mut stream);
        // The other side does not read to the end.
        stream.write_all(format!("HTTP/1.1 200 OK\r\nx-huge: {huge}\r\n\r\n").as_bytes()).ok();
    });
    let (failure, detail) = no_answer(send(&receiver.url(), LONG).await);
    assert_eq!(failure, Failure::InvalidResponse);
    assert_eq!(detail, "the headers of the answer are too large or too many");
}

#[tokio::test]
async fn headers_without_end_are_no_valid_answer_long_before_the_time_limit() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        while stream.write_all(b"x-more: and more and more and more\r\n").is_ok() {}
    });
    assert_eq!(no_answer(send(&receiver.url(), LONG).await).0, Failure::InvalidResponse);
}

#[tokio::test]
async fn interim_answers_without_end_run_out_of_time() {
    let receiver = Receiver::serving(|mut stream| {
        read_request(&mut stream);
        drip(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n");
    });
    assert_eq!(no_answer(send(&receiver.url(), SHORT).await).0, Failure::Timeout);
}

#[tokio::test]
async fn early_hints_before_the_answer_are_passed_over() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let receiver = Receiver::answering_once(format!("{hints}{hints}{OK}"));
    assert_eq!(answer(send(&receiver.url(), LONG).await), (200, Bytes::from_static(b"ok")));
}

#[tokio::test]
async fn every_status_is_recorded_as_it_came_and_only_2xx_is_a_success() {
    for (status, words) in [
        (200, None),
        (204, None),
        (205, None),
        (299, None),
        (304, Some("answered 304: redirects are never followed; set the final URL")),
        (400, Some("answered 400")),
        (404, Some("answered 404")),
        (410, Some("answered 410")),
        (429, Some("answered 429")),
        (500, Some("answered 500")),
        (599, Some("answered 599")),
    ] {
        let length = if matches!(status, 204 | 304) { "" } else { "content-length: 0\r\n" };
        let receiver = Receiver::answering(format!("HTTP/1.1 {status} X\r\n{length}\r\n"));
        let outcome = send(&receiver.url(), LONG).await.outcome;
        assert_eq!((outcome.status(), outcome.error().as_deref()), (Some(status), words));
        assert_eq!(outcome.is_success(), words.is_none(), "{status}");
    }
}

#[tokio::test]
async fn a_redirect_to_itself_is_asked_once() {
    let (seen, requests) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| {
        while let Some(request) = read_request(&mut stream) {
            seen.send(request).unwrap();
            let location = "HTTP/1.1 307 Again\r\nlocation: /hook?token=planted\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(location.as_bytes()).unwrap();
        }
    });
    let outcome = send(&receiver.url(), LONG).await.outcome;
    assert_eq!((outcome.status(), outcome.is_success()), (Some(307), false));
    assert_eq!(requests.try_iter().count(), 1);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_nothing() {
    // It closes after each answer, without a word; the client believes that the connection is kept.
    let (seen, requests) = mpsc::channel();
    let (closed, closings) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| {
        seen.send(read_request(&mut stream).is_some()).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
        drop(stream);
        closed.send(()).unwrap();
    });
    let transport = transport(options());
    for _ in 0..10 {
        assert_eq!(answer(transport.send(request(&receiver.url()), within(LONG)).await).0, 200);
        closings.recv().unwrap();
        // The end has arrived; the client hears of it when the runtime next looks at its sockets.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(requests.try_iter().filter(|whole| *whole).count(), 10, "none lost, none doubled");
}

#[tokio::test]
async fn an_idle_connection_that_closes_when_the_next_request_has_arrived_is_a_failed_attempt_and_no_phantom()
{
    // The worst moment: the second request was read whole, and whether it was obeyed, nobody knows.
    let (seen, requests) = mpsc::channel();
    let receiver = Receiver::serving(move |mut stream| {
        seen.send(read_request(&mut stream).is_some()).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
        seen.send(read_request(&mut stream).is_some()).unwrap();
    });
    let transport = transport(options());
    assert_eq!(answer(transport.send(request(&receiver.url()), within(LONG)).await).0, 200);
    let (failure, detail) = no_answer(transport.send(request(&receiver.url()), within(LONG)).await);
    assert_eq!(failure, Failure::Reset);
    assert_eq!(detail, "the receiver closed the connection before answering");
    assert_eq!(requests.try_iter().filter(|whole| *whole).count(), 2, "it was not sent again by itself");
}

#[tokio::test]
async fn tls_that_is_cut_in_the_middle_of_the_handshake_is_a_tls_failure() {
    let receiver = Receiver::serving(|mut stream| {
        // Past the client's hello: its record has a head of five bytes, the last two being its length.
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).unwrap();
        // The beginning of a server's hello of 122 bytes, then nothing.
        stream.write_all(&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3]).unwrap();
    });
    let (failure, detail) =
        no_answer(send(&format!("https://{}/?token=planted", receiver.address), LONG).await);
    assert_eq!(failure, Failure::Tls);
    assert_eq!(detail, "the receiver closed the connection before TLS was agreed");
}

#[tokio::test]
async fn a_redirect_is_never_followed_whether_to_metadata_or_round_in_circles_or_to_our_own_api() {
    let inside = Receiver::answering(OK);
    let elsewhere = Receiver::answering(format!(
        "HTTP/1.1 302 On\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        inside.url()
    ));
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://[fd00:ec2::254]/",
        "//169.254.169.254/",
        "http://2852039166/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "/hook",
        &inside.url(),
        // A chain: this one redirects, too.
        &elsewhere.url(),
    ] {
        for status in [300, 301, 302, 303, 307, 308] {
            let receiver = Receiver::answering(format!(
                "HTTP/1.1 {status} On\r\nlocation: {location}\r\nrefresh: 0; url={location}\r\n\
                 content-length: 0\r\n\r\n"
            ));
            let outcome = send(&receiver.url(), LONG).await.outcome;
            assert_eq!((outcome.status(), outcome.is_success()), (Some(status), false), "{location}");
            assert!(!outcome.error().unwrap().contains(location), "{location}");
            assert_eq!(receiver.connections(), 1);
        }
    }
    assert_eq!((inside.connections(), elsewhere.connections()), (0, 0));
}

#[tokio::test]
async fn a_receiver_that_accepts_no_connection_runs_out_of_the_time_to_connect() {
    // Once the queue of a listener is full, the system answers nothing at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let waiting: Vec<TcpStream> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&address, SHORT).ok()).take(10_000).collect();
    assert!(waiting.len() < 10_000, "the queue has no end");
    let transport = transport(HttpOptions { connect_timeout: SHORT, ..options() });
    let sent = transport.send(request(&format!("http://{address}/?token=planted")), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Timeout, "no connection within 0.2 s".into()));
}
