//! How large a run is.

/// A number from the environment, such as of rounds: few in every run, many where somebody asks for them.
#[must_use]
pub fn number_from_environment(name: &str, default: u32) -> u32 {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(default)
}
