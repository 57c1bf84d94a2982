//! TLS to the database, with a real server that has it on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;

use signalpost::app::OpenStore;
use signalpost::clock::{SharedClock, SystemClock};
use signalpost::config::Config;
use signalpost::metrics::StoreMetrics;
use tempfile::TempDir;

use crate::harness::{Authority, FAST, TestServer};

/// A server whose certificate says that it is `localhost`, and the files for its clients.
struct Database {
    server: TestServer,
    name: String,
    folder: TempDir,
}

impl Database {
    fn start(authority: &Authority) -> Self {
        let folder = TempDir::new().unwrap();
        let pair = authority.sign(&["localhost"]);
        let write = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let certificate = write("server.pem", &pair.certificate, 0o644);
        // PostgreSQL reads a key of root's only where its own group may read it and nobody else may.
        let (key, root) = (write("server.key", &pair.key, 0o640), rustix::process::getuid().is_root());
        if root {
            let group = fs::metadata("/etc/group").map(|_| 65_534).ok();
            chown(&key, None, group).unwrap();
        } else {
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "{FAST}\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'",
            certificate.display(),
            key.display()
        );
        let server = TestServer::start(&settings);
        let url = server.database();
        let name = url.rsplit_once('/').unwrap().1.to_owned();
        Self { server, name, folder }
    }

    /// Opens the store as the server does; the host is by which name it is called.
    async fn open(&self, host: &str, mode: &str, authority: Option<&Authority>) -> Result<OpenStore, String> {
        let url = self.server.url(&self.name).replace("127.0.0.1", host);
        let mut text = format!("store.url = \"{url}?sslmode={mode}\"\n");
        if let Some(authority) = authority {
            let file = self.folder.path().join("authority.pem");
            fs::write(&file, &authority.pem).unwrap();
            text += &format!("store.ca_file = {file:?}\n");
        }
        let config = Config::from_toml(&text).unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let opened = OpenStore::open(&config, &clock, StoreMetrics::default()).await;
        opened.map_err(|error| format!("{error:#}"))
    }
}

#[tokio::test]
async fn the_database_is_believed_only_with_a_certificate_of_the_right_authority_for_the_right_name() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let database = Database::start(&authority);
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        let store = database.open("localhost", mode, Some(&authority)).await.unwrap();
        let secure =
            "SELECT bool_and(ssl), min(version) FROM pg_stat_ssl s JOIN pg_stat_activity a ON a.pid = s.pid
            WHERE a.application_name = 'signalpost'";
        let secure = database.server.sql(&database.name, secure);
        assert!(secure == "t|TLSv1.3" || secure == "t|TLSv1.2", "{mode}: {secure}");
        store.close().await.unwrap();
        for (what, host, trusted) in [
            ("another authority", "localhost", Some(&stranger)),
            ("nobody has vouched for it", "localhost", None),
            ("another name", "127.0.0.1", Some(&authority)),
        ] {
            let refused = database.open(host, mode, trusted).await.err();
            let refused = refused.unwrap_or_else(|| panic!("{mode}, {what}: it was opened"));
            assert!(refused.contains("certificate"), "{mode}, {what}: {refused}");
        }
    }
    // In the clear only by the operator's word, also on this machine where something else was asked for.
    database.open("127.0.0.1", "disable", None).await.unwrap().close().await.unwrap();
    let plain = TestServer::start(FAST);
    let name = plain.database().rsplit_once('/').unwrap().1.to_owned();
    let plain = Database { server: plain, name, folder: TempDir::new().unwrap() };
    let refused = plain.open("localhost", "require", Some(&authority)).await.err().unwrap();
    assert!(refused.contains("TLS"), "{refused}");
}
