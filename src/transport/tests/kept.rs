//! How many connections are open: counted by the receiver, over all names that lead to it.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::*;
use crate::transport::resolve::{LookUp, NameSource};

/// Everybody lives here.
#[derive(Debug)]
struct Here;

#[async_trait]
impl LookUp for Here {
    async fn look_up(&self, _name: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

/// A receiver for all names, on one thread, so that it sees a connection that was closed before it sees the next
/// one that was opened later.
struct Gatehouse {
    port: u16,
    opened: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Gatehouse {
    /// Names that begin with `closing` have their connection closed after each answer.
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (opened, most, stop) = (Arc::default(), Arc::default(), Arc::default());
        let watch =
            Watch { listener, opened: Arc::clone(&opened), most: Arc::clone(&most), open: Vec::new() };
        let stopped = Arc::clone(&stop);
        let thread = Some(thread::spawn(move || watch.run(&stopped)));
        Self { port, opened, most, stop, thread }
    }

    fn transport(&self, max_kept_connections: usize) -> Arc<HttpTransport> {
        let names = NameSource { look_up: Arc::new(Here), timeout: LONG };
        Arc::new(transport(HttpOptions { names, max_kept_connections, ..options() }))
    }

    fn url(&self, name: &str) -> String {
        format!("http://{name}.example:{}/", self.port)
    }
}

impl Drop for Gatehouse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

struct Watch {
    listener: TcpListener,
    opened: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    open: Vec<TcpStream>,
}

impl Watch {
    fn run(mut self, stopped: &AtomicBool) {
        while !stopped.load(Ordering::SeqCst) {
            let accepted = self.listener.accept();
            self.open.retain(is_open);
            match accepted {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).unwrap();
                    self.open.push(stream);
                    self.opened.fetch_add(1, Ordering::SeqCst);
                    self.most.fetch_max(self.open.len(), Ordering::SeqCst);
                }
                Err(_) => thread::sleep(Duration::from_micros(50)),
            }
            self.open.retain_mut(|stream| !answer_closes(stream));
        }
    }
}

fn is_open(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Answers what has come whole, as the requests of this test do, and says whether to close.
fn answer_closes(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    let Ok(read) = stream.read(&mut bytes) else { return false };
    let request = String::from_utf8_lossy(&bytes[..read]);
    assert!(request.is_empty() || request.ends_with("{\"a\":1}"), "{request}");
    read == 0 || stream.write_all(OK.as_bytes()).is_err() || request.contains("host: closing")
}

/// Requests of all names, so many at once.
async fn send_all(transport: &Arc<HttpTransport>, urls: impl IntoIterator<Item = String>, at_once: usize) {
    let mut running = JoinSet::new();
    for url in urls {
        if running.len() >= at_once {
            assert_eq!(running.join_next().await.unwrap().unwrap(), 200);
        }
        let transport = Arc::clone(transport);
        running.spawn(async move { answer(transport.send(request(&url), within(LONG)).await).0 });
    }
    assert!(running.join_all().await.into_iter().all(|status| status == 200));
}

#[tokio::test]
async fn never_more_connections_are_open_than_may_be_kept_and_are_in_use() {
    // Many names in turn, and few names that each have many connections at once.
    let ways: [fn(usize) -> usize; 2] = [|number| number * 7 % 40, |number| number / 20 % 4];
    for name_of in ways {
        for (kept, at_once) in [(0, 3), (1, 1), (4, 3), (8, 16)] {
            let gatehouse = Gatehouse::open();
            let transport = gatehouse.transport(kept);
            let names = (0..400).map(|number| gatehouse.url(&format!("name-{}", name_of(number))));
            send_all(&transport, names, at_once).await;
            let most = gatehouse.most.load(Ordering::SeqCst);
            assert!(most <= kept + at_once, "{most} were open, {kept} may be kept beside {at_once} in use");
            assert!(most >= at_once, "{most}");
        }
    }
}

#[tokio::test]
async fn who_is_used_most_keeps_its_connection_though_many_others_pass_by() {
    let gatehouse = Gatehouse::open();
    let transport = gatehouse.transport(4);
    for number in 0..100 {
        let urls = ["regular".to_owned(), format!("passer-by-{number}")].map(|name| gatehouse.url(&name));
        send_all(&transport, urls, 1).await;
    }
    // A hundred passers-by, and one for the regular.
    assert_eq!(gatehouse.opened.load(Ordering::SeqCst), 101);
}

#[tokio::test]
async fn connections_that_receivers_close_take_nothing_from_others() {
    let gatehouse = Gatehouse::open();
    let transport = gatehouse.transport(40);
    for _ in 0..100 {
        let urls = ["closing", "regular"].map(|name| gatehouse.url(name));
        send_all(&transport, urls, 1).await;
    }
    assert_eq!(gatehouse.opened.load(Ordering::SeqCst), 101);
}
