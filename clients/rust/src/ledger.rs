//! What was given to a stream and has no answer yet. Pure: it decides what to send and who is answered.
//!
//! Entries stand in the order of their sequences; those before `sent` are on the present connection. A new
//! connection begins with the first again. Sequences never repeat, so an answer belongs to one entry.

use std::collections::VecDeque;

use crate::error::Refusal;
use crate::event::Accepted;
use crate::proto::v1::{self, emit_stream_result::Result as Answer};

/// Events without an answer; `T` is who waits for it.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    entries: VecDeque<Entry<T>>,
    sent: usize,
    last_sequence: i64,
}

#[derive(Debug)]
struct Entry<T> {
    sequence: i64,
    event: v1::Event,
    waiting: T,
    answer: Option<Result<Accepted, Refusal>>,
}

/// What an answer of the server settles.
#[derive(Debug)]
pub(crate) struct Settled<T> {
    /// Who is answered, and what.
    pub(crate) answers: Vec<(T, Result<Accepted, Refusal>)>,
    /// Whether some events could not be taken at present and wait to be sent again.
    pub(crate) put_back: bool,
}

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), sent: 0, last_sequence: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an event waits to be sent on this connection.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.entries.len()
    }

    pub(crate) fn push(&mut self, event: v1::Event, waiting: T) {
        self.last_sequence += 1;
        self.entries.push_back(Entry { sequence: self.last_sequence, event, waiting, answer: None });
    }

    /// A new connection: everything without an answer is to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// The next event for this connection, which then counts as sent.
    pub(crate) fn next_unsent(&mut self) -> Option<v1::EmitStreamRequest> {
        let entry = self.entries.get(self.sent)?;
        self.sent += 1;
        Some(v1::EmitStreamRequest {
            sequence: entry.sequence,
            event: Some(entry.event.clone()),
            ..v1::EmitStreamRequest::default()
        })
    }

    /// Takes an answer of the server.
    pub(crate) fn acknowledge(&mut self, response: v1::EmitStreamResponse) -> Settled<T> {
        for result in response.results {
            let answer = match result.result {
                Some(Answer::Accepted(accepted)) => Ok(accepted),
                Some(Answer::Error(error)) => Err(Refusal::from(error)),
                None => continue,
            };
            let found = self.entries.binary_search_by_key(&result.sequence, |entry| entry.sequence);
            if let Some(entry) = found.ok().and_then(|position| self.entries.get_mut(position)) {
                entry.answer = Some(answer);
            }
        }
        self.settle(response.acknowledged_sequence)
    }

    fn settle(&mut self, acknowledged: i64) -> Settled<T> {
        let (mut answers, mut again) = (Vec::new(), Vec::new());
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.sequence <= acknowledged) {
            self.sent = self.sent.saturating_sub(1);
            match entry.answer {
                Some(Err(refusal)) if refusal.is_transient() => again.push((entry.event, entry.waiting)),
                Some(answer) => answers.push((entry.waiting, answer)),
                // The server tells every result in this mode; an acknowledgement alone still means acceptance.
                None => {
                    let event_id = entry.event.event_id.unwrap_or_default();
                    answers.push((entry.waiting, Ok(Accepted { event_id, ..Accepted::default() })));
                }
            }
        }
        let put_back = !again.is_empty();
        for (event, waiting) in again {
            self.push(event, waiting);
        }
        Settled { answers, put_back }
    }

    /// Everyone who still waits, when there will be no more answers.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.sent = 0;
        self.entries.drain(..).map(|entry| entry.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn ledger(count: i64) -> Ledger<i64> {
        let mut ledger = Ledger::new();
        for number in 1..=count {
            ledger.push(v1::Event { event_id: Some(format!("e{number}")), ..v1::Event::default() }, number);
        }
        ledger
    }

    fn send_all(ledger: &mut Ledger<i64>) -> Vec<i64> {
        std::iter::from_fn(|| ledger.next_unsent()).map(|request| request.sequence).collect()
    }

    fn accepted(sequence: i64) -> v1::EmitStreamResult {
        let result =
            Some(Answer::Accepted(Accepted { event_id: format!("e{sequence}"), ..Accepted::default() }));
        v1::EmitStreamResult { sequence, result }
    }

    fn refused(sequence: i64, code: Code) -> v1::EmitStreamResult {
        let error = v1::EventError { code: code.into(), ..v1::EventError::default() };
        v1::EmitStreamResult { sequence, result: Some(Answer::Error(error)) }
    }

    fn answer(acknowledged: i64, results: Vec<v1::EmitStreamResult>) -> v1::EmitStreamResponse {
        v1::EmitStreamResponse { acknowledged_sequence: acknowledged, results }
    }

    #[test]
    fn after_a_break_exactly_what_has_no_answer_is_sent_again_in_order() {
        let mut ledger = ledger(5);
        assert_eq!(send_all(&mut ledger), [1, 2, 3, 4, 5]);
        let settled = ledger.acknowledge(answer(2, vec![accepted(1), accepted(2)]));
        assert_eq!(settled.answers.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [1, 2]);
        assert!(!ledger.has_unsent());
        ledger.rewind();
        assert_eq!(send_all(&mut ledger), [3, 4, 5], "sequences go on rising");
    }

    #[test]
    fn a_result_counts_only_with_the_acknowledgement_that_covers_it() {
        let mut ledger = ledger(2);
        send_all(&mut ledger);
        assert!(ledger.acknowledge(answer(0, vec![accepted(1), accepted(2)])).answers.is_empty());
        assert_eq!(ledger.acknowledge(answer(2, vec![])).answers.len(), 2);
        assert!(ledger.is_empty());
    }

    #[test]
    fn an_event_that_can_never_be_accepted_is_told_and_one_that_may_be_later_goes_again() {
        let mut ledger = ledger(3);
        send_all(&mut ledger);
        let results =
            vec![refused(1, Code::ResourceExhausted), refused(2, Code::InvalidArgument), accepted(3)];
        let settled = ledger.acknowledge(answer(3, results));
        let told: Vec<_> = settled.answers.into_iter().map(|(who, answer)| (who, answer.is_ok())).collect();
        assert_eq!(told, [(2, false), (3, true)]);
        assert!(settled.put_back);
        assert_eq!(send_all(&mut ledger), [4], "with a new sequence, as the old one was used");
    }

    #[test]
    fn answers_to_what_nobody_asked_change_nothing() {
        let mut ledger = ledger(1);
        let settled = ledger.acknowledge(answer(0, vec![accepted(7)]));
        assert!(settled.answers.is_empty() && ledger.has_unsent());
        assert_eq!(ledger.drain().collect::<Vec<_>>(), [1]);
    }
}
