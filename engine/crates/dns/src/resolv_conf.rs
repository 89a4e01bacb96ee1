//! The resolvers that `resolv.conf` names.

use std::net::{IpAddr, SocketAddr};

/// As the C library: further ones are not used.
const MOST: usize = 3;

/// Port of every resolver.
pub const PORT: u16 = 53;

/// Read the `nameserver` lines. Addresses with a scope (`fe80::1%eth0`) mean nothing in a pod's namespace and are left
/// out.
#[must_use]
pub fn servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_ascii_whitespace().next()?.parse().ok())
        .map(|ip: IpAddr| SocketAddr::new(ip, PORT))
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_found_and_all_else_is_not() {
        let text = "# nameserver 1.1.1.1\nsearch a b\n nameserver\t10.96.0.10 # x\nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver fd00::a\noptions ndots:5\nnameserver 1.2.3.4\nnameserver 5.6.7.8\n";
        let found: Vec<_> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.96.0.10:53", "[fd00::a]:53", "1.2.3.4:53"]);
    }
}
