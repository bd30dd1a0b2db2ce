//! Checks of values beyond their kind.

use pgmesh_postgres::SegmentName;
use std::net::SocketAddr;

/// The names that [`is_name`] accepts, in words.
pub const NAME: &str = "1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, and not 'global'";

/// The values that [`is_host_port`] accepts, in words.
pub const HOST_PORT: &str = "HOST:PORT, such as node1.example.com:8433 or [2001:db8::1]:8433";

/// The values that [`is_socket`] accepts, in words.
pub const SOCKET: &str = "ADDRESS:PORT, such as 0.0.0.0:8433 or [::]:8433";

/// The values that [`is_route`] accepts, in words.
pub const ROUTE: &str = "NAME=HOST:PORT, such as node2=relay.example.com:8433";

/// The values that [`is_odd`] accepts, in words.
pub const VOTERS: &str = "1, 3, 5 or 7: an even number of voters bears no more losses than the odd one below it";

/// The values that [`is_segment`] accepts, in words.
pub const SEGMENT: &str = "the name of a WAL segment, 24 hexadecimal digits";

/// The name of a stanza or node: safe as a file name, and not a section of the configuration file.
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= 64
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text != "global"
}

/// A host's name or address and a port.
pub fn is_host_port(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !host.is_empty() && host.bytes().all(host_allowed) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A node's name and the address that leads to it.
pub fn is_route(text: &str) -> bool {
    let parts = text.split_once('=');
    parts.is_some_and(|(name, address)| is_name(name.trim()) && is_host_port(address))
}

/// An odd number.
pub fn is_odd(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|number| number % 2 == 1)
}

/// The name of a WAL segment, without anything behind it.
pub fn is_segment(text: &str) -> bool {
    text.len() == 24 && text.parse::<SegmentName>().is_ok()
}

/// An address to listen on; port 0 lets the system choose.
pub fn is_socket(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_name("main") && is_name("9.x_y-z") && is_name(&"a".repeat(64)));
        for bad in ["", "-a", ".", "a/b", "a b", "global", "ä", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert!(is_host_port("node1:8433") && is_host_port("10.0.0.1:1") && is_host_port("[::1]:8433"));
        for bad in [
            "node1",
            "node1:",
            ":8433",
            "node1:0",
            "node1:99999",
            "::1:8433",
            "a b:1",
            "http://a:1",
        ] {
            assert!(!is_host_port(bad), "{bad}");
        }
        assert!(is_route("n1=relay:7") && is_route("n-1=[::1]:7"));
        for bad in ["n1", "n1=", "=relay:7", "n1=relay", "n 1=relay:7", "n1=a=b:7"] {
            assert!(!is_route(bad), "{bad}");
        }
        assert!(is_odd("5") && !is_odd("4") && !is_odd("-1") && !is_odd("x"));
        assert!(is_socket("0.0.0.0:8433") && is_socket("[::]:0") && !is_socket("localhost:8433"));
    }
}
