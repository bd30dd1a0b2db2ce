//! Files that lie in parts, on their way in and out.

use super::Served;
use crate::exchange::Exchange;
use crate::services::{PartedFile, PushPartsError};
use pgmesh_protocol::{GetSegment, PushSegment};
use pgmesh_transport::StreamError;

impl Served {
    pub(super) async fn push_parts(&self, push: PushSegment, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        let pushed = node.archive.push_parts(actor, &push, ex).await;
        let pushed = match pushed {
            Ok(pushed) => Ok(pushed),
            Err(PushPartsError::Failed(failure)) => Err(failure),
            Err(PushPartsError::Stream(error)) => return Err(error),
        };
        let refusal = pushed.as_ref().err();
        let refusal = refusal.map(|failure| (failure, node.catalog.view().applied().unwrap_or_default()));
        node.archive
            .refused
            .note(&push.stanza, actor, &push.server, &push.file, refusal);
        match pushed {
            // Said already.
            Ok(pushed) if pushed.was_told => Ok(()),
            Ok(pushed) => {
                let answered = ex.reply::<PushSegment>(Ok(pushed.pushed)).await;
                // After the answer: PostgreSQL waits for the push, and for nothing else.
                if let Some(map) = pushed.map {
                    self.node.archive.clone().keep_map_later(push, map);
                }
                answered
            }
            // Before the parts it is read as the turn, behind them as the end.
            Err(failure) => ex.logged::<PushSegment>(Err(failure)).await,
        }
    }

    /// Sends the parts of a file, and reads each one while the one before is sent.
    pub(super) async fn send_parts(&self, file: &PartedFile, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        ex.reply::<GetSegment>(Ok(file.reply())).await?;
        let mut parts = file.parts();
        let Some(first) = parts.next() else { return Ok(()) };
        let mut read = self.node.archive.get_part(file, first).await;
        loop {
            let is_over = read.is_err();
            let next = parts.next().filter(|_| !is_over);
            let reading = async {
                match next {
                    Some(part) => Some(self.node.archive.get_part(file, part).await),
                    None => None,
                }
            };
            let (sent, next) = tokio::join!(ex.send_part(read), reading);
            sent?;
            match next {
                Some(next) => read = next,
                None => return Ok(()),
            }
        }
    }
}
