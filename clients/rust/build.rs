//! Generates the client stubs from `proto/` in pure Rust: no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

/// Inside the package it is a link to the one definition of the API, which a published package carries along.
const PROTO: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}/signalpost/v1");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("{PROTO}/signalpost/v1"))? {
        files.push(entry?.path());
    }
    files.retain(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    // Payloads as `Bytes`: an event that is sent again is not copied.
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
