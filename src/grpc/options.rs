//! What the servers take on: numbers, with the defaults of the configuration.

use std::time::Duration;

/// Whether reflection is served, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflection {
    /// To everybody.
    Open,
    /// To callers with valid credentials.
    Authenticated,
    /// To nobody.
    Off,
}

/// What the API's server takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request message, in bytes. tonic answers `OUT_OF_RANGE` above it.
    pub max_message_bytes: usize,
    /// The most `EmitStream` streams: in all, and of one caller.
    pub max_emit_streams: (usize, usize),
    /// The most `WatchDeliveries` streams: in all, and of one organization.
    pub max_watches: (usize, usize),
    /// The most streams without credentials (`grpc.health.v1.Health/Watch`): in all, and from one address.
    pub max_open_streams: (usize, usize),
    /// Whether reflection is served, and to whom.
    pub reflection: Reflection,
    /// How long a call may take whose caller says nothing, and a stream of events be without its first message;
    /// otherwise streams are not calls.
    pub call_default: Duration,
    /// How often the credentials of a stream are looked at again.
    pub recheck: Duration,
    /// What a connection may do.
    pub connection: ConnectionOptions,
    /// How many connections there may be.
    pub listener: ListenerOptions,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 * 1024 * 1024,
            max_emit_streams: (1024, 256),
            max_watches: (256, 64),
            max_open_streams: (256, 64),
            reflection: Reflection::Authenticated,
            call_default: Duration::from_secs(60),
            recheck: Duration::from_secs(5),
            connection: ConnectionOptions::default(),
            listener: ListenerOptions::default(),
        }
    }
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// The most calls and streams open at the same time.
    pub streams: u32,
    /// The most calls that are worked on at the same time; others wait.
    pub calls: usize,
    /// The most bytes of a call's headers.
    pub header_bytes: u32,
    /// How long the peer may take for the TLS handshake, again for the first bytes of HTTP/2, and again to go
    /// when it is told to.
    pub handshake_timeout: Duration,
    /// Without a call for so long, it is closed.
    pub idle: Duration,
    /// After so long, more or less by a tenth, it takes no new calls; `None` for never.
    pub age: Option<Duration>,
    /// The longest that a call may take, whatever its caller asks for; streams are not calls.
    pub call_max: Duration,
    /// How often a quiet connection is asked whether its other end is still there.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// The most frames a second that carry nothing of a call.
    pub control_frames: u32,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            streams: 256,
            // In closed loops 32 gave 1.4 times the calls a second of no limit, because both sides work
            // in batches then; 64 leaves room for slow calls besides.
            calls: 64,
            header_bytes: 16 * 1024,
            handshake_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            age: None,
            call_max: Duration::from_secs(300),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            control_frames: 1000,
        }
    }
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerOptions {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub connections_per_address: usize,
    /// That have not begun to speak HTTP/2: in the TLS handshake, or silent.
    pub handshakes: usize,
    /// Of these, from one address.
    pub handshakes_per_address: usize,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { connections: 4096, connections_per_address: 1024, handshakes: 256, handshakes_per_address: 64 }
    }
}
