//! Time, randomness and tasks of a process. All crates take them from here, so that a test can put a seed or a
//! simulated clock in their place. `clippy.toml` forbids the calls that go around this crate (decision 39).
//!
//! - [`clock`]: the wall clock. Spans of time are measured by tokio's `Instant`, which a simulation can stop.
//! - [`random`]: random bytes, of a seed where one was set; secrets always from the operating system in release builds.
//! - [`tasks`]: tasks and threads under a name that the log has when one panics.

pub mod clock;
pub mod random;
pub mod tasks;
