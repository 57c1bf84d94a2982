//! Logs: for people or for machines, to standard error, so that standard output stays the commands' own.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat, wants_colours};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error("log.level cannot be used")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The process logs already.
    #[error("logging is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process, once. The subscriber is the only global state that we have.
///
/// # Errors
/// The level cannot be parsed, or it was called before.
pub fn start(config: &LogConfig) -> Result<(), TelemetryError> {
    let colour = wants_colours(io::stderr().is_terminal());
    subscriber(config, colour, io::stderr)?.try_init()?;
    panic::set_hook(Box::new(tell));
    Ok(())
}

/// A panic is a line of the log like any other, so that a machine can read it; what it ends, and how, is told by
/// whoever catches it. With a backtrace where RUST_BACKTRACE asks for one.
fn tell(panicked: &PanicHookInfo<'_>) {
    let (text, place) = (panicked.payload_as_str(), panicked.location().map(ToString::to_string));
    let current = std::thread::current();
    let (text, place, thread) =
        (text.unwrap_or("no message"), place.unwrap_or_default(), current.name().unwrap_or_default());
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(panic = text, place, thread, %backtrace, "a thread panicked");
    } else {
        tracing::error!(panic = text, place, thread, "a thread panicked");
    }
}

/// The subscriber for a writer; `colour` only matters to people's eyes.
fn subscriber<W>(
    config: &LogConfig,
    colour: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter: EnvFilter = EnvFilter::builder().parse(&config.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match config.format {
        LogFormat::Human => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(
            builder.json().flatten_event(true).with_current_span(false).with_span_list(true).finish(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, colour: bool) -> String {
        let written = Written::default();
        let config = LogConfig { format, level: level.into() };
        let writer = written.clone();
        let subscriber = subscriber(&config, colour, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("delivery", delivery.id = "d1").entered();
            tracing::info!(status = 200, "attempt finished");
            tracing::debug!("not of interest");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn machines_get_one_json_object_a_line_with_the_ids_of_its_spans() {
        let text = logged(LogFormat::Json, "info", true);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "attempt finished");
        assert_eq!(line["status"], 200);
        assert_eq!(line["spans"][0]["delivery.id"], "d1");
    }

    #[test]
    fn people_get_a_line_in_colour_on_a_terminal_only() {
        let plain = logged(LogFormat::Human, "info", false);
        assert!(plain.contains("attempt finished") && !plain.contains('\u{1b}'), "{plain}");
        assert!(logged(LogFormat::Human, "info", true).contains('\u{1b}'));
    }

    #[test]
    fn the_level_decides_by_module() {
        assert_eq!(logged(LogFormat::Human, "warn", false), "");
        let debug = logged(LogFormat::Human, "off,signalpost=debug", false);
        assert!(debug.contains("not of interest"), "{debug}");
    }
}
