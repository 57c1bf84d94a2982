//! `signalpost tail`: the changes of deliveries as they happen, also over a reconnect.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use tonic::Code;

use crate::domain::time::Timestamp;
use crate::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use crate::grpc::proto::v1::{self, DeliveryState};
use crate::shutdown::Signals;

use super::call::Call;
use super::client::{Connection, Failure};
use super::exit::Exit;
use super::output::{remark, try_print};
use super::selection::Selection;
use super::show::{Colour, Paint, as_json, clock_time, elapsed, moment};
use super::words;

/// The first pause before a reconnect, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// `signalpost tail`.
#[derive(Debug, Args)]
pub(super) struct TailArguments {
    #[command(flatten)]
    selection: Selection,
    /// Only changes into this state; may be given several times.
    #[arg(long, value_name = "STATE", value_parser = words::parse_state, help_heading = "Selection")]
    state: Vec<DeliveryState>,
    /// Go on behind this place: the `cursor` of a line of JSON.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// End after so many changes.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    call: Call,
}

/// Shows changes until Ctrl-C, until enough were shown, or until nobody reads the output any more.
pub(super) async fn run(arguments: TailArguments) -> anyhow::Result<Exit> {
    let mut signals = Signals::of_process()?;
    let mut tail = Tail {
        cursor: arguments.cursor.clone().unwrap_or_default(),
        left: arguments.count.unwrap_or(u64::MAX),
        names: HashMap::new(),
        pause: PAUSES.0,
        arguments,
    };
    tokio::select! {
        ended = tail.follow() => ended.map(|()| Exit::Success),
        _ = signals.next() => Ok(Exit::Success),
    }
}

struct Tail {
    arguments: TailArguments,
    /// Behind the last message.
    cursor: String,
    /// How many changes are still to be shown.
    left: u64,
    /// The destinations' names, as far as they are known.
    names: HashMap<String, String>,
    pause: Duration,
}

impl Tail {
    async fn follow(&mut self) -> anyhow::Result<()> {
        // A server that is not there at the beginning is a mistake; later it is an outage.
        let mut connection = Some(self.arguments.call.connect().await?);
        while self.left > 0 {
            let watched = match connection.take() {
                Some(connection) => self.watch(&connection).await?,
                None => match self.arguments.call.connect().await {
                    Ok(connection) => self.watch(&connection).await?,
                    Err(failure) => Watched::Lost(failure),
                },
            };
            match watched {
                Watched::Enough => return Ok(()),
                Watched::Lost(failure) if failure.is_transient() => self.wait(&failure).await,
                Watched::Lost(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    async fn wait(&mut self, failure: &Failure) {
        let why = failure.to_string();
        let first = why.lines().next().unwrap_or_default();
        remark(&format!("{first}; going on in {}", elapsed(self.pause)));
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    async fn watch(&mut self, connection: &Connection) -> anyhow::Result<Watched> {
        self.learn_names(connection).await;
        let filter = v1::DeliveryFilter {
            states: self.arguments.state.iter().map(|state| (*state).into()).collect(),
            ..self.arguments.selection.filter()
        };
        let request = v1::WatchDeliveriesRequest {
            organization_id: self.arguments.call.organization_id(),
            filter: Some(filter),
            cursor: self.cursor.clone(),
        };
        let mut client = DeliveryAdminClient::new(connection.streams());
        let mut stream = match client.watch_deliveries(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Watched::Lost(connection.failed(status))),
        };
        loop {
            match stream.message().await {
                Ok(Some(change)) => {
                    self.pause = PAUSES.0;
                    if !self.show(connection, &change).await? {
                        return Ok(Watched::Enough);
                    }
                }
                Ok(None) => return Ok(Watched::Lost(ended(connection))),
                Err(status) => return Ok(Watched::Lost(connection.failed(status))),
            }
        }
    }

    /// Shows a change, and says whether more are wanted.
    async fn show(
        &mut self,
        connection: &Connection,
        change: &v1::WatchDeliveriesResponse,
    ) -> anyhow::Result<bool> {
        self.cursor.clone_from(&change.cursor);
        let Some(delivery) = &change.delivery else { return Ok(true) };
        if !self.names.contains_key(&delivery.destination_id) {
            self.learn_names(connection).await;
        }
        let line = match self.arguments.call.output.is_json() {
            true => as_json(change)?,
            false => self.line(change, delivery, self.arguments.call.output.paint()),
        };
        self.left -= 1;
        Ok(try_print(&format!("{line}\n"))? && self.left > 0)
    }

    /// Names are for people only: without the right to read them the ids do.
    async fn learn_names(&mut self, connection: &Connection) {
        if self.arguments.call.output.is_json() {
            return;
        }
        let request = v1::ListDestinationsRequest {
            organization_id: self.arguments.call.organization_id(),
            page_size: 1000,
            ..v1::ListDestinationsRequest::default()
        };
        if let Ok(answer) = connection.destinations().list_destinations(request).await {
            let found = answer.into_inner().destinations.into_iter();
            self.names.extend(found.map(|one| (one.destination_id, one.display_name)));
        }
    }

    fn line(&self, change: &v1::WatchDeliveriesResponse, delivery: &v1::Delivery, paint: Paint) -> String {
        let state = delivery.state();
        let at = change.change_time.map_or(Timestamp::from_millis(0), moment);
        let name = self.names.get(&delivery.destination_id).filter(|name| !name.is_empty());
        let attempt = delivery.attempts.last().map(|attempt| {
            let took = attempt.round_trip.and_then(|took| Duration::try_from(took).ok()).map(elapsed);
            format!("  {} in {}", words::outcome(attempt), took.unwrap_or_default())
        });
        let mut rest = attempt.unwrap_or_default();
        for text in [words::reason(delivery.reason()), delivery.last_error.clone()] {
            if !text.is_empty() && state != DeliveryState::Succeeded {
                rest.push_str(&format!("  {text}"));
            }
        }
        let line = format!(
            "{}  {}  {}  {} → {}  attempt {}{rest}",
            paint.text(Colour::Dim, &clock_time(at)),
            paint.text(colour(state), &format!("{:<13}", words::state(state))),
            delivery.event_type,
            delivery.event_id,
            name.unwrap_or(&delivery.destination_id),
            delivery.attempt_count,
        );
        line.replace(['\n', '\r'], " ")
    }
}

enum Watched {
    /// Nobody wants more.
    Enough,
    /// The stream broke off.
    Lost(Failure),
}

fn ended(connection: &Connection) -> Failure {
    connection.failed(tonic::Status::new(Code::Unavailable, "the server ended the stream"))
}

fn colour(state: DeliveryState) -> Colour {
    match state {
        DeliveryState::Succeeded => Colour::Good,
        DeliveryState::DeadLettered | DeliveryState::Discarded => Colour::Bad,
        DeliveryState::Waiting | DeliveryState::InFlight => Colour::Attention,
        DeliveryState::Cancelled | DeliveryState::Unspecified => Colour::Dim,
    }
}
