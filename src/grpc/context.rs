//! What all services share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::shares::{Holder, Shares};
use super::status::Problem;
use crate::control::Control;
use crate::domain::id::OrganizationId;

/// The use cases, and the tasks that outlive a caller.
#[derive(Clone)]
pub struct Context {
    /// What callers may ask.
    pub control: Arc<Control>,
    /// Work that goes on when its caller is gone; the server waits for it when it stops.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to stop.
    pub stop: CancellationToken,
    /// A place for each stream of events, in a share of its caller.
    pub streams: Shares<Holder>,
    /// How long such a stream may be without its first message.
    pub first_message: Duration,
    /// A place for each watch, in a share of its organization.
    pub watches: Shares<OrganizationId>,
}

impl Context {
    /// Finishes work although its caller may go away meanwhile. A panic in it is a fault of ours, and no
    /// reset of the connection.
    ///
    /// # Errors
    /// What the work answers, or `INTERNAL`.
    pub async fn finish<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        self.outcome_of(work).await.map_err(Problem::into_status)
    }

    /// The same, for those who look at the problem before they answer it.
    ///
    /// # Errors
    /// What the work answers, or a fault of ours.
    pub async fn outcome_of<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        match self.tasks.spawn(work).await {
            Ok(done) => done.map_err(Into::into),
            Err(error) => Err(Problem::internal(&format!("a call's task ended: {error}"))),
        }
    }

    /// Counts events that are refused for this reason.
    pub fn count_refused(&self, problem: &Problem, events: usize) {
        self.control.metrics().refused(problem.reason_name(), events as u64);
    }
}
