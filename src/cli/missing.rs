//! What to do about an argument that is missing: where a variable can give it, its name is told.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The same answer, with a tip for each missing argument that a variable can give.
pub(super) fn with_remedy(mut answer: clap::Error, mut whole: clap::Command) -> clap::Error {
    if answer.kind() != ErrorKind::MissingRequiredArgument {
        return answer;
    }
    let missing = match answer.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.clone(),
        _ => return answer,
    };
    // Only then arguments know how they are shown.
    whole.build();
    let tips: Vec<StyledStr> = missing.iter().filter_map(|one| tip(one, &whole)).collect();
    if !tips.is_empty() {
        answer.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    answer
}

/// What gives the argument that clap shows so, for example `--organization <ID>`.
fn tip(shown: &str, command: &clap::Command) -> Option<StyledStr> {
    let of_this = command.get_arguments().find_map(|argument| {
        let variable = argument.get_env()?.to_str()?;
        let short = argument.get_short().map(|short| format!("-{short} or "));
        let flags = format!("{}--{}", short.unwrap_or_default(), argument.get_long()?);
        (argument.to_string() == shown)
            .then(|| format!("give it with {flags}, or for all commands with {variable}=…"))
    });
    of_this.map(StyledStr::from).or_else(|| command.get_subcommands().find_map(|inner| tip(shown, inner)))
}
