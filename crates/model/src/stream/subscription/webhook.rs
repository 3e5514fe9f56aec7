//! Where a webhook may be.
//!
//! Job: the rule for addresses as they are written and as they are resolved. Never: resolves one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a webhook may not be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefused {
    /// It is no address of the web.
    #[error("webhook.url must be an address as https://HOST/PATH, at most {max} bytes, without a user or a fragment", max = limits::WEBHOOK_URL_BYTES_MAX)]
    Malformed,
    /// Plain HTTP to another host.
    #[error("webhook.url must begin with https; http is for localhost and 127.0.0.1 alone")]
    Plain,
    /// An address that only this machine or its network has.
    #[error("webhook.url names a host of this machine or of a private network")]
    Private,
}

/// An address that webhooks may be sent to: `https` and any public host, or `http` and this machine by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    text: Box<str>,
    local: bool,
}

impl WebhookUrl {
    /// Parses an address.
    ///
    /// # Errors
    /// [`UrlRefused`].
    pub fn parse(text: &str) -> Result<Self, UrlRefused> {
        let clean = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#' | b'"' | b'<' | b'>'));
        if text.len() > limits::WEBHOOK_URL_BYTES_MAX || !clean {
            return Err(UrlRefused::Malformed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlRefused::Malformed)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = host(authority).ok_or(UrlRefused::Malformed)?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let localhost = host.eq_ignore_ascii_case("localhost");
        let loopback = localhost || address.is_some_and(|address| address.is_loopback());
        if scheme.eq_ignore_ascii_case("http") {
            return if loopback { Ok(Self { text: text.into(), local: true }) } else { Err(UrlRefused::Plain) };
        }
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(UrlRefused::Plain);
        }
        // Names below `localhost` are this machine's too. Source: RFC 6761 section 6.3.
        let below = host.trim_end_matches('.').to_ascii_lowercase();
        let names_itself = below == "localhost" || below.ends_with(".localhost");
        if names_itself || address.is_some_and(|address| !is_public(address)) {
            return Err(UrlRefused::Private);
        }
        Ok(Self { text: text.into(), local: false })
    }

    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a connection may be made to an address that the host's name was resolved to.
    pub fn may_reach(&self, address: IpAddr) -> bool {
        if self.local { address.is_loopback() } else { is_public(address) }
    }
}

/// The host of an authority that has neither a user nor a strange port.
fn host(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(']') {
        Some(end) if authority.starts_with('[') => authority.split_at(end + 1),
        Some(_) => return None,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port_is_number =
        port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let named = if let Some(inner) = host.strip_prefix('[') {
        inner.trim_end_matches(']').parse::<Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(plain)
    };
    (port_is_number && named).then_some(host)
}

/// Whether an address is one of the public internet. Source: the IANA registries of special-purpose addresses.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Global unicast, without what leads to an IPv4 address inside it (6to4, Teredo and its block) and documentation.
    let special = matches!((a, b), (0x2001, 0..=0x1ff | 0xdb8) | (0x2002 | 0x3fff, _));
    (a & 0xe000) == 0x2000 && !special
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for WebhookUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for WebhookUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_https_and_this_machine_by_name_are_taken() {
        for good in [
            "https://worker.example/hooks?x=1",
            "https://93.184.216.34:8443/",
            "https://[2606:4700::1111]/",
            "HTTPS://worker.example",
            "http://localhost:9/hook",
            "http://127.0.0.1:9/hook",
            "http://127.0.0.9",
            "http://[::1]:9/",
        ] {
            assert!(WebhookUrl::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://10.0.0.1/hook", UrlRefused::Plain),
            ("http://worker.example/", UrlRefused::Plain),
            ("http://localhost.evil.example/", UrlRefused::Plain),
            ("ftp://worker.example/", UrlRefused::Plain),
            ("https://localhost/", UrlRefused::Private),
            ("https://x.localhost./", UrlRefused::Private),
            ("https://127.0.0.1/", UrlRefused::Private),
            ("https://192.168.1.1/", UrlRefused::Private),
            ("https://169.254.169.254/latest/meta-data", UrlRefused::Private),
            ("https://[::1]/", UrlRefused::Private),
            ("https://[fd00::1]/", UrlRefused::Private),
            ("https://[::ffff:10.0.0.1]/", UrlRefused::Private),
            ("https://user@worker.example/", UrlRefused::Malformed),
            ("https://worker.example\\@10.0.0.1/", UrlRefused::Malformed),
            ("https://worker.example/#x", UrlRefused::Malformed),
            ("https://worker.example:0/", UrlRefused::Malformed),
            ("https://worker.example:99999/", UrlRefused::Malformed),
            ("https:///x", UrlRefused::Malformed),
            ("worker.example", UrlRefused::Malformed),
            ("https://wörker.example/", UrlRefused::Malformed),
            ("https://a b/", UrlRefused::Malformed),
            ("", UrlRefused::Malformed),
        ] {
            assert_eq!(WebhookUrl::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_name_that_leads_inside_is_not_reached() {
        let outside = WebhookUrl::parse("https://worker.example/").unwrap();
        let local = WebhookUrl::parse("http://localhost:9/").unwrap();
        for (text, public) in [
            ("93.184.216.34", true),
            ("100.63.0.1", true),
            ("172.32.0.1", true),
            ("2606:4700::1111", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("172.31.0.1", false),
            ("192.168.0.1", false),
            ("169.254.169.254", false),
            ("198.18.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::a00:1", false),
            ("2002:a00:1::", false),
            ("2001::1", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(outside.may_reach(address), public, "{text}");
            assert_eq!(local.may_reach(address), address.is_loopback(), "{text}");
        }
    }
}
