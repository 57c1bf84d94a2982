//! `signalpost config`: check it, show what is in force, print the example.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::mistakes_of_files;
use crate::config::{self, Config, Effective, Loaded, Origin};

use super::exit::Exit;
use super::output::{complain, print};
use super::schema::schema;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tell every mistake of the file, of the environment and of the files that they name; exit code 2 if there is any.
    Check(CheckArguments),
    /// Print every setting in force as a TOML file, and where each was set.
    Print(Source),
    /// Print a configuration file with every setting, its default and what it means.
    Example,
    /// Print a JSON schema of the configuration file, for editors and checks before a deployment.
    Schema,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// The configuration file; without it SIGNALPOST_CONFIG, without that the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `signalpost config check`.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    source: Source,
    /// Leave the files alone that settings name, to check the settings of another machine.
    #[arg(long)]
    no_files: bool,
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Check(arguments) => check(arguments),
        Command::Print(source) => with(source.config.as_deref(), |loaded| as_toml(&loaded.effective)),
        Command::Schema => match schema() {
            Ok(schema) => print(&format!("{schema:#}\n")),
            Err(problems) => complain(&problems, Exit::Failure),
        },
        Command::Example => print(Config::example()),
    }
}

fn with(file: Option<&Path>, text: impl Fn(&Loaded) -> String) -> Exit {
    match config::load(file) {
        Ok(loaded) => print(&text(&loaded)),
        Err(error) => complain(&error, Exit::Usage),
    }
}

fn check(arguments: &CheckArguments) -> Exit {
    let loaded = match config::load(arguments.source.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error, Exit::Usage),
    };
    let summary = summary(&loaded);
    if arguments.no_files {
        return print(&format!("{summary}The files that it names were not looked at.\n"));
    }
    let mistakes = mistakes_of_files(&loaded.config);
    for mistake in &mistakes {
        complain(mistake, Exit::Usage);
    }
    match mistakes.is_empty() {
        true => print(&format!("{summary}The files that it names can be used.\n")),
        false => Exit::Usage,
    }
}

fn summary(loaded: &Loaded) -> String {
    let count = |wanted: fn(&Origin) -> bool| {
        loaded.effective.iter().filter(|effective| wanted(&effective.origin)).count()
    };
    let file = count(|origin| matches!(origin, Origin::File { .. }));
    let environment = count(|origin| matches!(origin, Origin::Environment { .. }));
    let default = count(|origin| matches!(origin, Origin::Default));
    format!(
        "The configuration is valid: {file} settings from the file, {environment} from the environment, \
         {default} defaults.\n"
    )
}

fn as_toml(effective: &[Effective]) -> String {
    let mut text = String::new();
    let mut current = "";
    // A TOML table may be opened once only, so settings of one section stand together.
    let mut sections: Vec<&str> = effective.iter().map(|setting| split(&setting.key).0).collect();
    let mut seen = std::collections::BTreeSet::new();
    sections.retain(|section| seen.insert(*section));
    for section in sections {
        for setting in effective.iter().filter(|setting| split(&setting.key).0 == section) {
            if section != current {
                let gap = if current.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}[{section}]\n"));
                current = section;
            }
            let assignment = format!("{} = {}", split(&setting.key).1, setting.value);
            text.push_str(&format!("{assignment:<48} # {}\n", setting.origin));
        }
    }
    text
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_printed_is_a_configuration_file_that_means_the_same() {
        let text = "[listen]\ngrpc = \"[::1]:1\"\n[plans.free]\nmax_destinations = 1\n[egress]\nports = [443]\n\
                    [store]\npath = 'a \"quoted\" folder'\n";
        let loaded = config::resolve(Some(("app.toml", text)), BTreeMap::new()).unwrap();
        let printed = as_toml(&loaded.effective);
        assert_eq!(Config::from_toml(&printed).unwrap(), loaded.config, "{printed}");
        assert!(printed.contains("# app.toml line 2") && printed.contains("# default"), "{printed}");
    }

    #[test]
    fn a_missing_file_is_a_mistake_of_the_caller() {
        let missing = Source { config: Some("/nowhere/signalpost.toml".into()) };
        let arguments = CheckArguments { source: missing, no_files: true };
        assert_eq!(run(&Command::Check(arguments)), Exit::Usage);
    }
}
