//! The size of a run.

/// A number from the environment, such as a number of rounds: the default is small, and a long run sets a larger one.
#[must_use]
pub fn number_from_environment(name: &str, default: u32) -> u32 {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(default)
}
