//! Fetches a document that the operator named: the keys of a token issuer.
//!
//! The URL is the operator's own word, so no policy judges its address. Everything else is as careful as with
//! deliveries: HTTPS, no redirects, no proxy of the environment, a time and a size.

use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use url::Url;

use super::http::HttpSetupError;
use super::tls;

/// How long it may take in all.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How large the document may be.
const MAX_BYTES: usize = 1024 * 1024;

/// Fetches one document.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    url: Url,
}

impl Fetcher {
    /// Sets up the client.
    ///
    /// # Errors
    /// [`HttpSetupError`], where an extra root certificate can't be used.
    #[expect(clippy::disallowed_methods, reason = "redirects and proxies are off, time and size are bounded")]
    pub fn new(url: Url, extra_roots: &[CertificateDer<'static>]) -> Result<Self, HttpSetupError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::verifying(extra_roots)?)
            .redirect(Policy::none())
            .no_proxy()
            .https_only(true)
            .timeout(TIMEOUT)
            .build()
            .map_err(HttpSetupError::Client)?;
        Ok(Self { client, url })
    }

    /// The document.
    ///
    /// # Errors
    /// Why there is none, without the URL, which may have credentials in it.
    pub async fn fetch(&self) -> Result<Vec<u8>, String> {
        let response = self.client.get(self.url.clone()).send().await;
        let mut response = response.map_err(|error| error.without_url().to_string())?;
        if !response.status().is_success() {
            return Err(format!("the answer was {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            document.extend_from_slice(&part);
            if document.len() > MAX_BYTES {
                return Err("the document is larger than 1 MiB".into());
            }
        }
        Ok(document)
    }
}
