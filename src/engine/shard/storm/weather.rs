//! The weather: receivers that answer as they like, late or never.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::chronicle::Chronicle;
use crate::contract::RenderedRequest;
use crate::domain::attempt::{Failure, Outcome};
use crate::domain::id::DestinationId;
use crate::transport::scripted::{answered, no_answer};
use crate::transport::{SendOptions, Sent, Transport};

/// How a receiver is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    /// It answers 200, and soon.
    Fair,
    /// Most requests succeed.
    #[default]
    Mixed,
    /// None does.
    Dead,
    /// It has too much to do, and says when to come again.
    Busy,
    /// It wants no more of this, one way or another.
    Fed,
}

impl Mood {
    pub(super) const ALL: [Mood; 5] = [Mood::Fair, Mood::Mixed, Mood::Dead, Mood::Busy, Mood::Fed];
}

/// All receivers, with what they were sent.
pub(super) struct Weather {
    random: Mutex<fastrand::Rng>,
    moods: Mutex<HashMap<DestinationId, Mood>>,
    chronicle: Arc<Chronicle>,
}

impl Weather {
    pub(super) fn new(seed: u64, chronicle: Arc<Chronicle>) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { random, moods: Mutex::default(), chronicle }
    }

    pub(super) fn turn(&self, id: DestinationId, mood: Mood) {
        self.moods.lock().unwrap_or_else(PoisonError::into_inner).insert(id, mood);
    }

    /// How long the next answer takes, and what it is.
    fn draw(&self, id: DestinationId) -> (Duration, Sent) {
        let mood = self.moods.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = Duration::from_millis(random.u64(0..4000));
        let sent = match (mood.unwrap_or_default(), random.u8(0..10)) {
            (Mood::Fair, _) => return (wait / 80, answered(200)),
            (Mood::Dead, 0..5) | (Mood::Mixed, 0) => no_answer(Failure::Refused, "connection refused"),
            (Mood::Dead, 5..7) | (Mood::Mixed, 1) => return (Duration::MAX, answered(200)),
            (Mood::Dead, _) | (Mood::Mixed, 2) => answered(500),
            (Mood::Busy, 0..6) => busy(&mut random),
            (Mood::Fed, 0..6) => answered([302, 400, 404, 410, 422][random.usize(0..5)]),
            _ => answered([200, 201, 204][random.usize(0..3)]),
        };
        (wait, sent)
    }
}

fn busy(random: &mut fastrand::Rng) -> Sent {
    let status = if random.bool() { 429 } else { 503 };
    let asked = Duration::from_secs(if random.bool() { random.u64(0..60) } else { random.u64(0..9000) });
    let retry_after = Some(asked).filter(|_| random.u8(0..4) > 0);
    Sent { outcome: Outcome::Answered { status, retry_after, body: bytes::Bytes::new() }, ..answered(status) }
}

#[async_trait]
impl Transport for Weather {
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent {
        let id = DestinationId::parse(request.url().path().trim_start_matches('/')).unwrap();
        let number = self.chronicle.began(id, &ids_in(&request), request.body().len());
        let (wait, sent) = self.draw(id);
        let sent = if wait < options.timeout {
            tokio::time::sleep(wait).await;
            sent
        } else {
            tokio::time::sleep(options.timeout).await;
            no_answer(Failure::Timeout, "no answer in time")
        };
        self.chronicle.ended(number, sent.outcome.clone());
        sent
    }
}

/// The ids of the events in a request: those of a batch are in its body, that of a single one in a header.
fn ids_in(request: &RenderedRequest) -> Vec<String> {
    if let Some(id) = request.headers().get("signalpost-event-id") {
        return vec![id.to_str().unwrap().to_owned()];
    }
    let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
    let events = body.get("events").unwrap_or(&body).as_array().unwrap().clone();
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}
