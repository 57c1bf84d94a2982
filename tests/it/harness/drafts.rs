//! Drafts of what callers send.

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;

/// A destination that is about to be created.
#[derive(Debug, Clone)]
pub struct DestinationDraft(pub v1::Destination);

/// An event that is about to be emitted.
#[derive(Debug, Clone)]
pub struct EventDraft(pub v1::Event);

/// The contract in the API's numbers.
pub fn number_of(contract: Contract) -> i32 {
    let number = match contract {
        Contract::Semaphor => v1::Contract::Semaphor,
        Contract::Stalwart => v1::Contract::Stalwart,
        Contract::Workspace => v1::Contract::Workspace,
        Contract::Observer => v1::Contract::Observer,
        Contract::StandardWebhooks => v1::Contract::StandardWebhooks,
        Contract::CloudEvents => v1::Contract::Cloudevents,
    };
    number.into()
}

/// A duration of so many milliseconds.
pub fn millis(millis: i64) -> prost_types::Duration {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap();
    prost_types::Duration { seconds: millis / 1000, nanos }
}

/// A destination with nothing but its contract.
pub fn destination(contract: Contract) -> DestinationDraft {
    DestinationDraft(v1::Destination { contract: number_of(contract), ..v1::Destination::default() })
}

/// An event with nothing but its type.
pub fn event(event_type: &str) -> EventDraft {
    EventDraft(v1::Event { r#type: event_type.into(), ..v1::Event::default() })
}

impl DestinationDraft {
    /// The same, changed in any way.
    pub fn with(mut self, change: impl FnOnce(&mut v1::Destination)) -> Self {
        change(&mut self.0);
        self
    }

    pub fn settings(self, change: impl FnOnce(&mut v1::DeliverySettings)) -> Self {
        self.with(|one| change(one.settings.get_or_insert_default()))
    }

    pub fn name(self, name: &str) -> Self {
        self.with(|one| one.display_name = name.into())
    }

    pub fn url(self, url: impl Into<String>) -> Self {
        self.with(|one| one.url = url.into())
    }

    pub fn secret(self, secret: &str) -> Self {
        self.secret_from(v1::secret_ref::Source::Value(secret.into()))
    }

    pub fn secret_from(self, source: v1::secret_ref::Source) -> Self {
        self.with(|one| one.signing_secret = Some(v1::SecretRef { source: Some(source) }))
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        let header = v1::Header { name: name.into(), value: Some(value.into()) };
        self.with(|one| one.headers.push(header))
    }

    pub fn include(self, event_types: &[&str]) -> Self {
        self.subscribe(v1::SubscriptionPolicy::Include, event_types)
    }

    pub fn exclude(self, event_types: &[&str]) -> Self {
        self.subscribe(v1::SubscriptionPolicy::Exclude, event_types)
    }

    fn subscribe(self, policy: v1::SubscriptionPolicy, event_types: &[&str]) -> Self {
        self.with(|one| {
            let subscription = one.subscription.get_or_insert_default();
            subscription.policy = policy.into();
            subscription.event_types = event_types.iter().map(|one| (*one).to_owned()).collect();
        })
    }

    /// Attempts after these delays in milliseconds, and then no more.
    pub fn retry_after(self, delays: &[i64]) -> Self {
        let delays = delays.iter().copied().map(millis).collect();
        let schedule = v1::retry_policy::Schedule::Fixed(v1::FixedDelays { delays });
        let policy = v1::RetryPolicy { schedule: Some(schedule), ..v1::RetryPolicy::default() };
        self.settings(|settings| settings.retry_policy = Some(policy))
    }

    /// One attempt, so that a failure is final.
    pub fn one_attempt(self) -> Self {
        self.retry_after(&[0]).settings(|settings| {
            settings.retry_policy.as_mut().unwrap().max_attempts = Some(1);
        })
    }
}

impl EventDraft {
    pub fn with(mut self, change: impl FnOnce(&mut v1::Event)) -> Self {
        change(&mut self.0);
        self
    }

    pub fn id(self, id: &str) -> Self {
        self.with(|one| one.event_id = Some(id.into()))
    }

    /// The data as JSON text, or as bytes that only claim to be.
    pub fn data(self, json: impl AsRef<[u8]>) -> Self {
        let json = json.as_ref().to_vec().into();
        self.with(|one| one.data = Some(v1::event::Data::JsonData(json)))
    }

    pub fn level(self, level: v1::Level) -> Self {
        self.with(|one| one.level = level.into())
    }

    /// When it happened, in milliseconds since 1970.
    pub fn occurred_at(self, at: i64) -> Self {
        let nanos = i32::try_from(at % 1000 * 1_000_000).unwrap();
        self.with(|one| one.occurred_at = Some(prost_types::Timestamp { seconds: at / 1000, nanos }))
    }
}
