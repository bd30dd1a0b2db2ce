//! Requests with a body: WAL files, chunks, and manifests, each with memory of the budget while it is under way.

use super::{SEGMENT_READ, Served, logged, memory, reply, reply_with_body};
use crate::asker::{Body, give_up};
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
        let expected = match self.hold_copies(push.payload).await {
            Ok(expected) => expected,
            Err(busy) => return logged::<()>(stream, "archive-push", Err(busy)).await,
        };
        let (body, held) = expected
            .receive(stream, push.payload.length, LARGEST_SINGLE_OBJECT)
            .await?;
        let held = Arc::new(held);
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
        let expected = match self.hold_copies(put.payload).await {
            Ok(expected) => expected,
            Err(busy) => return reply::<u64>(stream, Err(busy)).await,
        };
        let (body, held) = expected.receive(stream, put.payload.length, CHUNK_BODY_LIMIT).await?;
        reply(stream, node.backups.put_chunk(put, body, Arc::new(held)).await).await
    }

    /// Commits a backup.
    pub(super) async fn commit_backup(&self, commit: CommitBackup, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        let copies = commit.manifest.length.saturating_mul(4);
        let memory = copies.saturating_add(commit.manifest.plain_length);
        let length = commit.manifest.length;
        let expected = match self.asker.hold_for_body(memory, length).await {
            Ok(expected) => expected,
            Err(busy) => return logged::<()>(stream, "backup", Err(busy)).await,
        };
        let (body, held) = expected.receive(stream, length, CHUNK_BODY_LIMIT).await?;
        let held = Arc::new(held);
        if let Err(failure) = self.check_held(commit.session) {
            // The session ends with its commit: who asks again has not heard that it succeeded.
            let done = node.backups.committed_before(&commit).await;
            let answer = done.and_then(|done| done.ok_or(failure));
            return logged(stream, "backup", answer).await;
        }
        let committed = node.backups.commit_backup(actor, commit, body, held).await;
        logged(stream, "backup", committed).await
    }

    /// Reads a chunk.
    pub(super) async fn get_chunk(&self, get: GetChunk, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        let held = match self.asker.hold(node.reads.cost_of_chunk(get.digest)).await {
            Ok(held) => held,
            Err(busy) => return reply::<()>(stream, Err(busy)).await,
        };
        let what = format!("chunks of stanza {}", get.stanza);
        let read = node.reads.get_chunk(get).await.map(|(head, body)| (head, Some(body)));
        self.note_read(&what, memory::length_of(&read));
        memory::answer(&self.asker, stream, &held, read).await
    }

    /// Reads pieces of a chunk.
    pub(super) async fn get_pieces(&self, get: GetPieces, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        let held = match self.asker.hold(node.reads.cost_of_chunk(get.digest)).await {
            Ok(held) => held,
            Err(busy) => return reply::<()>(stream, Err(busy)).await,
        };
        let what = format!("chunks of stanza {}", get.stanza);
        let read = node.reads.get_pieces(get).await.map(|(head, body)| (head, Some(body)));
        self.note_read(&what, memory::length_of(&read));
        memory::answer(&self.asker, stream, &held, read).await
    }

    /// Reads a WAL file.
    pub(super) async fn get_segment(&self, get: GetSegment, stream: &mut Stream) -> Result<(), StreamError> {
        let held = match self.asker.hold(SEGMENT_READ).await {
            Ok(held) => held,
            Err(busy) => return reply_with_body::<SegmentReply>(stream, Err(busy)).await,
        };
        let what = format!("archive-get of stanza {}", get.stanza);
        match self.node.archive.get_segment(get).await {
            Ok(Got::Said(said)) => reply(stream, Ok(said)).await,
            Ok(Got::Whole(found, body)) => {
                self.note_read(&what, body.len() as u64);
                memory::answer(&self.asker, stream, &held, Ok((found, Some(body)))).await
            }
            Ok(Got::Parts(file)) => {
                self.note_read(&what, file.plain_length());
                match held.transfer(Box::pin(self.send_parts(&file, stream))).await {
                    Ok(sent) => sent,
                    Err(given_up) => give_up(stream, given_up),
                }
            }
            Err(failure) => reply_with_body::<SegmentReply>(stream, Err(failure)).await,
        }
    }

    /// Memory for a payload on its way into the repositories: compressed, decompressed to be checked, and encrypted
    /// once for each repository of this node.
    async fn hold_copies(&self, payload: PayloadHead) -> Result<Body, Failure> {
        let copies = 1 + self.node.repositories.keys().len() as u64;
        let memory = payload.length.saturating_mul(copies);
        let memory = memory.saturating_add(payload.plain_length);
        self.asker.hold_for_body(memory, payload.length).await
    }
}
