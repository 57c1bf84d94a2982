//! What Signalpost promises, asked of a whole server over real sockets.
//!
//! Each test starts a server of its own on a temporary store and free ports, calls it with a real gRPC
//! client, and looks at what a real HTTPS receiver got; signatures are verified by `signalpost::receiver`,
//! which shares no code with the sender. [`harness`] has the words in which the tests are written.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod binary;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod client;
#[cfg(test)]
mod client_transport;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod contracts;
#[cfg(test)]
mod database;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod destinations;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod exhaustion;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod ingest;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod not_sent;
#[cfg(test)]
mod operational;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod retry_policy;
#[cfg(test)]
mod sealing;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod watch;
