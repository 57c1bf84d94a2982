//! Connections of callers to the gRPC port.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::each::{Each, Words};

/// What refuses or closes a connection; a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionLimit {
    /// So many may be open.
    Connections,
    /// So many of one address may be.
    ConnectionsPerAddress,
    /// So many may not have begun to speak.
    Handshakes,
    /// So many of one address may not have begun to speak.
    HandshakesPerAddress,
    /// So many frames without calls may come in a second.
    ControlFrames,
}

impl ConnectionLimit {
    /// The setting.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Connections => "limits.connections",
            Self::ConnectionsPerAddress => "limits.connections_per_address",
            Self::Handshakes => "limits.handshakes",
            Self::HandshakesPerAddress => "limits.handshakes_per_address",
            Self::ControlFrames => "limits.control_frames",
        }
    }
}

impl Words for ConnectionLimit {
    const LABEL: &'static str = "limit";
    const ALL: &'static [Self] = &[
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Handshakes,
        Self::HandshakesPerAddress,
        Self::ControlFrames,
    ];

    fn word(self) -> &'static str {
        self.setting().trim_start_matches("limits.")
    }
}

/// Connections of callers. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    open: Gauge,
    refused: Each<ConnectionLimit, Counter>,
}

impl ConnectionMetrics {
    /// A connection was taken in; it is open until the guard is dropped.
    #[must_use]
    pub fn open(&self) -> OpenConnection {
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    /// A connection was refused or closed by a limit.
    pub fn refused(&self, by: ConnectionLimit) {
        self.refused.with(by, Counter::inc);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections to the gRPC port that are open, each with a socket of its own";
        registry.register("connections", help, self.open.clone());
        let help = "Connections to the gRPC port that a limit refused or closed, by that limit";
        self.refused.register(registry, "connections_refused", help);
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
