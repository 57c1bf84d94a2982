//! The references in docs/ are made from what they describe, and fail here when they are stale.
//!
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its input has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use protox::prost_reflect::{
    DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use signalpost::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a document with what it should be, or writes it.
fn holds(document: &str, expected: &str) {
    let path = root().join(document);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(present == expected, "{document} is stale: UPDATE_REFERENCE=1 cargo test --test reference");
}

#[test]
fn the_reference_of_settings_is_that_of_the_settings() {
    let text = configuration();
    assert!(text.contains("| `listen.grpc` | `SIGNALPOST_LISTEN_GRPC` | `\"127.0.0.1:8080\"` |"), "{text}");
    holds("docs/CONFIGURATION.md", &text);
}

#[test]
fn the_reference_of_the_api_is_that_of_the_proto_files() {
    let text = api();
    for part in ["### EventIngest.Emit\n", "### Destination\n", "### DeliveryState\n", "`destination_id` (1)"]
    {
        assert!(text.contains(part), "{part} is missing");
    }
    holds("docs/API.md", &text);
}

/// Every key of the configuration with its default, and what the example file says of it.
fn configuration() -> String {
    let explained = config::explanations();
    let mut text = String::from(
        "# Configuration reference\n\nMade from the settings themselves by a test; don't edit it. Each is a key of the TOML \
         file (`--config`) and a variable, which wins. `signalpost config check` tells all mistakes at once, `config print` \
         shows what is in force and where each value came from, `config schema` prints a JSON schema with the same bounds.\n\nDurations: `250ms`, \
         `30s`, `5m`, `12h`, `30d`, `1h30m`. Sizes: `512B`, `256KiB`, `4MiB`, `1GiB`. Lists in variables have commas.\n",
    );
    let mut section = String::new();
    for setting in config::resolve(None, BTreeMap::new()).unwrap().effective {
        let (of, name) = setting.key.rsplit_once('.').unwrap();
        // There is one plan without a word; its limits are those of any.
        let shown = if of == "plans.default" { "plans.NAME" } else { of };
        if section != shown {
            shown.clone_into(&mut section);
            text.push_str(&format!(
                "\n## `[{shown}]`\n\n| key | variable | default | allowed | what it means |\n|---|---|---|---|---|\n"
            ));
        }
        let variable = format!("{shown}_{name}").replace(['.', '-'], "_").to_uppercase();
        let about = explained.get(&setting.key).cloned().unwrap_or_default().replace('|', "\\|");
        text.push_str(&format!(
            "| `{shown}.{name}` | `SIGNALPOST_{variable}` | `{}` | {} | {about} |\n",
            setting.value, setting.accepts
        ));
    }
    text
}

/// Services with their calls, then messages and enums, file by file.
fn api() -> String {
    let pool = pool();
    let files: Vec<FileDescriptor> =
        pool.files().filter(|file| file.package_name() == "signalpost.v1").collect();
    let mut text = String::from(
        "# API reference\n\nMade from the proto files (`proto/signalpost/v1`) by a test; don't edit it. Reflection serves the \
         same. Calls are named `signalpost.v1.SERVICE/CALL`.\n",
    );
    for service in files.iter().flat_map(FileDescriptor::services) {
        let about = comment(&service.parent_file(), service.path());
        text.push_str(&format!("\n## {}\n\n{about}\n", service.name()));
        service.methods().for_each(|method| text.push_str(&call(&method)));
    }
    text.push_str("\n## Messages\n");
    let mut told = BTreeSet::new();
    for message in files.iter().flat_map(FileDescriptor::messages) {
        if told.insert(message.full_name().to_owned()) {
            text.push_str(&message_of(&message));
        }
    }
    text.push_str("\n## Enums\n");
    for item in files.iter().flat_map(FileDescriptor::enums) {
        let file = item.parent_file();
        text.push_str(&format!("\n### {}\n\n{}\n\n", item.name(), comment(&file, item.path())));
        for value in item.values() {
            text.push_str(&format!(
                "- `{}` ({}): {}\n",
                value.name(),
                value.number(),
                inline(&comment(&file, value.path()))
            ));
        }
    }
    text
}

fn pool() -> DescriptorPool {
    let proto = root().join("proto");
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    let folder = fs::read_dir(proto.join("signalpost/v1")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    compiler.open_files(files).unwrap();
    DescriptorPool::from_file_descriptor_set(compiler.file_descriptor_set()).unwrap()
}

fn call(method: &MethodDescriptor) -> String {
    let stream = |is: bool| if is { "stream of " } else { "" };
    let link =
        |message: MessageDescriptor| format!("[{0}](#{1})", message.name(), message.name().to_lowercase());
    format!(
        "\n### {}.{}\n\n{}{} → {}{}\n\n{}\n",
        method.parent_service().name(),
        method.name(),
        stream(method.is_client_streaming()),
        link(method.input()),
        stream(method.is_server_streaming()),
        link(method.output()),
        comment(&method.parent_service().parent_file(), method.path())
    )
}

fn message_of(message: &MessageDescriptor) -> String {
    let file = message.parent_file();
    let mut text = format!("\n### {}\n\n{}\n\n", message.name(), comment(&file, message.path()));
    for field in message.fields() {
        let about = inline(&comment(&file, field.path()));
        text.push_str(&format!("- `{}` ({}), {}: {about}\n", field.name(), field.number(), kind(&field)));
    }
    text
}

fn kind(field: &FieldDescriptor) -> String {
    let link = |name: &str| format!("[{name}](#{})", name.to_lowercase());
    let one = match field.kind() {
        Kind::Message(message) if message.full_name().starts_with("signalpost.") => link(message.name()),
        Kind::Message(message) => format!("`{}`", message.full_name()),
        Kind::Enum(item) => link(item.name()),
        other => format!("{other:?}").to_lowercase(),
    };
    let optional = field.containing_oneof().filter(|oneof| oneof.fields().len() > 1);
    match (field.is_list(), optional) {
        (true, _) => format!("list of {one}"),
        (false, Some(oneof)) => format!("{one}, one of `{}`", oneof.name()),
        (false, None) => one,
    }
}

fn inline(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let found = info.location.iter().find(|location| location.path == path);
    let text = found.map(|location| location.leading_comments().to_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n").trim().to_owned()
}
