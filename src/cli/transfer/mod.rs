//! `signalpost export` and `import`: an organization's destinations as JSON, one a line.

pub(super) mod export;
mod holes;
pub(super) mod import;
