//! What the benchmark's own receivers understand of HTTP: one request at a time, whole.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longer requests are not ours.
const REQUEST_MAX_BYTES: usize = 4 << 20;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A request as it came.
pub struct Request {
    /// The first line and the headers, each with its line break.
    pub head: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header; `name` with its colon and blank, in lower case as the server sends it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name.as_bytes())
    }
}

/// Reads one whole request; `None` where the connection ends instead.
///
/// # Errors
/// The connection breaks.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            let (start, length) = (end + HEAD_END.len(), content_length(&bytes));
            // The server sends one request at a time on a connection, so nothing follows the body.
            if bytes.len() >= start + length {
                let body = bytes.split_off(start);
                return Ok(Some(Request { head: bytes, body }));
            }
        }
        if bytes.len() > REQUEST_MAX_BYTES || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    header(head, b"content-length: ").and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let line = head.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
    std::str::from_utf8(line.get(name.len()..)?).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_read_to_its_last_byte() {
        let text = b"POST /hook/7 HTTP/1.1\r\ncontent-length: 3\r\nsignalpost-event-id: evt_1\r\n\r\nabc";
        let request = read_request(&mut &text[..]).await.unwrap().unwrap();
        assert_eq!(request.header("signalpost-event-id: "), Some("evt_1"));
        assert_eq!(request.header("x: "), None);
        assert_eq!(request.body, b"abc");
        assert!(read_request(&mut &text[..text.len() - 1]).await.unwrap().is_none());
    }
}
