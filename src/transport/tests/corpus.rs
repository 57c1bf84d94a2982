//! The corpus of hostile URLs, each with its verdict. Every textual form either means what the WHATWG URL
//! standard says, and is judged as such, or is refused.
//!
//! Sources, by their names in the table:
//!
//! - `whatwg`: the URL standard, sections "host parsing", "IPv4 parser" and "ends in a number", and the cases of
//!   its test suite;
//! - `rfc3986`, `rfc6874` (zone ids), `rfc1035` (length of names), `rfc6761` (localhost), `uts46` (IDNA);
//! - `tsai`: Orange Tsai, "A New Era of SSRF", on parsers that disagree;
//! - `cujanovic`: the SSRF-Testing collection; `payloads`: PayloadsAllTheThings, "Server Side Request Forgery";
//! - `owasp`: the SSRF Prevention cheat sheet; `clouds`: the manuals on metadata services of AWS, Google,
//!   Azure, Alibaba, Tencent, Oracle, Akamai (Linode), Scaleway and OpenStack.

use super::*;
use crate::domain::destination::DestinationUrl;
use crate::transport::resolve::vet;

/// What becomes of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is no URL for a destination; the words contain this.
    Unfit(&'static str),
    /// It means this address, and no request goes there.
    Address(&'static str),
    /// It means a name that is never looked up.
    Name(&'static str),
    /// It means this name, and whatever that leads to is judged.
    LooksUp(&'static str),
    /// It means this address, which is global.
    Calls(&'static str),
}

use Verdict::{Address, Calls, LooksUp, Name, Unfit};

const CORPUS: &[(&str, &str, Verdict)] = &[
    // --- addresses in other spellings ---
    ("payloads", "https://127.0.0.1/", Address("127.0.0.1")),
    ("payloads", "https://127.127.127.127/", Address("127.127.127.127")),
    ("payloads", "https://0/", Address("0.0.0.0")),
    ("payloads", "https://0.0.0.0/", Address("0.0.0.0")),
    ("payloads", "https://127.1/", Address("127.0.0.1")),
    ("payloads", "https://127.0.1/", Address("127.0.0.1")),
    ("payloads", "https://2130706433/", Address("127.0.0.1")),
    ("payloads", "https://3232235521/", Address("192.168.0.1")),
    ("payloads", "https://2852039166/", Address("169.254.169.254")),
    ("payloads", "https://017700000001/", Address("127.0.0.1")),
    ("payloads", "https://0177.0.0.1/", Address("127.0.0.1")),
    ("payloads", "https://0o177.0.0.1/", Unfit("no URL")),
    ("payloads", "https://0x7f000001/", Address("127.0.0.1")),
    ("payloads", "https://0x7f.0x0.0x0.0x1/", Address("127.0.0.1")),
    ("payloads", "https://0xa9fea9fe/", Address("169.254.169.254")),
    ("payloads", "https://0xA9.0xFE.0xA9.0xFE/", Address("169.254.169.254")),
    ("payloads", "https://0251.0376.0251.0376/", Address("169.254.169.254")),
    ("payloads", "https://0251.254.169.254/", Address("169.254.169.254")),
    ("cujanovic", "https://425.510.425.510/", Unfit("no URL")),
    ("cujanovic", "https://7147006462/", Unfit("no URL")),
    ("cujanovic", "https://0x41414141A9FEA9FE/", Unfit("no URL")),
    ("cujanovic", "https://00000177.1/", Address("127.0.0.1")),
    ("cujanovic", "https://0x7f.1/", Address("127.0.0.1")),
    ("cujanovic", "https://10.1/", Address("10.0.0.1")),
    ("cujanovic", "https://192.168.257/", Address("192.168.1.1")),
    ("cujanovic", "https://169.16689662/", Address("169.254.169.254")),
    ("whatwg", "https://127.0.0.1./", Address("127.0.0.1")),
    ("whatwg", "https://127.0.0.1../", Unfit("label")),
    ("whatwg", "https://127.0.0.0x/", Address("127.0.0.0")),
    ("whatwg", "https://0x/", Address("0.0.0.0")),
    ("whatwg", "https://256/", Address("0.0.1.0")),
    ("whatwg", "https://256.0.0.1/", Unfit("no URL")),
    ("whatwg", "https://4294967295/", Address("255.255.255.255")),
    ("whatwg", "https://4294967296/", Unfit("no URL")),
    ("whatwg", "https://1.2.3.4.5/", Unfit("no URL")),
    ("whatwg", "https://1.2.3.08/", Unfit("no URL")),
    ("whatwg", "https://foo.0x4/", Unfit("no URL")),
    ("whatwg", "https://example.123/", Unfit("no URL")),
    ("whatwg", "https://134744072/", Calls("8.8.8.8")),
    // --- Unicode and percent signs ---
    ("uts46", "https://１２７.0.0.1/", Address("127.0.0.1")),
    ("uts46", "https://①②⑦.⓪.⓪.①/", Address("127.0.0.1")),
    ("uts46", "https://127。0。0。1/", Address("127.0.0.1")),
    ("uts46", "https://127．0．0．1/", Address("127.0.0.1")),
    ("uts46", "https://127｡0｡0｡1/", Address("127.0.0.1")),
    ("uts46", "https://⑯⑨。②⑤④。⑯⑨｡②⑤④/", Address("169.254.169.254")),
    ("uts46", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", Name("localhost")),
    ("uts46", "https://ⓔⓧⓐⓜⓟⓛⓔ.ⓒⓞⓜ/", LooksUp("example.com")),
    ("uts46", "https://local\u{ad}host/", Name("localhost")),
    ("uts46", "https://exa\u{200b}mple.com/", LooksUp("example.com")),
    ("uts46", "https://bücher.example/", LooksUp("xn--bcher-kva.example")),
    ("uts46", "https://xn--/", Unfit("no URL")),
    ("uts46", "https://１２７.0.0.١/", Unfit("no URL")),
    ("tsai", "https://127.0.0.1%2f@example.com/", Unfit("credentials")),
    ("whatwg", "https://%31%32%37.0.0.1/", Address("127.0.0.1")),
    ("whatwg", "https://%6c%6f%63alhost/", Name("localhost")),
    ("whatwg", "https://127.0.0.1%00/", Unfit("no URL")),
    ("whatwg", "https://example.com%23.evil/", Unfit("no URL")),
    ("whatwg", "https://example.com%2e/", LooksUp("example.com")),
    ("whatwg", "https://example%5ccom/", Unfit("no URL")),
    ("whatwg", "https://exam%0aple.com/", Unfit("no URL")),
    ("whatwg", "https://%25.example/", Unfit("no URL")),
    // --- IPv6 ---
    ("payloads", "https://[::]/", Address("::")),
    ("payloads", "https://[::1]/", Address("::1")),
    ("payloads", "https://[0000::1]/", Address("::1")),
    ("payloads", "https://[0:0:0:0:0:ffff:127.0.0.1]/", Address("::ffff:127.0.0.1")),
    ("payloads", "https://[::ffff:7f00:1]/", Address("::ffff:127.0.0.1")),
    ("payloads", "https://[::ffff:169.254.169.254]/", Address("::ffff:169.254.169.254")),
    ("payloads", "https://[::127.0.0.1]/", Address("::127.0.0.1")),
    ("payloads", "https://[64:ff9b::7f00:1]/", Address("64:ff9b::127.0.0.1")),
    ("payloads", "https://[64:ff9b:1::a9fe:a9fe]/", Address("64:ff9b:1::a9fe:a9fe")),
    ("payloads", "https://[2002:7f00:1::]/", Address("2002:7f00:1::")),
    ("payloads", "https://[fe80::1]/", Address("fe80::1")),
    ("payloads", "https://[fc00::1]/", Address("fc00::1")),
    ("payloads", "https://[ff02::1]/", Address("ff02::1")),
    ("rfc6874", "https://[fe80::1%25lo]/", Unfit("no URL")),
    ("rfc6874", "https://[fe80::1%lo]/", Unfit("no URL")),
    ("rfc3986", "https://[v1.fe80::a]/", Unfit("no URL")),
    ("whatwg", "https://[::1.2.3]/", Unfit("no URL")),
    ("whatwg", "https://[::1/", Unfit("no URL")),
    ("whatwg", "https://::1/", Unfit("no URL")),
    ("whatwg", "https://[www.example.com]/", Unfit("no URL")),
    ("whatwg", "https://[2606:4700:4700::1111]/", Calls("2606:4700:4700::1111")),
    // --- who is the host? ---
    ("tsai", "https://example.com@127.0.0.1/", Unfit("credentials")),
    ("tsai", "https://127.0.0.1@example.com/", Unfit("credentials")),
    ("tsai", "https://a:b@127.0.0.1:80@example.com/", Unfit("credentials")),
    ("tsai", "https://@example.com/", Unfit("credentials")),
    ("tsai", "https://:@example.com/", Unfit("credentials")),
    ("tsai", "https://example.com:443@127.0.0.1/", Unfit("credentials")),
    ("tsai", "https://127.0.0.1\\@example.com/", Unfit("backslash")),
    ("tsai", "https://example.com\\.evil.example/", Unfit("backslash")),
    ("tsai", "https:\\\\127.0.0.1\\", Unfit("backslash")),
    ("tsai", "https://example.com#@127.0.0.1/", Unfit("fragment")),
    ("tsai", "https://example.com?@127.0.0.1/", LooksUp("example.com")),
    ("tsai", "https://example.com/@127.0.0.1/", LooksUp("example.com")),
    ("tsai", "https://127.0.0.1:80:443/", Unfit("no URL")),
    ("tsai", "https://example.com:443:80/", Unfit("no URL")),
    ("tsai", "https://foo@evil.example:80@example.com/", Unfit("credentials")),
    ("tsai", "https://example.com&@127.0.0.1/", Unfit("credentials")),
    ("tsai", "https://example.com 127.0.0.1/", Unfit("white space")),
    ("tsai", "https://127.0.0.1\t.example.com/", Unfit("control")),
    ("tsai", "https://exam\r\nple.com/", Unfit("control")),
    ("tsai", "\u{0}https://example.com/", Unfit("control")),
    ("whatwg", " https://example.com/", Unfit("white space")),
    ("whatwg", "ht\ntps://example.com/", Unfit("control")),
    ("whatwg", "https:////127.0.0.1/", Address("127.0.0.1")),
    ("whatwg", "https:127.0.0.1/", Unfit("//")),
    ("whatwg", "https:/127.0.0.1/", Unfit("//")),
    ("whatwg", "//127.0.0.1/", Unfit("no URL")),
    ("whatwg", "https://", Unfit("no URL")),
    ("whatwg", "https:///", Unfit("no URL")),
    ("whatwg", "https://exa<mple.com/", Unfit("no URL")),
    ("whatwg", "https://exa^mple.com/", Unfit("no URL")),
    ("whatwg", "https://exa|mple.com/", Unfit("no URL")),
    ("whatwg", "HTTPS://EXAMPLE.COM/", LooksUp("example.com")),
    ("whatwg", "HtTpS://127.0.0.1/", Address("127.0.0.1")),
    // --- names ---
    ("rfc1035", "https://example.com./", LooksUp("example.com")),
    ("rfc1035", "https://a..b/", Unfit("label")),
    ("rfc1035", "https://.example.com/", Unfit("label")),
    ("rfc1035", "https://./", Unfit("label")),
    ("rfc6761", "https://localhost/", Name("localhost")),
    ("rfc6761", "https://LocalHost./", Name("localhost")),
    ("rfc6761", "https://a.localhost/", Name("a.localhost")),
    ("payloads", "https://localtest.me/", LooksUp("localtest.me")),
    ("payloads", "https://127.0.0.1.nip.io/", LooksUp("127.0.0.1.nip.io")),
    ("clouds", "https://metadata.google.internal/", Name("metadata.google.internal")),
    ("clouds", "https://METADATA.google.internal./", Name("metadata.google.internal")),
    ("clouds", "https://metadata/", Name("metadata")),
    ("clouds", "https://instance-data/", Name("instance-data")),
    ("clouds", "https://metadata.tencentyun.com/", Name("metadata.tencentyun.com")),
    ("clouds", "https://169.254.169.254/latest/meta-data/", Address("169.254.169.254")),
    ("clouds", "https://169.254.170.2/v2/credentials", Address("169.254.170.2")),
    ("clouds", "https://100.100.100.200/latest/meta-data/", Address("100.100.100.200")),
    ("clouds", "https://192.0.0.192/latest/", Address("192.0.0.192")),
    ("clouds", "https://168.63.129.16/machine", Address("168.63.129.16")),
    ("clouds", "https://[fd00:ec2::254]/latest/meta-data/", Address("fd00:ec2::254")),
    ("clouds", "https://[fd20:ce::254]/computeMetadata/v1/", Address("fd20:ce::254")),
    ("clouds", "https://[fd00:42::42]/conf", Address("fd00:42::42")),
    ("clouds", "https://[fd00:c1::a9fe:a9fe]/opc/v2/instance/", Address("fd00:c1::a9fe:a9fe")),
    ("clouds", "https://[fd00:a9fe:a9fe::1]/v1/token", Address("fd00:a9fe:a9fe::1")),
    ("clouds", "https://[fd00:100::100:200]/latest/meta-data/", Address("fd00:100::100:200")),
    ("clouds", "https://[fe80::a9fe:a9fe]/openstack/latest/", Address("fe80::a9fe:a9fe")),
    // --- schemes and ports ---
    ("owasp", "http://example.com/", Unfit("https://")),
    ("owasp", "file:///etc/passwd", Unfit("https://")),
    ("owasp", "gopher://127.0.0.1:6379/_x", Unfit("https://")),
    ("owasp", "dict://127.0.0.1:11211/stat", Unfit("https://")),
    ("owasp", "ftp://example.com/", Unfit("https://")),
    ("owasp", "ldap://127.0.0.1/", Unfit("https://")),
    ("owasp", "jar:https://example.com!/", Unfit("https:")),
    ("owasp", "javascript:alert(1)", Unfit("https:")),
    ("owasp", "data:text/plain,x", Unfit("https:")),
    ("whatwg", "https://example.com:0/", Unfit("port")),
    ("whatwg", "https://example.com:65536/", Unfit("no URL")),
    ("whatwg", "https://example.com:-1/", Unfit("no URL")),
    ("whatwg", "https://example.com:0000000443/", LooksUp("example.com")),
];

fn judged(text: &str) -> Result<(String, Result<(), String>), String> {
    let url = DestinationUrl::parse(text, false)?;
    let host = url.as_url().host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Ok((host, vet(url.as_url(), &AddressPolicy::default()).map_err(|refused| refused.0)))
}

fn address(text: &str) -> String {
    // The normal form of the URL standard, not of the address's own type.
    let host = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
    Url::parse(&format!("https://{host}/")).unwrap().host_str().unwrap().trim_matches(['[', ']']).to_owned()
}

#[test]
fn every_url_of_the_corpus_has_its_verdict() {
    let mut wrong = Vec::new();
    for (source, text, verdict) in CORPUS {
        let found = judged(text);
        let right = match (&found, *verdict) {
            (Err(problem), Unfit(words)) => problem.contains(words),
            (Ok((host, Err(_))), Address(ip)) => *host == address(ip),
            (Ok((host, Err(_))), Name(name)) => host == name,
            (Ok((host, Ok(()))), LooksUp(name)) => host == name,
            (Ok((host, Ok(()))), Calls(ip)) => *host == address(ip),
            _ => false,
        };
        if !right {
            wrong.push(format!("{source}: {text:?}: {found:?} is not {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn names_and_urls_are_bounded() {
    let label = "a".repeat(63);
    let longest = [&label, &label, &label, &"a".repeat(61)].map(String::as_str).join(".");
    assert_eq!(longest.len(), 253);
    assert!(judged(&format!("https://{longest}/")).is_ok());
    assert!(judged(&format!("https://b.{longest}/")).unwrap_err().contains("253"));
    assert!(judged(&format!("https://a{label}.example/")).unwrap_err().contains("63"));
    assert!(judged(&format!("https://example.com/{}", "a".repeat(3000))).unwrap_err().contains("2048"));
    // Within the limit as typed, beyond it as sent.
    assert!(judged(&format!("https://example.com/{}", "ü".repeat(900))).unwrap_err().contains("2048"));
}

#[tokio::test]
async fn no_url_of_the_corpus_reaches_a_receiver_that_listens_on_loopback() {
    let receiver = Receiver::answering(OK);
    let transport = transport(HttpOptions { address_policy: Arc::default(), ..options() });
    let mut tried = 0;
    for (_, text, verdict) in CORPUS {
        let Address(_) = verdict else { continue };
        let mut url = Url::parse(text).unwrap();
        url.set_scheme("http").unwrap();
        url.set_port(Some(receiver.address.port())).unwrap();
        refused(transport.send(request(url.as_str()), within(LONG)).await);
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
    assert_eq!(receiver.connections(), 0);
}
