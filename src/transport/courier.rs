//! The courier: one attempt from its secrets to its outcome.

use std::sync::Arc;

use super::account::{Account, AttemptTrace};
use super::echo::without_secrets;
use super::secrets::{SecretProblem, SecretReader};
use super::turn::Turn;
use super::{SendOptions, Sent, Transport};
use crate::clock::SharedClock;
use crate::contract::{self, RenderContext, RenderProblem, RenderedRequest, ResolvedSecrets};
use crate::domain::attempt::{Attempt, InBatch, Outcome, Refusal, Trigger};
use crate::domain::destination::Destination;
use crate::domain::event::Event;
use crate::domain::id::BatchId;
use crate::domain::secret::HttpAuth;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::policy::host_rate::SharedRates;

/// Makes attempts. It never fails: whatever goes wrong is the attempt's outcome.
#[derive(Clone)]
pub struct Courier {
    /// How requests leave.
    pub transport: Arc<dyn Transport>,
    /// Where secrets are read.
    pub secrets: Arc<SecretReader>,
    /// The time that is signed and recorded.
    pub clock: SharedClock,
    /// Where attempts are accounted for.
    pub account: Account,
    /// How fast organizations may send to hosts of others; `None` is as fast as they like.
    pub rates: Option<SharedRates>,
}

/// What to deliver in one request.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Where it goes.
    pub destination: &'a Destination,
    /// What is in force there.
    pub policy: &'a EffectivePolicy,
    /// The events; more than one only where the contract groups.
    pub events: &'a [Arc<Event>],
    /// Which attempt of the (first) delivery this is, from 1.
    pub number: u32,
    /// Why it is made.
    pub trigger: Trigger,
}

impl Courier {
    /// Reads the secrets, renders, sends and measures.
    ///
    /// A dropped future drops the request; the receiver may have got it nevertheless.
    pub async fn attempt(&self, turn: Turn, order: Order<'_>) -> Attempt {
        let Turn { begun, begun_at: started_at, unreachable } = turn;
        let in_flight = self.account.metrics.begin();
        let trace = AttemptTrace::of(order, fastrand::u64(..));
        let sent = match (self.prepare(order, started_at, trace), unreachable) {
            (Ok(_), Some(sent)) => sent,
            (Ok((request, secrets)), None) => {
                let options = SendOptions { spent: begun.elapsed(), ..SendOptions::of(order.policy) };
                let sent = self.transport.send(request, options).await;
                kept(sent, order, &secrets)
            }
            (Err(outcome), _) => Sent { outcome, remote_address: None },
        };
        drop(in_flight);
        let attempt = Attempt {
            number: order.number,
            started_at,
            round_trip: begun.elapsed(),
            trigger: order.trigger,
            outcome: sent.outcome,
            batch_size: u32::try_from(order.events.len()).unwrap_or(u32::MAX),
            batch: batch_of(order, started_at),
            remote_address: sent.remote_address,
        };
        self.account.close(order, &attempt, trace);
        attempt
    }

    /// Whether the events could be sent: everything but the sending.
    ///
    /// # Errors
    /// The outcome that the attempt would have.
    pub fn check(&self, order: Order<'_>) -> Result<(), Outcome> {
        self.prepare(order, self.clock.now(), None).map(drop)
    }

    fn prepare(
        &self,
        order: Order<'_>,
        now: Timestamp,
        trace: Option<AttemptTrace>,
    ) -> Result<(RenderedRequest, ResolvedSecrets), Outcome> {
        let secrets = self.resolve(order.destination, now).map_err(|SecretProblem(detail)| {
            Outcome::NotSent { refusal: Refusal::SecretUnavailable, detail }
        })?;
        let context = RenderContext {
            destination: order.destination,
            policy: order.policy,
            secrets: &secrets,
            now,
            attempt_number: order.number,
            trace: trace.map(|trace| trace.context).filter(|_| self.account.tells_receivers),
        };
        let events: Vec<&Event> = order.events.iter().map(Arc::as_ref).collect();
        match contract::render(context, &events) {
            Ok(request) => Ok((request, secrets)),
            Err(RenderProblem(detail)) => Err(Outcome::NotSent { refusal: Refusal::NotRenderable, detail }),
        }
    }

    /// All secrets that are in force now. Also a retiring one that is gone is a problem: receivers that
    /// still check with it would refuse everything, and nobody would know why.
    fn resolve(&self, destination: &Destination, now: Timestamp) -> Result<ResolvedSecrets, SecretProblem> {
        let asker = Some(&destination.organization_id);
        let retiring = destination.signing.retiring.as_ref().filter(|retiring| retiring.until > now);
        let retiring = retiring.map(|retiring| &retiring.source);
        // With room for one signature, receivers get the one that they know until they had time to change.
        let is_alone = retiring.is_some() && !contract::signs_with_all(destination.contract);
        let current = destination.signing.current.as_ref().filter(|_| !is_alone);
        let sources = current.into_iter().chain(retiring);
        let signing = sources.map(|source| self.secrets.read(asker, source)).collect::<Result<_, _>>()?;
        let http_auth = match &destination.http_auth {
            HttpAuth::Unauthenticated => None,
            HttpAuth::Basic { secret: source, .. } | HttpAuth::Bearer { token: source } => {
                Some(self.secrets.read(asker, source)?)
            }
        };
        Ok(ResolvedSecrets { signing, http_auth })
    }
}

/// What may be kept of an answer: none of its body where the destination says so, and never a secret of ours.
fn kept(mut sent: Sent, order: Order<'_>, secrets: &ResolvedSecrets) -> Sent {
    if let Outcome::Answered { body, .. } = &mut sent.outcome {
        let start = std::mem::take(body);
        if order.policy.keep_response_bodies {
            *body = without_secrets(start, order.destination, secrets);
        }
    }
    sent
}

/// The batch, as the record of its first delivery has it.
fn batch_of(order: Order<'_>, now: Timestamp) -> Option<InBatch> {
    let id = || {
        let mut random = [0; 10];
        random.fill_with(|| fastrand::u8(..));
        BatchId::make(now, random)
    };
    (order.events.len() > 1).then(|| InBatch { id: id(), position: 1 })
}

impl SendOptions {
    /// At the beginning of an attempt.
    pub(super) fn of(policy: &EffectivePolicy) -> Self {
        let allow_invalid_certificates = policy.allow_invalid_certificates;
        Self { timeout: policy.timeout, spent: std::time::Duration::ZERO, allow_invalid_certificates }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::TokioClock;
    use crate::domain::contract::{CloudEventsMode, Contract};
    use crate::domain::destination::{DestinationState, DestinationUrl};
    use crate::domain::event::{EventType, Level};
    use crate::domain::id::{DestinationId, EventId, EventKey, OrganizationId};
    use crate::domain::payload::Payload;
    use crate::domain::secret::{RetiringSecret, Secret, SecretSource, SigningSecrets};
    use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};
    use crate::domain::subscription::Subscription;
    use crate::transport::scripted::{self, ScriptedTransport};

    const NOW: Timestamp = Timestamp::from_millis(1_736_937_000_000);

    fn value(text: &str) -> SecretSource {
        SecretSource::Value(Secret::new(text))
    }

    fn destination() -> Destination {
        Destination {
            id: DestinationId::make(NOW, [7; 10]),
            organization_id: OrganizationId::parse("acme").unwrap(),
            display_name: String::new(),
            url: DestinationUrl::parse("https://receiver.example/hook", false).unwrap(),
            contract: Contract::StandardWebhooks,
            subscription: Subscription::default(),
            settings: DeliverySettings::default(),
            signing: SigningSecrets { current: Some(value(SECRET)), retiring: None },
            http_auth: HttpAuth::Unauthenticated,
            headers: Vec::new(),
            state: DestinationState::Active,
            created_at: NOW,
            updated_at: NOW,
            revision: 1,
        }
    }

    /// 24 bytes in base64, as Standard Webhooks wants them.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn policy() -> EffectivePolicy {
        EffectivePolicy {
            timeout: Duration::from_secs(10),
            retry: RetryPolicy {
                schedule: RetrySchedule::Fixed(Vec::new()),
                max_attempts: None,
                give_up_after: None,
                jitter: 0.0,
                final_statuses: [].into(),
            },
            throttle: Duration::ZERO,
            max_batch_events: 1,
            max_batch_bytes: 1 << 20,
            discard_after: None,
            lossy: false,
            guarantee: Guarantee::AtLeastOnce,
            ordered: false,
            max_concurrency: 1,
            allow_invalid_certificates: true,
            cloudevents_mode: CloudEventsMode::Structured,
            cloudevents_source: None,
            disable_after: None,
            gone_disables: false,
            keep_response_bodies: true,
        }
    }

    fn event() -> Arc<Event> {
        Arc::new(Event {
            erased_at: None,
            trace: None,
            key: EventKey::lower_bound(NOW),
            id: EventId::from_key(EventKey::lower_bound(NOW)),
            organization_id: OrganizationId::parse("acme").unwrap(),
            event_type: EventType::parse("invoice.paid").unwrap(),
            occurred_at: NOW,
            accepted_at: NOW,
            level: Level::Info,
            data: Payload::empty(),
            routes: Vec::new(),
        })
    }

    fn courier(transport: &Arc<ScriptedTransport>) -> Courier {
        Courier {
            transport: Arc::clone(transport) as Arc<dyn Transport>,
            secrets: Arc::default(),
            account: Account::default(),
            clock: Arc::new(TokioClock::starting_at(NOW)),
            rates: None,
        }
    }

    async fn attempt(courier: &Courier, destination: &Destination) -> Attempt {
        let (policy, events) = (policy(), [event()]);
        let trigger = Trigger::Retry;
        let turn = courier.take_turn(destination, &policy, &[]).await.unwrap();
        courier
            .attempt(turn, Order { destination, policy: &policy, events: &events, number: 3, trigger })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_records_what_was_sent_and_what_came_back() {
        let transport = Arc::new(ScriptedTransport::new());
        transport.push("receiver.example", scripted::answered(503));
        let made = attempt(&courier(&transport), &destination()).await;
        assert_eq!((made.number, made.trigger, made.batch_size), (3, Trigger::Retry, 1));
        assert_eq!((made.started_at, made.outcome.status()), (NOW, Some(503)));
        let sent = transport.requests();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].options.timeout, Duration::from_secs(10));
        assert!(sent[0].options.allow_invalid_certificates);
        assert_eq!(sent[0].request.url().as_str(), "https://receiver.example/hook");
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_not_there_sends_nothing() {
        let transport = Arc::new(ScriptedTransport::new());
        let mut destination = destination();
        destination.signing.current = Some(SecretSource::EnvironmentVariable("NOT_ALLOWED".into()));
        let made = attempt(&courier(&transport), &destination).await;
        let Outcome::NotSent { refusal: Refusal::SecretUnavailable, detail } = made.outcome else {
            panic!("{:?}", made.outcome)
        };
        assert!(detail.contains("NOT_ALLOWED"));
        assert!(transport.requests().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retiring_secret_signs_until_its_time_and_no_longer() {
        let transport = Arc::new(ScriptedTransport::new());
        let courier = courier(&transport);
        let mut destination = destination();
        let until = NOW + Duration::from_secs(60);
        destination.signing.retiring = Some(RetiringSecret { source: value("old"), until });
        let count = |now| courier.resolve(&destination, now).unwrap().signing.len();
        assert_eq!(count(NOW), 2);
        assert_eq!(count(until - Duration::from_millis(1)), 2);
        assert_eq!(count(until), 1);
        let secrets = courier.resolve(&destination, NOW).unwrap();
        assert_eq!(secrets.signing[0].expose(), SECRET);
    }

    #[tokio::test(start_paused = true)]
    async fn the_secret_of_http_authentication_is_resolved_too() {
        let courier = courier(&Arc::new(ScriptedTransport::new()));
        let mut destination = destination();
        destination.http_auth = HttpAuth::Bearer { token: value("token") };
        let secrets = courier.resolve(&destination, NOW).unwrap();
        assert_eq!(secrets.http_auth.map(|secret| secret.expose().to_owned()).as_deref(), Some("token"));
        destination.http_auth = HttpAuth::Basic { username: "u".into(), secret: value("") };
        assert!(courier.resolve(&destination, NOW).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_answer_is_measured() {
        let transport = Arc::new(ScriptedTransport::new());
        transport.hold();
        let courier = courier(&transport);
        let destination = destination();
        let release = async {
            transport.wait_for_in_flight(1).await;
            tokio::time::advance(Duration::from_millis(250)).await;
            transport.release();
        };
        let (made, ()) = tokio::join!(attempt(&courier, &destination), release);
        assert_eq!(made.round_trip, Duration::from_millis(250));
        assert!(made.outcome.is_success());
    }
}
