//! Counts the frames of a connection that carry no calls, as they come in.
//!
//! HTTP/2 lets a peer send pings, settings and resets without end, each of which costs us work and an answer.
//! The protocol's implementation bounds the memory that they take; this bounds the work: a connection that
//! sends more of them a second than is allowed is closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::ConnectionState;
use super::refusals::Refusals;
use crate::metrics::ConnectionLimit;

/// What HTTP/2 connections begin with, in bytes.
const PREFACE_BYTES: usize = 24;
/// The flag of the last frame of a stream.
const END_STREAM: u8 = 0x1;
/// The head of a frame, in bytes.
const HEAD_BYTES: usize = 9;

/// A connection, in the clear or encrypted.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where in the bytes of a connection we are, and how many frames may still come this second.
#[derive(Debug)]
pub struct FrameMeter {
    /// Bytes of the preface or of a frame's content that are yet to come.
    skip: usize,
    head: [u8; HEAD_BYTES],
    filled: usize,
    allowance: Allowance,
}

#[derive(Debug)]
struct Allowance {
    per_second: u32,
    left: f64,
    filled_at: Instant,
}

impl FrameMeter {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        let allowance = Allowance { per_second, left: f64::from(per_second), filled_at: now };
        Self { skip: PREFACE_BYTES, head: [0; HEAD_BYTES], filled: 0, allowance }
    }

    /// Takes the next bytes; whether they are still within what is allowed.
    pub fn take(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEAD_BYTES - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at_checked(wanted).unwrap_or_default();
            if let Some(room) = self.head.get_mut(self.filled..self.filled + wanted) {
                room.copy_from_slice(part);
            }
            (self.filled, bytes) = (self.filled + wanted, rest);
            if self.filled < HEAD_BYTES {
                continue;
            }
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.filled = 0;
            if is_overhead(kind, flags, self.skip) && !self.allowance.spend(now()) {
                return false;
            }
        }
        true
    }
}

/// Whether a frame carries nothing of a call: empty data, priorities, resets, settings, pings, continuations.
/// Windows are opened in the course of reading what we send, so they are not counted. Nor is empty data that ends
/// its stream: most clients end each call with it, and there is one at most for each call.
const fn is_overhead(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        0x0 => length == 0 && flags & END_STREAM == 0,
        0x2..=0x4 | 0x6 | 0x9 => true,
        _ => false,
    }
}

impl Allowance {
    fn spend(&mut self, now: Instant) -> bool {
        let rate = f64::from(self.per_second);
        let gained = now.saturating_duration_since(self.filled_at).as_secs_f64() * rate;
        self.left = (self.left + gained).min(rate) - 1.0;
        self.filled_at = now;
        self.left >= 0.0
    }
}

/// A connection whose incoming frames are counted.
pub struct Metered {
    inner: Box<dyn Io>,
    meter: FrameMeter,
    read: usize,
    state: Arc<ConnectionState>,
    refusals: Arc<Refusals>,
}

impl Metered {
    /// Counts from the beginning of the connection.
    #[must_use]
    pub fn new(
        inner: Box<dyn Io>,
        per_second: u32,
        state: Arc<ConnectionState>,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self { inner, meter: FrameMeter::new(per_second, Instant::now()), read: 0, state, refusals }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        if self.read < PREFACE_BYTES {
            self.read += bytes.len();
            if self.read >= PREFACE_BYTES {
                self.state.began();
            }
        }
        if self.meter.take(bytes, Instant::now) {
            return Poll::Ready(Ok(()));
        }
        self.refusals.note(ConnectionLimit::ControlFrames, self.state.peer().ip());
        Poll::Ready(Err(io::Error::other("too many frames without calls")))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [head.as_slice(), content].concat()
    }

    fn stream(frames: &[(u8, u8, usize)]) -> Vec<u8> {
        let frames = frames.iter().map(|(kind, flags, length)| frame(*kind, *flags, &vec![0xff; *length]));
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()].into_iter().chain(frames).collect::<Vec<_>>().concat()
    }

    proptest! {
        /// However the bytes are cut, the same frames are counted.
        #[test]
        fn the_count_does_not_depend_on_how_bytes_arrive(
            frames in prop::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..40),
            cut in 1_usize..50,
        ) {
            let overhead = frames.iter().filter(|(kind, flags, length)| is_overhead(*kind, *flags, *length));
            let overhead = overhead.count();
            let now = Instant::now();
            for (allowed, fits) in [(overhead, true), (overhead.wrapping_sub(1), false)] {
                let Ok(allowed) = u32::try_from(allowed) else { continue };
                let mut meter = FrameMeter::new(allowed, now);
                let bytes = stream(&frames);
                prop_assert_eq!(bytes.chunks(cut).all(|part| meter.take(part, || now)), fits);
            }
        }
    }

    #[test]
    fn a_peer_that_pings_as_often_as_it_may_goes_on_for_ever() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(10, start);
        assert!(meter.take(&stream(&[]), || start));
        let ping = frame(6, 0, &[0; 8]);
        for number in 0..1000 {
            let now = start + Duration::from_millis(100 * number);
            assert!(meter.take(&ping, || now), "{number}");
        }
        let now = start + Duration::from_secs(100);
        assert!(!(0..12).all(|_| meter.take(&ping, || now)));
    }

    #[test]
    fn calls_themselves_are_not_counted() {
        let now = Instant::now();
        let mut meter = FrameMeter::new(1, now);
        // A client ends a call with its data, or with an empty frame behind it.
        let call = [(0x1, 0, 30), (0x0, 0, 100), (0x0, END_STREAM, 0), (0x8, 0, 4)];
        let calls: Vec<(u8, u8, usize)> = (0..1000).flat_map(|_| call).collect();
        assert!(meter.take(&stream(&calls), || now));
        assert!(!meter.take(&[frame(0x0, 0, &[]), frame(0x0, 0, &[])].concat(), || now));
    }
}
