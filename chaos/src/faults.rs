//! What a link does to datagrams.

use std::time::Duration;

/// What a link does to the datagrams of one direction. The default is a perfect link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// How long each is under way.
    pub delay: Duration,
    /// Up to how much longer, drawn for each alone: those drawn short overtake the others.
    pub jitter: Duration,
    /// The share that is lost, from 0 to 1.
    pub loss: f64,
    /// The share that arrives twice, from 0 to 1.
    pub duplication: f64,
    /// How much passes, if not everything.
    pub bandwidth: Option<Bandwidth>,
    /// Nothing passes, and nobody is told: what is under way is lost as well.
    pub silent: bool,
}

/// How much passes a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes of datagrams a second.
    pub bytes_per_second: u64,
    /// How many bytes wait for their turn; what does not find room is lost, as at any router.
    pub queue: usize,
}

impl Faults {
    /// A perfect link.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A link on which everything takes this long.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// A link on which nothing passes.
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

    /// The same, with each datagram up to so much longer under way.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same, with so many bytes a second, and a queue that holds what comes in 100 ms (64 KiB at least).
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
