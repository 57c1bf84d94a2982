//! How `signalpost listen` shows a request: a block for people, or a line of JSON for programs.
//!
//! Pure. What a sender wrote is printed without its control characters: a request must not be able to
//! drive the terminal of the person who looks at it.

use std::fmt::Write;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::log::Received;
use super::verify::{ReceivedEvent, Rejection, Verified};
use crate::domain::contract::Contract;
use crate::domain::time::Timestamp;

/// How many lines of a body are shown to people.
const SHOWN_LINES: usize = 40;
/// How many characters of a line are shown to people.
const SHOWN_CHARS: usize = 200;

/// What is known of a request once it is judged.
pub(super) struct Report<'a> {
    pub(super) received: &'a Received,
    pub(super) at: Timestamp,
    pub(super) contract: Contract,
    pub(super) judgement: Judgement,
    /// The status of the answer.
    pub(super) status: u16,
}

/// What can be said of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The signature is right.
    Verified(Verified),
    /// There is no secret to verify with, but it can be read.
    Unverified(Verified),
    /// It is not what it should be.
    Rejected(Rejection),
}

impl Report<'_> {
    /// Several lines for people.
    pub(super) fn block(&self, colours: bool) -> String {
        let paint =
            |code, text: &str| if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
        let (verdict, read) = match &self.judgement {
            Judgement::Verified(verified) => (paint("32", "✔ verified"), Some(verified)),
            Judgement::Unverified(read) => (paint("33", "· not verified: there is no secret"), Some(read)),
            Judgement::Rejected(why) => {
                (paint("31", &format!("✘ rejected: {}", printable(&why.to_string()))), None)
            }
        };
        let (at, path) = (paint("2", &self.at.to_rfc3339_millis()), printable(&self.received.path));
        let mut block = format!("{at}  POST {path}  {}  {verdict}", self.contract);
        if let Some(attempt) = read.and_then(|read| read.attempt) {
            append(&mut block, format_args!("  attempt {attempt}"));
        }
        append(&mut block, format_args!("  → {}\n", self.status));
        for event in read.map(|read| read.events.as_slice()).unwrap_or_default() {
            append(&mut block, format_args!("  {}\n", headline(event)));
        }
        for line in shown(&self.received.body) {
            append(&mut block, format_args!("  {}\n", paint("2", &line)));
        }
        block
    }

    /// One line of JSON, with its end of line.
    pub(super) fn line(&self) -> String {
        let (verified, read, rejection) = match &self.judgement {
            Judgement::Verified(verified) => (json!(true), Some(verified), None),
            Judgement::Unverified(read) => (Value::Null, Some(read), None),
            Judgement::Rejected(why) => (json!(false), None, Some(why.to_string())),
        };
        let head = json!({
            "at": self.at.to_rfc3339_millis(),
            "path": self.received.path,
            "contract": self.contract.as_str(),
            "verified": verified,
            "rejection": rejection,
            "attempt": read.and_then(|read| read.attempt),
            "status": self.status,
            "traceparent": self.received.headers.get("traceparent").and_then(|value| value.to_str().ok()),
            "body_bytes": self.received.body.len(),
        });
        let events = read.map(|read| read.events.as_slice()).unwrap_or_default();
        let events: Vec<String> = events.iter().map(event_json).collect();
        let head = head.to_string();
        format!("{},\"events\":[{}]}}\n", head.trim_end_matches('}'), events.join(","))
    }
}

/// Writing to a `String` can't fail.
fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).ok();
}

fn headline(event: &ReceivedEvent) -> String {
    let id = event.id.as_deref().unwrap_or("(no id)");
    let at = event.occurred_at.as_deref().map(|at| format!("  occurred {at}")).unwrap_or_default();
    printable(&format!("{}  {id}{at}", event.event_type))
}

/// The data goes in as it came; line ends can only stand between its tokens, so they may go.
fn event_json(event: &ReceivedEvent) -> String {
    let head =
        json!({ "id": event.id, "type": event.event_type, "occurred_at": event.occurred_at }).to_string();
    let data = match serde_json::from_str::<&RawValue>(&event.data) {
        Ok(raw) => raw.get().replace(['\n', '\r'], " "),
        Err(_) => json!(event.data).to_string(),
    };
    format!("{},\"data\":{data}}}", head.trim_end_matches('}'))
}

/// The first lines of a body; JSON is indented, number by number as it came.
fn shown(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let is_json = serde_json::from_str::<&RawValue>(&text).is_ok();
    let text = if is_json { indented(&text) } else { text.into_owned() };
    let mut lines: Vec<String> = text.lines().take(SHOWN_LINES).map(shortened).collect();
    let more = text.lines().count().saturating_sub(SHOWN_LINES);
    if more > 0 {
        lines.push(format!("… {more} more lines"));
    }
    lines
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", printable(line.get(..end).unwrap_or_default())),
        None => printable(line),
    }
}

fn printable(text: &str) -> String {
    let escape = |char: char| match char.is_control() {
        true => char.escape_default().to_string(),
        false => char.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Valid JSON with a line for each member. Only white space between tokens changes, so that numbers
/// of any length, repeated keys and escapes are shown as they came.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(char) = chars.next() {
        if in_string {
            out.push(char);
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            continue;
        }
        match char {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                out.push(char);
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = char == '"';
                out.push(char);
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    // Deeper than this nobody reads by indentation, and hostile nesting would cost its square.
    out.extend(std::iter::repeat_n("  ", depth.min(32)));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    fn received(body: &str) -> Received {
        Received {
            path: "/hooks".into(),
            query: None,
            headers: Arc::default(),
            body: body.to_owned().into(),
            at: Instant::now(),
            sequence: 1,
            connection: 1,
        }
    }

    fn report(received: &Received, judgement: Judgement) -> Report<'_> {
        let at = Timestamp::from_millis(1_749_997_928_491);
        Report { received, at, contract: Contract::Observer, judgement, status: 200 }
    }

    fn one_event(data: &str) -> Verified {
        let event = ReceivedEvent {
            id: Some("evt_1".into()),
            event_type: "agent.offline\u{1b}[2J".into(),
            occurred_at: None,
            data: data.into(),
        };
        Verified { events: vec![event], attempt: Some(2) }
    }

    #[test]
    fn a_block_says_when_where_what_and_whether_it_is_genuine() {
        let received = received(r#"{"a":[1.10,{}],"b":"}{\""}"#);
        let block = report(&received, Judgement::Verified(one_event("{}"))).block(false);
        let expected = "2025-06-15T14:32:08.491Z  POST /hooks  OBSERVER  ✔ verified  attempt 2  → 200\n  \
            agent.offline\\u{1b}[2J  evt_1\n  {\n    \"a\": [\n      1.10,\n      {}\n    ],\n    \"b\": \"}{\\\"\"\n  }\n";
        assert_eq!(block, expected);
        let rejected = report(&received, Judgement::Rejected(Rejection::SignatureMismatch)).block(true);
        assert!(rejected.contains("\u{1b}[31m✘ rejected: the signature is not that of this body"));
        let unverified = report(&received, Judgement::Unverified(one_event("{}"))).block(false);
        assert!(unverified.contains("· not verified: there is no secret"));
    }

    #[test]
    fn a_line_is_one_line_of_json_with_the_data_as_it_came() {
        let received = received("");
        let line =
            report(&received, Judgement::Verified(one_event("{\n \"n\": 1.10,\r\n \"n\": 2 }"))).line();
        assert!(line.contains("\"data\":{  \"n\": 1.10,   \"n\": 2 }}]}\n"), "{line}");
        assert_eq!(line.lines().count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["verified"], &value["attempt"]), (&json!(true), &json!(2)));
        let line = report(&received, Judgement::Unverified(one_event("no json"))).line();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["verified"], &value["events"][0]["data"]), (&Value::Null, &json!("no json")));
        let line = report(&received, Judgement::Rejected(Rejection::MissingHeader("X-Signature"))).line();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["rejection"], json!("the header X-Signature is missing"));
    }

    #[test]
    fn long_bodies_are_cut_and_control_characters_are_shown_as_escapes() {
        let lines = shown("x\n".repeat(100).as_bytes());
        assert_eq!((lines.len(), lines[SHOWN_LINES].as_str()), (SHOWN_LINES + 1, "… 60 more lines"));
        assert_eq!(shown("y".repeat(1000).as_bytes())[0].chars().count(), SHOWN_CHARS + 1);
        assert_eq!(shown("\u{1b}[2J\u{9b}1m".as_bytes()), ["\\u{1b}[2J\\u{9b}1m"]);
        assert!(shown(b"").is_empty());
    }
}
