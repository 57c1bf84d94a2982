//! Holds the API definition in `proto/` to its house style.
//!
//! Each test walks the descriptors, collects every offence as "file: element: reason",
//! and fails with all of them at once.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its input has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

const FIELD_BEHAVIOURS: [&str; 5] = ["Required.", "Optional.", "Output only.", "Immutable.", "Input only."];

const STATUS_CODES: [&str; 13] = [
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
];

#[test]
fn every_element_of_the_api_is_commented() {
    let api = Api::load();
    let mut offences = Offences::default();
    for element in api.elements() {
        if element.comment.is_empty() {
            offences.add(&element.file, &element.name, "has no comment");
        }
    }
    offences.fail_if_any();
}

#[test]
fn no_comment_has_an_indented_block_that_would_become_a_doctest() {
    let api = Api::load();
    let mut offences = Offences::default();
    for element in api.elements() {
        if element.comment.lines().any(is_code) && !element.comment.contains("```text") {
            offences.add(&element.file, &element.name, "indents a block; fence it with ```text");
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_field_that_a_caller_may_set_opens_with_its_behaviour() {
    let api = Api::load();
    let mut offences = Offences::default();
    for field in api.caller_messages().iter().flat_map(MessageDescriptor::fields) {
        let comment = comment(&field.parent_file(), field.path());
        if !FIELD_BEHAVIOURS.iter().any(|word| comment.starts_with(word)) {
            let reason = format!("does not open with one of {FIELD_BEHAVIOURS:?}");
            offences.add(field.parent_file().name(), field.full_name(), &reason);
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_request_names_its_organization_first() {
    let api = Api::load();
    let mut offences = Offences::default();
    for request in api.methods().map(|method| method.input()) {
        let named = request.get_field(1).is_some_and(|field| {
            field.name() == "organization_id" && field.kind() == Kind::String && !field.is_list()
        });
        if !named {
            let reason = "lacks `string organization_id = 1`";
            offences.add(request.parent_file().name(), request.full_name(), reason);
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_enum_value_carries_the_name_of_its_enum_and_zero_means_unspecified() {
    let api = Api::load();
    let mut offences = Offences::default();
    for (file, item) in api.enums() {
        let prefix = format!("{}_", upper_snake(item.name()));
        for value in item.values() {
            if !value.name().starts_with(&prefix) {
                offences.add(&file, value.full_name(), &format!("lacks the prefix {prefix}"));
            }
            if value.number() == 0 && value.name() != format!("{prefix}UNSPECIFIED") {
                offences.add(&file, value.full_name(), "is zero and not _UNSPECIFIED");
            }
        }
    }
    offences.fail_if_any();
}

#[test]
fn no_field_is_an_unsigned_integer() {
    let api = Api::load();
    let mut offences = Offences::default();
    for field in api.messages().iter().flat_map(MessageDescriptor::fields) {
        if matches!(field.kind(), Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64) {
            offences.add(field.parent_file().name(), field.full_name(), "is unsigned");
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_list_is_paged() {
    let api = Api::load();
    let mut offences = Offences::default();
    for method in api.methods().filter(|method| method.name().starts_with("List")) {
        let (request, response) = (method.input(), method.output());
        let file = method.parent_service().parent_file();
        if !ends_with_page_fields(&request) {
            let reason = "does not end with `int32 page_size` and `string page_token`";
            offences.add(file.name(), request.full_name(), reason);
        }
        if response.get_field_by_name("next_page_token").is_none() {
            offences.add(file.name(), response.full_name(), "lacks next_page_token");
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_method_says_which_errors_it_has() {
    let api = Api::load();
    let mut offences = Offences::default();
    for method in api.methods() {
        let file = method.parent_service().parent_file();
        let listed = errors(&comment(&file, method.path()));
        if listed.is_empty() {
            offences.add(file.name(), method.full_name(), "lists no `Errors:` in its comment");
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_error_of_a_method_is_a_known_reason_with_the_code_that_the_reason_documents() {
    let api = Api::load();
    let codes = api.reason_codes();
    let mut offences = Offences::default();
    let all = api.elements();
    for element in all.iter().filter(|element| element.comment.contains("Errors")) {
        for (code, reason) in errors(&element.comment) {
            if codes.get(&reason) != Some(&code) {
                let problem = format!("says {code} {reason}; the enum says {:?}", codes.get(&reason));
                offences.add(&element.file, &element.name, &problem);
            }
        }
    }
    offences.fail_if_any();
}

#[test]
fn every_reason_documents_a_status_code_its_metadata_and_a_remedy() {
    let api = Api::load();
    let mut offences = Offences::default();
    for element in api.elements().iter().filter(|element| element.is_reason()) {
        let code = status_code(&element.comment);
        if !code.is_some_and(|code| STATUS_CODES.contains(&code.as_str())) {
            offences.add(&element.file, &element.name, "lacks `Code:` with a gRPC status code");
        }
        for part in ["Metadata:", "Do:"] {
            if !element.comment.contains(part) {
                offences.add(&element.file, &element.name, &format!("lacks `{part}`"));
            }
        }
    }
    offences.fail_if_any();
}

/// The compiled definition, without what it imports from Google.
struct Api {
    files: Vec<FileDescriptor>,
}

/// Anything that can have a comment.
struct Element {
    file: String,
    name: String,
    comment: String,
}

impl Api {
    fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let sources = proto_files(&root);
        assert!(!sources.is_empty(), "no .proto file under {}", root.display());
        let mut compiler = protox::Compiler::new([&root]).unwrap();
        compiler.include_source_info(true).include_imports(true);
        compiler.open_files(&sources).unwrap();
        let pool: DescriptorPool = compiler.descriptor_pool();
        let files = pool.files().filter(|file| file.package_name() == "signalpost.v1");
        Self { files: files.collect() }
    }

    fn methods(&self) -> impl Iterator<Item = MethodDescriptor> + '_ {
        let services = self.files.iter().flat_map(FileDescriptor::services);
        services.flat_map(|service| service.methods().collect::<Vec<_>>())
    }

    /// Every message, nested ones included.
    fn messages(&self) -> Vec<MessageDescriptor> {
        let mut found: Vec<_> = self.files.iter().flat_map(FileDescriptor::messages).collect();
        let mut next = 0;
        while let Some(message) = found.get(next).cloned() {
            found.extend(message.child_messages());
            next += 1;
        }
        found.retain(|message| !message.is_map_entry());
        found
    }

    fn enums(&self) -> Vec<(String, EnumDescriptor)> {
        let nested = self.messages();
        let top = self.files.iter().flat_map(FileDescriptor::enums);
        top.chain(nested.iter().flat_map(MessageDescriptor::child_enums))
            .map(|item| (item.parent_file().name().to_owned(), item))
            .collect()
    }

    /// Requests, resources (what a Get answers), and every message within a request.
    fn caller_messages(&self) -> Vec<MessageDescriptor> {
        let requests = self.methods().map(|method| method.input());
        let gets = self.methods().filter(|method| method.name().starts_with("Get"));
        let resources = gets.filter_map(|method| message_of(&method.output().get_field(1)?));
        let mut found: Vec<_> = requests.chain(resources).collect();
        let mut seen: BTreeSet<_> = found.iter().map(|m| m.full_name().to_owned()).collect();
        let mut next = 0;
        while let Some(message) = found.get(next).cloned() {
            let inner = message.fields().filter_map(|field| message_of(&field));
            found.extend(inner.filter(|m| is_ours(m) && seen.insert(m.full_name().to_owned())));
            next += 1;
        }
        found
    }

    fn elements(&self) -> Vec<Element> {
        let mut all = Vec::new();
        for service in self.files.iter().flat_map(FileDescriptor::services) {
            all.push(element(&service.parent_file(), service.full_name(), service.path()));
        }
        for method in self.methods() {
            let file = method.parent_service().parent_file();
            all.push(element(&file, method.full_name(), method.path()));
        }
        for message in self.messages() {
            let file = message.parent_file();
            all.push(element(&file, message.full_name(), message.path()));
            all.extend(message.fields().map(|f| element(&file, f.full_name(), f.path())));
            let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic());
            all.extend(oneofs.map(|oneof| element(&file, oneof.full_name(), oneof.path())));
        }
        for (_, item) in self.enums() {
            let file = item.parent_file();
            all.push(element(&file, item.full_name(), item.path()));
            all.extend(item.values().map(|v| element(&file, v.full_name(), v.path())));
        }
        all
    }

    /// Every reason with the status code that its comment gives.
    fn reason_codes(&self) -> BTreeMap<String, String> {
        let elements = self.elements().into_iter().filter(Element::is_reason);
        elements
            .filter_map(|element| Some((element.reason()?.to_owned(), status_code(&element.comment)?)))
            .collect()
    }
}

impl Element {
    fn reason(&self) -> Option<&str> {
        self.name.strip_prefix("signalpost.v1.ERROR_REASON_")
    }

    fn is_reason(&self) -> bool {
        self.reason().is_some_and(|reason| reason != "UNSPECIFIED")
    }
}

/// What was found wrong, to be reported together.
#[derive(Default)]
struct Offences(Vec<String>);

impl Offences {
    fn add(&mut self, file: &str, element: &str, reason: &str) {
        self.0.push(format!("proto/{file}: {element}: {reason}"));
    }

    fn fail_if_any(self) {
        assert!(self.0.is_empty(), "{} offences:\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn element(file: &FileDescriptor, name: &str, path: &[i32]) -> Element {
    let comment = comment(file, path);
    Element { file: file.name().to_owned(), name: name.to_owned(), comment }
}

/// The comment above an element, without the space after each `//`.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let location = info.location.iter().find(|location| location.path == path);
    let text = location.map_or("", |location| location.leading_comments());
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The pairs of status code and reason in the bullets below `Errors`.
fn errors(comment: &str) -> Vec<(String, String)> {
    let list = comment.split_once("Errors").map_or("", |(_, list)| list);
    let bullets = list.split("\n* ").skip(1);
    bullets.flat_map(errors_of_bullet).collect()
}

fn errors_of_bullet(bullet: &str) -> Vec<(String, String)> {
    let mut names = bullet.split('`').skip(1).step_by(2).filter(|name| is_upper_snake(name));
    let code = names.next().unwrap_or_default().to_owned();
    names.map(|reason| (code.clone(), reason.to_owned())).collect()
}

fn status_code(comment: &str) -> Option<String> {
    let (code, _) = comment.split_once("Code: `")?.1.split_once('`')?;
    Some(code.to_owned())
}

fn ends_with_page_fields(request: &MessageDescriptor) -> bool {
    let mut fields: Vec<FieldDescriptor> = request.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    let last: Vec<_> = fields.iter().rev().take(2).map(|f| (f.name(), f.kind())).collect();
    last == [("page_token", Kind::String), ("page_size", Kind::Int32)]
}

fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    field.kind().as_message().cloned()
}

fn is_ours(message: &MessageDescriptor) -> bool {
    message.package_name() == "signalpost.v1"
}

fn is_code(line: &str) -> bool {
    line.starts_with("    ") || line.starts_with('\t')
}

fn is_upper_snake(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_uppercase());
    }
    snake
}

fn proto_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut found: Vec<_> = folders.iter().flat_map(|inner| proto_files(inner)).collect();
    found.extend(files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "proto")));
    found.sort();
    found
}
