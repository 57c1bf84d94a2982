//! How far something is: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::remark;

/// Where there is no terminal, those who wait are told so often.
const REMARK_EVERY: Duration = Duration::from_secs(5);
/// What stands behind the bar.
const TEMPLATE: &str = "{wide_bar} {pos} of {len} {msg}, {per_sec}, {eta} left";

/// Tells on standard error how far something is.
pub struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
    remarked: Instant,
    unit: &'static str,
}

impl Progress {
    /// Of so many things, called by this word.
    pub fn of(total: u64, unit: &'static str) -> Self {
        let on_terminal = io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(unit);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        Self { bar, on_terminal, remarked: Instant::now(), unit }
    }

    /// So many are done of so many.
    pub fn at(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if !self.on_terminal && self.remarked.elapsed() >= REMARK_EVERY {
            self.remarked = Instant::now();
            remark(&format!("{done} of {total} {}", self.unit));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
