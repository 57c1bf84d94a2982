//! `StoreAdmin`: a backup as a stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::context::Context;
use super::convert::time::write_timestamp;
use super::interceptor::{admission, caller};
use super::proto::v1;
use super::proto::v1::back_up_store_response::Part;
use super::proto::v1::store_admin_server::StoreAdmin;
use super::status::{Problem, status};
use crate::control::Error;
use crate::control::backup::{BackupEntry, BackupHeader, BackupPart, RunningBackup};

/// The most parts that wait for the client to take them.
const PARTS: usize = 4;
/// When a backup that fell behind may be tried again: a burst of load is over then, or is none.
const BEHIND_RETRY_AFTER: Duration = Duration::from_secs(60);

type Answer = Result<v1::BackUpStoreResponse, Status>;

/// The service.
pub struct StoreAdminService {
    context: Context,
    /// One backup at a time: each reads everything.
    running: Arc<Semaphore>,
}

impl StoreAdminService {
    /// The service over the use cases.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context, running: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl StoreAdmin for StoreAdminService {
    type BackUpStoreStream = ReceiverStream<Answer>;

    async fn back_up_store(
        &self,
        request: Request<v1::BackUpStoreRequest>,
    ) -> Result<Response<Self::BackUpStoreStream>, Status> {
        let (caller, admission) = (caller(&request)?, admission(&request)?);
        if !request.get_ref().organization_id.is_empty() {
            let problem = "is given, and a backup is of all organizations; leave it out";
            return Err(status(Error::invalid("organization_id", problem)));
        }
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(|_| already().into_status())?;
        let backup = self.context.control.back_up(&caller).await.map_err(status)?;
        let backup = backup.ok_or_else(|| not_here().into_status())?;
        let (answers, receiver) = mpsc::channel(PARTS);
        let stop = self.context.stop.clone();
        self.context.tasks.spawn(async move {
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => Some(Problem::shutting_down().into_status()),
                () = answers.closed() => None,
                ended = admission.ended() => Some(ended.into_status()),
                () = hand_on(backup, &answers) => None,
            };
            if let Some(end) = end {
                // A client that takes nothing learns it from the connection.
                answers.try_send(Err(end)).ok();
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn hand_on(mut backup: RunningBackup, answers: &mpsc::Sender<Answer>) {
    loop {
        let answer = match backup.next().await {
            Ok(Some(part)) => Ok(write_part(part)),
            Ok(None) => return,
            Err(Error::Busy { .. }) => Err(fell_behind().into_status()),
            Err(error) => Err(status(error)),
        };
        let failed = answer.is_err();
        if answers.send(answer).await.is_err() || failed {
            return;
        }
    }
}

fn write_part(part: BackupPart) -> v1::BackUpStoreResponse {
    let part = match part {
        BackupPart::Header(header) => Part::Header(write_header(header)),
        BackupPart::Entries(entries) => {
            let entry = |BackupEntry { key, value }: BackupEntry| v1::BackupEntry {
                key: key.into(),
                value: value.map(Into::into),
            };
            Part::Entries(v1::BackupEntries { entries: entries.into_iter().map(entry).collect() })
        }
        BackupPart::End { entries, as_of } => Part::Summary(v1::BackupSummary {
            entry_count: i64::try_from(entries).unwrap_or(i64::MAX),
            consistent_time: Some(write_timestamp(as_of)),
        }),
    };
    v1::BackUpStoreResponse { part: Some(part) }
}

fn write_header(header: BackupHeader) -> v1::BackupHeader {
    v1::BackupHeader {
        layout: i32::try_from(header.layout).unwrap_or(i32::MAX),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        start_time: Some(write_timestamp(header.begun_at)),
        sealing_key_ids: header.sealing_keys,
        sealed_secret_count: i64::try_from(header.sealed_secrets).unwrap_or(i64::MAX),
    }
}

fn already() -> Problem {
    let message = "a backup is running already; wait for its end";
    Problem::new(Code::ResourceExhausted, v1::ErrorReason::StreamLimitExceeded, message)
        .with("limit", 1)
        .with("scope", "server")
}

fn fell_behind() -> Problem {
    let message = "the backup was read so slowly that what changed meanwhile no longer fits into memory; make it at a \
                   quieter time, or nearer to the server";
    Problem::new(Code::ResourceExhausted, v1::ErrorReason::QueueFull, message).after(Some(BEHIND_RETRY_AFTER))
}

fn not_here() -> Problem {
    let message =
        "this server keeps its data in a database; back that up with its own tools, for example pg_dump";
    Problem::new(Code::Unimplemented, v1::ErrorReason::MethodNotAvailable, message)
}
