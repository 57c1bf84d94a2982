//! Turns credentials into a [`Caller`], and says whether they are still valid later on.

use std::sync::Arc;

use super::Caller;
use super::caller::Identity;
use super::certificate::{CertificateRules, PeerCertificate};
use super::denial::DenialReason;
use super::jwks::KeySource;
use super::jwt::{Believed, Doubt, JwtJudge, JwtRules, KeyPrint};
use super::reload::Reloaded;
use super::token::TokenHash;
use super::token_file::TokenTable;
use crate::clock::SharedClock;
use crate::domain::time::Timestamp;

/// What a call brings to prove who makes it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The value of the metadata `authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The certificate of its connection.
    pub certificate: Option<&'a Arc<dyn PeerCertificate>>,
}

/// What proved who a caller is.
#[derive(Clone)]
enum Proof {
    /// Nothing was asked for.
    Nothing,
    Token(TokenHash),
    /// Believed until then, if the key is still there.
    Jwt(Timestamp, KeyPrint),
    Certificate(Arc<dyn PeerCertificate>),
}

/// A caller that proved who it is, and how.
#[derive(Clone)]
pub struct Admitted {
    /// The caller.
    pub caller: Caller,
    identity: Arc<Identity>,
    proof: Proof,
}

/// The ways in that the operator configured.
#[derive(Default)]
pub struct WaysIn {
    /// The token file.
    pub tokens: Option<Reloaded<TokenTable>>,
    /// JSON Web Tokens.
    pub jwt: Option<JwtWay>,
    /// Client certificates.
    pub certificates: CertificateRules,
}

/// How JSON Web Tokens are judged, and with which keys.
pub struct JwtWay {
    judge: JwtJudge,
    keys: KeySource,
}

impl JwtWay {
    /// By these rules and keys.
    #[must_use]
    pub fn new(rules: JwtRules, keys: KeySource) -> Self {
        Self { judge: JwtJudge::new(rules), keys }
    }

    /// A token may be signed with a key that is newer than ours; then it is worth to ask for it.
    async fn admit(&self, token: &str, now: Timestamp) -> Option<Admitted> {
        let believed = match self.judge.judge(token, &self.keys.current(), now) {
            Err(Doubt::UnknownKey) if self.keys.ask_for_more().await => {
                self.judge.judge(token, &self.keys.current(), now)
            }
            judged => judged,
        };
        let Believed { identity, expires_at, key } = believed.ok()?;
        Some(admitted(&identity, Proof::Jwt(expires_at, key)))
    }
}

/// Decides who is calling.
pub struct Authenticator(Mode);

enum Mode {
    /// Everybody is the local caller.
    Open(Arc<Identity>),
    Asking(Box<WaysIn>, SharedClock),
}

impl Authenticator {
    /// Asks callers for credentials.
    #[must_use]
    pub fn new(ways: WaysIn, clock: SharedClock) -> Self {
        Self(Mode::Asking(Box::new(ways), clock))
    }

    /// Asks nobody for anything: everybody is the local caller.
    #[must_use]
    pub fn open() -> Self {
        Self(Mode::Open(Arc::new(Identity::local())))
    }

    /// Whether callers need no credentials.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.0, Mode::Open(_))
    }

    /// Who is calling.
    ///
    /// Credentials in the call come before the certificate of the connection, and wrong ones are not made good
    /// by it: a caller that says who it is must be that one.
    ///
    /// # Errors
    /// Why nobody is. What exactly is wrong with credentials is not said.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Admitted, DenialReason> {
        let (ways, now) = match &self.0 {
            Mode::Open(local) => return Ok(admitted(local, Proof::Nothing)),
            Mode::Asking(ways, clock) => (ways, clock.now()),
        };
        if let Some(authorization) = credentials.authorization {
            let bearer = bearer(authorization).ok_or(DenialReason::CredentialsInvalid)?;
            let admitted = match (&ways.jwt, TokenHash::of(bearer)) {
                (_, Some(hash)) => ways.by_token(hash, now),
                (Some(jwt), None) => jwt.admit(bearer, now).await,
                (None, None) => None,
            };
            return admitted.ok_or(DenialReason::CredentialsInvalid);
        }
        let certificate = credentials.certificate.filter(|_| !ways.certificates.is_empty());
        let certificate = certificate.ok_or(DenialReason::CredentialsMissing)?;
        ways.by_certificate(certificate).ok_or(DenialReason::CredentialsInvalid)
    }

    /// Whether the credentials would still be accepted, and for the same rights. For calls that last.
    #[must_use]
    pub fn still_admits(&self, admitted: &Admitted) -> bool {
        match &self.0 {
            Mode::Open(_) => true,
            Mode::Asking(ways, clock) => ways.still_admit(admitted, clock.now()),
        }
    }
}

impl WaysIn {
    /// Whether there is none, so that nobody could ever call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_none() && self.jwt.is_none() && self.certificates.is_empty()
    }

    fn by_token(&self, hash: TokenHash, now: Timestamp) -> Option<Admitted> {
        Some(admitted(&self.identity_of(&hash, now)?, Proof::Token(hash)))
    }

    fn identity_of(&self, hash: &TokenHash, now: Timestamp) -> Option<Arc<Identity>> {
        let table = self.tokens.as_ref()?.current();
        let entry = table.find(hash).filter(|entry| entry.is_valid_at(now))?;
        Some(Arc::clone(&entry.identity))
    }

    fn by_certificate(&self, certificate: &Arc<dyn PeerCertificate>) -> Option<Admitted> {
        let identity = self.certificates.find(certificate.names()).filter(|_| certificate.is_trusted())?;
        Some(admitted(identity, Proof::Certificate(Arc::clone(certificate))))
    }

    fn still_admit(&self, admitted: &Admitted, now: Timestamp) -> bool {
        match &admitted.proof {
            Proof::Nothing => false,
            Proof::Token(hash) => {
                self.identity_of(hash, now).is_some_and(|identity| identity == admitted.identity)
            }
            Proof::Jwt(expires_at, key) => {
                let keys = self.jwt.as_ref().map(|jwt| jwt.keys.current());
                now < *expires_at && keys.is_some_and(|keys| keys.holds(*key))
            }
            Proof::Certificate(certificate) => certificate.is_trusted(),
        }
    }
}

fn admitted(identity: &Arc<Identity>, proof: Proof) -> Admitted {
    Admitted { caller: Caller::of(Arc::clone(identity)), identity: Arc::clone(identity), proof }
}

/// The credentials of `Bearer …`; the scheme in any case, as the standard has it.
fn bearer(authorization: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::certificate::CertificateName;
    use super::super::token::Token;
    use super::super::token_file::line_of;
    use super::super::{CallerKind, Role};
    use super::*;
    use crate::clock::Clock;

    struct SetClock(Mutex<Timestamp>);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }

    struct Held {
        names: Vec<CertificateName>,
        trusted: std::sync::atomic::AtomicBool,
    }

    impl PeerCertificate for Held {
        fn names(&self) -> &[CertificateName] {
            &self.names
        }

        fn is_trusted(&self) -> bool {
            self.trusted.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    async fn by_bearer(authenticator: &Authenticator, value: &str) -> Result<Admitted, DenialReason> {
        let credentials = Credentials { authorization: Some(value.as_bytes()), certificate: None };
        authenticator.authenticate(credentials).await
    }

    #[tokio::test]
    async fn a_token_admits_until_it_expires_or_is_withdrawn_or_means_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (token, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        let end = Timestamp::from_millis(1_000_000);
        let line = line_of("backend", "emitter@acme", &token.hash(), Some(end));
        std::fs::write(&path, &line).unwrap();
        let clock = Arc::new(SetClock(Mutex::new(Timestamp::from_millis(0))));
        let file = super::super::token_file::open(&path).unwrap();
        let ways = WaysIn { tokens: Some(file.clone()), ..WaysIn::default() };
        let authenticator = Authenticator::new(ways, Arc::<SetClock>::clone(&clock));
        let value = format!("Bearer {}", token.expose());
        let first = by_bearer(&authenticator, &value).await.unwrap();
        assert_eq!((first.caller.subject(), first.caller.kind()), ("backend", CallerKind::Token));
        assert!(first.caller.has_anywhere(Role::Emitter) && authenticator.still_admits(&first));
        for wrong in
            [other.expose(), &format!("Basic {}", token.expose()), &format!("Bearer {}", other.expose()), ""]
        {
            assert!(by_bearer(&authenticator, wrong).await.is_err(), "{wrong}");
        }
        std::fs::write(&path, line.replace("emitter@acme", "viewer@acme")).unwrap();
        file.reload().unwrap();
        assert!(!authenticator.still_admits(&first));
        let second = by_bearer(&authenticator, &value).await.unwrap();
        std::fs::write(&path, "# none\n").unwrap();
        file.reload().unwrap();
        assert!(!authenticator.still_admits(&second));
        assert!(by_bearer(&authenticator, &value).await.is_err());
        std::fs::write(&path, &line).unwrap();
        file.reload().unwrap();
        assert!(authenticator.still_admits(&first));
        *clock.0.lock().unwrap() = end;
        assert!(!authenticator.still_admits(&first));
        assert!(by_bearer(&authenticator, &value).await.is_err());
    }

    #[tokio::test]
    async fn a_certificate_admits_by_its_names_and_as_long_as_it_is_trusted() {
        let rules = ["uri:spiffe://a/b=viewer@acme".parse().unwrap()];
        let ways = WaysIn { certificates: CertificateRules::new(&rules), ..WaysIn::default() };
        let clock = Arc::new(SetClock(Mutex::new(Timestamp::from_millis(0))));
        let authenticator = Authenticator::new(ways, clock);
        let held = |name: &str| Arc::new(Held { names: vec![name.parse().unwrap()], trusted: true.into() });
        let known = held("uri:spiffe://a/b");
        let certificate: Arc<dyn PeerCertificate> = Arc::<Held>::clone(&known);
        let credentials = Credentials { authorization: None, certificate: Some(&certificate) };
        let admitted = authenticator.authenticate(credentials).await.unwrap();
        assert_eq!(admitted.caller.subject(), "uri:spiffe://a/b");
        let wrong_token = Credentials { authorization: Some(b"Bearer x"), certificate: Some(&certificate) };
        assert!(authenticator.authenticate(wrong_token).await.is_err());
        known.trusted.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(!authenticator.still_admits(&admitted));
        assert!(authenticator.authenticate(credentials).await.is_err());
        let stranger: Arc<dyn PeerCertificate> = held("dns:stranger.example");
        let credentials = Credentials { authorization: None, certificate: Some(&stranger) };
        let refused = authenticator.authenticate(credentials).await.map(|one| one.caller);
        assert_eq!(refused, Err(DenialReason::CredentialsInvalid));
        let none = Credentials { authorization: None, certificate: None };
        let refused = authenticator.authenticate(none).await.map(|one| one.caller);
        assert_eq!(refused, Err(DenialReason::CredentialsMissing));
    }

    #[tokio::test]
    async fn an_open_server_asks_nobody() {
        let none = Credentials { authorization: None, certificate: None };
        let admitted = Authenticator::open().authenticate(none).await.unwrap();
        assert_eq!(admitted.caller, Caller::local());
    }
}
