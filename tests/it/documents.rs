//! Commands in documents work: the blocks behind a mark `<!-- run -->` are run as they stand, in their order, here
//! or by `.ci/checks/documents`; and every block of commands has a mark, if only one that says why it is not run.

use std::path::Path;
use std::process::{Command, Stdio};

use signalpost::domain::contract::Contract;

use crate::binary::Home;
use crate::harness::{ORGANIZATION, Receiver, destination};

/// Documents that are run here.
const DOCUMENTS: &[&str] = &["docs/OPERATING.md"];
/// What stands above a block that is run.
const MARK: &str = "<!-- run -->";

/// The commands of all marked blocks.
fn blocks(document: &str) -> Vec<String> {
    let (mut blocks, mut lines) = (Vec::new(), document.lines());
    while let Some(line) = lines.next() {
        if line != MARK {
            continue;
        }
        assert_eq!(lines.next(), Some(""), "an empty line follows {MARK}");
        assert_eq!(lines.next(), Some("```sh"), "a block follows {MARK}");
        blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
    }
    blocks
}

#[tokio::test]
async fn commands_in_documents_work_as_they_stand() {
    for name in DOCUMENTS {
        let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let blocks = blocks(&document);
        assert!(blocks.len() > 3, "{name} has no blocks to run");
        let (home, receiver) = (Home::new(), Receiver::start().await);
        let process = home.start().await;
        process.create(destination(Contract::Workspace).url(receiver.url("/hook")).name("hook")).await;
        let binaries = Path::new(env!("CARGO_BIN_EXE_signalpost")).parent().unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", binaries.display());
        for block in blocks {
            let mut command = Command::new("bash");
            command.args([
                "-euo",
                "pipefail",
                "-c",
                &block.replace("-O acme", &format!("-O {ORGANIZATION}")),
            ]);
            command.env_clear().env("PATH", &path).env("SIGNALPOST_SERVER", &process.url);
            command.current_dir(home.path("")).stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}:\n{block}\n{said}");
        }
        assert_eq!(process.terminate().await, Some(0));
    }
}

/// What runs the commands of other documents.
const CHECK: &str = include_str!("../../.ci/checks/documents");
/// The languages of blocks that are commands.
const SHELLS: [&str; 4] = ["```sh", "```bash", "```shell", "```console"];
/// What commands begin with. A block without a language that does so has to say that it is one of commands, or of
/// `text` if it is what a command printed.
const COMMANDS: [&str; 13] = [
    "cargo",
    "signalpost",
    "bash",
    "sh",
    "grpcurl",
    "kubectl",
    "docker",
    "curl",
    "python3",
    "node",
    "npm",
    "export",
    "$",
];

/// All documents, by their paths in the repository.
fn all_documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs/", "k8s/", "clients/", "clients/python/", "clients/rust/", "clients/typescript/"]
    {
        let names = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".md"));
        found.extend(names.map(|name| format!("{folder}{name}")));
    }
    found
}

fn is_command(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    let variable = first.split_once('=').is_some_and(|(name, _)| name.starts_with("SIGNALPOST_"));
    variable || COMMANDS.contains(&first)
}

/// The commands that stand in blocks without a language.
fn bare(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let fences = (0..lines.len()).filter(|place| lines[*place].trim_start().starts_with("```"));
    // Every second fence closes a block.
    let bare = fences.step_by(2).filter(|place| lines[*place].trim() == "```");
    let commands = bare.filter(|place| lines.get(place + 1).is_some_and(|line| is_command(line)));
    commands.map(|place| format!("{name}:{}: has commands, and no language", place + 1)).collect()
}

/// What is wrong with the marks of a document.
fn unmarked(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_run = DOCUMENTS.contains(&name) || CHECK.contains(&format!("documents.py {name}"));
    let mut wrong = bare(name, text);
    for (place, _) in lines.iter().enumerate().filter(|(_, line)| SHELLS.contains(line)) {
        let mark = place.checked_sub(2).map_or("", |above| lines[above]);
        let mark = mark.strip_prefix("<!-- ").and_then(|mark| mark.strip_suffix(" -->")).unwrap_or_default();
        let reason = mark.strip_prefix("not run: ").is_some_and(|reason| reason.len() > 10);
        let runs = (mark == "run" || mark.starts_with("run: ")) && lines[place] == "```sh";
        if !(reason || (runs && is_run)) {
            wrong.push(format!("{name}:{}: is neither run nor says why not", place + 1));
        }
    }
    wrong
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    let documents = all_documents();
    assert!(documents.len() > 12, "{documents:?}");
    let text =
        |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let wrong: Vec<String> = documents.iter().flat_map(|name| unmarked(name, &text(name))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let block = "```sh\nsignalpost health\n```";
    for (mark, name, count) in [
        ("<!-- run -->", "README.md", 0),
        ("<!-- run -->", "docs/NOBODY.md", 1),
        ("<!-- not run: it needs a cluster -->", "docs/NOBODY.md", 0),
        ("<!-- not run: -->", "README.md", 1),
        ("Text.", "README.md", 1),
    ] {
        assert_eq!(unmarked(name, &format!("{mark}\n\n{block}\n")).len(), count, "{mark} in {name}");
    }
    for (language, first, count) in [
        ("", "cargo run --release -- bench", 1),
        ("", "signalpost health", 1),
        ("", "SIGNALPOST_STORMS=1 make", 1),
        ("", "OTHER=1 of all", 0),
        ("", "signalposts are old", 0),
        ("text", "signalpost bench · seed 11", 0),
    ] {
        let text = format!("```toml\na = 1\n```\n\n```{language}\n{first}\n```\n");
        assert_eq!(unmarked("docs/NOBODY.md", &text).len(), count, "{language}: {first}");
    }
}
