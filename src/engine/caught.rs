//! A future whose panic is an error.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Runs the future to its end or to its panic.
///
/// It must leave nothing half-changed that others see: what it owns is dropped.
///
/// # Errors
/// What the panic said.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(text_of(panic.as_ref()))),
    })
    .await
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_after_a_wait_is_an_error_with_its_text_and_anything_else_is_the_result() {
        let number = 7;
        let panicking = async {
            tokio::task::yield_now().await;
            panic!("planted {number}")
        };
        assert_eq!(caught::<()>(panicking).await, Err("planted 7".into()));
        assert_eq!(caught(async { number }).await, Ok(7));
    }
}
