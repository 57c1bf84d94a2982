//! `grpc.health.v1`: whether the server has started, is ready, and lives.
//!
//! Our own service instead of tonic-health's, for three reasons: the overall status is not serving until
//! we say so, a watch on an unknown name stays open (as the specification asks), and watches end when
//! the server stops, so that they can't hold it up.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::status::Problem;

/// The services of the API: each has a status of its own.
pub const SERVICES: [&str; 5] = [
    "signalpost.v1.EventIngest",
    "signalpost.v1.DestinationAdmin",
    "signalpost.v1.DeliveryAdmin",
    "signalpost.v1.OrganizationAdmin",
    "signalpost.v1.StoreAdmin",
];
/// Serving once the store is open and recovered.
pub const STARTUP: &str = "signalpost.startup";
/// Serving while calls should be sent here.
pub const READINESS: &str = "signalpost.readiness";
/// Serving while the process works, also while it drains.
pub const LIVENESS: &str = "signalpost.liveness";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flags {
    started: bool,
    ready: bool,
    live: bool,
}

/// What probes are told; cheap to clone, all clones are one.
#[derive(Debug, Clone)]
pub struct HealthState {
    flags: Arc<watch::Sender<Flags>>,
}

impl Default for HealthState {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthState {
    /// Lives, but has not started and is not ready.
    #[must_use]
    pub fn new() -> Self {
        let flags = Flags { started: false, ready: false, live: true };
        Self { flags: Arc::new(watch::Sender::new(flags)) }
    }

    /// The store is open and recovered.
    pub fn set_started(&self, started: bool) {
        self.flags.send_modify(|flags| flags.started = started);
    }

    /// Calls should (not) be sent here: also the status of the server as a whole and of each service.
    pub fn set_ready(&self, ready: bool) {
        self.flags.send_modify(|flags| flags.ready = ready);
    }

    /// The process can (not) go on without a restart.
    pub fn set_live(&self, live: bool) {
        self.flags.send_modify(|flags| flags.live = live);
    }
}

/// The service behind one port.
pub struct HealthService {
    state: HealthState,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl HealthService {
    /// The service; its watches are tasks of this tracker and end with this token.
    #[must_use]
    pub fn new(state: HealthState, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { state, tasks, stop }
    }
}

fn status_of(flags: Flags, service: &str) -> Option<ServingStatus> {
    let serving = match service {
        STARTUP => flags.started,
        LIVENESS => flags.live,
        "" | READINESS => flags.ready,
        name if SERVICES.contains(&name) => flags.ready,
        _ => return None,
    };
    Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = status_of(*self.state.flags.borrow(), &service);
        let status =
            status.ok_or_else(|| Status::not_found("unknown service; see the health names in the docs"))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let (sender, receiver) = mpsc::channel(1);
        let (flags, stop) = (self.state.flags.subscribe(), self.stop.clone());
        self.tasks.spawn(watch_status(service, flags, sender, stop));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Tells each change of one status until the client goes or the server stops.
async fn watch_status(
    service: String,
    mut flags: watch::Receiver<Flags>,
    sender: mpsc::Sender<Result<HealthCheckResponse, Status>>,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let status = status_of(*flags.borrow_and_update(), &service);
        let status = status.unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(status) {
            told = Some(status);
            let response = HealthCheckResponse { status: status.into() };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            // A stop is told as a change of state first.
            biased;
            changed = flags.changed() => if changed.is_err() { return },
            () = stop.cancelled() => {
                if sender.try_send(Err(Problem::shutting_down().into_status())).is_err() {
                    tracing::debug!("a watch of the health ended without its last word");
                }
                return;
            }
            () = sender.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn service(state: &HealthState) -> (HealthService, CancellationToken) {
        let stop = CancellationToken::new();
        (HealthService::new(state.clone(), TaskTracker::new(), stop.clone()), stop)
    }

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn a_server_is_not_ready_until_it_says_so_and_drains_alive() {
        let state = HealthState::new();
        let (service, _) = service(&state);
        let check = async |name: &str| service.check(request(name)).await.unwrap().into_inner().status();
        for name in ["", STARTUP, READINESS, SERVICES[0]] {
            assert_eq!(check(name).await, ServingStatus::NotServing, "{name}");
        }
        state.set_started(true);
        state.set_ready(true);
        for name in ["", STARTUP, READINESS, LIVENESS, SERVICES[3]] {
            assert_eq!(check(name).await, ServingStatus::Serving, "{name}");
        }
        state.set_ready(false);
        assert_eq!(check("").await, ServingStatus::NotServing);
        assert_eq!(check(LIVENESS).await, ServingStatus::Serving);
        let unknown = service.check(request("nonsense")).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_watch_tells_each_change_and_ends_when_the_server_stops() {
        let state = HealthState::new();
        let (service, stop) = service(&state);
        let mut watch = service.watch(request(READINESS)).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        state.set_ready(true);
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        stop.cancel();
        assert_eq!(watch.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        let mut unknown = service.watch(request("nonsense")).await.unwrap().into_inner();
        assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    }
}
