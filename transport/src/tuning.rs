//! Every limit, window and time-out of the transport, in one place.

use std::{sync::Arc, time::Duration};

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, congestion::CubicConfig};

/// A connection is lost after this time without a packet. With [`KEEP_ALIVE`] a silent death is noticed within 3 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(2500);

/// An idle client sends a packet this often.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// The limit from the first packet to an authenticated connection, at a client; over all addresses of a name.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The limit from the first packet to an authenticated connection, at a server.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// A body or a begun message that makes no progress for this long has failed.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);

/// A connection without a certificate that has shown no good token for this long gives its place up.
pub const TOKEN_LIMIT: Duration = Duration::from_secs(2);

/// The longest life of a joining connection.
pub const JOIN_LIFETIME: Duration = Duration::from_secs(30);

/// Streams of one member's connection that are open at once, at most.
pub const MAX_STREAMS: u32 = 256;

/// Handshakes under way at once; from half of this on, clients first have to prove their address.
pub const MAX_HANDSHAKES: usize = 256;

/// Clients that knock; more are ignored. It is more than [`MAX_HANDSHAKES`], so that the clients beyond that limit can
/// be told.
pub(crate) const MAX_INCOMING: usize = 2 * MAX_HANDSHAKES;

/// Connections at once.
pub const MAX_SESSIONS: usize = 4096;

/// Connections without a certificate at once.
pub const MAX_JOINING: usize = 32;

/// How much a connection may use: by its age among the connections of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// One of the account's many: 64 KiB of window, 4 streams.
    Narrow,
    /// Behind the first four: 1 MiB of window, 16 streams.
    Middle,
    /// One of the account's first four, or of a peer that is not counted: the tuned windows and streams.
    Wide,
}

/// Unread bytes that a connection without a certificate (yet) may make a server keep.
pub(crate) const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;

/// The bytes that are kept of handshakes that are not accepted yet: of one, and of all.
pub(crate) const INCOMING_BUFFER: (u64, u64) = (32 * 1024, 8 * 1024 * 1024);

/// The settings that were measured, by `cargo run -p pgmesh-transport --example loopback`.
///
/// Over loopback, both ends on two cores, in MiB/s and CPU seconds (user + system) per GiB for both ends together:
///
/// | UDP payload | | CPU |
/// | --- | --- | --- |
/// | 1452, offload | 500–540 | 1.4 + 0.5 |
/// | **6500, offload** | 1,100–2,100 | 0.5 + 0.25 |
/// | 8952, no offload | 600 | 0.7 + 0.8 |
/// | 65400, no offload | 1,050–1,450 | 0.4 + 0.4 |
///
/// 6500 is the largest payload for segmentation offload: quinn hands the kernel up to ten packets at once. The kernel
/// takes at most 65,507 bytes, and drops the rest without an error. Path MTU discovery finds the largest payload that
/// passes, so on Ethernet it ends at 1452. Windows of 8 MiB overflow the UDP buffers seldom (10 packets of 166,000,
/// against 4,000 with 16 MiB) and allow 80 MB/s at a round trip of 100 ms. Fewer acknowledgements made no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// UDP payload, in bytes, before path MTU discovery has run; 1200 passes everywhere.
    pub initial_mtu: u16,
    /// The largest UDP payload, in bytes, that path MTU discovery tries, and that this side accepts.
    pub largest_mtu: u16,
    /// Unread bytes of one stream.
    pub stream_window: u32,
    /// Unread bytes of one of the first connections of an account; the others have less (invariant 11).
    pub connection_window: u32,
    /// Bytes of one of the first connections of an account that are sent and not yet acknowledged.
    pub send_window: u64,
    /// The bytes that are sent before the first acknowledgement. More than RFC 9002's 12,000: a probe of path MTU
    /// discovery takes half of those, and while the window is full quinn holds back even the packet that closes the
    /// connection.
    pub initial_congestion_window: u64,
    /// Several packets per system call.
    pub segmentation_offload: bool,
    /// The UDP socket's buffers in bytes; the kernel gives at most `net.core.rmem_max` and `wmem_max`.
    pub socket_buffer: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            initial_mtu: 1200,
            largest_mtu: 6500,
            stream_window: 4 * 1024 * 1024,
            connection_window: 8 * 1024 * 1024,
            send_window: 8 * 1024 * 1024,
            initial_congestion_window: 64 * 1024,
            segmentation_offload: true,
            socket_buffer: 4 * 1024 * 1024,
        }
    }
}

impl Tuning {
    fn common(&self) -> TransportConfig {
        let mut config = TransportConfig::default();
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.largest_mtu);
        let mut congestion = CubicConfig::default();
        congestion.initial_window(self.initial_congestion_window);
        config
            .congestion_controller_factory(Arc::new(congestion))
            .initial_mtu(self.initial_mtu)
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window(self.stream_window.into())
            .enable_segmentation_offload(self.segmentation_offload)
            .max_idle_timeout(Some(idle_timeout()))
            // The protocol has no datagrams: those of a peer are not even buffered.
            .datagram_receive_buffer_size(None);
        config
    }

    /// A server's limits for a client that has proved nothing yet: one stream, little memory.
    pub(crate) fn server(&self) -> Arc<TransportConfig> {
        let mut config = self.common();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .receive_window(UNAUTHENTICATED_WINDOW.into())
            .send_window(UNAUTHENTICATED_WINDOW.into());
        Arc::new(config)
    }

    /// Raises the limits for a member whose certificate has been checked, as its connection's rank allows.
    pub(crate) fn admit_member(&self, connection: &quinn::Connection, rank: Rank) {
        let (window, streams) = match rank {
            Rank::Wide => (self.connection_window, MAX_STREAMS),
            Rank::Middle => (self.connection_window.min(1 << 20), 16),
            Rank::Narrow => (UNAUTHENTICATED_WINDOW, 4),
        };
        connection.set_receive_window(window.into());
        connection.set_send_window(self.send_window.min(window.into()));
        connection.set_max_concurrent_bi_streams(streams.into());
    }

    /// A client's limits: the server opens one stream, for the welcome.
    pub(crate) fn client(&self) -> Arc<TransportConfig> {
        let mut config = self.common();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .receive_window(self.connection_window.into())
            .send_window(self.send_window)
            .keep_alive_interval(Some(KEEP_ALIVE));
        Arc::new(config)
    }
}

fn idle_timeout() -> IdleTimeout {
    let milliseconds = u32::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    VarInt::from_u32(milliseconds).into()
}
