//! Which addresses, names and ports may be called.
//!
//! Pure, and asked at two places: for what the URL itself tells, before each attempt, and for each address
//! that the resolver finds. Without configuration only global unicast addresses pass, so a destination
//! can't reach the operator's own machines (server-side request forgery). What is special is in
//! [`special`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::special::{self, Carried};

/// Which addresses, hosts and ports may be called.
///
/// The default is what the internet needs and no more: global unicast addresses, any port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    /// Ranges that pass although they are special: private networks, loopback for tests.
    pub allow: Vec<IpNet>,
    /// Ranges that never pass, whatever else is allowed: networks of the operator's with global addresses.
    pub deny: Vec<IpNet>,
    /// Host names that never pass, with all names below them; in lower case, no trailing dot.
    pub deny_hosts: Vec<String>,
    /// The only ports that pass; `None` is any.
    pub allowed_ports: Option<Vec<u16>>,
    /// Where this process listens itself, as bound; never called, not even inside an allowed range.
    pub own_listeners: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// Whether a connection to this address may be opened, as far as the address alone tells.
    ///
    /// An IPv6 address that is an IPv4 address in other clothes (mapped, NAT64) is judged as that one. One
    /// that leads on to an IPv4 address (6to4, Teredo …) must pass itself, and so must what it leads to.
    ///
    /// # Errors
    /// A sentence for people that says why not; it never names the address.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), String> {
        let IpAddr::V6(outer) = ip else { return self.check_plain(ip) };
        match special::carried(outer) {
            Carried::Nothing => self.check_plain(ip),
            Carried::Is(inner) => self.check_denied(ip).and_then(|()| self.check_plain(inner.into())),
            Carried::LeadsTo(inner) => {
                self.check_plain(ip)?;
                inner.into_iter().try_for_each(|inner| self.check_plain(inner.into()))
            }
            // What is behind a local translator that the operator allows is the operator's affair, but for
            // this. Most readings are wrong, so no more can be asked of them.
            Carried::MayLeadTo(inner) => {
                self.check_plain(ip)?;
                inner.into_iter().try_for_each(|inner| check_metadata(inner.into()))
            }
        }
    }

    /// Whether this address is none of those at which this process listens. `is_local` tells whether an
    /// address belongs to this machine: a listener that is bound to all addresses is at each of them.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn check_own(&self, at: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> Result<(), String> {
        let ip = at.ip().to_canonical();
        let is_own = |listener: &SocketAddr| {
            let bound = listener.ip().to_canonical();
            listener.port() == at.port() && (bound == ip || (bound.is_unspecified() && is_local(ip)))
        };
        if self.own_listeners.iter().any(is_own) {
            return Err("the address is one of this server itself, which is never called".into());
        }
        Ok(())
    }

    /// Whether this process listens at the port, at whatever address.
    #[must_use]
    pub fn is_own_port(&self, port: u16) -> bool {
        self.own_listeners.iter().any(|listener| listener.port() == port)
    }

    /// Whether this port may be called.
    ///
    /// # Errors
    /// A sentence for people that names the ports that pass.
    pub fn check_port(&self, port: u16) -> Result<(), String> {
        match &self.allowed_ports {
            Some(ports) if !ports.contains(&port) => {
                let names = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                Err(format!("port {port} is not allowed here; allowed are: {names}"))
            }
            _ if port == 0 => Err("port 0 can't be called; use a port from 1 to 65535".into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this host name may be called, as far as the name alone tells.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn check_host(&self, host: &str) -> Result<(), String> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if self.deny_hosts.iter().any(|denied| is_at_or_below(&host, denied)) {
            return Err("the operator's policy does not allow this host".into());
        }
        if special::is_metadata_host(&host) {
            return Err(metadata());
        }
        // RFC 6761: these names are loopback, whatever a resolver, or a proxy's one, says of them.
        if is_at_or_below(&host, "localhost") {
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            let [v4, v6] = loopback.map(|ip| self.check_address(ip));
            return v4.or(v6);
        }
        Ok(())
    }

    fn check_plain(&self, ip: IpAddr) -> Result<(), String> {
        check_metadata(ip)?;
        self.check_denied(ip)?;
        match special::kind(ip) {
            // A connection to it goes to this machine, which has real addresses.
            Some(kind) if ip.is_unspecified() => Err(refusal(kind)),
            Some(kind) if !holds(&self.allow, ip) => Err(refusal(kind)),
            Some(_) | None => Ok(()),
        }
    }

    fn check_denied(&self, ip: IpAddr) -> Result<(), String> {
        if holds(&self.deny, ip) {
            return Err("the operator's policy does not allow this address".into());
        }
        Ok(())
    }
}

/// Whether an address is global unicast: what passes without any configuration.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    AddressPolicy::default().check_address(ip).is_ok()
}

fn check_metadata(ip: IpAddr) -> Result<(), String> {
    if special::is_metadata(ip) { Err(metadata()) } else { Ok(()) }
}

fn holds(ranges: &[IpNet], ip: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&ip))
}

fn is_at_or_below(host: &str, parent: &str) -> bool {
    host.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn refusal(kind: &str) -> String {
    format!("the address is {kind}; only global addresses are allowed here")
}

fn metadata() -> String {
    "the address is a cloud's metadata service, which is never called".into()
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
