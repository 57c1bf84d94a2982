//! Who takes part in a soak: organizations with three destinations each, of three kinds.

use anyhow::Context;
use prost_types::Duration as Span;
use tokio_rustls::TlsAcceptor;

use super::ledger::Ledger;
use super::receivers::{Book, Receiver};
use crate::cli::bench::server::{self, Egress, Server};
use crate::grpc::proto::v1;

/// Organizations.
pub const ORGANIZATIONS: usize = 3;
/// The destinations of each, one of each kind.
const KINDS: [Kind; 3] = [Kind::Single, Kind::Ordered, Kind::Https];

/// What a destination is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// STALWART with a request for each event, which gives up soon: it makes dead letters.
    Single,
    /// STALWART with batches, in order, which does not give up.
    Ordered,
    /// `STANDARD_WEBHOOKS` over TLS, which does not give up.
    Https,
}

/// A destination with its receiver.
pub struct Player {
    /// Its organization, by number.
    pub organization: usize,
    /// Where it receives.
    pub receiver: Receiver,
    timeout: Span,
    kind: Kind,
    destination_id: String,
    changes: u32,
}

/// An empty ledger for all of them.
#[must_use]
pub fn ledger() -> Ledger {
    let each = (0..ORGANIZATIONS).flat_map(|organization| KINDS.map(|kind| (organization, kind)));
    let destinations = each.map(|(organization, kind)| (organization, kind == Kind::Ordered));
    Ledger::new(ORGANIZATIONS, destinations.collect())
}

/// The id of an organization.
#[must_use]
pub fn organization_id(organization: usize) -> String {
    format!("soak-{organization}")
}

/// Starts the receivers and creates the destinations, whose requests may take so long.
///
/// # Errors
/// No free port, or the server refuses one of them.
pub async fn assemble(
    server: &Server,
    book: &Book,
    acceptor: &TlsAcceptor,
    timeout: Span,
) -> anyhow::Result<Vec<Player>> {
    let mut players = Vec::new();
    for organization in 0..ORGANIZATIONS {
        for kind in KINDS {
            let acceptor = (kind == Kind::Https).then(|| acceptor.clone());
            let receiver = Receiver::start(players.len(), book.clone(), acceptor).await?;
            let destination_id = String::new();
            let mut player = Player { organization, receiver, timeout, kind, destination_id, changes: 0 };
            let created = server.create_destination(&organization_id(organization), player.draft()).await?;
            player.destination_id = created.destination_id;
            players.push(player);
        }
    }
    Ok(players)
}

impl Player {
    fn egress(&self) -> Egress {
        if self.kind == Kind::Https { Egress::Https } else { Egress::Http }
    }

    fn draft(&self) -> v1::Destination {
        let scheme = if self.kind == Kind::Https { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook/{}", self.receiver.address, self.changes);
        let mut destination = server::destination(&url, self.egress());
        if let Some(settings) = &mut destination.settings {
            self.set(settings);
        }
        destination
    }

    fn set(&self, settings: &mut v1::DeliverySettings) {
        settings.timeout = Some(self.timeout);
        settings.retry_policy = Some(self.retry());
        // What a change changes besides the URL.
        settings.max_concurrency = Some(if self.changes.is_multiple_of(2) { 8 } else { 4 });
        if self.kind == Kind::Ordered {
            settings.ordered = Some(true);
            settings.max_concurrency = None;
            settings.max_batch_events = Some(20);
            settings.throttle = Some(Span { seconds: 0, nanos: 50_000_000 });
        }
    }

    /// From a tenth of a second up to two.
    fn retry(&self) -> v1::RetryPolicy {
        let backoff = v1::ExponentialBackoff {
            base: Some(Span { seconds: 0, nanos: 100_000_000 }),
            factor: Some(2.0),
            cap: Some(Span { seconds: 2, nanos: 0 }),
        };
        v1::RetryPolicy {
            schedule: Some(v1::retry_policy::Schedule::Exponential(backoff)),
            max_attempts: (self.kind == Kind::Single).then_some(4),
            ..v1::RetryPolicy::default()
        }
    }

    /// Holds what waits.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn pause(&self, server: &Server) -> anyhow::Result<()> {
        let request = v1::PauseDestinationRequest {
            organization_id: organization_id(self.organization),
            destination_id: self.destination_id.clone(),
        };
        server.destinations()?.pause_destination(request).await.context("pausing a destination").map(drop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn resume(&self, server: &Server) -> anyhow::Result<()> {
        let request = v1::ResumeDestinationRequest {
            organization_id: organization_id(self.organization),
            destination_id: self.destination_id.clone(),
        };
        server.destinations()?.resume_destination(request).await.context("resuming a destination").map(drop)
    }

    /// Changes URL and settings. An open circuit probes at once then.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn change(&mut self, server: &Server) -> anyhow::Result<()> {
        self.changes += 1;
        let mut paths = vec!["url".to_owned()];
        if self.kind != Kind::Ordered {
            paths.push("settings.max_concurrency".to_owned());
        }
        let request = v1::UpdateDestinationRequest {
            organization_id: organization_id(self.organization),
            destination: Some(v1::Destination {
                destination_id: self.destination_id.clone(),
                ..self.draft()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
            validate_only: false,
        };
        server.destinations()?.update_destination(request).await.context("changing a destination").map(drop)
    }
}

/// Puts the dead letters of an organization back, unless such a replay runs already; says how many.
///
/// # Errors
/// The server refuses for another reason.
pub async fn replay(server: &Server, organization: usize) -> anyhow::Result<u64> {
    let request = |validate_only| v1::ReplayDeadLettersRequest {
        organization_id: organization_id(organization),
        selection: Some(v1::replay_dead_letters_request::Selection::All(true)),
        deliveries_per_second: Some(500),
        validate_only,
    };
    let mut client = server.deliveries()?;
    let counted = client.replay_dead_letters(request(true)).await.context("counting dead letters")?;
    let count = counted.into_inner().replay.map_or(0, |replay| replay.total_count);
    if count > 0 {
        match client.replay_dead_letters(request(false)).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::Aborted => return Ok(0),
            Err(status) => return Err(status).context("replaying dead letters"),
        }
    }
    Ok(u64::try_from(count)?)
}
