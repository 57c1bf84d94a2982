//! Connections: how one is made, how many there are, and a transaction on one of them.
//!
//! All connections live on the store's own runtime, whoever uses them: those of the delivery threads end
//! with the threads.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Notification, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use super::fault::Fault;
use crate::store::StoreError;

/// How long a caller waits for a connection to be free, and a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A transaction of ours is two or three round trips. One whose replica stands still holds up others that
/// wait for its locks, so the database ends it soon.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(2);
/// How long a statement waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(4);
/// A peer that has vanished is noticed within this time.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Every statement of ours finds its rows by an index, however large a table is and whatever its statistics say. Plans
/// are made once on each connection: with partitions, planning costs more than most of the statements.
const PLANNING: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
    -c enable_mergejoin=off -c jit=off";
/// TLS, or nothing.
const REQUIRE: &str = "sslmode=require";
/// How many notifications may wait to be read; where there are more, the replica looks for itself.
const NOTIFICATIONS: usize = 4096;

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where the database is, and how connections to it are made.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    runtime: Handle,
}

impl Connector {
    /// Reads a connection string; `roots` are trusted besides Mozilla's.
    pub(super) fn new(
        url: &str,
        roots: &[CertificateDer<'static>],
        statement_timeout: Duration,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let mut config = parse(url).map_err(StoreError::CannotOpen)?;
        let options = format!(
            "{} {PLANNING} -c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={}",
            config.get_options().unwrap_or_default(),
            statement_timeout.as_millis(),
            LOCK_TIMEOUT.min(statement_timeout).as_millis(),
            IDLE_IN_TRANSACTION.as_millis(),
        );
        config.options(options.trim_start());
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(KEEPALIVE).tcp_user_timeout(KEEPALIVE);
        if config.get_application_name().is_none() {
            config.application_name("signalpost");
        }
        let tls = client_tls(roots).map_err(|error| StoreError::CannotOpen(error.to_string()))?;
        Ok(Self { config, tls: MakeRustlsConnect::new(tls), runtime })
    }

    /// A pool of at most so many connections.
    pub(super) fn pool(&self, connections: usize) -> Result<Pool, StoreError> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(self.config.clone(), self.clone(), manager);
        let timeouts = Timeouts {
            wait: Some(CONNECT_TIMEOUT),
            create: Some(CONNECT_TIMEOUT),
            recycle: Some(CONNECT_TIMEOUT),
        };
        let pool = Pool::builder(manager).max_size(connections).timeouts(timeouts).runtime(Runtime::Tokio1);
        pool.build().map_err(|error| StoreError::CannotOpen(error.to_string()))
    }

    /// A connection that hears what others notify. The receiver ends with the connection.
    pub(super) async fn listening(&self) -> Result<(Client, mpsc::Receiver<Notification>), Fault> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        let (heard, notifications) = mpsc::channel(NOTIFICATIONS);
        self.runtime.spawn(async move {
            // Dropping the sender tells the end.
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message
                    && heard.send(notification).await.is_err()
                {
                    break;
                }
            }
        });
        Ok((client, notifications))
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        let (config, tls, runtime) = (config.clone(), self.tls.clone(), self.runtime.clone());
        Box::pin(async move {
            let inner = runtime.clone();
            let connecting = runtime.spawn(async move {
                let (client, connection) = config.connect(tls).await?;
                let driven = inner.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::warn!(error = %super::fault::explain(&error), "a connection to the database has ended");
                    }
                });
                Ok((client, driven))
            });
            match connecting.await {
                Ok(connected) => connected,
                // The runtime is on its way out, and with it whoever asks.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

/// Reads a connection string, and says what TLS it means: required, but for a database on this machine. Where there is
/// TLS, the chain and the name of the certificate are always checked, so `require`, `verify-ca` and `verify-full` mean
/// the same here.
pub(super) fn parse(url: &str) -> Result<Config, String> {
    let known =
        Zeroizing::new(url.replace("sslmode=verify-full", REQUIRE).replace("sslmode=verify-ca", REQUIRE));
    let mut config: Config = known
        .parse()
        .map_err(|_| "is no connection string; write postgres://user:password@host/database".to_owned())?;
    if config.get_hosts().is_empty() {
        return Err("names no host; write postgres://user:password@host/database".to_owned());
    }
    let says_tls = url.contains("sslmode=");
    if config.get_hosts().iter().all(is_local) && !says_tls {
        config.ssl_mode(SslMode::Disable);
    } else if !says_tls || config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(SslMode::Require);
    }
    Ok(config)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    }
}

fn client_tls(roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut trusted = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for root in roots {
        trusted.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(trusted).with_no_client_auth())
}

/// Runs a statement by its text, prepared once on each connection.
pub(super) async fn query(client: &Object, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, params).await?)
}

/// A transaction on a connection of its own. Dropped in the middle, it closes the connection, and so it is
/// undone whatever happens to the one who began it.
pub(super) struct Tx {
    client: Option<Object>,
}

impl Tx {
    /// Takes a connection; the transaction is begun by [`Tx::begin`].
    pub(super) async fn on(pool: &Pool) -> Result<Self, Fault> {
        Ok(Self { client: Some(pool.get().await?) })
    }

    /// Takes a connection and begins.
    pub(super) async fn begun(pool: &Pool) -> Result<Self, Fault> {
        let tx = Self::on(pool).await?;
        tx.begin().await?;
        Ok(tx)
    }

    pub(super) async fn begin(&self) -> Result<(), Fault> {
        Ok(self.client()?.batch_execute("BEGIN").await?)
    }

    fn client(&self) -> Result<&Object, Fault> {
        // Only a commit and a rollback take it out, and both consume the transaction.
        self.client.as_ref().ok_or_else(|| Fault::NoConnection("the transaction is over".into()))
    }

    /// The statement, prepared on this connection. Those of a pipeline are prepared before it begins: they are
    /// sent in the order of their first polls.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, Fault> {
        Ok(self.client()?.prepare_cached(sql).await?)
    }

    /// Runs a prepared statement.
    pub(super) async fn run(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        Ok(self.client()?.query(statement, params).await?)
    }

    /// Runs a statement by its text.
    pub(super) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        query(self.client()?, sql, params).await
    }

    /// Commits as a part of a pipeline: the caller has to see that all of it succeeded, because the commit of a
    /// transaction that failed is no error. Then it calls [`Tx::over`].
    pub(super) async fn send_commit(&self) -> Result<(), Fault> {
        Ok(self.client()?.batch_execute("COMMIT").await?)
    }

    /// The transaction has ended; its connection may be used again.
    pub(super) fn over(mut self) {
        drop(self.client.take());
    }

    /// Commits.
    pub(super) async fn commit(self) -> Result<(), Fault> {
        self.send_commit().await?;
        self.over();
        Ok(())
    }

    /// Undoes everything. Where that does not work either, the connection goes.
    pub(super) async fn roll_back(self) {
        let undone = match self.client() {
            Ok(client) => client.batch_execute("ROLLBACK").await,
            Err(_) => return,
        };
        if undone.is_ok() {
            self.over();
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Taken out of the pool and dropped: closed.
            drop(Object::take(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_required_but_for_a_database_on_this_machine() {
        let mode = |url: &str| parse(url).unwrap().get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example/x"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/x?sslmode=prefer"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/x?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u@127.0.0.1:5433/x"), SslMode::Disable);
        assert_eq!(mode("postgres://u@localhost/x?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://u@localhost/x?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/x?sslmode=verify-ca&user=a"), SslMode::Require);
        assert_eq!(mode("postgres://u@%2Ftmp%2Fpg/x"), SslMode::Disable);
    }

    #[test]
    fn what_is_no_connection_string_is_refused_without_being_repeated() {
        for url in ["postgres://u:hunter2@host:port/x", "hunter2", "postgres:///x"] {
            let problem = parse(url).unwrap_err();
            assert!(problem.contains("postgres://user:password@host/database"), "{problem}");
            assert!(!problem.contains("hunter2"));
        }
    }
}
