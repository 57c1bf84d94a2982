//! Promises of the configuration as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::domain::contract::Contract;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn problems(text: &str, variables: &[(&str, &str)]) -> String {
    resolve(Some(("app.toml", text)), environment(variables)).unwrap_err().to_string()
}

/// The example with every setting's `#` taken away.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(char::is_alphabetic) => setting.to_owned(),
        _ => line.to_owned(),
    };
    Config::example().lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn without_file_and_environment_the_documented_defaults_are_in_force() {
    let config = resolve(None, BTreeMap::new()).unwrap().config;
    assert_eq!(config.listen.grpc.to_string(), "127.0.0.1:8080");
    assert_eq!(config.store.cache_bytes, 256 << 20);
    assert_eq!(config.store.min_free_bytes, None);
    assert_eq!(config.delivery.shutdown_deadline, Duration::from_secs(25));
    assert!(config.delivery.enabled && !config.delivery.enterprise_telemetry_enabled);
    assert!(config.delivery.thread_count() > 0);
    assert_eq!(config.limits.payload, crate::domain::payload::PayloadLimits::default());
    assert_eq!(config.plans.of(Some("gone")).name, "default");
    assert_eq!(config.plans.default.max_destinations, None);
    assert_eq!(config.egress.response_bodies, crate::domain::attempt::ResponseBodies::Never);
}

#[test]
fn the_example_is_valid_as_it_stands_and_changes_nothing() {
    let example = Config::from_toml(Config::example()).unwrap();
    assert_eq!(example, resolve(None, BTreeMap::new()).unwrap().config);
}

#[test]
fn the_example_uncommented_is_every_key_with_exactly_its_default() {
    let defaults = resolve(None, BTreeMap::new()).unwrap();
    let text = uncommented();
    let example = resolve(Some(("example", &text)), BTreeMap::new()).unwrap();
    assert_eq!(example.config, defaults.config);
    for (shown, default) in example.effective.iter().zip(&defaults.effective) {
        assert_eq!((&shown.key, &shown.value), (&default.key, &default.value));
        assert!(matches!(shown.origin, Origin::File { .. }), "{} is not in the example", shown.key);
    }
    assert_eq!(example.effective.len(), defaults.effective.len());
}

#[test]
fn every_key_can_be_set_by_a_variable_which_wins_over_the_file() {
    let text = uncommented().replace("127.0.0.1:8080", "127.0.0.1:7000");
    let defaults = resolve(None, BTreeMap::new()).unwrap();
    let variables = defaults.effective.iter().map(|effective| {
        let list = effective.value.trim_matches(['[', ']']);
        (environment::variable_of(&effective.key), list.trim_matches('"').to_owned())
    });
    let loaded = resolve(Some(("app.toml", &text)), variables.collect()).unwrap();
    assert_eq!(loaded.config, defaults.config);
    for effective in &loaded.effective {
        assert!(matches!(effective.origin, Origin::Environment { .. }), "{}", effective.key);
    }
}

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_place_and_its_remedy() {
    let text = "[listen]\ngrpc = \"8080\"\ngprc = \"127.0.0.1:1\"\n[delivery]\nthreads = 0\n\
                shutdown_deadline = 30\nplain_http_contracts = [\"OBSERVER\", \"NOPE\"]\n[stroe]\n";
    let shown = problems(text, &[("SIGNALPOST_STORE_CACHE", "1GB"), ("SIGNALPOST_LISTEN_HEALHT", "x")]);
    for part in [
        "has 9 mistakes",
        "listen.grpc (app.toml line 2): `8080` is no address and port; write for example 127.0.0.1:8080",
        "listen.gprc (app.toml line 3): there is no such key; did you mean `listen.grpc`?",
        "delivery.threads (app.toml line 5): `0` is no whole number from 1 to 256, or `auto`",
        "delivery.shutdown_deadline (app.toml line 6): `30` is no duration; write for example 250ms, 30s",
        "OBSERVER promises HTTPS; only STALWART",
        "`NOPE` is no contract",
        "stroe (app.toml line 8): there is no such section; did you mean `store`?",
        "store.cache (environment SIGNALPOST_STORE_CACHE): `1GB` is no size; write for example 64KiB",
        "(environment SIGNALPOST_LISTEN_HEALHT): there is no such variable; did you mean `SIGNALPOST_LISTEN_HEALTH`?",
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
}

#[test]
fn a_text_that_is_no_toml_is_refused_with_its_line() {
    let shown = problems("[listen]\ngrpc = \n", &[]);
    assert!(shown.contains("app.toml line 2") && shown.contains("is not TOML"), "{shown}");
}

#[test]
fn addresses_beyond_loopback_need_credentials_and_tls_or_the_operators_word() {
    let closed = "allow_unauthenticated_network = true\n";
    let plain = "allow_plaintext_network = true\n";
    let tls = "tls_certificate = \"a\"\ntls_key = \"b\"\n";
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
        let listen = format!("[listen]\ngrpc = \"{address}\"\n");
        assert!(problems(&listen, &[]).contains("has 2 mistakes"), "{address}");
        assert!(problems(&format!("{listen}{plain}"), &[]).contains("set auth.tokens_file"), "{address}");
        assert!(
            problems(&format!("{listen}{closed}"), &[]).contains("set listen.tls_certificate"),
            "{address}"
        );
        for rest in [
            format!("{closed}{plain}"),
            format!("{closed}{tls}"),
            format!("{tls}[auth]\ntokens_file = \"c\"\n"),
            format!("{plain}[auth]\ntokens_file = \"c\"\n"),
        ] {
            assert!(Config::from_toml(&format!("{listen}{rest}")).is_ok(), "{address} {rest}");
        }
    }
    for address in ["127.3.2.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(Config::from_toml(&format!("[listen]\ngrpc = \"{address}\"")).is_ok(), "{address}");
    }
    // Probes come from other machines, and what they are told is no secret.
    assert!(Config::from_toml("[listen]\nhealth = \"0.0.0.0:1\"").is_ok());
}

#[test]
fn metrics_and_spans_leave_the_machine_in_plaintext_only_by_the_operators_word() {
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let text = format!("[listen]\nmetrics = \"{address}\"\n");
        assert!(problems(&text, &[]).contains("set listen.allow_metrics_network = true"), "{address}");
        assert!(Config::from_toml(&format!("{text}allow_metrics_network = true")).is_ok(), "{address}");
    }
    for url in
        ["http://collector:4317", "http://10.0.0.1:4317", "http://[fd00::1]:1", "http://localhost.example"]
    {
        let text = format!("[traces]\nendpoint = \"{url}\"\n");
        assert!(problems(&text, &[]).contains("set traces.allow_plaintext_network = true"), "{url}");
        assert!(Config::from_toml(&format!("{text}allow_plaintext_network = true")).is_ok(), "{url}");
    }
    for url in [
        "https://collector:4317",
        "http://127.8.8.8:1",
        "http://[::1]:1",
        "http://[::ffff:127.0.0.1]:1",
        "http://LOCALHOST:4317",
    ] {
        assert!(Config::from_toml(&format!("[traces]\nendpoint = \"{url}\"")).is_ok(), "{url}");
    }
}

#[test]
fn half_a_way_to_be_secure_is_a_mistake() {
    for (text, part) in [
        ("[listen]\ntls_certificate = \"a\"", "set listen.tls_key as well"),
        ("[listen]\ntls_key = \"a\"", "set listen.tls_certificate as well"),
        ("[listen]\nclient_ca = \"a\"", "set listen.tls_certificate and listen.tls_key as well"),
        (
            "[listen]\ntls_certificate = \"a\"\ntls_key = \"b\"\nclient_revocation_lists = [\"c\"]",
            "set listen.client_ca as well",
        ),
        ("[listen]\nreflection = \"true\"", "is none of open, authenticated and off"),
        ("[auth]\ncertificates = [\"dns:a=operator\"]", "set listen.client_ca"),
        ("[auth]\ncertificates = [\"dns:a=admin\"]", "does not say where"),
        ("[auth]\njwt_roles = [\"a=admin\"]", "set auth.jwt_issuer as well"),
        ("[auth]\njwt_issuer = \"i\"", "tokens for anybody would do"),
        ("[auth]\njwt_issuer = \"i\"", "has no keys; set auth.jwks_url or auth.jwks_file"),
        ("[auth]\njwt_issuer = \"i\"", "tokens mean nothing"),
        ("[auth]\njwks_file = \"a\"\njwks_url = \"https://a.example\"", "keep one of them"),
        ("[auth]\njwks_url = \"http://a.example\"", "is no https:// URL"),
        ("[auth]\njwt_algorithms = [\"none\", \"HS256\"]", "`none` is no algorithm that may be allowed"),
        ("[auth]\njwt_algorithms = [\"HS256\"]", "use RS256"),
        ("[auth]\njwt_roles = [\"admin\"]", "maps nothing"),
        ("[limits]\ncall_timeout = \"10m\"", "is above limits.call_timeout_max"),
    ] {
        assert!(problems(text, &[]).contains(part), "{text}\n{}", problems(text, &[]));
    }
}

#[test]
fn one_address_serves_one_purpose_but_port_zero_serves_any_number() {
    assert!(problems("[listen]\nhealth = \"127.0.0.1:8080\"", &[]).contains("taken by listen.grpc"));
    let free = "[listen]\ngrpc = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"";
    assert!(Config::from_toml(free).is_ok());
}

#[test]
fn the_variable_of_the_semaphor_documents_is_understood_and_ours_wins() {
    let seed = ("ENTERPRISE_TELEMETRY_ENABLED", "true");
    let ours = ("SIGNALPOST_DELIVERY_ENTERPRISE_TELEMETRY_ENABLED", "false");
    let enabled = |pairs: &[(&str, &str)]| {
        resolve(None, environment(pairs)).unwrap().config.delivery.enterprise_telemetry_enabled
    };
    assert!(enabled(&[seed]) && !enabled(&[seed, ours]) && !enabled(&[]));
    let shown = problems("", &[("ENTERPRISE_TELEMETRY_ENABLED", "yes")]);
    assert!(shown.contains("environment ENTERPRISE_TELEMETRY_ENABLED): `yes` is neither"), "{shown}");
}

#[test]
fn lists_are_toml_lists_in_the_file_and_comma_separated_in_variables() {
    let file = Config::from_toml("[egress]\nallow = [\"10.0.0.0/8\", \"::1\"]\nports = [443, 8443]").unwrap();
    let variables = [("SIGNALPOST_EGRESS_ALLOW", "10.0.0.0/8, ::1"), ("SIGNALPOST_EGRESS_PORTS", "443,8443")];
    assert_eq!(resolve(None, environment(&variables)).unwrap().config, file);
    let stalwart = Config::from_toml("[delivery]\nplain_http_contracts = [\"STALWART\"]").unwrap();
    assert!(stalwart.delivery.plain_http_contracts.contains(&Contract::Stalwart));
}

#[test]
fn plans_come_from_sections_and_from_variables_and_are_checked_against_the_server() {
    let text = "[organizations]\ndefault_plan = \"free\"\n[plans.free]\nmax_destinations = 1\n[plans.big]\n";
    let variables = [
        ("SIGNALPOST_PLANS_FREE_EVENTS_PER_SECOND", "7"),
        ("SIGNALPOST_PLANS_EXTRA_LARGE_MAX_DESTINATIONS", "50"),
    ];
    let plans = resolve(Some(("app.toml", text)), environment(&variables)).unwrap().config.plans;
    assert_eq!(plans.default.max_destinations, Some(1));
    assert_eq!(plans.default.max_events_per_second, Some(7));
    assert_eq!(plans.of(Some("extra-large")).max_destinations, Some(50));
    assert_eq!(plans.of(Some("big")).max_destinations, None);
    let shown = problems(
        "[organizations]\ndefault_plan = \"fre\"\n[plans.free]\npayload = \"1MiB\"\nmax_destination = 3\n\
         [plans.Bad_Name]\nevents_per_second = 1",
        &[],
    );
    for part in [
        "there is no plan `fre`; use one of Bad_Name, default, free",
        "plans.free.payload (app.toml line 4): `1MiB` is not from 2B to 256KiB",
        "did you mean `plans.free.max_destinations`?",
        "`Bad_Name` is no name of a plan",
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
}

#[test]
fn variables_of_kubernetes_and_of_allowed_secrets_are_no_mistakes() {
    let variables = environment(&[
        ("SIGNALPOST_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("SIGNALPOST_SERVICE_HOST", "10.0.0.1"),
        ("SIGNALPOST_CONFIG", "/etc/signalpost.toml"),
        ("SIGNALPOST_BILLING_KEY", "planted"),
        ("SIGNALPOST_SECRETS_ENVIRONMENT", "SIGNALPOST_BILLING_KEY@acme"),
    ]);
    let loaded = resolve(None, variables).unwrap();
    assert!(!format!("{loaded:?}").contains("planted"));
}

#[test]
fn a_misspelt_log_level_is_refused_instead_of_silencing_the_log() {
    assert!(problems("[log]\nlevel = \"inof\"", &[]).contains("did you mean `info`?"));
    assert!(Config::from_toml("[log]\nlevel = \"warn,signalpost::engine=DEBUG\"").is_ok());
}
