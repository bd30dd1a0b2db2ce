use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of an object's writing: 0 at first, one more each time a damaged or condemned object is replaced.
///
/// Nothing is rewritten (invariant 2), so the replacement needs a name of its own: a generation above 0 appends
/// `.g<number>` to the object's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The first writing.
    pub const FIRST: Self = Self(0);

    /// The generation that replaces this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The suffix of an object's name.
    pub(crate) fn suffix(self) -> String {
        match self.0 {
            0 => String::new(),
            number => format!(".g{number}"),
        }
    }

    /// Splits an object's name into the rest and the generation. `None` if the suffix is not as [`Self::suffix`] writes
    /// it.
    pub(crate) fn split(name: &str) -> Option<(&str, Self)> {
        match name.rsplit_once(".g") {
            None => Some((name, Self::FIRST)),
            Some((rest, digits)) => {
                let generation = Self(digits.parse().ok()?);
                (generation.0 > 0 && generation.0.to_string() == digits).then_some((rest, generation))
            }
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_have_one_spelling() {
        assert_eq!(Generation::split("ab"), Some(("ab", Generation(0))));
        assert_eq!(Generation::split("ab.g12"), Some(("ab", Generation(12))));
        for bad in ["ab.g", "ab.g0", "ab.g01", "ab.g+1", "ab.gx", "ab.g99999999999"] {
            assert_eq!(Generation::split(bad), None, "{bad}");
        }
        assert_eq!(Generation(3).suffix(), ".g3");
        assert_eq!(Generation::FIRST.next().suffix(), ".g1");
    }
}
