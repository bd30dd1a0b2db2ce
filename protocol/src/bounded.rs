//! Texts and lists of a request with a bound. They are refused while they are decoded: a field that is too large goes
//! no further, and the peer is told which field it is, and its bound.
//!
//! The bound holds for what arrives. A value that is made here is not measured: the peer that decodes it says so in
//! the same words, whichever program the value came from. On the wire a [`Text`] is a string and a [`List`] a sequence.

use pgmesh_storage::wire;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// The name of a field of a request, and its bound.
pub trait Bound {
    /// The field in words, as in "the reason has 3000 bytes" or "5000 stanzas of a token".
    const WHAT: &'static str;
    /// The most bytes of a text, or elements of a list.
    const MAX: usize;
}

/// Declares fields: `Name: "words", bound;`.
macro_rules! bounds {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $max:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $name {}

            impl Bound for $name {
                const WHAT: &'static str = $what;
                const MAX: usize = $max;
            }
        )*
    };
}

/// A text in the audit trail or in a message: an actor, a reason, a finding. In bytes, as all that follow.
pub const REASON: usize = 2048;
/// The holder of a session, the actor of a command.
pub const HOLDER: usize = 512;
/// A name, an identifier, a version.
pub const NAME: usize = 256;
/// The fingerprint of a data directory.
pub const INSTANCE: usize = 128;
/// The fingerprint of a machine.
pub const MACHINE: usize = 16;
/// A `host:port`.
pub const ADDRESS: usize = 300;
/// Addresses of one node.
pub const ADDRESSES: usize = 8;
/// The longest value of an option: a path may have this many bytes.
pub const OPTION: usize = 4096;
/// Stanzas of one token.
pub const TOKEN_STANZAS: usize = 1024;
/// A certificate signing request, in bytes.
pub const CSR: usize = 8 << 10;
/// Repositories in one list, each at most once or twice.
pub const REPOSITORIES: usize = 2 * pgmesh_storage::RepoKey::MAX as usize;
/// How many digests one [`QueryChunks`](crate::QueryChunks) may name.
pub const QUERY_LIMIT: usize = 4096;
/// Backups in one [`ExpireBackups`](crate::ExpireBackups), and stretches in one [`ExpireWal`](crate::ExpireWal).
pub const EXPIRED_AT_ONCE: usize = 1024;
/// How many pieces one [`GetPieces`](crate::GetPieces) may name.
pub const PIECES_LIMIT: usize = 128;

bounds! {
    /// A WAL file.
    FileName: "the file's name", NAME;
    /// A data directory.
    Instance: "the fingerprint of the data directory", INSTANCE;
    /// A machine.
    Machine: "the fingerprint of the machine", MACHINE;
    /// The process that takes a backup.
    BackupHolder: "the holder of the backup", HOLDER;
    /// The process that restores.
    RestoreHolder: "the holder of the restore", HOLDER;
    /// Why something is done.
    Reason: "the reason", REASON;
    /// A path in a repository.
    Path: "the path", OPTION;
    /// The last name of a listing's page.
    LastName: "the last name", OPTION;
    /// The role of a member.
    RoleName: "the role", NAME;
    /// A node.
    NodeNameText: "the node's name", NAME;
    /// A member.
    MemberNameText: "the name", NAME;
    /// A region.
    Region: "the region", NAME;
    /// The version of a program.
    Program: "the program's version", NAME;
    /// A `host:port`.
    Address: "an address", ADDRESS;
    /// The identifier of a repository.
    RepositoryId: "the identifier of a repository", NAME;
    /// The addresses of a node.
    Addresses: "addresses", ADDRESSES;
    /// The stanzas of a token.
    TokenStanzas: "stanzas of a token", TOKEN_STANZAS;
    /// A certificate signing request, DER.
    CertificateRequest: "bytes of a certificate request", CSR;
    /// Digests of chunks.
    QueriedChunks: "chunks in one query", QUERY_LIMIT;
    /// Runs of bytes in a chunk.
    Pieces: "pieces of one chunk", PIECES_LIMIT;
    /// Repositories that are read last.
    Avoided: "repositories to avoid", REPOSITORIES;
    /// Repositories whose copy is in doubt.
    Suspects: "repositories to look at", REPOSITORIES;
    /// Repositories to verify.
    VerifiedRepositories: "repositories", REPOSITORIES;
    /// Backups that expire.
    ExpiredLabels: "backups to expire", EXPIRED_AT_ONCE;
    /// Stretches of WAL that stay.
    KeptStretches: "stretches of WAL that stay", EXPIRED_AT_ONCE;
    /// Repositories that an object is written to.
    Targets: "repositories to write to", REPOSITORIES;
}

/// A text of at most [`Bound::MAX`] bytes.
///
/// ```
/// use pgmesh_protocol::Text;
/// use pgmesh_protocol::bounded::Reason;
/// use pgmesh_storage::wire;
///
/// let arrived = wire::encode("the disk is being replaced");
/// let reason: Text<Reason> = wire::decode(&arrived, 1 << 16)?;
/// assert_eq!(&*reason, "the disk is being replaced");
/// let too_long = wire::encode(&"x".repeat(3000));
/// assert!(wire::decode::<Text<Reason>>(&too_long, 1 << 16).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Text<B>(String, PhantomData<B>);

/// A list of at most [`Bound::MAX`] elements.
pub struct List<T, B>(Vec<T>, PhantomData<B>);

impl<B> Text<B> {
    /// The text itself.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    /// The text itself, borrowed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T, B> List<T, B> {
    /// The elements.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<'de, B: Bound> Deserialize<'de> for Text<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() <= B::MAX {
            return Ok(Self::from(text));
        }
        Err(wire::beyond(format!(
            "{} has {} bytes, at most {} are taken",
            B::WHAT,
            text.len(),
            B::MAX
        )))
    }
}

impl<'de, T: DeserializeOwned, B: Bound> Deserialize<'de> for List<T, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_seq(Elements::<T, B>(PhantomData))
            .map(Self::from)
    }
}

/// Reads the elements of a [`List`].
struct Elements<T, B>(PhantomData<(T, B)>);

impl<'de, T: DeserializeOwned, B: Bound> Visitor<'de> for Elements<T, B> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {} {}", B::MAX, B::WHAT)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let too_many = |count| wire::beyond(format!("{count} {}, at most {} are taken", B::WHAT, B::MAX));
        // The length comes first on the wire: nothing of a list that is too long is decoded.
        let announced = elements.size_hint().unwrap_or_default();
        if announced > B::MAX {
            return Err(too_many(announced));
        }
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == B::MAX {
                return Err(too_many(list.len() + 1));
            }
            list.push(element);
        }
        Ok(list)
    }
}

impl<B> Serialize for Text<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: Serialize, B> Serialize for List<T, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<B> From<String> for Text<B> {
    fn from(text: String) -> Self {
        Self(text, PhantomData)
    }
}

impl<B> From<&str> for Text<B> {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl<B> From<Text<B>> for String {
    fn from(text: Text<B>) -> Self {
        text.0
    }
}

/// A list of texts, such as the addresses of a node.
impl<A, B> From<Vec<String>> for List<Text<A>, B> {
    fn from(texts: Vec<String>) -> Self {
        texts.into_iter().map(Text::from).collect()
    }
}

impl<A, B> From<List<Text<A>, B>> for Vec<String> {
    fn from(texts: List<Text<A>, B>) -> Self {
        texts.into_iter().map(String::from).collect()
    }
}

impl<B> Deref for Text<B> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<B> Clone for Text<B> {
    fn clone(&self) -> Self {
        Self::from(self.0.clone())
    }
}

impl<B> Default for Text<B> {
    fn default() -> Self {
        Self::from(String::new())
    }
}

impl<B> PartialEq for Text<B> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<B> Eq for Text<B> {}

impl<B> PartialEq<Text<B>> for String {
    fn eq(&self, other: &Text<B>) -> bool {
        *self == other.0
    }
}

impl<B> fmt::Debug for Text<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl<B> fmt::Display for Text<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl<T, B> From<Vec<T>> for List<T, B> {
    fn from(list: Vec<T>) -> Self {
        Self(list, PhantomData)
    }
}

impl<T, B> FromIterator<T> for List<T, B> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self::from(elements.into_iter().collect::<Vec<T>>())
    }
}

impl<T, B> IntoIterator for List<T, B> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, B> IntoIterator for &'a List<T, B> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T, B> Deref for List<T, B> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T, B> DerefMut for List<T, B> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T: Clone, B> Clone for List<T, B> {
    fn clone(&self) -> Self {
        Self::from(self.0.clone())
    }
}

impl<T, B> Default for List<T, B> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T: PartialEq, B> PartialEq for List<T, B> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: Eq, B> Eq for List<T, B> {}

impl<T: fmt::Debug, B> fmt::Debug for List<T, B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::wire::DecodeError;

    fn beyond<T: DeserializeOwned>(bytes: &[u8]) -> String {
        match wire::decode::<T>(bytes, 1 << 20).map(drop) {
            Err(DecodeError::Beyond(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_is_refused_while_it_is_decoded_with_its_name_and_its_bound() {
        let longest = "x".repeat(REASON);
        let bytes = wire::encode(&longest);
        assert_eq!(
            wire::encode(&Text::<Reason>::from(longest.clone())),
            bytes,
            "the same bytes"
        );
        assert_eq!(*wire::decode::<Text<Reason>>(&bytes, 1 << 20).unwrap(), longest);
        let bytes = wire::encode(&"x".repeat(REASON + 1));
        assert_eq!(
            beyond::<Text<Reason>>(&bytes),
            "the reason has 2049 bytes, at most 2048 are taken"
        );
    }

    #[test]
    fn a_list_is_refused_before_its_elements_are_decoded() {
        let longest = vec![7_u16; REPOSITORIES];
        let bytes = wire::encode(&longest);
        assert_eq!(
            wire::encode(&List::<_, Avoided>::from(longest.clone())),
            bytes,
            "the same bytes"
        );
        assert_eq!(*wire::decode::<List<u16, Avoided>>(&bytes, 1 << 20).unwrap(), longest);
        // Only the length: no element follows.
        let bytes = wire::encode(&(REPOSITORIES as u64 + 1));
        assert_eq!(
            beyond::<List<u16, Avoided>>(&bytes),
            "513 repositories to avoid, at most 512 are taken"
        );
    }
}
