//! The mesh's report, put together from answers of which none is longer than a message.

use super::Mesh;
use pgmesh_protocol::{Failure, GetInfo, MeshInfo, StanzaInfo};
use pgmesh_storage::StanzaName;

/// Whether the backups are asked for, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backups {
    /// They are.
    With,
    /// They are not.
    Without,
}

impl Mesh {
    /// The report on one stanza, or on all that this host may use.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn info(&self, stanza: Option<&StanzaName>, backups: Backups) -> Result<MeshInfo, Failure> {
        let mut ask = GetInfo {
            stanza: stanza.cloned(),
            backups: backups == Backups::With,
            after: None,
        };
        let mut whole = self.call(&ask).await?;
        while let Some(cursor) = whole.more.take() {
            ask.after = Some(cursor.clone());
            let next = self.call(&ask).await?;
            whole.stale = whole.stale.or(next.stale);
            next.stanzas.into_iter().for_each(|part| add(&mut whole.stanzas, part));
            // A node that repeats its cursor must not keep the client here for ever.
            whole.more = next.more.filter(|more| *more != cursor);
        }
        Ok(whole)
    }
}

/// A stanza goes on where the answer before ended with it.
fn add(stanzas: &mut Vec<StanzaInfo>, part: StanzaInfo) {
    match stanzas.last_mut() {
        Some(last) if last.name == part.name => last.backups.extend(part.backups),
        _ => stanzas.push(part),
    }
}
