//! Which stanzas have a right to which chunk.

use pgmesh_storage::{Digest, StanzaName};

use super::View;
use crate::apply::Base;
use crate::apply::rights::Holder;
use crate::error::ReadError;
use crate::key;
use crate::table::Table;

/// The rights of some stanzas, asked for one chunk after the other.
#[derive(Debug)]
pub struct Rights<'v, B> {
    base: &'v B,
    holders: Vec<Holder<'v>>,
}

impl<B: Base> Rights<'_, B> {
    /// Whether one of the stanzas has the right to the chunk, or has uses that are not known yet (after a rebuild).
    /// Nothing is said of whether the chunk is there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn may_have(&self, digest: &Digest) -> Result<bool, ReadError> {
        for holder in &self.holders {
            if holder.may_have(self.base, digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether one of the stanzas has the right to the chunk for certain. Nothing is said of whether the chunk is
    /// there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn has(&self, digest: &Digest) -> Result<bool, ReadError> {
        Ok(self.holder(digest)?.is_some())
    }

    /// The first of the stanzas that has the right to the chunk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn holder(&self, digest: &Digest) -> Result<Option<&StanzaName>, ReadError> {
        for holder in &self.holders {
            if holder.has(self.base, digest)? {
                return Ok(Some(holder.stanza));
            }
        }
        Ok(None)
    }
}

impl<B: Base> View<B> {
    /// The rights of these stanzas. Each question costs one seek of a stanza that uses the chunk, and a seek and a read
    /// of each other one.
    pub fn rights<'v>(&'v self, stanzas: impl IntoIterator<Item = &'v StanzaName>) -> Result<Rights<'v, B>, ReadError> {
        let stanzas = stanzas.into_iter();
        let holders = stanzas.map(|stanza| Holder::read(&self.base, stanza));
        Ok(Rights {
            base: &self.base,
            holders: holders.collect::<Result<_, _>>()?,
        })
    }

    /// Chunks that stanzas have shown the content of, and have no use of.
    pub fn possessions(&self) -> impl Iterator<Item = Result<(Digest, StanzaName), ReadError>> + Send {
        let rows = self.rows::<_, ()>(Table::Possessions, &[], &[], |key| {
            let digest = key::KeyReader::new(key).digest()?;
            Some((digest, key::read_possession(key)?))
        });
        rows.map(|row| row.map(|(possession, ())| possession))
    }
}
