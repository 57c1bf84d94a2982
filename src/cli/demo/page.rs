//! What the demo shows: headings, check marks, and a count of what held.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::cli::demo::stage::Stage;
use crate::config::wants_colours;

const WIDTH: usize = 78;

/// The page that the demo writes.
pub struct Page {
    out: Box<dyn Write>,
    colours: bool,
    held: u32,
    failed: u32,
}

impl Page {
    /// A page on standard output; colours only on a terminal, and not where `NO_COLOR` has a value.
    pub fn to_stdout(colours: bool) -> Self {
        let wanted = colours && wants_colours(io::stdout().is_terminal());
        Self { out: Box::new(io::stdout()), colours: wanted, held: 0, failed: 0 }
    }

    /// The name and what it is about.
    pub fn title(&mut self, name: &str, line: &str) -> io::Result<()> {
        let name = self.paint("1", name);
        writeln!(self.out, "\n{name} · {line}\n")
    }

    /// A remark.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint("2", text);
        writeln!(self.out, "  {text}")
    }

    /// The heading of a scene.
    pub fn scene(&mut self, number: u32, title: &str) -> io::Result<()> {
        let rule = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 6));
        let heading = self.paint("1;36", &format!("{number}. {title} {rule}"));
        writeln!(self.out, "\n{heading}")
    }

    /// A line of a table: a name, and what is said of it.
    pub fn row(&mut self, name: &str, text: &str) -> io::Result<()> {
        writeln!(self.out, "    {name:<10} {text}")
    }

    /// Something that was checked: it held, or it did not.
    pub fn check(&mut self, held: bool, text: &str) -> io::Result<()> {
        let mark = if held { self.paint("32", "✔") } else { self.paint("31", "✘") };
        if held {
            self.held += 1;
        } else {
            self.failed += 1;
        }
        writeln!(self.out, "  {mark} {text}")
    }

    /// A scene could not go on.
    pub fn failed(&mut self, why: &str) -> io::Result<()> {
        self.check(false, why)
    }

    /// Whether everything held that was checked.
    pub fn all_held(&self) -> bool {
        self.failed == 0 && self.held > 0
    }

    /// The last line.
    pub fn summary(&mut self, took: Duration) -> io::Result<()> {
        let (held, failed) = (self.held, self.failed);
        let verdict = if self.all_held() {
            self.paint("1;32", &format!("All {held} checks held"))
        } else {
            self.paint("1;31", &format!("{failed} of {} checks failed", held + failed))
        };
        writeln!(self.out, "\n{verdict}, in {:.1} s.", took.as_secs_f64())
    }

    /// Commands to try while the server stays up.
    pub fn commands(&mut self, stage: &Stage) -> io::Result<()> {
        let address = stage.grpc_address();
        let call = |method: &str, data: &str| {
            format!("grpcurl -plaintext -d '{data}' {address} signalpost.v1.{method}")
        };
        self.scene(6, "Yours to try")?;
        let id = stage.organization();
        let organization = format!(r#"{{"organization_id":"{id}"}}"#);
        let event = format!(
            r#"{{"organization_id":"{id}","event":{{"type":"kpi.alert","struct_data":{{"kpi":"churn"}}}}}}"#
        );
        for line in [
            format!("grpcurl -plaintext {address} list"),
            format!("grpcurl -plaintext {address} describe signalpost.v1.EventIngest"),
            call("DestinationAdmin/ListDestinations", &organization),
            call("EventIngest/Emit", &event),
            call("DeliveryAdmin/ListDeliveries", &organization),
        ] {
            writeln!(self.out, "  {line}")?;
        }
        self.note("Ctrl-C ends the server and removes the store.")
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
