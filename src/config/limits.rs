//! `[limits]`: what callers may send and how much of the server they may take.

use std::time::Duration;

use crate::domain::payload::PayloadLimits;

use super::reader::Reader;
use super::resolved::{ConnectionLimits, LimitsConfig};
use super::units::{duration, number, or_word, size};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The largest payload that may be configured: what one gRPC message may hold at most, less its frame.
pub(super) const PAYLOAD_CEILING: u64 = 16 * MIB;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads the section.
pub(super) fn limits(reader: &mut Reader<'_>) -> Option<LimitsConfig> {
    let payload = reader.one("limits.payload", "256KiB", size(2, PAYLOAD_CEILING));
    let depth = reader.one("limits.payload_depth", "64", number(1, 128));
    let batch_events = reader.one("limits.batch_events", "1000", number(1, 10_000));
    let message = reader.one("limits.message", "4MiB", size(64 * KIB, 64 * MIB));
    if let (Some(payload), Some(message)) = (payload, message)
        && payload + 16 * KIB > message
    {
        reader
            .problem("limits.payload", "does not fit into limits.message with 16KiB for the rest; lower it");
    }
    let emit_streams = reader.one("limits.emit_streams", "1024", number(1, 1_000_000));
    let streams_of_one = reader.one("limits.emit_streams_per_caller", "256", number(1, 1_000_000));
    let watches = reader.one("limits.watches", "256", number(1, 1_000_000));
    let of_organization = reader.one("limits.watches_per_organization", "64", number(1, 1_000_000));
    let health_watches = reader.one("limits.health_watches", "256", number(1, 1_000_000));
    let watches_of_one = reader.one("limits.health_watches_per_address", "64", number(1, 1_000_000));
    let (call_default, call_max) = deadlines(reader);
    let audited_denials = reader.one("limits.audited_denials", "10", number(1, 10_000));
    let connection = connection(reader);
    let bytes = |size: u64| usize::try_from(size).ok();
    Some(LimitsConfig {
        payload: PayloadLimits { max_bytes: bytes(payload?)?, max_depth: depth? },
        batch_events: batch_events?,
        message_bytes: bytes(message?)?,
        emit_streams: emit_streams?,
        emit_streams_per_caller: streams_of_one?,
        watches: watches?,
        watches_per_organization: of_organization?,
        health_watches: health_watches?,
        health_watches_per_address: watches_of_one?,
        call_default: call_default?,
        call_max: call_max?,
        audited_denials: audited_denials?,
        connection: connection?,
    })
}

fn deadlines(reader: &mut Reader<'_>) -> (Option<Duration>, Option<Duration>) {
    let default = reader.one("limits.call_timeout", "60s", duration(SECOND / 10, 24 * HOUR));
    let most = reader.one("limits.call_timeout_max", "5m", duration(SECOND / 10, 24 * HOUR));
    if let (Some(default), Some(most)) = (default, most)
        && default > most
    {
        reader.problem("limits.call_timeout", "is above limits.call_timeout_max; lower it");
    }
    (default, most)
}

fn connection(reader: &mut Reader<'_>) -> Option<ConnectionLimits> {
    let headers = reader.one("limits.headers", "16KiB", size(4 * KIB, MIB));
    let streams = reader.one("limits.concurrent_streams", "256", number(1, 65_536));
    let calls = reader.one("limits.concurrent_calls", "64", number(1, 65_536));
    let connections = reader.one("limits.connections", "4096", number(1, 1_000_000));
    let per_address = reader.one("limits.connections_per_address", "1024", number(1, 1_000_000));
    let handshakes = reader.one("limits.handshakes", "256", number(1, 1_000_000));
    let handshakes_of_one = reader.one("limits.handshakes_per_address", "64", number(1, 1_000_000));
    let handshake = reader.one("limits.handshake_timeout", "10s", duration(SECOND / 10, HOUR));
    let idle = reader.one("limits.connection_idle", "10m", duration(SECOND / 10, 24 * HOUR));
    let age = or_word("unlimited", duration(SECOND / 10, 365 * 24 * HOUR));
    let age = reader.one("limits.connection_age", "unlimited", age);
    let keepalive = reader.one("limits.keepalive_interval", "30s", duration(SECOND / 10, 24 * HOUR));
    let answer = reader.one("limits.keepalive_timeout", "20s", duration(SECOND / 10, HOUR));
    let control_frames = reader.one("limits.control_frames", "1000", number(10, 1_000_000));
    Some(ConnectionLimits {
        header_bytes: u32::try_from(headers?).ok()?,
        concurrent_streams: streams?,
        concurrent_calls: calls?,
        connections: connections?,
        connections_per_address: per_address?,
        handshakes: handshakes?,
        handshakes_per_address: handshakes_of_one?,
        handshake_timeout: handshake?,
        idle: idle?,
        age: age?,
        keepalive_interval: keepalive?,
        keepalive_timeout: answer?,
        control_frames: control_frames?,
    })
}
