//! Requests with a body: WAL files, chunks, and manifests, each with memory of the budget while it is under way.

use super::{SEGMENT_READ, Served, body, logged, memory, reply, reply_with_body};
use crate::budget::Held;
use crate::services::{Got, MapSource};
use pgmesh_protocol::{
    CHUNK_BODY_LIMIT, CommitBackup, Failure, GetChunk, GetPieces, GetSegment, PayloadHead, PushSegment, PutChunk,
    SegmentReply,
};
use pgmesh_storage::{LARGEST_SINGLE_OBJECT, parts_of};
use pgmesh_transport::{Stream, StreamError};
use std::sync::Arc;

impl Served {
    /// Archives a WAL file.
    pub(super) async fn push_segment(&self, mut push: PushSegment, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        if let Err(failure) = node.archive.expects(&push) {
            return logged::<()>(stream, "archive-push", Err(failure)).await;
        }
        push.server.address = self.remote.to_string();
        if parts_of(push.payload.plain_length).is_some() {
            return self.push_parts(push, stream).await;
        }
        let held = self.hold_copies(stream, push.payload).await?;
        let body = body(stream, push.payload, LARGEST_SINGLE_OBJECT).await?;
        let source = MapSource::of(&push, &body, &held);
        let (stanza, file) = (push.stanza.clone(), push.file.clone());
        let server = push.server.clone();
        let pushed = node.archive.push_segment(actor, push, body, held).await;
        let refusal = pushed.as_ref().err();
        let refusal = refusal.map(|failure| (failure, node.catalog.view().applied().unwrap_or_default()));
        node.archive.refused.note(&stanza, actor, &server, &file, refusal);
        let is_new = pushed.as_ref().is_ok_and(|pushed| !pushed.already && !pushed.aside);
        let answered = logged(stream, "archive-push", pushed).await;
        // After the answer: PostgreSQL waits for the push, and for nothing else.
        if let Some(source) = source.filter(|_| is_new) {
            self.node.archive.clone().map_later(source);
        }
        answered
    }

    /// Stores a chunk of a backup.
    pub(super) async fn put_chunk(&self, put: PutChunk, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        if let Err(failure) = self.check_held(put.session) {
            return reply::<u64>(stream, Err(failure)).await;
        }
        let held = self.hold_copies(stream, put.payload).await?;
        let body = body(stream, put.payload, CHUNK_BODY_LIMIT).await?;
        reply(stream, node.backups.put_chunk(put, body, held).await).await
    }

    /// Commits a backup.
    pub(super) async fn commit_backup(&self, commit: CommitBackup, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        // Before memory is taken, and again when it is there: the session may have ended meanwhile.
        if let Err(failure) = self.check_held(commit.session) {
            return self.committed_before(&commit, failure, stream).await;
        }
        let copies = commit.manifest.length.saturating_mul(4);
        let memory = copies.saturating_add(commit.manifest.plain_length);
        let held = Arc::new(self.asker.hold(stream, memory).await?);
        let body = body(stream, commit.manifest, CHUNK_BODY_LIMIT).await?;
        if let Err(failure) = self.check_held(commit.session) {
            return self.committed_before(&commit, failure, stream).await;
        }
        let committed = node.backups.commit_backup(actor, commit, body, held).await;
        logged(stream, "backup", committed).await
    }

    /// Answers a commit whose session is over: it ends with its commit, and the client asks again if it has not heard
    /// that the commit succeeded.
    async fn committed_before(
        &self,
        commit: &CommitBackup,
        failure: Failure,
        stream: &mut Stream,
    ) -> Result<(), StreamError> {
        let done = self.node.backups.committed_before(commit).await;
        let answer = done.and_then(|done| done.ok_or(failure));
        logged(stream, "backup", answer).await
    }

    /// Reads a chunk.
    pub(super) async fn get_chunk(&self, get: GetChunk, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        let held = self.asker.hold(stream, node.reads.cost_of_chunk(get.digest)).await?;
        let stanza = get.stanza.clone();
        let read = node.reads.get_chunk(get).await.map(|(head, body)| (head, Some(body)));
        self.note_read("chunks", Some(&stanza), &read);
        memory::answer(stream, &held, read).await
    }

    /// Reads pieces of a chunk.
    pub(super) async fn get_pieces(&self, get: GetPieces, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        let held = self.asker.hold(stream, node.reads.cost_of_chunk(get.digest)).await?;
        let stanza = get.stanza.clone();
        let read = node.reads.get_pieces(get).await.map(|(head, body)| (head, Some(body)));
        self.note_read("chunks", Some(&stanza), &read);
        memory::answer(stream, &held, read).await
    }

    /// Reads a WAL file.
    pub(super) async fn get_segment(&self, get: GetSegment, stream: &mut Stream) -> Result<(), StreamError> {
        let held = self.asker.hold(stream, SEGMENT_READ).await?;
        let stanza = get.stanza.clone();
        match self.node.archive.get_segment(get).await {
            Ok(Got::Said(said)) => reply(stream, Ok(said)).await,
            Ok(Got::Whole(found, body)) => {
                let read = Ok((found, Some(body)));
                self.note_read("archive-get", Some(&stanza), &read);
                memory::answer(stream, &held, read).await
            }
            Ok(Got::Parts(file)) => {
                self.note_bytes("archive-get", Some(&stanza), file.plain_length());
                self.send_parts(&file, stream).await?;
                // The memory of the last part is held until it is delivered.
                memory::delivered(stream).await
            }
            Err(failure) => reply_with_body::<SegmentReply>(stream, Err(failure)).await,
        }
    }

    /// Memory for a payload on its way into the repositories: compressed, decompressed to be checked, and encrypted
    /// once for each repository of this node.
    async fn hold_copies(&self, stream: &Stream, payload: PayloadHead) -> Result<Arc<Held>, StreamError> {
        let copies = 1 + self.node.repositories.keys().len() as u64;
        let memory = payload.length.saturating_mul(copies);
        let memory = memory.saturating_add(payload.plain_length);
        Ok(Arc::new(self.asker.hold(stream, memory).await?))
    }
}
