//! A wrong file or path: what was wrong, where, what would be right, and exit code 2. What is no mistake of whoever starts
//! it (a port in use, a damaged store) has exit code 1, in `binary`.

use signalpost::store::key_file::as_lines;
use signalpost::store::keyring::SealingKey;

use crate::binary::{Home, said};

/// A certificate without its key, and texts that are nothing.
fn home(settings: &[(&str, &str)]) -> Home {
    let home = Home::with(settings);
    std::fs::write(home.path("broken"), "not what it should be").unwrap();
    std::fs::write(home.path("file"), "where a folder should be").unwrap();
    std::fs::write(home.path("keys"), &*as_lines(&SealingKey::generate().unwrap())).unwrap();
    home
}

/// Keys and values in TOML.
type Settings = &'static [(&'static str, &'static str)];

/// Settings, and what the complaint has to name: the setting, the file, the remedy.
const CASES: [(Settings, &[&str]); 13] = [
    (
        &[("listen.tls_certificate", r#""nowhere.pem""#), ("listen.tls_key", r#""broken""#)],
        &["listen.tls_certificate", "nowhere.pem", "check the path and the permissions"],
    ),
    (
        &[("listen.tls_certificate", r#""receiver.pem""#), ("listen.tls_key", r#""nowhere.key""#)],
        &["listen.tls_key", "nowhere.key", "check the path and the permissions"],
    ),
    (
        &[("listen.tls_certificate", r#""receiver.pem""#), ("listen.tls_key", r#""broken""#)],
        &["listen.tls_key", "no private key in PEM", "give the certificate's key"],
    ),
    (
        &[("auth.tokens_file", r#""nowhere.tokens""#)],
        &["auth.tokens_file", "nowhere.tokens", "check the path and the permissions"],
    ),
    (
        &[("auth.tokens_file", r#""broken""#)],
        &["auth.tokens_file", "broken", "line 1", "write NAME GRANTS HASH"],
    ),
    (
        &[
            ("auth.jwt_issuer", r#""https://issuer.example""#),
            ("auth.jwt_audiences", r#"["signalpost"]"#),
            ("auth.jwt_roles", r#"["webhook-admins=admin"]"#),
            ("auth.jwks_file", r#""nowhere.json""#),
        ],
        &["auth.jwks_file", "nowhere.json", "check the path and the permissions"],
    ),
    (
        &[
            ("auth.jwt_issuer", r#""https://issuer.example""#),
            ("auth.jwt_audiences", r#"["signalpost"]"#),
            ("auth.jwt_roles", r#"["webhook-admins=admin"]"#),
            ("auth.jwks_file", r#""broken""#),
        ],
        &["auth.jwks_file", "broken", "JSON"],
    ),
    (
        &[("egress.ca_file", r#""nowhere.pem""#)],
        &["egress.ca_file", "nowhere.pem", "check the path and the file"],
    ),
    (
        &[("egress.ca_file", r#""broken""#)],
        &["egress.ca_file", "broken", "give a file with authorities in PEM"],
    ),
    (
        &[("secrets.key_file", r#""nowhere.key""#)],
        &["secrets.key_file", "nowhere.key", "signalpost key new --file"],
    ),
    (&[("secrets.key_file", r#""broken""#)], &["secrets.key_file", "broken", "signalpost key new --file"]),
    (&[("store.path", r#""file""#)], &["store.path", "file is not a folder", "give a folder"]),
    (&[("store.path", r#""file/store""#)], &["store.path", "file/store", "give another folder"]),
];

#[test]
fn a_file_that_can_t_be_used_is_told_with_its_setting_and_a_remedy_by_serve_and_by_config_check() {
    for (settings, parts) in CASES {
        let home = home(settings);
        let check = home.run(&["config", "check", "--config", "signalpost.toml"], &[]);
        for (what, output) in [("serve", home.fails()), ("config check", check)] {
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{what} with {settings:?}: {said}");
            for part in parts {
                assert!(said.contains(part), "{what} with {settings:?} does not say {part}: {said}");
            }
            assert!(!home.store().exists(), "{what} with {settings:?} has begun something");
        }
    }
}

#[test]
fn keys_in_a_file_and_in_a_variable_are_a_mistake() {
    let home = home(&[("secrets.key_file", r#""keys""#)]);
    let keys = std::fs::read_to_string(home.path("keys")).unwrap();
    let variables = [("SIGNALPOST_SEALING_KEYS", keys.lines().last().unwrap())];
    for arguments in [
        &["serve", "--config", "signalpost.toml"][..],
        &["rekey", "--config", "signalpost.toml"],
        &["config", "check", "--config", "signalpost.toml"],
    ] {
        let output = home.run(arguments, &variables);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        for part in ["secrets.key_file", "SIGNALPOST_SEALING_KEYS", "give one of them"] {
            assert!(said(&output).contains(part), "{arguments:?}: {}", said(&output));
        }
    }
}

#[test]
fn config_check_tells_all_files_at_once_and_leaves_them_alone_by_request() {
    let home = home(&[("auth.tokens_file", r#""nowhere""#), ("egress.ca_file", r#""broken""#)]);
    let check =
        |more: &[&str]| home.run(&[&["config", "check", "--config", "signalpost.toml"], more].concat(), &[]);
    let output = check(&[]);
    let told = said(&output);
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{told}");
    assert!(told.contains("auth.tokens_file") && told.contains("egress.ca_file"), "{told}");
    let output = check(&["--no-files"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("were not looked at"));
}

#[test]
fn a_path_of_an_argument_that_can_t_be_used_is_a_mistake() {
    let home = home(&[]);
    for (arguments, parts) in [
        (
            &["listen", "--certificate", "nowhere", "--key", "nowhere"][..],
            &["--certificate", "check the path"][..],
        ),
        (&["listen", "--certificate", "receiver.pem", "--key", "broken"], &["--key", "its own key"]),
        (
            &["listen", "--address", "127.0.0.1:0", "--tls", "--write-certificate", "file/pem"],
            &["--write-certificate", "file/pem", "check the path"],
        ),
        (&["man", "--folder", "file/pages"], &["--folder", "file/pages", "check the path"]),
        (&["key", "new", "--file", "keys"], &["--file", "keys", "give a new file"]),
        (&["check", "nowhere"], &["nowhere", "store.path"]),
        (&["migrate", "--config", "signalpost.toml"], &["store.url"]),
    ] {
        let output = home.run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        for part in parts {
            assert!(said(&output).contains(part), "{arguments:?} does not say {part}: {}", said(&output));
        }
    }
}
