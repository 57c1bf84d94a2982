//! A receiver that answers what a test tells it to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use http::StatusCode;
use signalpost::clock::{Clock, SystemClock};
use signalpost::domain::contract::Contract;
use signalpost::receiver::{
    Answer, Behaviour, Received, ReceiverOptions, Rejection, TlsIdentity, Verified, verify,
};

use super::PATIENCE;

/// The certificate of all receivers of this process, which all servers trust.
pub struct TestIdentity;

static IDENTITY: LazyLock<TlsIdentity> =
    LazyLock::new(|| TlsIdentity::self_signed(["localhost", "127.0.0.1"]).unwrap());

impl TestIdentity {
    /// The certificate, for `egress.ca_file`.
    pub fn certificate_pem() -> &'static str {
        IDENTITY.certificate_pem()
    }
}

/// A receiver with answers by path; 200 where nothing is planned.
pub struct Receiver {
    inner: signalpost::receiver::Receiver,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan(Mutex<HashMap<String, PathPlan>>);

#[derive(Default)]
struct PathPlan {
    next: VecDeque<Answer>,
    otherwise: Option<Answer>,
    /// Answers with a failure, and with the target and the headers that came.
    echoes: bool,
}

impl Behaviour for Plan {
    fn answer(&self, received: &Received) -> Answer {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = paths.entry(received.path.clone()).or_default();
        if path.echoes {
            return echo(received);
        }
        let next = path.next.pop_front().or_else(|| path.otherwise.clone());
        next.unwrap_or_else(|| StatusCode::OK.into())
    }
}

fn echo(received: &Received) -> Answer {
    let headers: Vec<String> =
        received.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    let query = received.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let body = format!("you sent POST {}{query}; {}", received.path, headers.join("; "));
    Answer { body: body.into(), ..Answer::from(StatusCode::INTERNAL_SERVER_ERROR) }
}

impl Receiver {
    /// HTTPS on a free port, with the certificate that servers of the tests trust.
    pub async fn start() -> Self {
        Self::listen(Some(IDENTITY.clone())).await
    }

    /// HTTPS with a certificate that nobody trusts.
    pub async fn untrusted() -> Self {
        Self::listen(Some(TlsIdentity::self_signed(["127.0.0.1"]).unwrap())).await
    }

    /// Plain HTTP.
    pub async fn plain() -> Self {
        Self::listen(None).await
    }

    async fn listen(tls: Option<TlsIdentity>) -> Self {
        let plan = Arc::new(Plan::default());
        let behaviour: Arc<dyn Behaviour> = Arc::<Plan>::clone(&plan);
        let options = ReceiverOptions { tls, ..ReceiverOptions::local(behaviour) };
        Self { inner: signalpost::receiver::Receiver::start(options).await.unwrap(), plan }
    }

    pub fn url(&self, path: &str) -> String {
        self.inner.url(path)
    }

    /// Fails every request on a path, and sends back its target and the headers that came with it.
    pub fn echoes(&self, path: &str) {
        self.plan.0.lock().unwrap_or_else(PoisonError::into_inner).entry(path.into()).or_default().echoes =
            true;
    }

    /// Plans the next answers on a path, one request each.
    pub fn will_answer<A: Into<Answer>>(&self, path: &str, answers: impl IntoIterator<Item = A>) {
        self.change(path, |path| path.next.extend(answers.into_iter().map(Into::into)));
    }

    /// Plans what a path answers from now on, where no other answer is planned.
    pub fn always_answers(&self, path: &str, answer: impl Into<Answer>) {
        self.change(path, |path| path.otherwise = Some(answer.into()));
    }

    /// Answers 200 from now on, whatever was planned.
    pub fn recovers(&self, path: &str) {
        self.change(path, |path| *path = PathPlan::default());
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut PathPlan)) {
        let mut paths = self.plan.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(paths.entry(path.to_owned()).or_default());
    }

    /// What came so far, on all paths.
    pub fn all(&self) -> Vec<Received> {
        self.inner.received()
    }

    /// What came on a path so far.
    pub fn got(&self, path: &str) -> Vec<Received> {
        let all = self.inner.received();
        all.into_iter().filter(|one| one.path == path).collect()
    }

    /// Waits until so many requests came on a path, and returns all that came there.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        let enough = |all: &[Received]| all.iter().filter(|one| one.path == path).count() >= count;
        if self.inner.wait_for(enough, PATIENCE).await.is_err() {
            panic!("{path} was called {} times, not {count}, within {PATIENCE:?}", self.got(path).len());
        }
        self.got(path)
    }

    /// Waits for the first request on a path.
    pub async fn first(&self, path: &str) -> Received {
        self.wait_for(path, 1).await.swap_remove(0)
    }
}

/// Verifies a request as a customer's receiver does, now.
pub fn genuine(contract: Contract, secret: &str, request: &Received) -> Result<Verified, Rejection> {
    verify(contract, secret, &request.headers, &request.body, SystemClock.now())
}

/// A header as text; empty where there is none.
pub fn header<'a>(request: &'a Received, name: &str) -> &'a str {
    request.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// The ids of the events that a request carries, as a receiver of the contract reads them.
pub fn event_ids(contract: Contract, request: &Received) -> Vec<String> {
    let read = signalpost::receiver::verify::read(contract, &request.headers, &request.body).unwrap();
    read.events.into_iter().map(|event| event.id.unwrap()).collect()
}
