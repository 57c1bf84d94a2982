//! A throw-away PostgreSQL server for tests: on loopback, in a temporary folder, gone with the test process.
//!
//! PostgreSQL refuses to run as root, so as root it is run as `nobody`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes a database cluster, runs it, and clears up when nobody holds its input open any more.
const KEEPER: &str = r#"
set -e
folder=$(mktemp -d "${TMPDIR:-/tmp}/signalpost-postgres.XXXXXX")
trap '' INT TERM HUP
initdb -D "$folder/data" -A trust -U postgres -E UTF8 --locale=C --no-sync >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
printf "%s\n" "port = $PORT" "listen_addresses = '127.0.0.1'" "unix_socket_directories = '$folder'" \
    "max_connections = 300" "$SETTINGS" >>"$folder/data/postgresql.conf"
pg_ctl -D "$folder/data" -l "$folder/log" -w start >/dev/null 2>&1 || { cat "$folder/log" >&2; exit 1; }
echo "$folder"
cat >/dev/null
pg_ctl -D "$folder/data" -m immediate -w stop >/dev/null 2>&1 || true
rm -rf "$folder"
"#;

/// Settings of a server that is fast: its data outlives a crash of the server, but not one of the machine.
pub const FAST: &str = "fsync = off\nfull_page_writes = off\nshared_buffers = 64MB";

/// A small disk that only this server sees: in a mount namespace of its own, so that it goes with the server.
const SMALL_DISK: &str = "mount -t tmpfs -o size=40M,mode=1777 tmpfs /mnt";
/// Without root, a user namespace gives the right to mount; PostgreSQL runs as somebody else in one more.
const AS_SOMEBODY: &str = "exec unshare --user --map-user=1000 --map-group=1000 sh -c";

/// A server that runs for as long as this lives.
pub struct TestServer {
    keeper: Child,
    folder: PathBuf,
    port: u16,
    databases: AtomicU32,
    /// What is said of the place of a new database.
    place: &'static str,
}

impl TestServer {
    /// Starts a server.
    ///
    /// # Panics
    /// Where PostgreSQL is not installed, or does not start.
    pub fn start(settings: &str) -> Self {
        let mut keeper = command("sh");
        keeper.args(["-c", KEEPER]);
        Self::run(keeper, settings, "")
    }

    /// Starts a fast server whose databases are on a disk of 40 MiB, its log of changes on another one.
    ///
    /// # Panics
    /// As [`TestServer::start`], and where namespaces are not allowed.
    pub fn on_small_disk() -> Self {
        let mut keeper = command_of("unshare", Person::Oneself);
        let to_nobody = format!("exec {} sh -c", AS_NOBODY.join(" "));
        let (namespaces, become_somebody): (&[&str], &str) =
            if is_root() { (&[], &to_nobody) } else { (&["--user", "--map-root-user"], AS_SOMEBODY) };
        keeper.args(namespaces).args(["--mount", "--propagation", "private", "sh", "-c"]);
        keeper
            .arg(format!("{SMALL_DISK} && {become_somebody} \"$KEEPER\""))
            .env("KEEPER", format!("mkdir /mnt/disk\n{KEEPER}"));
        let server = Self::run(keeper, FAST, "TABLESPACE small");
        server.sql("postgres", "CREATE TABLESPACE small LOCATION '/mnt/disk'");
        server
    }

    fn run(mut keeper: Command, settings: &str, place: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        keeper.env("PORT", port.to_string()).env("SETTINGS", settings);
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the PostgreSQL server of the tests did not start; its log is above");
        Self { keeper, folder: line.trim().into(), port, databases: AtomicU32::new(0), place }
    }

    /// A new, empty database, and how to connect to it.
    pub fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} {}", self.place));
        self.url(&name)
    }

    /// Fills the disk of the first database.
    ///
    /// # Panics
    /// Where it does not get full.
    pub fn fill_disk(&self) {
        self.sql("t0", "CREATE TABLE filler (text text); ALTER TABLE filler ALTER text SET STORAGE PLAIN");
        // What was not kept has its room all the same, until the table goes.
        let fill = "INSERT INTO filler SELECT repeat('x', 8000) FROM generate_series(1, 10000)";
        let output = self.psql("t0", fill);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("No space left on device"), "{said}");
    }

    /// Makes room again.
    pub fn empty_disk(&self) {
        self.sql("t0", "DROP TABLE filler");
    }

    /// How to connect to a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What a statement answers, one row a line.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let mut psql = command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url(database)]);
        psql.output().unwrap()
    }

    /// Everything in a database as `pg_dump` writes it, and behind it what its hexadecimal values stand for.
    pub fn dump(&self, database: &str) -> Vec<u8> {
        let mut dump = command("pg_dump");
        let output = dump.args(["--no-owner", "-d", &self.url(database)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = text.split("\\x").skip(1).map(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).collect::<Vec<_>>();
            hex::decode(digits).unwrap_or_default()
        });
        let values = values.collect::<Vec<_>>().concat();
        [output.stdout, values].concat()
    }

    /// Stops the server at once, as a crash would.
    pub fn crash(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.control(&["-l", &self.folder.join("log").to_string_lossy(), "start"]);
    }

    fn control(&self, arguments: &[&str]) {
        let mut control = command("pg_ctl");
        control.arg("-D").arg(self.folder.join("data")).arg("-w").args(arguments);
        let status = control.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "pg_ctl {arguments:?}");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // Closing its input tells the keeper to clear up.
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}

/// How root becomes somebody whom PostgreSQL serves.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];

/// As whom a program runs.
enum Person {
    /// Whoever runs the tests.
    Oneself,
    /// The same, but not root.
    Nobody,
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A command that finds PostgreSQL's programs, and is not root.
fn command(program: &str) -> Command {
    command_of(program, Person::Nobody)
}

/// A command that finds PostgreSQL's programs.
fn command_of(program: &str, person: Person) -> Command {
    let programs = programs();
    let path = format!("{}:{}", programs.display(), std::env!("PATH"));
    let mut command = match person {
        Person::Nobody if is_root() => {
            let [first, rest @ ..] = AS_NOBODY;
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        Person::Nobody | Person::Oneself => Command::new(program),
    };
    if is_root() {
        command.env("HOME", "/");
    }
    command.env("PATH", path).current_dir("/").env_remove("PGOPTIONS");
    command
}

/// Where PostgreSQL's programs are: of the newest version that is installed.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    let known = folders.chain(std::env!("PATH").split(':').map(PathBuf::from));
    let found = known.filter(|folder: &PathBuf| Path::new(&folder.join("initdb")).exists());
    let newest = found.max_by_key(|folder| {
        let version =
            folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        version.and_then(|version| version.parse::<u32>().ok())
    });
    newest.expect("these tests need PostgreSQL's server programs (Debian: apt-get install postgresql)")
}
