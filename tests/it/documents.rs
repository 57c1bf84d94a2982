//! Commands in documents work: the blocks behind a mark `<!-- run -->` are run as they stand, in their order.

use std::path::Path;
use std::process::{Command, Stdio};

use signalpost::domain::contract::Contract;

use crate::binary::Home;
use crate::harness::{ORGANIZATION, Receiver, destination};

/// Documents with such blocks.
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
