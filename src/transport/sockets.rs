//! How many connections may be kept: a count at the place where they are opened.
//!
//! The client says when it opens a connection, and not when one is closed. So each client takes from the
//! allowance whatever it opens and gives it back as a whole, when it is gone and its connections with it: the
//! count is never too low. Where nothing is left, nothing is opened.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

/// So many connections may be kept.
#[derive(Debug)]
pub(super) struct Allowance {
    most: usize,
    taken: AtomicUsize,
}

impl Allowance {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0) })
    }

    fn try_take(&self) -> bool {
        let more = |taken: usize| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// What one client has taken of the allowance; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Opened {
    allowance: Arc<Allowance>,
    connections: AtomicUsize,
}

impl Opened {
    pub(super) fn none_of(allowance: &Arc<Allowance>) -> Arc<Self> {
        Arc::new(Self { allowance: Arc::clone(allowance), connections: AtomicUsize::new(0) })
    }

    /// How many connections were opened, those included that are closed by now.
    pub(super) fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn open(&self) -> Result<(), NoneLeft> {
        if !self.allowance.try_take() {
            return Err(NoneLeft);
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.allowance.taken.fetch_sub(self.count(), Ordering::Relaxed);
    }
}

/// As many connections are kept as may be.
#[derive(Debug, thiserror::Error)]
#[error("no further connection may be kept")]
pub(super) struct NoneLeft;

/// Counts what a client opens.
#[derive(Debug, Clone)]
pub(super) struct Counting(pub(super) Arc<Opened>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, connect: S) -> Counted<S> {
        Counted { connect, opened: Arc::clone(&self.0) }
    }
}

/// Opens connections that are counted.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    connect: S,
    opened: Arc<Opened>,
}

impl<S, R> Service<R> for Counted<S>
where
    S: Service<R>,
    S::Error: From<NoneLeft>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connect.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        if let Err(none_left) = self.opened.open() {
            return Box::pin(std::future::ready(Err(none_left.into())));
        }
        // A connection that is being opened is one, also when nobody waits for it any more.
        let (connecting, opened) = (self.connect.call(request), Arc::clone(&self.opened));
        Box::pin(async move {
            let connected = connecting.await;
            drop(opened);
            connected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_opened_comes_back_when_it_is_gone() {
        let allowance = Allowance::new(3);
        let (first, second) = (Opened::none_of(&allowance), Opened::none_of(&allowance));
        for opened in [&first, &first, &second] {
            assert!(opened.open().is_ok());
        }
        assert!(first.open().is_err() && second.open().is_err());
        assert_eq!((first.count(), second.count()), (2, 1));
        drop(first);
        assert!(second.open().is_ok() && second.open().is_ok() && second.open().is_err());
    }
}
