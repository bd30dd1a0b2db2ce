//! The faults of a link.

use std::time::Duration;

/// The faults that a link does to the datagrams of one direction. The default is a perfect link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The time for which each datagram is under way.
    pub delay: Duration,
    /// The most by which a datagram takes longer, drawn for each alone: a datagram with a short draw overtakes the
    /// others.
    pub jitter: Duration,
    /// The share of datagrams that is lost, from 0 to 1.
    pub loss: f64,
    /// The share of datagrams that arrives twice, from 0 to 1.
    pub duplication: f64,
    /// The limit of the throughput, if there is one.
    pub bandwidth: Option<Bandwidth>,
    /// Whether no datagram passes and no sender is told. Datagrams under way are lost as well.
    pub silent: bool,
}

/// The throughput of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes of datagrams a second.
    pub bytes_per_second: u64,
    /// The bytes that may wait for their turn. A datagram that does not fit is lost, as at any router.
    pub queue: usize,
}

impl Faults {
    /// A perfect link.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A link on which every datagram takes this long.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// A link on which no datagram passes.
    #[must_use]
    pub fn silence() -> Self {
        Self {
            silent: true,
            ..Self::default()
        }
    }

    /// The same, with a share of datagrams lost.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// The same, with a share of datagrams arriving twice.
    #[must_use]
    pub fn with_duplication(self, duplication: f64) -> Self {
        Self { duplication, ..self }
    }

    /// The same, with each datagram delayed by up to `jitter` more.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same, with so many bytes a second, and a queue that holds the bytes of 100 ms (64 KiB at least).
    #[must_use]
    pub fn with_bandwidth(self, bytes_per_second: u64) -> Self {
        let queue = usize::try_from(bytes_per_second / 10)
            .unwrap_or(usize::MAX)
            .max(64 << 10);
        let bandwidth = Some(Bandwidth {
            bytes_per_second,
            queue,
        });
        Self { bandwidth, ..self }
    }
}
