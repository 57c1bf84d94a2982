//! What operators see of the process: [`logs`] to standard error, metrics on a port of their own
//! ([`metrics_port`]), and spans of callers' traces at an OTLP receiver ([`traces`]).

pub mod logs;
pub mod metrics_port;
pub mod traces;
