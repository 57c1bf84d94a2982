//! `signalpost export` and `import`: an organization's destinations as JSON, one a line.

mod ask;
pub(super) mod export;
mod holes;
pub(super) mod import;
