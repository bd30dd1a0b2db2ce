//! The names of meshes and their members.

use pgmesh_runtime::random;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name of a mesh or a member, in bytes.
pub const MAX_NAME_LENGTH: usize = 64;

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a valid {what}: 1 to {MAX_NAME_LENGTH} letters, digits, '_', '.' or '-', the first a letter or a digit"
)]
pub struct InvalidName {
    what: &'static str,
    given: String,
}

fn check(what: &'static str, text: &str) -> Result<String, InvalidName> {
    let mut bytes = text.bytes();
    let first_fits = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest_fits = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first_fits && rest_fits && text.len() <= MAX_NAME_LENGTH {
        return Ok(text.to_owned());
    }
    // The error repeats only the beginning of a hostile name.
    let given = text.chars().take(MAX_NAME_LENGTH + 1).collect();
    Err(InvalidName { what, given })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The identity of a mesh: the common name of its certificate authority.
    MeshId,
    "mesh id"
);

name!(
    /// The name of a node, an administrator or a PG host in its mesh.
    MemberName,
    "member name"
);

impl MeshId {
    /// A new mesh's identity: 32 random hexadecimal digits.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn random() -> Result<Self, random::Error> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        Ok(Self(hex::encode(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("node-1.example_x".parse::<MemberName>().is_ok());
        assert!("a".repeat(64).parse::<MemberName>().is_ok());
        for bad in ["", "-a", ".", "a b", "a/b", "a%2f", "ä", "a\0", &"a".repeat(65)] {
            assert!(bad.parse::<MemberName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_mesh_ids_are_names_and_differ() {
        let (one, two) = (MeshId::random().unwrap(), MeshId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse::<MeshId>().unwrap(), one);
    }
}
