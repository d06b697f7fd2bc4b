//! Which addresses a target may have, checked on the address that is connected to.
//!
//! A name is resolved once per connection, by the resolver below, and what it lets through is what the connector gets: there is no
//! second look-up that could answer differently (DNS rebinding). An address written as the host of the URL needs no look-up;
//! it is checked when the handler is built. Redirects are not followed and no proxy is used, so nothing else chooses an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How names become addresses.
pub trait Lookup: Send + Sync + 'static {
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|a| a.ip()).collect()) })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} of \"{host}\" is {what}; set allow_private_addresses = true if that is meant")]
pub struct RefusedAddress {
    pub host: String,
    pub address: IpAddr,
    pub what: &'static str,
}

/// What `address` is, if it is not an address of the public internet.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => not_public_v4(v4),
        IpAddr::V6(v6) => not_public_v6(v6),
    }
}

fn not_public_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = v4.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (127, ..) => Some("a loopback address"),
        (10, ..) | (192, 168, _) => Some("a private address"),
        (172, 16..=31, _) => Some("a private address"),
        (100, 64..=127, _) => Some("an address of a carrier's private network"),
        (169, 254, _) => Some("a link-local address"),
        (192, 0, 0) | (192, 0, 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => {
            Some("a reserved address")
        }
        (224..=239, ..) => Some("a multicast address"),
        (240..=255, ..) => Some("a reserved address"),
        _ => None,
    }
}

fn not_public_v6(v6: Ipv6Addr) -> Option<&'static str> {
    let s = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        // Mapped, translated and compatible forms reach the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => not_public_v4(embedded(high, low)),
        [0, 0, 0, 0, 0, 0, ..] => Some("an IPv4-compatible address"),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => not_public_v4(embedded(high, low)),
        [0x64, 0xff9b, 1, ..] => Some("a private translated address"),
        [0x2002, high, low, ..] => not_public_v4(embedded(high, low)),
        [0x2001, 0, ..] => Some("a Teredo address"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x100, 0, 0, 0, ..] => Some("a reserved address"),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a private address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        _ => None,
    }
}

pub(in crate::handlers) fn check(host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
    match not_public(address) {
        None => Ok(()),
        Some(what) => Err(RefusedAddress { host: host.to_owned(), address, what }),
    }
}

/// The client's resolver: gives out public addresses only.
#[derive(Clone)]
pub(in crate::handlers) struct Guarded {
    pub lookup: Arc<dyn Lookup>,
    pub allow_private: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, allow_private) = (self.lookup.clone(), self.allow_private);
        Box::pin(async move {
            let found = lookup.lookup(name.as_str()).await?;
            let mut refused = None;
            let mut public = Vec::with_capacity(found.len());
            for address in found {
                match check(name.as_str(), address) {
                    Err(e) if !allow_private => refused = Some(e),
                    _ => public.push(SocketAddr::new(address, 0)),
                }
            }
            match refused {
                Some(refused) if public.is_empty() => Err(refused.into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_pass() {
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert_eq!(not_public(public.parse().expect(public)), None, "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "2001::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(not_public(private.parse().expect(private)).is_some(), "{private}");
        }
    }
}
