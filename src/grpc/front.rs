//! What every call passes before it reaches a service: is there such a method, who calls, may they, and by when
//! must there be an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::connection::{ConnectionState, GuardedBody};
use super::interceptor::{Gate, Knock};
use super::meter::{Meter, metered};
use super::options::{ConnectionOptions, Reflection};
use super::refusals::Refusals;
use super::shares::{NoShare, Share, Shares, Site};
use super::status::Problem;
use crate::auth::access::{self, Access, Lasting, Row};
use crate::auth::authenticator::Credentials;

/// The longest name of a method that is repeated to anybody.
const METHOD_MAX_BYTES: usize = 256;
/// The longest id of a call that is taken over from its caller.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// All that is behind a port.
pub struct Front {
    /// The services.
    pub routes: Routes,
    /// What counts calls of them.
    pub meter: Meter,
    /// Who may call them.
    pub gate: Arc<Gate>,
    /// Who may ask for their description.
    pub reflection: Reflection,
    /// How long a call may take whose caller says nothing.
    pub call_default: Duration,
    /// What a connection may do.
    pub connection: ConnectionOptions,
    /// Streams that need no credentials; they would keep connections for ever.
    pub open_streams: Shares,
    /// What the log says of peers that were refused.
    pub refusals: Arc<Refusals>,
}

impl Front {
    /// Answers a call.
    ///
    /// # Errors
    /// Never: what fails is an answer, too.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<ConnectionState>,
    ) -> Result<Response<GuardedBody>, Infallible> {
        let row = access::row_of(request.uri().path());
        let call = self.meter.begin(request.uri().path());
        let is_stream = row.is_some_and(|(_, access)| access.lasting() == Lasting::Stream);
        let guard = connection.call(!is_stream);
        let (place, refused) = match self.place_of(row, is_stream, &connection) {
            Ok(place) => (place, None),
            Err(problem) => (None, Some(problem)),
        };
        let response = if let Some(problem) = refused {
            Err(problem)
        } else if is_stream {
            self.pass(request, row, &connection).await
        } else {
            let limit = self.limit_of(request.headers());
            let work = async {
                // Streams wait for nobody; calls for their turn, and their deadline counts meanwhile.
                let _turn = connection.working.acquire().await;
                self.pass(request, row, &connection).await
            };
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Problem::timed_out()))
        };
        let response = response.unwrap_or_else(|problem| problem.into_status().into_http());
        let response = metered(response, call);
        Ok(response.map(|body| GuardedBody::new(Body::new(body), guard, place)))
    }

    /// The place of a stream that needs no credentials; others need none.
    fn place_of(
        &self,
        row: Option<&Row>,
        is_stream: bool,
        connection: &ConnectionState,
    ) -> Result<Option<Share>, Problem> {
        if !is_stream || !self.is_open(row) {
            return Ok(None);
        }
        let taken = self.open_streams.take(Site::of(connection.peer().ip()));
        taken.map(Some).map_err(|why| match why {
            NoShare::Anywhere(most) => Problem::too_many_open_streams("server", most),
            NoShare::ForThisOne(most) => Problem::too_many_open_streams("address", most),
        })
    }

    /// The caller's deadline, or ours where it says nothing; never more than the most.
    fn limit_of(&self, headers: &HeaderMap) -> Duration {
        let asked = headers.get("grpc-timeout").and_then(|value| read_timeout(value.to_str().ok()?));
        asked.unwrap_or(self.call_default).min(self.connection.call_max)
    }

    async fn pass(
        &self,
        mut request: Request<Incoming>,
        row: Option<&'static Row>,
        connection: &ConnectionState,
    ) -> Result<Response<Body>, Problem> {
        let method = method_of(request.uri().path());
        if self.is_open(row) {
            return Ok(self.dispatch(request).await);
        }
        let needs = match row {
            Some((_, Access::Role { role, scope, .. })) => Some((*role, *scope)),
            Some((_, Access::Open(_) | Access::Reflection)) | None => None,
        };
        let knock = Knock {
            credentials: credentials(request.headers(), connection),
            peer: connection.peer(),
            request_id: request_id(request.headers()),
            method,
            needs,
        };
        let admission = self.gate.admit(knock).await?;
        let is_served = needs.is_some() || (row.is_some() && self.reflection != Reflection::Off);
        if !is_served {
            return Err(Problem::unknown_method(method));
        }
        request.extensions_mut().insert(admission.clone());
        let response = self.dispatch(request).await;
        admission.note(&response);
        Ok(response)
    }

    /// Whether anybody may call it.
    fn is_open(&self, row: Option<&Row>) -> bool {
        match row {
            Some((_, Access::Open(_))) => true,
            Some((_, Access::Reflection)) => self.reflection == Reflection::Open,
            Some((_, Access::Role { .. })) | None => false,
        }
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Response<Body> {
        match self.routes.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn credentials<'a>(headers: &'a HeaderMap, connection: &'a ConnectionState) -> Credentials<'a> {
    let mut values = headers.get_all("authorization").iter();
    let authorization = match (values.next(), values.next()) {
        (first, None) => first.map(http::HeaderValue::as_bytes),
        // Which of them counts would be a guess.
        (_, Some(_)) => Some(b"".as_slice()),
    };
    Credentials { authorization, certificate: connection.certificate() }
}

/// The name of the method, cut where it is too long to be one.
fn method_of(path: &str) -> &str {
    let name = path.strip_prefix('/').unwrap_or(path);
    name.get(..name.floor_char_boundary(METHOD_MAX_BYTES)).unwrap_or_default()
}

/// The caller's own id of the call, where it is one that can stand in a log.
fn request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    let fits = !id.is_empty() && id.len() <= REQUEST_ID_MAX_BYTES && id.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| id.into())
}

/// The time of `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_at_most_eight_digits_and_a_unit() {
        for (text, wait) in [
            ("1S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("250m", Duration::from_millis(250)),
            ("2M", Duration::from_secs(120)),
            ("7u", Duration::from_micros(7)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(read_timeout(text), Some(wait), "{text}");
        }
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", "ß"] {
            assert_eq!(read_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn what_a_caller_calls_its_call_is_taken_over_only_where_it_can_stand_in_a_log() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", value.parse().unwrap());
            request_id(&headers).map(|id| id.to_string())
        };
        assert_eq!(of("req-1").as_deref(), Some("req-1"));
        assert_eq!((of(""), of("a b"), of(&"x".repeat(129))), (None, None, None));
        assert_eq!(method_of(&format!("/{}", "ä".repeat(300))).len(), METHOD_MAX_BYTES);
    }
}
