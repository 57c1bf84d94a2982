//! Peers that want too much, or nothing: limits of connections, frames and calls, over raw sockets.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::receiver::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{
    Authority, ORGANIZATION, PATIENCE, Receiver, Refusal, Server, TlsFolder, TokenFile, call_any,
    destination, event, eventually, naming, with_token,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// An HTTP/2 client that does as it likes.
struct Peer {
    stream: TcpStream,
}

impl Peer {
    async fn connect(server: &Server) -> Self {
        Self { stream: TcpStream::connect(server.grpc_address()).await.unwrap() }
    }

    /// Says hello, as the protocol has it.
    async fn greeted(server: &Server) -> Self {
        let mut peer = Self::connect(server).await;
        peer.stream.write_all(PREFACE).await.unwrap();
        peer.send(SETTINGS, 0, 0, &[]).await.unwrap();
        peer
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, content: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(content);
        self.stream.write_all(&frame).await
    }

    /// Begins a call of a method, without its message.
    async fn begin_call(&mut self, stream: u32, path: &str) -> std::io::Result<()> {
        // `:method POST`, `:scheme http`, and `:path`, `content-type` as literals.
        let mut block = vec![0x83, 0x86, 0x44, u8::try_from(path.len()).unwrap()];
        block.extend_from_slice(path.as_bytes());
        block.extend_from_slice(b"\x5f\x10application/grpc");
        self.send(HEADERS, 0x4, stream, &block).await
    }

    /// The kinds of the frames that come until the server closes the connection, and their contents.
    async fn rest(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        let read = async {
            while let Ok(length @ 1..) = self.stream.read(&mut part).await {
                bytes.extend_from_slice(&part[..length]);
            }
        };
        timeout(PATIENCE, read).await.expect("the server never closed the connection");
        let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
        while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            frames.push((*kind, after[..length.min(after.len())].to_vec()));
            rest = &after[length.min(after.len())..];
        }
        frames
    }

    async fn is_closed_at_once(&mut self) -> bool {
        let mut byte = [0];
        matches!(timeout(PATIENCE, self.stream.read(&mut byte)).await.unwrap(), Ok(0) | Err(_))
    }
}

fn kinds(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    frames.iter().map(|(kind, _)| *kind).collect()
}

#[tokio::test]
async fn connections_are_limited_in_all_and_by_address() {
    // One is the test's own channel.
    for limit in ["limits.connections", "limits.connections_per_address"] {
        let server = Server::with(&[(limit, "3")]).await;
        let mut first = Peer::greeted(&server).await;
        let _second = Peer::greeted(&server).await;
        let mut third = Peer::connect(&server).await;
        assert!(third.is_closed_at_once().await, "{limit}");
        first.send(SETTINGS, 0, 0, &[0]).await.unwrap();
        first.rest().await;
        // The place of one that has gone is free again.
        eventually("a place is free", async || {
            let mut next = Peer::greeted(&server).await;
            let mut head = [0; 9];
            next.stream.read_exact(&mut head).await.ok().filter(|_| head[3] == SETTINGS).map(|_| ())
        })
        .await;
        server.emit(event("agent.offline")).await;
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed_and_takes_no_place_meanwhile_beyond_its_limit() {
    let limits = [("limits.handshake_timeout", r#""300ms""#), ("limits.handshakes", "2")];
    let server = Server::with(&limits).await;
    let (mut silent, mut slow) = (Peer::connect(&server).await, Peer::connect(&server).await);
    slow.stream.write_all(&PREFACE[..10]).await.unwrap();
    assert!(Peer::connect(&server).await.is_closed_at_once().await);
    silent.rest().await;
    slow.rest().await;
    server.emit(event("agent.offline")).await;
    eventually("there is room for handshakes again", async || {
        let mut next = Peer::greeted(&server).await;
        let mut head = [0; 9];
        next.stream.read_exact(&mut head).await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn an_address_with_silent_connections_keeps_no_other_one_out() {
    let limits = [("limits.handshakes_per_address", "2"), ("limits.handshake_timeout", r#""60s""#)];
    let server = Server::with(&limits).await;
    let from = async |address: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        Peer { stream: socket.connect(server.grpc_address()).await.unwrap() }
    };
    let _silent = [from("127.0.0.2").await, from("127.0.0.2").await];
    assert!(from("127.0.0.2").await.is_closed_at_once().await);
    let mut other = from("127.0.0.3").await;
    other.stream.write_all(PREFACE).await.unwrap();
    other.send(SETTINGS, 0, 0, &[]).await.unwrap();
    let mut head = [0; 9];
    timeout(PATIENCE, other.stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[3], SETTINGS);
}

#[tokio::test]
async fn watches_of_health_are_limited_in_all_and_by_address_on_both_ports() {
    for limit in ["limits.health_watches", "limits.health_watches_per_address"] {
        let server = Server::with(&[(limit, "2")]).await;
        for address in [server.grpc_address(), server.health_address()] {
            let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
            let mut client = HealthClient::new(channel.connect().await.unwrap());
            let request = HealthCheckRequest { service: String::new() };
            let first = client.watch(request.clone()).await.unwrap();
            let _second = client.watch(request.clone()).await.unwrap();
            let refusal = Refusal::from(client.watch(request.clone()).await.unwrap_err());
            assert_eq!(refusal.code, Code::ResourceExhausted, "{limit}");
            assert_eq!(
                (refusal.reason.as_str(), refusal.metadata["limit"].as_str()),
                ("STREAM_LIMIT_EXCEEDED", "2")
            );
            // Probes that ask once go on, and the place of a watch that ended is free again.
            client.check(request.clone()).await.unwrap();
            drop(first);
            eventually("a place is free", async || client.clone().watch(request.clone()).await.ok()).await;
        }
    }
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_go_on_is_closed() {
    let authority = Authority::new();
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let (certificate, key) = (tls.setting("certificate.pem"), tls.setting("key.pem"));
    let server = Server::with(&[
        ("listen.tls_certificate", certificate.as_str()),
        ("listen.tls_key", key.as_str()),
        ("limits.handshake_timeout", r#""200ms""#),
    ])
    .await;
    for beginning in [b"".as_slice(), &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        let mut peer = Peer::connect(&server).await;
        peer.stream.write_all(beginning).await.unwrap();
        assert!(peer.is_closed_at_once().await);
    }
}

#[tokio::test]
async fn a_connection_without_calls_is_told_to_go_also_with_half_a_header() {
    let server =
        Server::with(&[("limits.connection_idle", r#""300ms""#), ("limits.handshake_timeout", r#""1s""#)])
            .await;
    let mut idle = Peer::greeted(&server).await;
    assert!(kinds(&idle.rest().await).contains(&GOAWAY));
    let mut half = Peer::greeted(&server).await;
    // Headers without their end: the rest never comes.
    half.send(HEADERS, 0, 1, &[0x83]).await.unwrap();
    assert!(kinds(&half.rest().await).contains(&GOAWAY));
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_what_runs_on_it_ends_well() {
    let server =
        Server::with(&[("limits.connection_age", r#""300ms""#), ("limits.handshake_timeout", r#""1s""#)])
            .await;
    let mut old = Peer::greeted(&server).await;
    let told = async { kinds(&old.rest().await).contains(&GOAWAY) };
    let calls = async {
        let end = tokio::time::Instant::now() + Duration::from_millis(1500);
        let (mut made, mut withdrawn) = (0, 0);
        while tokio::time::Instant::now() < end {
            match server.try_emit(event("agent.offline")).await {
                Ok(_) => made += 1,
                // This client takes a call back that it had not sent when it was told.
                Err(refusal) if refusal.code == Code::Cancelled && refusal.reason.is_empty() => {
                    withdrawn += 1
                }
                Err(refusal) => panic!("{refusal:?}"),
            }
        }
        (made, withdrawn)
    };
    let (told, (made, withdrawn)) = tokio::join!(told, calls);
    assert!(told && made > 10 && withdrawn < 10, "{made} calls, {withdrawn} withdrawn");
}

#[tokio::test]
async fn a_peer_that_no_longer_answers_is_closed() {
    let limits = [("limits.keepalive_interval", r#""200ms""#), ("limits.keepalive_timeout", r#""200ms""#)];
    let server = Server::with(&limits).await;
    let mut dead = Peer::greeted(&server).await;
    assert!(kinds(&dead.rest().await).contains(&PING));
    server.emit(event("agent.offline")).await;
}

#[tokio::test]
async fn floods_of_pings_settings_and_resets_end_their_connection_and_no_other() {
    let server = Server::with(&[("limits.control_frames", "100")]).await;
    for kind in [PING, SETTINGS] {
        let mut flood = Peer::greeted(&server).await;
        let content: &[u8] = if kind == PING { &[0; 8] } else { &[] };
        for _ in 0..10_000 {
            if flood.send(kind, 0, 0, content).await.is_err() {
                break;
            }
        }
        flood.rest().await;
        server.emit(event("agent.offline")).await;
    }
    let mut resets = Peer::greeted(&server).await;
    for number in 0..10_000_u32 {
        let stream = 2 * number + 1;
        let begun = resets.begin_call(stream, "/signalpost.v1.EventIngest/Emit").await;
        if begun.is_err() || resets.send(RESET, 0, stream, &[0, 0, 0, 8]).await.is_err() {
            break;
        }
    }
    resets.rest().await;
    server.emit(event("agent.offline")).await;
}

#[tokio::test]
async fn the_number_of_streams_is_told_and_held_to() {
    let server = Server::with(&[("limits.concurrent_streams", "7")]).await;
    let mut peer = Peer::greeted(&server).await;
    for number in 0..20 {
        peer.begin_call(2 * number + 1, "/signalpost.v1.EventIngest/EmitStream").await.unwrap();
    }
    // An error of the protocol ends the conversation, so that there is an end to read to.
    peer.send(PING, 0, 5, &[0; 8]).await.unwrap();
    let frames = peer.rest().await;
    let settings = &frames.iter().find(|(kind, _)| *kind == SETTINGS).unwrap().1;
    assert!(settings.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 7]), "{settings:?}");
    assert!(kinds(&frames).iter().filter(|kind| **kind == RESET).count() >= 13, "{:?}", kinds(&frames));
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = Server::with(&[("limits.headers", r#""4KiB""#)]).await;
    let mut request = Request::new(naming(ORGANIZATION));
    request.metadata_mut().insert("x-large", "x".repeat(8192).parse().unwrap());
    let refused = call_any(&server.channel(), "signalpost.v1.EventIngest/Emit", request).await.unwrap_err();
    assert_ne!(refused.code(), Code::InvalidArgument, "{refused:?}");
    server.emit(event("agent.offline")).await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_its_connection_goes_on() {
    let server = Server::with(&[("limits.message", r#""64KiB""#), ("limits.payload", r#""48KiB""#)]).await;
    let batch = |events: usize| {
        let data = format!("{:?}", "x".repeat(20_000));
        (0..events).map(|_| event("agent.offline").data(&data)).collect::<Vec<_>>()
    };
    // Each event is small enough, and three of them are.
    assert_eq!(server.try_emit_batch(batch(3)).await.unwrap().len(), 3);
    let refusal = server.try_emit_batch(batch(4)).await.unwrap_err();
    assert_eq!(refusal.code, Code::OutOfRange, "{refusal:?}");
    assert_eq!(server.try_emit_batch(batch(3)).await.unwrap().len(), 3);
    // One that only says that it is large is refused by its length, before anything of it comes.
    let mut peer = Peer::greeted(&server).await;
    peer.begin_call(1, "/signalpost.v1.EventIngest/Emit").await.unwrap();
    peer.send(0, 0, 1, &[0, 0x7f, 0, 0, 0]).await.unwrap();
    let mut part = [0; 4096];
    let mut said = Vec::new();
    while !said.windows(11).any(|some| some == b"grpc-status") && !said.contains(&RESET) {
        let length = timeout(PATIENCE, peer.stream.read(&mut part)).await.unwrap().unwrap();
        assert!(length > 0, "the connection ended: {said:?}");
        said.extend_from_slice(&part[..length]);
    }
    server.emit(event("agent.offline")).await;
}

#[tokio::test]
async fn calls_beyond_the_number_for_a_connection_wait_and_other_connections_do_not() {
    let server = Server::with(&[("limits.concurrent_calls", "2")]).await;
    let other = tonic::transport::Channel::from_shared(format!("http://{}", server.grpc_address())).unwrap();
    let mut other = HealthClient::new(other.connect().await.unwrap());
    let probe = || HealthCheckRequest { service: String::new() };
    // Calls whose messages never come are worked on for as long as they may take.
    let mut held = tokio::task::JoinSet::new();
    let mut hold = || {
        let mut client = tonic::client::Grpc::new(server.channel());
        held.spawn(async move {
            client.ready().await.unwrap();
            let path = "/signalpost.v1.EventIngest/Emit".parse().unwrap();
            let endless = Request::new(tokio_stream::pending::<Bytes>());
            client.streaming(endless, path, crate::harness::Raw).await.map(drop)
        });
    };
    let mut here = HealthClient::new(server.channel());
    hold();
    here.check(probe()).await.unwrap();
    hold();
    eventually("both turns are taken", async || {
        timeout(Duration::from_millis(500), here.check(probe())).await.is_err().then_some(())
    })
    .await;
    let mut waiting = std::pin::pin!(here.check(probe()));
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "it waits");
    timeout(PATIENCE, other.check(probe())).await.unwrap().unwrap();
    assert!(timeout(Duration::ZERO, &mut waiting).await.is_err(), "it still waits");
    held.abort_all();
    timeout(PATIENCE, waiting).await.expect("a turn is free").unwrap();
}

#[tokio::test]
async fn a_call_ends_by_its_callers_deadline_or_ours_and_never_later_than_the_most() {
    let receiver = Receiver::start().await;
    receiver.always_answers("/slow", Answer::from(http::StatusCode::OK).after(Duration::from_secs(20)));
    for (default, most, asked) in [
        (r#""300ms""#, r#""5s""#, None),
        (r#""5s""#, r#""5s""#, Some("300m")),
        (r#""300ms""#, r#""300ms""#, Some("19S")),
    ] {
        let server =
            Server::with(&[("limits.call_timeout", default), ("limits.call_timeout_max", most)]).await;
        let draft = destination(Contract::Observer).url(receiver.url("/slow"));
        let request = v1::TestDestinationRequest {
            organization_id: ORGANIZATION.into(),
            subject: Some(v1::test_destination_request::Subject::DestinationId(
                server.create(draft).await.destination_id,
            )),
            actor_id: String::new(),
        };
        let begun = tokio::time::Instant::now();
        let path = "signalpost.v1.DestinationAdmin/TestDestination";
        let headers = plain_call(&server, path, asked, &request.encode_to_vec()).await;
        let refusal = Refusal::from(Status::from_header_map(&headers).unwrap());
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DeadlineExceeded, "CALL_TIMED_OUT"));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}

/// A call by a client that leaves deadlines to the server; the headers of the answer.
async fn plain_call(
    server: &Server,
    method: &str,
    deadline: Option<&str>,
    message: &[u8],
) -> http::HeaderMap {
    let stream = TcpStream::connect(server.grpc_address()).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], length.as_slice(), message].concat();
    let mut request = http::Request::post(format!("http://{}/{method}", server.grpc_address()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(deadline) = deadline {
        request = request.header("grpc-timeout", deadline);
    }
    let request = request.body(Full::new(Bytes::from(framed))).unwrap();
    tokio::select! {
        answer = client.send_request(request) => answer.unwrap().headers().clone(),
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_message_that_never_comes_ends_its_call() {
    let server = Server::with(&[("limits.call_timeout", r#""300ms""#)]).await;
    let mut client = tonic::client::Grpc::new(server.channel());
    client.ready().await.unwrap();
    let endless = Request::new(tokio_stream::pending::<Bytes>());
    let path = "/signalpost.v1.EventIngest/Emit".parse().unwrap();
    let ended = client.streaming(endless, path, crate::harness::Raw).await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_does_not_hold_its_connection_for_ever() {
    let limits = [
        ("limits.call_timeout", r#""300ms""#),
        ("limits.call_timeout_max", r#""300ms""#),
        ("limits.handshake_timeout", r#""300ms""#),
    ];
    let server = Server::with(&limits).await;
    let mut peer = Peer::greeted(&server).await;
    // A window of nothing: the answer's message can't be sent.
    peer.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await.unwrap();
    peer.begin_call(1, "/grpc.health.v1.Health/Check").await.unwrap();
    peer.send(0, 0x1, 1, &[0; 5]).await.unwrap();
    let frames = peer.rest().await;
    assert!(kinds(&frames).contains(&HEADERS) && !kinds(&frames).contains(&0), "{:?}", kinds(&frames));
}

#[tokio::test]
async fn streams_are_limited_in_number() {
    let server = Server::with(&[("limits.emit_streams", "1"), ("limits.watches", "1")]).await;
    let open_emit = async || {
        let requests = tokio_stream::pending::<v1::EmitStreamRequest>();
        server.events().emit_stream(requests).await
    };
    let open_watch = async || {
        let request =
            v1::WatchDeliveriesRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
        server.deliveries().watch_deliveries(request).await
    };
    server.emit(event("agent.offline")).await;
    let (_emit, _watch) = (open_emit().await.unwrap(), open_watch().await.unwrap());
    for status in [open_emit().await.unwrap_err(), open_watch().await.unwrap_err()] {
        let refusal = Refusal::from(status);
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::ResourceExhausted, "STREAM_LIMIT_EXCEEDED")
        );
    }
}

/// A stream that has not begun, and stays so while the sender is there.
async fn open_silent(
    server: &Server,
    token: &str,
) -> Result<(mpsc::Sender<v1::EmitStreamRequest>, Streaming<v1::EmitStreamResponse>), Refusal> {
    let (sender, receiver) = mpsc::channel(1);
    let request = with_token(token, ReceiverStream::new(receiver));
    Ok((sender, server.events().emit_stream(request).await?.into_inner()))
}

#[tokio::test]
async fn a_caller_at_its_share_of_streams_leaves_others_theirs() {
    let mut tokens = TokenFile::new();
    let callers = ["acme", "globex"]
        .map(|name| tokens.add(&format!("{name}-backend"), &format!("emitter@{name},viewer@{name}")));
    let operator = tokens.add("ops", "operator");
    let path = tokens.setting();
    let server = Server::with(&[
        ("auth.tokens_file", path.as_str()),
        ("limits.emit_streams", "3"),
        ("limits.emit_streams_per_caller", "2"),
        ("limits.watches", "3"),
        ("limits.watches_per_organization", "2"),
    ])
    .await;
    let watch = async |token: &str, organization_id: &str| {
        let request =
            v1::WatchDeliveriesRequest { organization_id: organization_id.into(), ..Default::default() };
        let opened = server.deliveries().watch_deliveries(with_token(token, request)).await;
        opened.map(tonic::Response::into_inner).map_err(Refusal::from)
    };
    let said = |refusal: &Refusal, scope: &str, setting: &str, limit: &str| {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::ResourceExhausted, "STREAM_LIMIT_EXCEEDED"),
            "{refusal:?}"
        );
        assert_eq!((refusal.metadata["scope"].as_str(), refusal.metadata["limit"].as_str()), (scope, limit));
        assert!(refusal.message.contains(&format!("(limits.{setting})")), "{refusal:?}");
    };
    let [acme, globex] = &callers;
    let first = open_silent(&server, acme).await.unwrap();
    let _second = open_silent(&server, acme).await.unwrap();
    let refusal = open_silent(&server, acme).await.unwrap_err();
    said(&refusal, "caller", "emit_streams_per_caller", "2");
    let _other = open_silent(&server, globex).await.unwrap();
    let refusal = open_silent(&server, globex).await.unwrap_err();
    said(&refusal, "server", "emit_streams", "3");

    let watched = watch(acme, "acme").await.unwrap();
    // Whoever watches it: the share is the organization's.
    let _by_operator = watch(&operator, "acme").await.unwrap();
    said(&watch(acme, "acme").await.unwrap_err(), "organization", "watches_per_organization", "2");
    let _other = watch(globex, "globex").await.unwrap();
    said(&watch(globex, "globex").await.unwrap_err(), "server", "watches", "3");

    drop((first, watched));
    eventually("a place is free", async || open_silent(&server, acme).await.ok()).await;
    eventually("a place is free", async || watch(acme, "acme").await.ok()).await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_ends_and_gives_its_place_back() {
    let mut tokens = TokenFile::new();
    let token = tokens.add("backend", "emitter@acme");
    let path = tokens.setting();
    let server = Server::with(&[
        ("auth.tokens_file", path.as_str()),
        ("limits.call_timeout", r#""500ms""#),
        ("limits.emit_streams_per_caller", "1"),
    ])
    .await;
    let (_silent, mut answers) = open_silent(&server, &token).await.unwrap();
    let status = timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err();
    let refusal = Refusal::from(status);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DeadlineExceeded, "CALL_TIMED_OUT"));
    assert!(refusal.message.contains("limits.call_timeout"), "{refusal:?}");
    // The sender of the first one is still there; its place is not its any more.
    let (sender, mut answers) =
        eventually("the place is free", async || open_silent(&server, &token).await.ok()).await;
    let message = |sequence| v1::EmitStreamRequest {
        organization_id: "acme".into(),
        sequence,
        event: Some(event("agent.offline").data("{}").0),
        acknowledgement_mode: 0,
    };
    sender.send(message(1)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().acknowledged_sequence, 1);
    // A stream that has begun may be silent for as long as it likes: time passes here, nothing is waited for.
    let quiet = timeout(Duration::from_millis(800), answers.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    sender.send(message(2)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().acknowledged_sequence, 2);
}

#[tokio::test]
async fn calls_beyond_an_organizations_rate_are_told_when_to_come_back() {
    let server = Server::with(&[("plans.default.calls_per_second", "2")]).await;
    let list = async |organization_id: &str| {
        let request =
            v1::ListDestinationsRequest { organization_id: organization_id.into(), ..Default::default() };
        server.destinations().list_destinations(request).await
    };
    let mut refused = None;
    for _ in 0..50 {
        refused = refused.or(list("org_busy").await.err());
    }
    let status = refused.expect("fifty calls fit into two a second");
    let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    let refusal = Refusal::from(status);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED"));
    assert_eq!(refusal.metadata["scope"], "calls");
    list("org_quiet").await.unwrap();
}
