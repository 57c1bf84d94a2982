//! The behaviour of `signalpost listen`: verify, answer, and show.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::behaviour::{Answer, Behaviour, unauthorized};
use super::log::Received;
use super::report::{Judgement, Report};
use super::verify::{read, verify};
use crate::clock::SharedClock;
use crate::domain::contract::Contract;
use crate::domain::secret::Secret;

/// In which form requests are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A block of lines for people.
    Block {
        /// Whether the terminal shows colours.
        colours: bool,
    },
    /// A line of JSON each.
    Json,
}

/// What to expect, what to answer, and how to show it.
pub struct ListenOptions {
    /// What receivers of the destination were promised.
    pub contract: Contract,
    /// The signing secret; without one nothing is verified.
    pub secret: Option<Secret>,
    /// The answer to requests that are not turned away.
    pub status: StatusCode,
    /// How requests are shown.
    pub form: Form,
    /// The time of day.
    pub clock: SharedClock,
}

/// How many requests were what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Requests with the right signature.
    pub verified: u64,
    /// Requests that could be read, but there was no secret.
    pub unverified: u64,
    /// Requests that were answered 401.
    pub rejected: u64,
    /// Events in the requests that were not rejected, repetitions included.
    pub events: u64,
}

/// Verifies each request, shows it, and answers.
pub struct Listen<W> {
    options: ListenOptions,
    shown: Mutex<Shown<W>>,
    output_closed: CancellationToken,
}

struct Shown<W> {
    output: W,
    summary: Summary,
}

impl<W: Write + Send> Listen<W> {
    /// Shows on `output`. It is written to while the sender waits, so a reader that stops reading
    /// makes the sender wait as well, and nothing goes unseen.
    #[must_use]
    pub fn new(options: ListenOptions, output: W) -> Self {
        let shown = Mutex::new(Shown { output, summary: Summary::default() });
        Self { options, shown, output_closed: CancellationToken::new() }
    }

    /// What was counted until now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).summary
    }

    /// Comes back when the output can't be written to any more.
    pub async fn output_closed(&self) {
        self.output_closed.cancelled().await;
    }

    fn judge(&self, received: &Received, secret: Option<&Secret>) -> Judgement {
        let Received { headers, body, .. } = received;
        let contract = self.options.contract;
        let judged = match secret {
            Some(secret) => verify(contract, secret.expose(), headers, body, self.options.clock.now())
                .map(Judgement::Verified),
            None => read(contract, headers, body).map(Judgement::Unverified),
        };
        judged.unwrap_or_else(Judgement::Rejected)
    }

    fn show(&self, report: &Report<'_>) {
        let text = match self.options.form {
            Form::Block { colours } => report.block(colours) + "\n",
            Form::Json => report.line(),
        };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.summary.count(&report.judgement);
        self.write(&mut shown.output, &text);
    }

    fn write(&self, output: &mut W, text: &str) {
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
            self.output_closed.cancel();
        }
    }
}

impl<W: Write + Send> Behaviour for Listen<W> {
    fn answer(&self, received: &Received) -> Answer {
        let judgement = self.judge(received, self.options.secret.as_ref());
        let answer = match &judgement {
            Judgement::Verified(_) | Judgement::Unverified(_) => Answer::from(self.options.status),
            Judgement::Rejected(why) => unauthorized(why),
        };
        let (at, status) = (self.options.clock.now(), answer.status.as_u16());
        self.show(&Report { received, at, contract: self.options.contract, judgement, status });
        answer
    }

    fn connection_failed(&self, connection: u64, problem: &str) {
        if matches!(self.options.form, Form::Block { .. }) {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let problem = problem.escape_debug();
            self.write(&mut shown.output, &format!("! connection {connection}: {problem}\n\n"));
        }
    }
}

impl Summary {
    fn count(&mut self, judgement: &Judgement) {
        let (counter, events) = match judgement {
            Judgement::Verified(read) => (&mut self.verified, read.events.len()),
            Judgement::Unverified(read) => (&mut self.unverified, read.events.len()),
            Judgement::Rejected(_) => (&mut self.rejected, 0),
        };
        *counter += 1;
        self.events += events as u64;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { verified, unverified, rejected, events } = self;
        write!(f, "requests: {verified} verified, {rejected} rejected")?;
        if *unverified > 0 {
            write!(f, ", {unverified} not verified")?;
        }
        write!(f, "; events: {events}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::clock::SystemClock;

    const BODY: &str = r#"{"events":[]}"#;

    fn request(signature: &str, body: &'static str) -> Received {
        Received {
            path: "/".into(),
            query: None,
            headers: Arc::new(
                [("x-signature".parse().unwrap(), signature.parse().unwrap())].into_iter().collect(),
            ),
            body: body.into(),
            at: Instant::now(),
            sequence: 1,
            connection: 1,
        }
    }

    fn listen<W: Write + Send>(secret: Option<&str>, output: W) -> Listen<W> {
        let options = ListenOptions {
            contract: Contract::Stalwart,
            secret: secret.map(Secret::new),
            status: StatusCode::ACCEPTED,
            form: Form::Block { colours: false },
            clock: Arc::new(SystemClock),
        };
        Listen::new(options, output)
    }

    #[test]
    fn genuine_requests_get_the_chosen_status_and_others_401_with_the_reason() {
        let listen = listen(Some("ovos-moles"), Vec::new());
        let genuine = listen.answer(&request("PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA=", BODY));
        assert_eq!(genuine, StatusCode::ACCEPTED.into());
        let forged = listen.answer(&request("AAAA", BODY));
        assert_eq!((forged.status.as_u16(), &forged.body[..13]), (401, &b"the signature"[..]));
        assert_eq!(listen.summary().to_string(), "requests: 1 verified, 1 rejected; events: 0");
        let output = String::from_utf8(listen.shown.into_inner().unwrap().output).unwrap();
        assert!(output.contains("✔ verified  → 202") && output.contains("✘ rejected"), "{output}");
    }

    #[test]
    fn without_a_secret_requests_are_read_and_said_to_be_not_verified() {
        let listen = listen(None, Vec::new());
        assert_eq!(listen.answer(&request("", BODY)).status, StatusCode::ACCEPTED);
        assert_eq!(listen.answer(&request("", "nonsense")).status, StatusCode::UNAUTHORIZED);
        let expected = "requests: 0 verified, 1 rejected, 1 not verified; events: 0";
        assert_eq!(listen.summary().to_string(), expected);
    }

    #[tokio::test]
    async fn an_output_that_is_gone_ends_the_listening() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let listen = listen(None, Gone);
        listen.answer(&request("", BODY));
        listen.output_closed().await;
    }
}
