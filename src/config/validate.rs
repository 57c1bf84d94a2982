//! The one list of keys: name, default, meaning and bounds of each, and what must hold between them.
//!
//! Pure. Every key of a section is read before anything is given up, so that all problems are found.

use std::net::IpAddr;
use std::time::Duration;

use url::{Host, Url};

use crate::domain::attempt::ResponseBodies;
use crate::domain::contract::Contract;
use crate::domain::retention::Retention;

use super::accepts::{Accepts, Known, Read, one_of};
use super::nearest::nearest;
use super::problem::Problems;
use super::raw::{Raw, TELEMETRY_KEY};
use super::reader::Reader;
use super::resolved::{
    Config, DeliveryConfig, EgressConfig, LogConfig, LogFormat, OrganizationsConfig, SecretsConfig,
    TracesConfig,
};
use super::units::{
    duration, endpoint, flag, folder, host, name, network, number, or_word, path, proxy, scoped, size,
    variable,
};
use super::{FILE_VARIABLE, Loaded, limits, listen, plans, store};

const SECRETS_KEY: &str = "secrets.environment";
pub(super) const MIB: u64 = 1 << 20;
pub(super) const TIB: u64 = 1 << 40;

/// The configuration, or all that is wrong with it.
pub(super) fn validate(raw: &Raw) -> Result<Loaded, Problems> {
    let mut reader = Reader::new(raw);
    let config = read(&mut reader, raw);
    // A variable that holds a destination's secret may be named like one of ours.
    let named = raw.get(SECRETS_KEY).map(|names| names.value.items()).unwrap_or_default();
    let before_place = |item: String| item.rsplit_once('@').map_or(item.clone(), |(name, _)| name.to_owned());
    let mut others: Vec<String> = named.into_iter().map(before_place).collect();
    others.push(FILE_VARIABLE.to_owned());
    reader.refuse_the_rest(&others);
    let effective = reader.finish()?;
    // A section is only absent where a problem was noted, so that this list is never an empty one.
    let config = config.ok_or_else(|| Problems(Vec::new()))?;
    Ok(Loaded { config, effective })
}

fn read(reader: &mut Reader<'_>, raw: &Raw) -> Option<Config> {
    let (listen, auth) = listen::listen_and_auth(reader);
    let store = store::store(reader);
    let delivery = delivery(reader);
    let retention = retention(reader);
    let limits = limits::limits(reader);
    let egress = egress(reader);
    let secrets = secrets(reader);
    let organizations = organizations(reader);
    let payload_max =
        limits.as_ref().map_or(limits::PAYLOAD_CEILING, |limits| limits.payload.max_bytes as u64);
    let plans = plans::plans(reader, raw, payload_max);
    let traces = traces(reader);
    let log = log(reader);
    Some(Config {
        listen: listen?,
        auth: auth?,
        store: store?,
        delivery: delivery?,
        retention: retention?,
        limits: limits?,
        egress: egress?,
        secrets: secrets?,
        organizations: organizations?,
        plans: plans?,
        traces: traces?,
        log: log?,
    })
}

fn delivery(reader: &mut Reader<'_>) -> Option<DeliveryConfig> {
    let enabled = reader.one("delivery.enabled", "true", flag());
    let telemetry = reader.one(TELEMETRY_KEY, "false", flag());
    let threads = reader.one("delivery.threads", "auto", or_word("auto", number(1, 256)));
    let max_in_flight = reader.one("delivery.max_in_flight", "512", number(1, 65_536));
    let max_bytes = reader.one("delivery.max_bytes_in_flight", "128MiB", size(MIB, TIB));
    let max_kept = reader.one("delivery.max_kept_connections", "1024", number(0, 65_536));
    let opens_after = reader.one("delivery.circuit_opens_after", "10", number(1, 1_000_000));
    let window = reader.one("delivery.window", "512", number(1, 1_000_000));
    let best_effort = reader.one("delivery.best_effort_window", "512", number(1, 1_000_000));
    let window_bytes = reader.one("delivery.window_bytes", "8MiB", size(MIB, TIB));
    let bytes_waiting = reader.one("delivery.max_bytes_waiting", "64MiB", size(MIB, TIB));
    let deadline = duration(Duration::ZERO, Duration::from_secs(3600));
    let deadline = reader.one("delivery.shutdown_deadline", "25s", deadline);
    let plain_http = reader.many("delivery.plain_http_contracts", plain_http_contract());
    Some(DeliveryConfig {
        enabled: enabled?,
        enterprise_telemetry_enabled: telemetry?,
        threads: threads?,
        max_in_flight: max_in_flight?,
        max_bytes_in_flight: usize::try_from(max_bytes?).ok()?,
        max_kept_connections: max_kept?,
        circuit_opens_after: opens_after?,
        window: window?,
        best_effort_window: best_effort?,
        window_bytes: usize::try_from(window_bytes?).ok()?,
        max_bytes_waiting: usize::try_from(bytes_waiting?).ok()?,
        shutdown_deadline: deadline?,
        plain_http_contracts: plain_http?.into_iter().collect(),
    })
}

fn retention(reader: &mut Reader<'_>) -> Option<Retention> {
    let history = reader.one("retention.history", "30d", kept());
    let dead_letters = reader.one("retention.dead_letters", "30d", kept());
    let notice = or_word("auto", duration(Duration::ZERO, KEPT_MAX));
    let notice = reader.one("retention.dead_letter_notice", "auto", notice);
    let max_size = or_word("unlimited", size(MAX_SIZE_LEAST, 1024 * TIB));
    let max_size = reader.one("retention.max_size", "unlimited", max_size);
    let audit = reader.one("retention.audit", "365d", kept());
    let notice =
        notice.zip(dead_letters).map(|(notice, kept)| notice.unwrap_or(Retention::usual_notice(kept)));
    if let (Some(notice), Some(kept)) = (notice, dead_letters)
        && notice >= kept
    {
        let problem =
            "is not shorter than retention.dead_letters, so nothing could be told in time; lower it";
        reader.problem("retention.dead_letter_notice", problem);
    }
    Some(Retention {
        history: history?,
        dead_letters: dead_letters?,
        dead_letter_notice: notice?,
        max_bytes: max_size?,
        audit: audit?,
    })
}

/// The longest time that something may be kept.
const KEPT_MAX: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// Less than this would be gone before anybody could have read it, under any load.
const MAX_SIZE_LEAST: u64 = 16 * MIB;

/// How long something may be kept. Less than a moment would remove it before anybody could have read it.
pub(super) fn kept() -> impl Read<Value = Duration> {
    duration(Duration::from_secs(1), KEPT_MAX)
}

/// Only STALWART's documents know `http://` URLs; receivers of all others were promised HTTPS.
fn plain_http_contract() -> impl Read<Value = Contract> {
    let accepts = Accepts::Words(vec![Contract::Stalwart.as_str()]);
    Known(accepts, |text: &str| match text.parse::<Contract>()? {
        Contract::Stalwart => Ok(Contract::Stalwart),
        other => Err(format!("{other} promises HTTPS; only STALWART may be delivered in the clear")),
    })
}

fn egress(reader: &mut Reader<'_>) -> Option<EgressConfig> {
    let allow = reader.many("egress.allow", network);
    let deny = reader.many("egress.deny", network);
    let deny_hosts = reader.many("egress.deny_hosts", host);
    let ports = reader.many("egress.ports", number(1, u16::MAX));
    let ca_file = reader.one("egress.ca_file", "", or_word("", path));
    let proxy = reader.one("egress.proxy", "", or_word("", proxy));
    let per_host_rate = or_word("unlimited", number(1, 1_000_000));
    let per_host_rate = reader.one("egress.per_host_rate", "1000", per_host_rate);
    let response_bodies = reader.one("egress.response_bodies", "never", response_bodies());
    Some(EgressConfig {
        allow: allow?,
        deny: deny?,
        deny_hosts: deny_hosts?,
        ports: ports?.into_iter().collect(),
        ca_file: ca_file?,
        proxy: proxy?,
        per_host_rate: per_host_rate?,
        response_bodies: response_bodies?,
    })
}

fn response_bodies() -> impl Read<Value = ResponseBodies> {
    one_of([
        ("public", ResponseBodies::Public),
        ("always", ResponseBodies::Always),
        ("never", ResponseBodies::Never),
    ])
}

fn secrets(reader: &mut Reader<'_>) -> Option<SecretsConfig> {
    let key_file = reader.one("secrets.key_file", "", or_word("", path));
    let environment = reader.many(SECRETS_KEY, scoped(variable));
    let folders = reader.many("secrets.folders", scoped(folder));
    Some(SecretsConfig { key_file: key_file?, environment: environment?, folders: folders? })
}

fn organizations(reader: &mut Reader<'_>) -> Option<OrganizationsConfig> {
    let require_create = reader.one("organizations.require_create", "false", flag());
    Some(OrganizationsConfig { require_create: require_create? })
}

fn traces(reader: &mut Reader<'_>) -> Option<TracesConfig> {
    let endpoint = reader.one("traces.endpoint", "", or_word("", endpoint));
    let plaintext = reader.one("traces.allow_plaintext_network", "false", flag());
    if let (Some(Some(url)), Some(false)) = (&endpoint, plaintext)
        && url.scheme() == "http"
        && !is_loopback(url)
    {
        let problem = format!(
            "`{url}` is another machine, and spans and the headers of their calls, credentials among them, would be \
             in plaintext; write https://, or set traces.allow_plaintext_network = true where TLS is somebody else's"
        );
        reader.problem("traces.endpoint", problem);
    }
    let ca_file = reader.one("traces.ca_file", "", or_word("", path));
    let service_name = reader.one("traces.service_name", "signalpost", name(1, 128));
    let webhook_header = reader.one("traces.webhook_header", "true", flag());
    Some(TracesConfig {
        endpoint: endpoint?,
        allow_plaintext_network: plaintext?,
        ca_file: ca_file?,
        service_name: service_name?,
        webhook_header: webhook_header?,
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        // RFC 6761.
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn log(reader: &mut Reader<'_>) -> Option<LogConfig> {
    let format = one_of([("human", LogFormat::Human), ("json", LogFormat::Json)]);
    let format = reader.one("log.format", "human", format);
    let level = reader.one("log.level", "info", log_level);
    Some(LogConfig { format: format?, level: level? })
}

/// `level` or `target=level`, comma separated. Checked here, because the subscriber takes a misspelt
/// level for the name of a module and then logs everything of a module that is not there.
fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let levels = LEVELS.join(", ");
            let hint = nearest(level, LEVELS, '\0')
                .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            return Err(format!("`{directive}` has no level; write one of {levels}, or module=level{hint}"));
        }
    }
    Ok(text.to_owned())
}
