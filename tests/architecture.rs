//! The architecture, held as a test: who may import whom, which crates stay in their place, and how
//! large files may be.
//!
//! The table below *is* the rule. A new arrow between layers is an edit here, visible in review.
//! `architecture/scan.rs` finds the paths in a source text, `architecture/check.rs` judges them.

#[path = "architecture/check.rs"]
mod check;
#[path = "architecture/scan.rs"]
mod scan;

use std::path::Path;

use check::{Exclusive, Layer, Source, check, read_sources};

/// May import every layer.
const EVERYTHING: &[&str] = &["*"];

/// Modules and what they may import besides their own layer; the longest matching name decides.
const LAYERS: &[Layer] = &[
    Layer { module: "domain", may_import: &[], reason: "what exists depends on nothing" },
    Layer { module: "policy", may_import: &["domain"], reason: "decisions are pure functions of the domain" },
    Layer {
        module: "contract",
        may_import: &["domain"],
        reason: "rendering is a pure function of the domain",
    },
    Layer { module: "clock", may_import: &["domain"], reason: "it only tells the time" },
    Layer { module: "metrics", may_import: &["domain"], reason: "everybody counts, so it must know nobody" },
    Layer { module: "spans", may_import: &["domain"], reason: "everybody may tell, so it must know nobody" },
    Layer {
        module: "shutdown",
        may_import: &[],
        reason: "every task is spawned by it, so it must know none",
    },
    Layer {
        module: "store",
        may_import: &["domain", "clock", "metrics"],
        reason: "a store keeps what it is given; what to keep is decided above it",
    },
    Layer {
        module: "transport",
        may_import: &["domain", "contract", "policy", "clock", "metrics", "spans"],
        reason: "it sends what was rendered to where policy allows",
    },
    Layer {
        module: "auth",
        may_import: &["domain", "clock"],
        reason: "who is calling depends on no use case",
    },
    Layer {
        module: "engine",
        may_import: &["domain", "policy", "contract", "store", "transport", "clock", "metrics", "shutdown"],
        reason: "what happens by itself knows nothing of callers",
    },
    Layer {
        module: "control",
        may_import: &[
            "domain",
            "policy",
            "contract",
            "store",
            "transport",
            "auth",
            "clock",
            "metrics",
            "spans",
        ],
        reason: "what callers may ask knows the engine by traits only",
    },
    Layer {
        module: "grpc",
        may_import: &["control", "domain", "auth", "metrics"],
        reason: "services convert and call control; errors of the store never reach callers as they are",
    },
    Layer {
        module: "grpc::convert",
        may_import: &["control", "domain", "auth", "contract", "policy"],
        reason: "conversion needs words, the contracts' catalogue and what policy makes of settings, no more",
    },
    Layer {
        module: "config",
        may_import: &["domain", "policy", "auth"],
        reason: "settings are values, in the words of those who use them",
    },
    Layer {
        module: "telemetry",
        may_import: &["config", "domain", "metrics", "spans"],
        reason: "it shows what others count and is set up from settings alone",
    },
    Layer {
        module: "receiver",
        may_import: &["domain", "clock", "shutdown"],
        reason: "it verifies what we send, so it must share none of the code that sends",
    },
    Layer { module: "app", may_import: EVERYTHING, reason: "it puts everything together" },
    Layer { module: "cli", may_import: EVERYTHING, reason: "commands use everything" },
    Layer { module: "main", may_import: EVERYTHING, reason: "the entry" },
    Layer { module: "lib", may_import: EVERYTHING, reason: "the map" },
];

/// What only some places may use: modules of ours, crates, or single items.
const EXCLUSIVE: &[Exclusive] = &[
    Exclusive {
        path: "crate::store::sled",
        places: &["store", "app", "cli"],
        reason: "callers know the store by its traits, so that another one can take its place",
    },
    Exclusive {
        path: "crate::store::memory",
        places: &["store", "app", "cli"],
        reason: "callers know the store by its traits, so that another one can take its place",
    },
    Exclusive {
        path: "crate::transport::http",
        places: &["transport", "app", "cli"],
        reason: "requests leave by the transport trait, so that tests can script it",
    },
    Exclusive { path: "sled", places: &["store::sled"], reason: "its hazards are handled in one place" },
    Exclusive {
        path: "reqwest",
        places: &["transport::http", "transport::pool", "transport::fetch", "transport::resolve"],
        reason: "its defaults follow redirects and proxies",
    },
    Exclusive { path: "tonic", places: &["grpc", "cli"], reason: "gRPC is an edge" },
    Exclusive { path: "tonic_prost", places: &["grpc", "cli"], reason: "gRPC is an edge" },
    Exclusive { path: "tonic_health", places: &["grpc", "cli"], reason: "gRPC is an edge" },
    Exclusive { path: "tonic_reflection", places: &["grpc", "cli"], reason: "gRPC is an edge" },
    Exclusive { path: "tonic_types", places: &["grpc", "cli"], reason: "gRPC is an edge" },
    Exclusive {
        path: "prost",
        places: &["grpc", "store", "cli"],
        reason: "generated types stop at the edge: gRPC's messages and stored records",
    },
    Exclusive {
        path: "prost_types",
        places: &["grpc", "store", "cli"],
        reason: "generated types stop at the edge: gRPC's messages and stored records",
    },
    Exclusive {
        path: "hmac",
        places: &["contract"],
        reason: "only contracts sign; receivers verify with ring",
    },
    Exclusive {
        path: "sha2",
        places: &["contract", "domain", "store", "auth", "control"],
        reason: "the receiver verifies with ring, other code than the sender's",
    },
    Exclusive {
        path: "jsonwebtoken",
        places: &["auth::jwt", "auth::jwt_ring"],
        reason: "tokens are believed in one place",
    },
    Exclusive { path: "ed25519_dalek", places: &["contract"], reason: "only contracts sign" },
    Exclusive {
        path: "ring",
        places: &["receiver", "control", "auth", "app", "cli", "store::keyring"],
        reason: "it verifies independently of what signs, and draws secure random bytes",
    },
    Exclusive {
        path: "chacha20poly1305",
        places: &["store::keyring"],
        reason: "secrets are sealed and opened in one place",
    },
    Exclusive {
        path: "rcgen",
        places: &["receiver", "cli"],
        reason: "only local receivers make certificates",
    },
    Exclusive { path: "clap", places: &["cli"], reason: "arguments are the command line's business" },
    Exclusive { path: "toml", places: &["config"], reason: "the configuration file is read in one place" },
    Exclusive {
        path: "tracing_subscriber",
        places: &["telemetry"],
        reason: "logging is set up in one place",
    },
    Exclusive {
        path: "prometheus_client",
        places: &["metrics"],
        reason: "everybody counts by handles of ours, and none is global",
    },
    Exclusive { path: "procfs", places: &["metrics"], reason: "only metrics ask what this process takes" },
    Exclusive {
        path: "opentelemetry",
        places: &["telemetry::traces"],
        reason: "spans are told in words of ours; where they go is set up in one place",
    },
    Exclusive {
        path: "opentelemetry_sdk",
        places: &["telemetry::traces"],
        reason: "spans are told in words of ours; where they go is set up in one place",
    },
    Exclusive {
        path: "opentelemetry_otlp",
        places: &["telemetry::traces"],
        reason: "spans are told in words of ours; where they go is set up in one place",
    },
    Exclusive { path: "anyhow", places: &["app", "cli", "main"], reason: "errors below the entry are enums" },
    Exclusive {
        path: "std::time::SystemTime",
        places: &["clock", "telemetry::traces"],
        reason: "time is read through clock::Clock, so that tests can set it",
    },
    Exclusive {
        path: "std::env",
        places: &["config::environment", "transport::secrets", "cli", "main"],
        reason: "the environment is read in one function, and for destinations' secrets",
    },
    Exclusive {
        path: "std::process::exit",
        places: &[],
        reason: "main returns the exit code, after everything was put in order",
    },
];

/// Modules that decide and do not act …
const PURE: &[&str] = &[
    "domain",
    "policy",
    "contract",
    "config::validate",
    "config::reader",
    "config::raw",
    "config::units",
    "config::jwt",
    "config::listen",
    "config::limits",
];

/// … and what acting would take.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_stream",
    "async_trait",
    "tracing",
    "fastrand",
    "rustix",
    "std::fs",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
];

/// The longest file, in lines without its unit tests.
const FILE_MAX_LINES: usize = 600;

/// Names that say nothing about what a file owns.
const NAMELESS: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "shared", "stuff"];

#[test]
fn imports_point_down_and_crates_stay_in_their_place() {
    let sources = read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    assert!(sources.len() > 10, "the sources were not found");
    let violations = check(&sources);
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// The violations of one made-up file.
fn of(path: &str, text: &str) -> Vec<String> {
    check(&[Source { path: path.into(), text: text.into() }])
}

#[test]
fn an_upward_import_is_found_with_file_line_edge_and_reason() {
    let text = "//! Header.\nuse std::fmt;\nuse crate::engine::lane::Lane;\n";
    let found = of("src/domain/event.rs", text);
    assert_eq!(
        found,
        [
            "src/domain/event.rs:3: domain::event must not import crate::engine::lane::Lane: what exists depends on nothing"
        ]
    );
}

#[test]
fn forbidden_imports_hide_neither_in_trees_nor_in_expressions_nor_behind_super() {
    for text in [
        "use crate::{domain::{id::EventId, event}, engine::lane};",
        "fn f() { crate::engine::lane::start(); }",
        "fn f() -> super::super::engine::Lane { todo() }",
        "use super::super::{engine as e};",
        "#[cfg(test)] mod tests { fn f() {} } use crate::engine::lane;",
        "fn f<'a>(c: char) { if c == '\"' { crate::engine::lane() } }",
        "type T = Vec<crate::engine::Lane>;",
    ] {
        assert_eq!(of("src/control/event.rs", text).len(), 1, "{text}");
    }
}

#[test]
fn words_in_comments_strings_and_unit_tests_are_no_imports() {
    for text in [
        "// use crate::engine::lane;\n/* crate::engine /* nested */ crate::engine */",
        "/// See [`crate::engine`].\nfn f() { let s = \"crate::engine::lane\"; let r = r#\"\"crate::engine\"\"#; }",
        "#[cfg(test)]\nmod tests { use crate::engine::lane; fn f() { tonic::call() } }",
        "use crate::domain::event; use super::delivery; use std::time::Duration;",
        "enum Source { #[cfg(test)] Scripted(crate::engine::Lane), Real }",
    ] {
        assert_eq!(of("src/control/event.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_file_that_only_tests_use_is_a_test() {
    let parent =
        Source { path: "src/store/mod.rs".into(), text: "#[cfg(test)]\npub mod conformance;".into() };
    let child = Source { path: "src/store/conformance.rs".into(), text: "use crate::engine::Lane;".into() };
    assert_eq!(check(&[parent, child]), Vec::<String>::new());
}

#[test]
fn a_crate_outside_its_place_is_found_and_a_module_of_the_same_name_is_not() {
    assert_eq!(of("src/engine/worker.rs", "use reqwest::Client;").len(), 1);
    assert_eq!(of("src/engine/worker.rs", "fn f() { ::reqwest::get() }").len(), 1);
    assert_eq!(of("src/transport/http.rs", "use reqwest::Client;").len(), 0);
    assert_eq!(of("src/receiver/mod.rs", "use hmac::Hmac;").len(), 1);
    assert_eq!(of("src/store/sled/mod.rs", "use sled::Db;").len(), 0);
    assert_eq!(of("src/store/mod.rs", "pub mod sled; fn f() { sled::open() }").len(), 0);
    assert_eq!(of("src/app.rs", "use crate::store::sled; fn f() { sled::open() }").len(), 0);
    assert_eq!(of("src/engine/worker.rs", "use crate::store::sled::SledStore;").len(), 1);
    assert_eq!(of("src/engine/worker.rs", "use std::time::{Duration, SystemTime};").len(), 1);
}

#[test]
fn pure_modules_do_not_act() {
    assert_eq!(of("src/policy/retry.rs", "use std::time::{Duration, Instant};").len(), 1);
    assert_eq!(of("src/contract/mod.rs", "fn f() { tokio::time::sleep() }").len(), 1);
    assert_eq!(of("src/engine/worker.rs", "use tokio::time::sleep;").len(), 0);
}

#[test]
fn a_longer_name_in_the_table_decides() {
    assert_eq!(of("src/grpc/convert/destination.rs", "use crate::contract::catalogue;").len(), 0);
    assert_eq!(of("src/grpc/destination.rs", "use crate::contract::catalogue;").len(), 1);
    assert_eq!(of("src/grpc/status.rs", "use crate::store::StoreError;").len(), 1);
}

#[test]
fn a_module_without_a_row_a_nameless_file_and_an_endless_file_are_found() {
    assert!(of("src/novelty.rs", "").concat().contains("no row"));
    assert!(of("src/control/helpers.rs", "").concat().contains("say what it owns"));
    assert_eq!(of("src/control/event.rs", &"\n".repeat(FILE_MAX_LINES)).len(), 0);
    assert!(of("src/control/event.rs", &"\n".repeat(FILE_MAX_LINES + 1)).concat().contains("601 lines"));
    let tests = format!("#[cfg(test)]\nmod tests {{{}}}\n", "\n".repeat(FILE_MAX_LINES));
    assert_eq!(of("src/control/event.rs", &tests).len(), 0);
}
