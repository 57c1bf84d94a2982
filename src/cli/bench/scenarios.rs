//! What is measured of the server, each on a server and a store of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::load::{self, Order, Style, TIME_LIMIT};
use super::report::Measured;
use super::server::{Egress, Server, Setup};
use super::sinks::Sink;

/// Not measured: connections open, the first pages of the store are made.
const WARM_UP_EVENTS: u64 = 400;
/// How often the sink is asked how far it is.
const POLL: Duration = Duration::from_millis(5);
/// Outcomes are stored a little later than they happen; what that costs belongs to the events.
const SETTLE: Duration = Duration::from_millis(300);

/// What all scenarios have in common.
pub struct Setting<'a> {
    /// Where stores are made.
    pub folder: &'a Path,
    /// Events of each scenario.
    pub events: u64,
    /// The data of each event.
    pub data: Bytes,
    /// Destinations of a delivery scenario, each in an organization of its own.
    pub destinations: u32,
}

impl Setting<'_> {
    fn order(&self, style: Style, organizations: u32) -> Order {
        Order {
            style,
            events: self.events,
            data: self.data.clone(),
            first_organization: 0,
            organizations,
            time_limit: TIME_LIMIT,
        }
    }

    /// Durable ingest into an organization without destinations.
    ///
    /// # Errors
    /// The server does not start, refuses an event, or fails.
    pub async fn ingest(&self, style: Style) -> anyhow::Result<Measured> {
        let server = Server::start(self.folder, Setup::default()).await?;
        let order = self.order(style, 1);
        load::emit(&server, &Order { events: WARM_UP_EVENTS, ..order.clone() }).await?;
        let (before, began) = (server.usage()?, Instant::now());
        let done = load::emit(&server, &order).await?;
        let took = began.elapsed();
        let after = server.usage()?;
        Ok(Measured {
            expected: self.events,
            events: done.events,
            took,
            latencies: done.latencies,
            cpu: after.cpu.saturating_sub(before.cpu),
            resident_bytes: after.resident_bytes,
            surplus: 0,
        })
    }

    /// Events in by batches, until the sink has counted one request for each.
    ///
    /// # Errors
    /// A process does not start, the server refuses an event, or fails.
    pub async fn deliver(&self, egress: Egress) -> anyhow::Result<Measured> {
        let certificate = (egress == Egress::Https).then(|| self.folder.join("sink.pem"));
        let mut sink = Sink::start(self.destinations, certificate.as_deref()).await?;
        let server = Server::start(self.folder, Setup { certificate, ..Setup::default() }).await?;
        server.create_destinations(self.destinations, &sink, egress).await?;
        let order = self.order(Style::Batch, self.destinations);
        // Some events for each organization open the connections.
        let warm_up = WARM_UP_EVENTS.max(u64::from(self.destinations));
        load::emit(&server, &Order { events: warm_up, style: Style::Unary, ..order.clone() }).await?;
        wait_for(&mut sink, warm_up, Instant::now() + TIME_LIMIT).await?;
        tokio::time::sleep(SETTLE).await;
        let counted = sink.count().await?;

        let (before, began) = (server.usage()?, Instant::now());
        let emitted = load::emit(&server, &order).await?.events;
        let until = Instant::now() + TIME_LIMIT;
        let arrived = wait_for(&mut sink, counted + emitted, until).await?.saturating_sub(counted);
        let took = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        let after = server.usage()?;
        let surplus = sink.count().await?.saturating_sub(counted + emitted);
        Ok(Measured {
            expected: self.events,
            events: arrived.min(emitted),
            took,
            latencies: Vec::new(),
            cpu: after.cpu.saturating_sub(before.cpu),
            resident_bytes: after.resident_bytes,
            surplus,
        })
    }
}

/// Waits until the sink has counted so many, or the time is over; says what it has counted.
pub(super) async fn wait_for(sink: &mut Sink, count: u64, until: Instant) -> anyhow::Result<u64> {
    loop {
        let counted = sink.count().await?;
        if counted >= count || Instant::now() >= until {
            return Ok(counted);
        }
        tokio::time::sleep(POLL).await;
    }
}
