//! `signalpost check`: looks through a whole store that no server has open.

use std::path::PathBuf;

use clap::Args;

use crate::app::Mistake;
use crate::config;
use crate::store::sled::{Inspection, SledStore};
use crate::telemetry;

use super::exit::Exit;
use super::output::{complain, print};
use super::runtime::block_on;

/// `signalpost check`.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The store's folder, if not the one of the configuration.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,

    /// The configuration file; without it SIGNALPOST_CONFIG, without that the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: &CheckArguments) -> Exit {
    let config = match config::load(arguments.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(&error, Exit::Usage),
    };
    if let Err(error) = telemetry::logs::start(&config.log) {
        return complain(&error, Exit::Usage);
    }
    let folder = match (&arguments.folder, &config.store.shared) {
        (Some(folder), _) => folder.clone(),
        (None, None) => config.store.path,
        (None, Some(_)) => {
            let problem =
                anyhow::anyhow!("store.url names a shared store, and this command is for the embedded one");
            return complain(problem.as_ref(), Exit::Usage);
        }
    };
    block_on(check(folder))
}

async fn check(folder: PathBuf) -> anyhow::Result<Exit> {
    let shown = folder.display().to_string();
    if !folder.is_dir() {
        return Err(Mistake::new(format!("{shown} is no folder; give the one that store.path names")).into());
    }
    let found = tokio::task::spawn_blocking(move || SledStore::inspect(&folder)).await??;
    print(&summary(&shown, &found));
    Ok(if found.problems == 0 { Exit::Success } else { Exit::Failure })
}

fn summary(folder: &str, found: &Inspection) -> String {
    let Inspection { events, deliveries, waiting, dead_letters, bytes, .. } = found;
    let end = if found.was_closed { "closed in an orderly way" } else { "not closed in an orderly way" };
    let mut text = format!(
        "{folder}: {events} events, {deliveries} deliveries with a record, {waiting} waiting, {dead_letters} dead \
         letters, {bytes} bytes; {end}\n"
    );
    for problem in &found.examples {
        text.push_str(&format!("! {problem}\n"));
    }
    text.push_str(&match found.problems {
        0 => "No problem was found.\n".to_owned(),
        1 => "1 problem was found.\n".to_owned(),
        many => format!("{many} problems were found.\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_problems_and_says_so_when_there_are_none() {
        let mut found = Inspection { events: 3, waiting: 2, was_closed: true, ..Inspection::default() };
        let text = summary("/store", &found);
        assert!(text.starts_with("/store: 3 events") && text.contains("2 waiting"), "{text}");
        assert!(text.ends_with("orderly way\nNo problem was found.\n"), "{text}");
        found.problems = 30;
        found.examples = vec!["event/01: its checksum is wrong".into()];
        let text = summary("/store", &found);
        assert!(text.contains("! event/01"), "{text}");
        assert!(text.ends_with("30 problems were found.\n"), "{text}");
    }
}
