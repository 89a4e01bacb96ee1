//! The target of a CONNECT: `ip:port`, `[ip]:port` or `name:port`.

use std::net::IpAddr;

use http::uri::Authority;

/// The host of an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// An address; IPv4 in IPv6's form is IPv4.
    Ip(IpAddr),
    /// A name as it was sent, at most 255 bytes, without anything that an address in brackets could hide (a zone).
    Name(&'a str),
}

/// An authority that is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// There is none.
    #[error("CONNECT without authority")]
    Missing,
    /// No port, or one that is none.
    #[error("authority {0} has no port")]
    NoPort(String),
    /// The host is neither an address nor a name.
    #[error("authority {0} is neither an address nor a name")]
    NoHost(String),
}

/// DNS names have no more (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;
/// What is shown of an authority in logs.
const SHOWN: usize = 300;

/// Read an authority.
///
/// # Errors
/// [`BadAuthority`].
pub fn destination(authority: Option<&Authority>) -> Result<(Host<'_>, u16), BadAuthority> {
    let authority = authority.ok_or(BadAuthority::Missing)?;
    let shown = || authority.as_str().chars().take(SHOWN).collect::<String>();
    // The library's numbers may have a sign.
    let digits = authority.port().filter(|port| port.as_str().bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.map(|port| port.as_u16()).ok_or_else(|| BadAuthority::NoPort(shown()))?;
    let host = authority.host();
    if authority.as_str().contains('@') {
        return Err(BadAuthority::NoHost(shown()));
    }
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match (inner.unwrap_or(host).parse::<IpAddr>(), inner) {
        (Ok(ip), _) => Host::Ip(ip.to_canonical()),
        (Err(_), None) if is_name(host) => Host::Name(host),
        (Err(_), _) => return Err(BadAuthority::NoHost(shown())),
    };
    Ok((host, port))
}

fn is_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*');
    !host.is_empty() && host.len() <= LONGEST_NAME && host.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn read(text: &str) -> Option<(String, u16)> {
        let authority: Authority = text.parse().ok()?;
        let (host, port) = destination(Some(&authority)).ok()?;
        let host = match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => format!("name {name}"),
        };
        Some((host, port))
    }

    #[test]
    fn addresses_and_names() {
        assert_eq!(read("10.0.0.1:80").unwrap(), ("10.0.0.1".into(), 80));
        assert_eq!(read("[fd00::1]:80").unwrap(), ("fd00::1".into(), 80));
        assert_eq!(read("[::ffff:10.0.0.1]:80").unwrap(), ("10.0.0.1".into(), 80));
        assert_eq!(read("web.shop.svc:8080").unwrap(), ("name web.shop.svc".into(), 8080));
        assert_eq!(read(&format!("{}:80", "a".repeat(255))).unwrap().1, 80);
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("{}:80", "a".repeat(256));
        for text in [
            "10.0.0.1",
            "web",
            "web:",
            "web:65536",
            "web:-1",
            "web:+1",
            ":80",
            "[fe80::1%eth0]:80",
            "[fe80::1%25eth0]:80",
            "[web]:80",
            "user@web:80",
            "user@10.0.0.1:80",
            "web%00:80",
            "we!b:80",
            &long,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(destination(None), Err(BadAuthority::Missing));
    }
}
