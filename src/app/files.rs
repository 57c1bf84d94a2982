//! The files that settings name: read and made into what they stand for, or a mistake that names the setting.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustix::fs::{Access, access};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::mistake::Mistake;
use crate::auth::jwks::{self, Fetch, FetchedKeys, KeySource};
use crate::auth::reload::Reloaded;
use crate::auth::token_file::{self, TokenTable};
use crate::config::{self, Config, KeysConfig, SharedStoreConfig, StoreUrl, TlsConfig};
use crate::domain::secret::Secret;
use crate::grpc::tls::{ClientCertificates, ServerTls, TlsFiles};
use crate::store::key_file;
use crate::store::keyring::Keyring;
use crate::transport::fetch::Fetcher;

/// Everything that is wrong with the files that the settings name, and with `store.path`; nothing is made or changed.
#[must_use]
pub fn mistakes_of_files(config: &Config) -> Vec<Mistake> {
    let shared = config.store.shared.as_ref();
    let looked = [
        config.listen.tls.clone().map(|tls| open_tls(tls).map(drop)),
        config.auth.tokens_file.as_deref().map(|path| open_tokens(path).map(drop)),
        config.auth.jwt.as_ref().map(|jwt| open_keys(&jwt.keys).map(drop)),
        Some(egress_roots(config).map(drop)),
        config.traces.ca_file.as_deref().map(|path| read_roots("traces.ca_file", path).map(drop)),
        shared.map(|shared| store_url(shared).map(drop)),
        shared.map(|shared| store_roots(shared).map(drop)),
        Some(sealing_keys(config).map(drop)),
        shared.is_none().then(|| check_store_folder(&config.store.path)),
    ];
    looked.into_iter().flatten().filter_map(Result::err).collect()
}

pub(super) fn open_tls(tls: TlsConfig) -> Result<ServerTls, Mistake> {
    let mode = if tls.client_certificates_required {
        ClientCertificates::Required
    } else {
        ClientCertificates::Optional
    };
    let files = TlsFiles {
        certificate: tls.certificate,
        key: tls.key,
        clients: tls.client_ca.map(|path| (path, mode)),
        revocation_lists: tls.client_revocation_lists,
    };
    ServerTls::open(files).map_err(Mistake::of)
}

pub(super) fn open_tokens(path: &Path) -> Result<Reloaded<TokenTable>, Mistake> {
    token_file::open(path).map_err(Mistake::of)
}

pub(super) fn open_keys(keys: &KeysConfig) -> Result<KeySource, Mistake> {
    let (url, ca_file, every, at_most_every) = match keys {
        KeysConfig::File(path) => return jwks::open(path).map(KeySource::File).map_err(Mistake::of),
        KeysConfig::Url { url, ca_file, every, at_most_every } => (url, ca_file, every, at_most_every),
    };
    let roots = ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("auth.jwks_ca_file", path))?;
    let fetcher = Fetcher::new(url.clone(), &roots).map_err(Mistake::of)?;
    let fetch: Fetch = Arc::new(move || {
        let fetcher = fetcher.clone();
        Box::pin(async move { fetcher.fetch().await })
    });
    Ok(KeySource::Url(FetchedKeys::new(fetch, *every, *at_most_every)))
}

/// The authorities of a file, for the setting that names it.
pub(super) fn read_roots(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| {
            format!(
                "{key}: cannot read certificates in PEM from {}; check the path and the file",
                path.display()
            )
        })
        .map_err(Mistake::of)?;
    if certificates.is_empty() {
        let text =
            format!("{key}: {} holds no certificate; give a file with authorities in PEM", path.display());
        return Err(Mistake::new(text));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .with_context(|| {
                format!("{key}: a certificate in {} can't be an authority; give another file", path.display())
            })
            .map_err(Mistake::of)?;
    }
    Ok(certificates)
}

pub(super) fn egress_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    config.egress.ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("egress.ca_file", path))
}

/// The connection string of a shared store.
pub(super) fn store_url(shared: &SharedStoreConfig) -> Result<Secret, Mistake> {
    let path = match &shared.url {
        StoreUrl::Given(url) => return Ok(url.clone()),
        StoreUrl::File(path) => path,
    };
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .with_context(|| {
            format!("store.url_file: cannot read {}; check the path and the permissions", path.display())
        })
        .map_err(Mistake::of)?;
    Ok(Secret::new(text.trim()))
}

pub(super) fn store_roots(shared: &SharedStoreConfig) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    shared.ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("store.ca_file", path))
}

/// The sealing keys that the operator gave: in a file, or in the environment.
///
/// # Errors
/// Where there are none in it, or both were given.
pub(super) fn sealing_keys(config: &Config) -> Result<Option<Keyring>, Mistake> {
    let variable = config::sealing_keys().map_err(Mistake::new)?;
    let told = |name: &str, problem: String| Mistake::new(format!("{name}: {problem}"));
    match (&config.secrets.key_file, variable) {
        (None, None) => Ok(None),
        (Some(path), None) => key_file::read(path).map(Some).map_err(|problem| {
            told("secrets.key_file", format!("{problem}; `signalpost key new --file FILE` makes such a file"))
        }),
        (None, Some(keys)) => Keyring::parse(&keys)
            .map(Some)
            .map_err(|problem| told("SIGNALPOST_SEALING_KEYS", problem.to_string())),
        (Some(_), Some(_)) => {
            Err(Mistake::new("secrets.key_file and SIGNALPOST_SEALING_KEYS are both set; give one of them"))
        }
    }
}

/// Whether `store.path` can be the folder of a store: it is one that may be written, or can be made.
pub(super) fn check_store_folder(path: &Path) -> Result<(), Mistake> {
    let there = path.ancestors().map(or_here).find(|one| !is_absent(one)).unwrap_or(Path::new("."));
    let wrong = |why: &str| {
        let (path, there) = (path.display(), there.display());
        Mistake::new(format!("store.path: {path} can't be the store's folder: {there} {why}"))
    };
    match std::fs::metadata(there) {
        Err(error) => Err(wrong(&format!("can't be used ({error}); give another folder"))),
        Ok(found) if !found.is_dir() => {
            Err(wrong("is not a folder; give a folder, or a name at which one can be made"))
        }
        Ok(_) => access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
            wrong(&format!("can't be written ({error}); give another folder or the permission"))
        }),
    }
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
