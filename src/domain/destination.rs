//! Destinations: an organization's receiving URLs, with all that belongs to them.

use std::fmt;

use url::{Host, Url};

use super::circuit::CircuitState;
use super::contract::Contract;
use super::id::{DestinationId, OrganizationId};
use super::secret::{HttpAuth, Secret, SecretSource, SigningSecrets};
use super::settings::DeliverySettings;
use super::subscription::Subscription;
use super::time::Timestamp;

/// The longest URL, in bytes.
pub const URL_MAX_BYTES: usize = 2048;
/// The longest host name (RFC 1035, section 2.3.4, less the ends of the wire format).
const HOST_MAX_BYTES: usize = 253;
/// The longest display name, in characters.
pub const DISPLAY_NAME_MAX_CHARS: usize = 63;
/// The most custom headers on one destination.
pub const HEADERS_MAX: usize = 32;

/// A receiving URL that was checked: scheme, host, length, no credentials, no fragment.
///
/// Whether its address may be called is decided when connecting, not here.
///
/// Many receivers have a token in the path or the query. Whoever may read the destination sees it; everywhere else
/// (logs, traces, errors, the audit log) stands [`redacted`](Self::redacted), and so there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct DestinationUrl(Url);

impl DestinationUrl {
    /// Parses by the WHATWG URL standard, in which every odd spelling of an address has one meaning.
    ///
    /// `plain_http` allows `http://` besides `https://`.
    ///
    /// # Errors
    /// Sentences that say what would be right: all that is wrong with a URL that can be read.
    pub fn parse(text: &str, plain_http: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty; give the receiver's URL, for example https://example.com/webhooks".into());
        }
        if text.len() > URL_MAX_BYTES {
            return Err(format!("has {} bytes; at most {URL_MAX_BYTES} are allowed", text.len()));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err("contains white space, a control character or a backslash; encode it".into());
        }
        let mut url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        let mut problems: Vec<String> = check_scheme(&url, plain_http).err().into_iter().collect();
        if !text.split_once(':').is_some_and(|(_, rest)| rest.starts_with("//")) {
            problems.push("has no `//` after the scheme; write https://host/path".into());
        }
        if !url.username().is_empty() || url.password().is_some() || has_at_sign(text) {
            problems.push("contains credentials; set http_auth instead".into());
        }
        if url.fragment().is_some() {
            problems.push("contains a fragment (#…), which is never sent; remove it".into());
        }
        problems.extend(check_host(&mut url).err());
        if url.as_str().len() > URL_MAX_BYTES {
            problems.push(format!("has more than {URL_MAX_BYTES} bytes once it is percent-encoded"));
        }
        if problems.is_empty() { Ok(Self(url)) } else { Err(problems.join("; it ")) }
    }

    /// The parsed URL, in its normal form.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The URL as a text, in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Where it leads, without what may be a token: `https://host:port/…`.
    #[must_use]
    pub fn redacted(&self) -> String {
        let origin = self.0.origin().ascii_serialization();
        let is_bare = self.0.path() == "/" && self.0.query().is_none();
        format!("{origin}/{}", if is_bare { "" } else { "…" })
    }

    /// Whether it is `https://`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Debug for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

fn check_scheme(url: &Url, plain_http: bool) -> Result<(), String> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if plain_http => Ok(()),
        "http" => Err("uses http://; this destination needs https://".into()),
        other => Err(format!("uses {other}:; write https://…")),
    }
}

/// Whether there is an `@` before the host. The parser drops a user that is empty, but whoever writes one
/// hopes that somebody else reads another host.
fn has_at_sign(text: &str) -> bool {
    let after_scheme = text.split_once(':').map_or(text, |(_, rest)| rest).trim_start_matches('/');
    after_scheme.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

fn check_host(url: &mut Url) -> Result<(), String> {
    if url.port() == Some(0) {
        return Err("has port 0; give a port from 1 to 65535 or none".into());
    }
    let domain = match url.host() {
        Some(Host::Domain(domain)) => domain.to_owned(),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => return Ok(()),
        None => return Err("has no host; write https://host/path".into()),
    };
    // `host.` and `host` are the same name; one form keeps one connection pool and one Host header.
    let plain = domain.strip_suffix('.').unwrap_or(&domain);
    if plain.is_empty() || plain.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("has a host with an empty or over-long label (63 characters at most)".into());
    }
    if plain.len() > HOST_MAX_BYTES {
        return Err(format!(
            "has a host of {} characters; at most {HOST_MAX_BYTES} are allowed",
            plain.len()
        ));
    }
    let plain = plain.to_owned();
    url.set_host(Some(&plain)).map_err(|error| format!("has an invalid host: {error}"))
}

/// A custom header of a destination; the value counts as a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, in lower case.
    pub name: String,
    /// The value.
    pub value: Secret,
}

impl Header {
    /// The value as it is sent: HTTP carries no white space around one (RFC 9110, section 5.5).
    #[must_use]
    pub fn sent_value(&self) -> &str {
        self.value.expose().trim_matches([' ', '\t'])
    }
}

/// Whether a destination is delivered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationState {
    /// Delivered to.
    Active,
    /// Held by a caller: events are kept, nothing is sent.
    Paused {
        /// Since when.
        since: Timestamp,
    },
    /// Switched off, by a caller or by what its receiver does: new events are not routed to it, and what
    /// waits is held until somebody switches it on again.
    Disabled {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: DisabledReason,
    },
}

/// Why a destination is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledReason {
    /// A caller switched it off (seed 000's status, seed 001's `enable`).
    ByCaller,
    /// The receiver answered 410.
    Gone,
    /// No attempt succeeded for the destination's `disable_after`.
    Failing,
}

impl DisabledReason {
    /// A sentence for people.
    #[must_use]
    pub const fn as_sentence(self) -> &'static str {
        match self {
            DisabledReason::ByCaller => "switched off by a caller",
            DisabledReason::Gone => "the receiver answered 410 (Gone)",
            DisabledReason::Failing => "every attempt failed for the destination's disable_after",
        }
    }
}

impl DestinationState {
    /// Whether deliveries are sent.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self, DestinationState::Active)
    }

    /// Whether new events are routed to it: also while it is paused, but not while it is disabled.
    #[must_use]
    pub const fn is_routed_to(&self) -> bool {
        !matches!(self, DestinationState::Disabled { .. })
    }
}

/// An organization's receiving URL with contract, subscription, secrets and limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// Made by us, never changes.
    pub id: DestinationId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// A name for people; may be empty.
    pub display_name: String,
    /// Where requests go.
    pub url: DestinationUrl,
    /// What the receiver gets.
    pub contract: Contract,
    /// Which events it wants.
    pub subscription: Subscription,
    /// What is set on it over the contract's defaults.
    pub settings: DeliverySettings,
    /// The signing secrets.
    pub signing: SigningSecrets,
    /// Authentication of the request.
    pub http_auth: HttpAuth,
    /// Custom headers, in the order in which they are sent.
    pub headers: Vec<Header>,
    /// Active, paused or disabled.
    pub state: DestinationState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Grows with each change; the etag.
    pub revision: u64,
}

/// A destination as a caller wants it to be, before anything is checked.
///
/// Types that can only hold valid values (contract, settings) are parsed at the edge already; what needs
/// the contract or the operator's configuration to be judged is still text.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationDraft {
    /// A name for people; may be empty.
    pub display_name: String,
    /// The URL as typed.
    pub url: String,
    /// What the receiver gets.
    pub contract: Contract,
    /// Which events it wants; `None` is the contract's default.
    pub subscription: Option<Subscription>,
    /// What is set over the contract's defaults.
    pub settings: DeliverySettings,
    /// The signing secret; `None` signs nothing.
    pub signing_secret: Option<SecretSource>,
    /// Authentication of the request.
    pub http_auth: HttpAuth,
    /// Custom headers.
    pub headers: Vec<Header>,
    /// Whether it is active; `false` disables it.
    pub enabled: bool,
}

impl DestinationDraft {
    /// An active destination with everything else left at its default.
    #[must_use]
    pub fn new(contract: Contract, url: &str) -> Self {
        Self {
            display_name: String::new(),
            url: url.into(),
            contract,
            subscription: None,
            settings: DeliverySettings::default(),
            signing_secret: None,
            http_auth: HttpAuth::Unauthenticated,
            headers: Vec::new(),
            enabled: true,
        }
    }
}

/// What the deliveries to a destination say about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DestinationHealth {
    /// What went wrong last; cleared by the next success (seed 000).
    pub last_error: Option<String>,
    /// When it went wrong last; cleared by the next success (seed 000).
    pub last_failure_at: Option<Timestamp>,
    /// When it last went well.
    pub last_success_at: Option<Timestamp>,
    /// Failed requests since the last success.
    pub consecutive_failures: u32,
    /// When the present run of failures began.
    pub failing_since: Option<Timestamp>,
    /// When the first success ever confirmed that the receiver can be reached (seed 003).
    pub confirmed_at: Option<Timestamp>,
    /// When its circuit opened; until the circuit has closed again, so that each outage is told of once.
    pub circuit_opened_at: Option<Timestamp>,
}

/// What has become of the circuit of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitChange {
    /// It is open, and was closed before.
    Opened {
        /// When it opened.
        at: Timestamp,
    },
    /// It is closed again.
    Recovered {
        /// When it had opened.
        opened_at: Timestamp,
    },
}

impl DestinationHealth {
    /// Notes a success: errors are cleared, the first one confirms reachability.
    pub fn succeeded(&mut self, at: Timestamp) {
        let confirmed_at = self.confirmed_at.or(Some(at));
        let circuit_opened_at = self.circuit_opened_at;
        *self = Self { last_success_at: Some(at), confirmed_at, circuit_opened_at, ..Self::default() };
    }

    /// Notes a failure.
    pub fn failed(&mut self, at: Timestamp, error: String) {
        self.last_error = Some(error);
        self.last_failure_at = Some(at);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.failing_since = self.failing_since.or(Some(at));
    }

    /// Notes the circuit after a request, and answers what has changed since an outage began or ended.
    pub fn circuit_became(&mut self, circuit: CircuitState, at: Timestamp) -> Option<CircuitChange> {
        match (circuit, self.circuit_opened_at) {
            (CircuitState::Open, None) => {
                self.circuit_opened_at = Some(at);
                Some(CircuitChange::Opened { at })
            }
            (CircuitState::Closed, Some(opened_at)) if self.consecutive_failures == 0 => {
                self.circuit_opened_at = None;
                Some(CircuitChange::Recovered { opened_at })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_token_of_the_receiver_is_shown_nowhere_by_chance() {
        for (text, shown) in [
            ("https://example.com/", "https://example.com/"),
            ("https://example.com:8443/planted", "https://example.com:8443/…"),
            ("https://example.com/?planted", "https://example.com/…"),
            ("https://example.com:443/a/planted?b=planted", "https://example.com/…"),
        ] {
            let url = DestinationUrl::parse(text, false).unwrap();
            assert_eq!((url.redacted().as_str(), format!("{url:?}").as_str()), (shown, shown));
        }
    }

    #[test]
    fn odd_spellings_of_an_address_are_read_as_the_address_they_mean() {
        for (text, host) in [
            ("https://2130706433/", "127.0.0.1"),
            ("https://0x7f.1/", "127.0.0.1"),
            ("https://0177.0.0.1/", "127.0.0.1"),
            ("https://EXAMPLE.com./x", "example.com"),
            ("https://[::ffff:127.0.0.1]/", "[::ffff:7f00:1]"),
        ] {
            let url = DestinationUrl::parse(text, false).unwrap();
            assert_eq!(url.as_url().host_str(), Some(host), "{text}");
        }
    }

    #[test]
    fn a_url_that_is_refused_says_what_would_be_right() {
        let table = [
            ("", "is empty"),
            ("http://example.com/", "https://"),
            ("https://user:pw@example.com/", "http_auth"),
            ("https://example.com/#top", "fragment"),
            ("https:example.com", "//"),
            ("https://exa mple.com/", "white space"),
            ("https://a..b/", "label"),
            ("https://example.com:0/", "port"),
            ("ftp://example.com/", "https://"),
            ("https://256.0.0.1/", "no URL"),
            ("nonsense", "no URL"),
        ];
        for (text, part) in table {
            let problem = DestinationUrl::parse(text, false).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
        let long = format!("https://example.com/{}", "x".repeat(URL_MAX_BYTES));
        assert!(DestinationUrl::parse(&long, false).unwrap_err().contains("2048"));
        assert!(DestinationUrl::parse("http://127.0.0.1:8080/hook", true).is_ok());
    }

    #[test]
    fn everything_that_is_wrong_with_a_url_is_said_at_once() {
        let problem = DestinationUrl::parse("http://user:pw@example.com:0/#top", false).unwrap_err();
        for part in ["https://", "http_auth", "fragment", "port 0"] {
            assert!(problem.contains(part), "{part} is not in {problem}");
        }
    }

    #[test]
    fn a_success_clears_the_error_and_the_first_one_confirms() {
        let mut health = DestinationHealth::default();
        let at = Timestamp::from_millis;
        health.failed(at(1), "answered 500".into());
        health.failed(at(2), "answered 502".into());
        assert_eq!((health.consecutive_failures, health.failing_since), (2, Some(at(1))));
        health.succeeded(at(3));
        health.succeeded(at(4));
        assert_eq!((health.last_error, health.last_failure_at), (None, None));
        assert_eq!((health.confirmed_at, health.last_success_at), (Some(at(3)), Some(at(4))));
    }

    #[test]
    fn an_outage_begins_with_the_first_open_circuit_and_ends_with_the_next_closed_one() {
        let mut health = DestinationHealth::default();
        let at = Timestamp::from_millis;
        let mut became = |circuit, success, moment| {
            if success {
                health.succeeded(at(moment));
            } else {
                health.failed(at(moment), "answered 500".into());
            }
            health.circuit_became(circuit, at(moment))
        };
        assert_eq!(became(CircuitState::Closed, false, 1), None);
        assert_eq!(became(CircuitState::Open, false, 2), Some(CircuitChange::Opened { at: at(2) }));
        assert_eq!(became(CircuitState::Open, false, 3), None);
        assert_eq!(became(CircuitState::HalfOpen, true, 4), None);
        assert_eq!(became(CircuitState::Open, false, 5), None, "the same outage");
        assert_eq!(became(CircuitState::Closed, false, 6), None, "a lane that was made again");
        let recovered = CircuitChange::Recovered { opened_at: at(2) };
        assert_eq!(became(CircuitState::Closed, true, 7), Some(recovered));
        assert_eq!(became(CircuitState::Closed, true, 8), None);
    }
}
