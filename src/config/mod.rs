//! Configuration: what the operator may set, checked as a whole before anything starts.
//!
//! A TOML file and the environment (`SIGNALPOST_<SECTION>_<KEY>`, which wins) are read into `raw`,
//! as typed. `validate` is pure: it turns that into a [`Config`] or into *all* problems at once, each
//! with its key, its place and what would be right. A key exists by being read there: names, defaults,
//! the names of variables and the hints for misspelt keys all come from that one line.
//!
//! `environment` is the only place that reads the process's environment (besides the reader of
//! destinations' secrets).

mod accepts;
mod environment;
mod example;
mod jwt;
mod limits;
mod listen;
mod nearest;
mod plans;
mod problem;
mod raw;
mod reader;
mod resolved;
mod store;
mod units;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use accepts::Accepts;
pub use environment::{colours_with, wants_colours};
pub use example::explanations;
pub use problem::{Origin, Problem, Problems};
pub use reader::Effective;
pub use resolved::{
    AuthConfig, Config, ConnectionLimits, DeliveryConfig, EgressConfig, JwtConfig, KeysConfig, LimitsConfig,
    ListenConfig, LogConfig, LogFormat, OrganizationsConfig, Plans, ReflectionAccess, Scoped, SecretsConfig,
    SharedStoreConfig, StoreConfig, StoreUrl, TlsConfig, TracesConfig,
};

use raw::Raw;
use zeroize::Zeroizing;

/// Names the configuration file where `--config` does not.
const FILE_VARIABLE: &str = "SIGNALPOST_CONFIG";

/// A configuration that is valid, and where each value came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every key with its value and its origin, in the order of the example file.
    pub effective: Vec<Effective>,
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or not readable, or not UTF-8.
    #[error("cannot read the configuration file {}; check the path and the permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// The settings have mistakes.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Reads the file (or the one that `SIGNALPOST_CONFIG` names, or none) and the environment.
///
/// # Errors
/// The file cannot be read, or there are mistakes: all of them.
pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let environment = environment::read();
    let named = environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(path) = file.map(Path::to_owned).or(named) else {
        return Ok(resolve(None, environment)?);
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|cause| ConfigError::Unreadable { path: path.clone(), cause })?;
    let name = path.display().to_string();
    Ok(resolve(Some((&name, &text)), environment)?)
}

/// The sealing keys that the environment holds (`SIGNALPOST_SEALING_KEYS`), if it does; as typed.
///
/// # Errors
/// A sentence that names the variable, where it is not text.
pub fn sealing_keys() -> Result<Option<Zeroizing<String>>, String> {
    environment::sealing_keys()
}

/// The signing secret that the environment holds for `signalpost listen` (`SIGNALPOST_LISTEN_SECRET`), if it does; as
/// typed.
///
/// # Errors
/// A sentence that names the variable, where it is not text.
pub fn listen_secret() -> Result<Option<Zeroizing<String>>, String> {
    environment::listen_secret()
}

/// Pure: settings from a named TOML text and from variables, checked as a whole.
///
/// # Errors
/// All mistakes, in the order of the example file.
pub fn resolve(
    file: Option<(&str, &str)>,
    environment: BTreeMap<String, String>,
) -> Result<Loaded, Problems> {
    validate::validate(&Raw::parse(file, environment)?)
}

/// A length of time as people write it: `250ms`, `30s`, `1h30m`.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    units::any_duration(text)
}

impl Config {
    /// The configuration that a TOML text describes, without any environment; for `demo`, `bench` and tests.
    ///
    /// # Errors
    /// All mistakes of the text.
    pub fn from_toml(text: &str) -> Result<Config, Problems> {
        resolve(Some(("settings", text)), BTreeMap::new()).map(|loaded| loaded.config)
    }

    /// The example file: every key with its default, commented out and explained.
    #[must_use]
    pub const fn example() -> &'static str {
        include_str!("../../docs/signalpost.example.toml")
    }
}

#[cfg(test)]
mod tests;
