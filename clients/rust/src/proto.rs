//! The code that the build script generates from `proto/`.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated code; its comments are those of the proto files"
)]

/// The package `signalpost.v1`.
pub mod v1 {
    tonic::include_proto!("signalpost.v1");
}
