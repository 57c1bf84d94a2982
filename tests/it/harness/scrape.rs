//! Metrics as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer of the port for metrics.
pub struct Page {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Page {
    /// Asks with a method, a path and headers, over a connection of its own.
    pub async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        Self { status, headers: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

/// All samples of one moment, by name and labels as they are written.
pub struct Scrape {
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks for Prometheus's own format.
    pub async fn of(address: SocketAddr) -> Self {
        let page = Page::ask(address, "GET", "/metrics", "").await;
        assert_eq!(page.status, 200, "{}", page.body);
        let samples = page.body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        let samples = samples.collect();
        Self { text: page.body, samples }
    }

    /// The value of one sample, for example `signalpost_lanes{state="idle"}`.
    pub fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    /// The family that a sample of this name belongs to.
    pub fn family_of(&self, name: &str) -> Option<String> {
        let families = self.families();
        let bare = ["", "_bucket", "_count", "_sum"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        bare.map(str::to_owned).find(|name| families.contains_key(name))
    }

    /// Whether a sample of the family has this label with this value.
    pub fn has(&self, family: &str, label: &str, value: &str) -> bool {
        let wanted = format!("{label}=\"{value}\"");
        self.samples.keys().any(|sample| sample.starts_with(family) && sample.contains(&wanted))
    }

    /// The names of the labels of a family, but for the bounds of a histogram's buckets.
    pub fn labels(&self, family: &str) -> BTreeSet<String> {
        let of_family =
            self.samples.keys().filter_map(|sample| sample.split_once('{')).filter(|(name, _)| {
                let suffix = name.strip_prefix(family);
                suffix.is_some_and(|rest| ["", "_bucket", "_count", "_sum"].contains(&rest))
            });
        let names = of_family.flat_map(|(_, labels)| labels.split(',').filter_map(|one| one.split_once('=')));
        names.map(|(name, _)| name.to_owned()).filter(|name| name != "le").collect()
    }

    /// The names of all families with their types.
    pub fn families(&self) -> BTreeMap<String, String> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }
}
