//! `WatchDeliveries`: a stream of changes for one client.
//!
//! A task of the server's tracker follows the watch and hands messages to the client, a few ahead. A client
//! that takes none holds up its own task and nothing else.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::context::Context;
use super::convert::delivery::{Attempts, read_filter, write_delivery};
use super::convert::time::write_timestamp;
use super::interceptor::Admission;
use super::page::{Cursor, Pages};
use super::proto::v1;
use super::shares::NoShare;
use super::status::{Problem, invalid, status};
use crate::auth::Caller;
use crate::control::watch::{Changed, Watch, WatchCursor};
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;

/// A stream says that it lives after so long without a change.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// The most messages that wait for the client to take them.
const ANSWERS: usize = 64;

/// One message to the client, or the end of the stream.
pub type Answer = Result<v1::WatchDeliveriesResponse, Status>;

impl Cursor for WatchCursor {
    fn to_bytes(&self) -> Vec<u8> {
        let parts = [self.place.epoch, self.place.sequence, self.since.as_millis().cast_unsigned()];
        parts.iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (parts, rest) = bytes.as_chunks::<8>();
        let mut parts = parts.iter().map(|part| u64::from_be_bytes(*part));
        let (epoch, sequence, since) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !rest.is_empty() {
            return None;
        }
        let place = crate::control::watch::Place { epoch, sequence };
        Some(Self { place, since: Timestamp::from_millis(since.cast_signed()) })
    }
}

/// Opens a watch and follows it until the client goes, its credentials end, or the server stops.
///
/// # Errors
/// Where the request is not valid, the cursor is too old, or too many watch already.
pub async fn open(
    context: &Context,
    (caller, admission): (&Caller, Admission),
    mut request: v1::WatchDeliveriesRequest,
) -> Result<ReceiverStream<Answer>, Status> {
    let token = std::mem::take(&mut request.cursor);
    let pages = Pages::of(&request);
    let mut found = Violations::new();
    let filter = read_filter(request.filter, &mut found);
    found.into_result(()).map_err(invalid)?;
    let cursor = match token.as_str() {
        "" => None,
        token => Some(pages.cursor::<WatchCursor>(token).ok_or_else(invalid_cursor)?),
    };
    let watch = context.control.watch_deliveries(caller, &request.organization_id, filter, cursor).await;
    let watch = watch.map_err(status)?;
    let place = context.watches.take(watch.organization_id().clone()).map_err(too_many)?;
    let (answers, receiver) = mpsc::channel(ANSWERS);
    let stop = context.stop.clone();
    context.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                // A client that takes nothing learns it from the connection.
                answers.try_send(Err(Problem::shutting_down().into_status())).ok();
            }
            () = answers.closed() => {}
            ended = admission.ended() => {
                answers.try_send(Err(ended.into_status())).ok();
            }
            () = follow(watch, pages, &answers) => {}
        }
        drop(place);
    });
    Ok(ReceiverStream::new(receiver))
}

/// Hands on changes until the client is gone or the store fails.
async fn follow(mut watch: Watch, pages: Pages, answers: &mpsc::Sender<Answer>) {
    let mut quiet_since = Instant::now();
    loop {
        let messages: Vec<Answer> = tokio::select! {
            biased;
            () = tokio::time::sleep_until(quiet_since + SIGN_OF_LIFE) => {
                let cursor = pages.next_token(Some(watch.cursor()));
                vec![Ok(v1::WatchDeliveriesResponse { cursor, ..v1::WatchDeliveriesResponse::default() })]
            }
            changes = watch.next() => match changes {
                Ok(changes) => changes.iter().map(|change| Ok(write_change(change, pages))).collect(),
                Err(error) => vec![Err(status(error))],
            },
        };
        let told = !messages.is_empty();
        for message in messages {
            let ended = message.is_err();
            if answers.send(message).await.is_err() || ended {
                return;
            }
        }
        if told {
            quiet_since = Instant::now();
        }
    }
}

fn write_change(change: &Changed, pages: Pages) -> v1::WatchDeliveriesResponse {
    v1::WatchDeliveriesResponse {
        delivery: Some(write_delivery(&change.delivery, Attempts::Latest)),
        change_time: Some(write_timestamp(change.at)),
        cursor: pages.next_token(Some(change.cursor)),
    }
}

fn invalid_cursor() -> Status {
    let message = "the cursor is damaged, or belongs to another organization or filter; watch from now on";
    Problem::new(Code::InvalidArgument, v1::ErrorReason::CursorInvalid, message).into_status()
}

fn too_many(why: NoShare) -> Status {
    let (limit, of) = match why {
        NoShare::Anywhere(most) => (most, ("server", "watches")),
        NoShare::ForThisOne(most) => (most, ("organization", "watches_per_organization")),
    };
    Problem::too_many_streams("watches", of, limit).into_status()
}
