//! Ports that no other test takes.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use crate::program::shared_folder;

/// Below the range that Linux gives to clients (`ip_local_port_range`), so that the port of a node that was killed is
/// still free when it starts again.
const RANGE: std::ops::Range<u16> = 21000..29000;

/// A UDP port of this machine that belongs to one test as long as this value lives.
#[derive(Debug)]
pub struct Port {
    address: SocketAddrV4,
    /// The system releases its lock when the process ends, however that happens.
    _lock: File,
}

impl Port {
    /// Takes a free port of 127.0.0.1.
    #[must_use]
    pub fn reserve() -> Self {
        Self::reserve_at(Ipv4Addr::LOCALHOST)
    }

    /// Takes a free port of an address. No other test takes the same number on any address.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn reserve_at(ip: Ipv4Addr) -> Self {
        let folder = shared_folder();
        // Starting at different places saves trying ports that other tests hold.
        let first = RANGE.start + u16::try_from(std::process::id() % 400).unwrap_or(0) * 20;
        (first..RANGE.end)
            .chain(RANGE.start..first)
            .find_map(|number| {
                let lock = File::create(folder.join(format!("port-{number}"))).ok()?;
                lock.try_lock().ok()?;
                let address = SocketAddrV4::new(ip, number);
                UdpSocket::bind(address).ok()?;
                Some(Self { address, _lock: lock })
            })
            .expect("a free UDP port")
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// The IP address of the port.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        *self.address.ip()
    }

    /// The address and the number.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.address.into()
    }

    /// `ADDRESS:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// An address of this machine, with all its ports, that no other test uses: there is one for each port number.
    #[must_use]
    pub fn own_ip(&self) -> Ipv4Addr {
        let [high, low] = self.number().to_be_bytes();
        Ipv4Addr::new(127, high, low, 1)
    }
}
