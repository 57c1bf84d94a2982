//! Reading lists to their end, page by page.

use super::failure::Failure;

/// How many rows a page asks for: what the server gives at most.
pub const PAGE_SIZE: i32 = 1000;

/// A list that is read on until it ends or enough is there.
#[derive(Debug, Default)]
pub struct Pages {
    token: String,
    ended: bool,
}

impl Pages {
    /// From the first page.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next page by `ask`, which is given the page's size and token and answers rows and the next token.
    ///
    /// # Errors
    /// Those of `ask`.
    pub async fn next<T>(
        &mut self,
        ask: impl AsyncFnOnce(i32, String) -> Result<(Vec<T>, String), Failure>,
    ) -> Result<Option<Vec<T>>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let (rows, next) = ask(PAGE_SIZE, std::mem::take(&mut self.token)).await?;
        self.ended = next.is_empty();
        self.token = next;
        Ok(Some(rows))
    }
}
