//! How results look: for people in columns and colours, for programs one JSON object a line.

mod json;
mod moment;
mod paint;
mod progress;
mod table;

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};

use crate::config::wants_colours;

pub(super) use json::{as_json, from_json};
pub(super) use moment::{ago, clock_time, elapsed, in_time, moment};
pub(super) use paint::{Colour, Paint};
pub(super) use progress::Progress;
pub(super) use table::Table;

/// For whom results are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Human,
    /// For programs: one JSON object a line, in the form that protocol buffers define.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colours {
    Auto,
    Always,
    Never,
}

/// How results look.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArguments {
    /// For whom results are. JSON comes only where it is asked for, one object a line.
    #[arg(short, long, value_enum, default_value = "human", value_name = "FORM")]
    output: Form,

    /// When to use colours; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: Colours,
}

impl OutputArguments {
    /// Whether results are for programs.
    pub fn is_json(&self) -> bool {
        self.output == Form::Json
    }

    /// The colours for standard output.
    pub fn paint(&self) -> Paint {
        let wanted = match self.color {
            Colours::Always => true,
            Colours::Never => false,
            Colours::Auto => wants_colours(io::stdout().is_terminal()),
        };
        Paint::new(wanted)
    }
}
