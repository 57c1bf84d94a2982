//! How people write values: durations, sizes, addresses, names. Each function says what would be right.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::accepts::{Accepts, Known, Read};
use super::resolved::Scoped;

/// `true` or `false`.
pub(super) fn flag() -> impl Read<Value = bool> {
    Known(Accepts::Flag, |text: &str| {
        text.parse().map_err(|_| format!("`{text}` is neither true nor false; write one of the two"))
    })
}

/// A whole number within bounds.
pub(super) fn number<T>(least: T, most: T) -> impl Read<Value = T>
where
    T: FromStr + PartialOrd + Display + Copy + TryInto<u64>,
{
    let bound = |number: T| number.try_into().unwrap_or(u64::MAX);
    let accepts = Accepts::Number { least: bound(least), most: bound(most) };
    Known(accepts, move |text: &str| match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("`{text}` is no whole number from {least} to {most}")),
    })
}

/// Bytes within bounds: `512`, `256KiB`, `4MiB`, `1GiB`.
pub(super) fn size(least: u64, most: u64) -> impl Read<Value = u64> {
    Known(Accepts::Size { least, most }, move |text: &str| {
        let bytes = parse_size(text)
            .ok_or_else(|| format!("`{text}` is no size; write for example 64KiB, 4MiB or 1GiB"))?;
        if bytes < least || bytes > most {
            return Err(format!("`{text}` is not from {} to {}", show_size(least), show_size(most)));
        }
        Ok(bytes)
    })
}

/// A text of so many characters, none of which controls a terminal.
pub(super) fn name(least: usize, most: usize) -> impl Read<Value = String> {
    Known(Accepts::Characters { least, most }, move |text: &str| {
        let count = text.chars().count();
        if count < least || count > most || text.chars().any(char::is_control) {
            return Err(format!("is no name; write {least} to {most} characters"));
        }
        Ok(text.to_owned())
    })
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A size as it would be written.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A length of time within bounds: `250ms`, `30s`, `5m`, `12h`, `30d`, also `1h30m`.
pub(super) fn duration(least: Duration, most: Duration) -> impl Read<Value = Duration> {
    Known(Accepts::Length { least, most }, move |text: &str| {
        let length = any_duration(text)?;
        if length < least || length > most {
            let (least, most) = (show_duration(least), show_duration(most));
            return Err(format!("`{text}` is not from {least} to {most}"));
        }
        Ok(length)
    })
}

/// A length of time without bounds.
pub(super) fn any_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("`{text}` is no duration; write for example 250ms, 30s, 5m, 12h or 30d"))
}

/// A length of time as it would be written, in its largest whole unit.
pub(super) fn show_duration(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let whole = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    match whole {
        Some((unit, letter)) => format!("{}{letter}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at_checked(letters)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no address and port; write for example 127.0.0.1:8080 or [::1]:8080")
    })
}

/// Where to send something over gRPC.
pub(super) fn endpoint(text: &str) -> Result<Url, String> {
    let wrong = || {
        format!("`{text}` is no http:// or https:// URL of a host; write for example http://127.0.0.1:4317")
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    if is_http && plain && url.fragment().is_none() { Ok(url) } else { Err(wrong()) }
}

/// A range of addresses, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = parsed
        .map_err(|_| format!("`{text}` is no address range; write for example 10.20.0.0/16 or fd00::/8"))?;
    if network.trunc() != network {
        return Err(format!("`{text}` has bits beyond its prefix; write {}", network.trunc()));
    }
    Ok(network)
}

/// A host name, in lower case, without a dot at its end.
pub(super) fn host(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fits) {
        return Err(format!(
            "`{text}` is no host name; write for example internal.example.com, and xn-- names as such"
        ));
    }
    if matches!(url::Host::parse(&name), Ok(url::Host::Ipv4(_)) | Err(_)) {
        return Err(format!("`{text}` is no host name; write addresses into egress.deny"));
    }
    Ok(name)
}

/// A forward proxy: scheme, host and perhaps a port, and nothing else. A password would be shown wherever
/// settings are.
pub(super) fn proxy(text: &str) -> Result<Url, String> {
    let bare = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let parsed = Url::parse(text).ok().filter(bare);
    parsed.ok_or_else(|| {
        // What was typed may hold a password.
        "is no proxy; write http://host:port or https://host:port, without a user and a password".into()
    })
}

/// A path; not empty.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is no path; write for example /var/lib/signalpost".into());
    }
    Ok(PathBuf::from(text))
}

/// A folder by its whole path, because it is a boundary: what it means must not depend on where we start.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    let folder = path(text)?;
    let plain = |part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_));
    if !folder.is_absolute() || folder.parent().is_none() || !folder.components().all(plain) {
        return Err(format!("`{text}` is no folder by its whole path; write for example /run/secrets"));
    }
    Ok(folder)
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(fits) {
        return Err(format!("`{text}` is no name of a variable; write for example BILLING_SIGNING_KEY"));
    }
    Ok(text.to_owned())
}

/// What is written before the last `@`, and whose destinations it is for: `BILLING_KEY@acme+globex`, `/run/x@*`.
/// Left out, a place would be all too easily forgotten.
pub(super) fn scoped<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Scoped<T>, String> {
    move |text| {
        let (what, place) = text.rsplit_once('@').ok_or_else(|| {
            format!(
                "`{text}` does not say for whose destinations; write for example {text}@acme, \
                 {text}@acme+globex or {text}@* for all organizations"
            )
        })?;
        Ok(Scoped { what: parse(what)?, place: place.parse().map_err(|why| format!("`{text}`: {why}"))? })
    }
}

/// Either the word, which means none, or what `reader` reads.
pub(super) fn or_word<T>(word: &'static str, reader: impl Read<Value = T>) -> impl Read<Value = Option<T>> {
    let accepts = Accepts::Or(word, Box::new(reader.accepts()));
    Known(accepts, move |text: &str| match text == word {
        true => Ok(None),
        false => reader.read(text).map(Some).map_err(|why| match word {
            "" => why,
            word => format!("{why}, or `{word}`"),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_say_them() {
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("1h30m", 5_400_000), ("2d", 172_800_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_and_say_so() {
        for (text, bytes) in [("512", 512), ("512B", 512), ("256KiB", 262_144), ("1 GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "KiB", "1KB", "1.5MiB", "-1", "99999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(size(1024, 1 << 20).read("2MiB").unwrap_err(), "`2MiB` is not from 1KiB to 1MiB");
    }

    #[test]
    fn a_network_with_stray_bits_is_refused_with_the_one_that_was_meant() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(network("10.1.2.3/8").unwrap_err().contains("10.0.0.0/8"));
    }

    #[test]
    fn a_denied_host_is_a_name_and_no_address() {
        for (text, host_name) in [("Corp.Example.", "corp.example"), ("localhost", "localhost")] {
            assert_eq!(host(text).as_deref(), Ok(host_name));
        }
        for text in
            ["", ".example", "a b", "10.0.0.1", "10.1", "0x7f.1", "münchen.example", "https://a.example"]
        {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_is_scheme_host_and_port_and_never_a_password() {
        for text in ["http://proxy.corp.example:3128", "https://10.0.0.7", "http://[::1]:3128/"] {
            assert!(proxy(text).is_ok(), "{text}");
        }
        for text in
            ["", "proxy:3128", "socks5://p:1", "http://u:planted@p:1", "http://p/planted", "http://p?a"]
        {
            assert!(!proxy(text).unwrap_err().contains("planted"), "{text}");
        }
    }

    #[test]
    fn what_destinations_may_refer_to_says_for_whom() {
        let read = scoped(folder)("/run/se@crets@acme+globex").unwrap();
        assert_eq!((read.what, read.place.to_string()), ("/run/se@crets".into(), "acme+globex".to_owned()));
        assert_eq!(scoped(variable)("KEY@*").unwrap().place, crate::domain::place::Place::Everywhere);
        assert!(
            scoped(variable)("KEY")
                .unwrap_err()
                .contains("write for example KEY@acme, KEY@acme+globex or KEY@*")
        );
        assert!(scoped(variable)("KEY@a b").unwrap_err().contains("the organization `a b`"));
        assert!(scoped(folder)("run@acme").unwrap_err().contains("whole path"));
    }

    #[test]
    fn folders_are_boundaries_so_they_are_whole_paths_below_the_root() {
        assert!(folder("/run/secrets").is_ok());
        for text in ["", "secrets", "/", "/run/../etc", "./run"] {
            assert!(folder(text).is_err(), "{text}");
        }
    }
}
