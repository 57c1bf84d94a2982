//! Callers with tokens, and calls of any method with bytes.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use signalpost::auth::token::Token;
use signalpost::auth::token_file::line_of;
use tempfile::TempDir;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A token file in a folder of its own.
pub struct TokenFile {
    folder: TempDir,
    lines: Vec<(String, String)>,
}

impl TokenFile {
    /// A file without tokens.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("signalpost-it-").tempdir().unwrap();
        let file = Self { folder, lines: Vec::new() };
        file.write();
        file
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    /// The path as a value in TOML.
    pub fn setting(&self) -> String {
        format!("{:?}", self.path())
    }

    /// Adds a token and returns it; the file is swapped as a whole.
    pub fn add(&mut self, name: &str, grants: &str) -> String {
        let token = Token::generate().unwrap();
        self.lines.push((token.expose().to_owned(), line_of(name, grants, &token.hash(), None)));
        self.write();
        token.expose().to_owned()
    }

    /// Withdraws a token.
    pub fn remove(&mut self, token: &str) {
        self.lines.retain(|(known, _)| known != token);
        self.write();
    }

    fn write(&self) {
        let lines = self.lines.iter().map(|(_, line)| format!("{line}\n"));
        let text: String = std::iter::once("# callers\n".to_owned()).chain(lines).collect();
        swap(&self.path(), &text);
    }
}

/// Writes a file so that nobody ever sees half of it.
pub fn swap(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// A request with a token.
pub fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A message with nothing but `organization_id = 1`.
pub fn naming(organization_id: &str) -> Bytes {
    let mut message = vec![0x0a, u8::try_from(organization_id.len()).unwrap()];
    message.extend_from_slice(organization_id.as_bytes());
    message.into()
}

/// Calls any method, as `package.Service/Method`, and waits for its end; of a watch, for its beginning.
pub async fn call_any(channel: &Channel, method: &str, request: Request<Bytes>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = request.map(tokio_stream::once);
    let path = format!("/{method}").parse().unwrap();
    let mut answers = client.streaming(request, path, Raw).await?.into_inner();
    if !method.ends_with("/WatchDeliveries") {
        while answers.message().await?.is_some() {}
    }
    Ok(())
}
