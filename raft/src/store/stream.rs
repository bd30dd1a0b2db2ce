//! A snapshot, as openraft sends and receives it.

use pgmesh_runtime::tasks;
use std::fs::File;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use super::kept::{Kept, Packed};

/// How soon packing is tried again.
const PACK_AGAIN: Duration = Duration::from_secs(10);

/// A snapshot in one file: a snapshot that is being received, or the snapshot that this node keeps, which is packed
/// when its first byte or its length is asked for.
#[derive(Debug)]
pub struct SnapshotStream {
    state: State,
    /// A seek that waits for the file.
    seek: Option<SeekFrom>,
}

#[derive(Debug)]
enum State {
    Kept(Arc<Kept>),
    /// Ends with the stream.
    Packing(JoinSet<(Arc<Packed>, File)>),
    /// The file, and the handle that keeps it from being removed.
    File(tokio::fs::File, Option<Arc<Packed>>),
}

/// Packs a snapshot. openraft takes a reader's error for an error of the node's own state, and ends. A disk that is
/// full must not cost the mesh its leader, so packing is tried again until no reader waits for it any more.
async fn pack(kept: Arc<Kept>) -> (Arc<Packed>, File) {
    loop {
        let packing = kept.clone();
        match tasks::blocking("packing a snapshot", move || packing.packed()).await {
            Ok(Ok(packed)) => return packed,
            Ok(Err(error)) => {
                tracing::error!(%error, "the snapshot cannot be packed for a node that needs it; it is tried again");
            }
            Err(error) => tracing::error!(%error, "the snapshot cannot be packed; it is tried again"),
        }
        tokio::time::sleep(PACK_AGAIN).await;
    }
}

impl SnapshotStream {
    pub(super) fn of(kept: Arc<Kept>) -> Self {
        Self {
            state: State::Kept(kept),
            seek: None,
        }
    }

    pub(super) fn receiving(file: File) -> Self {
        Self {
            state: State::File(tokio::fs::File::from_std(file), None),
            seek: None,
        }
    }

    /// The file.
    ///
    /// # Errors
    /// It could not be packed.
    pub(super) async fn into_file(mut self) -> io::Result<(File, Option<Arc<Packed>>)> {
        std::future::poll_fn(|context| self.poll_file(context).map_ok(drop)).await?;
        match self.state {
            State::File(file, packed) => Ok((file.into_std().await, packed)),
            State::Kept(_) | State::Packing(_) => Err(io::Error::other("a snapshot is not packed")),
        }
    }

    fn poll_file(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut tokio::fs::File>>> {
        if let State::Kept(kept) = &self.state {
            let mut packing = JoinSet::new();
            packing.spawn(tasks::named("packing a snapshot", pack(kept.clone())));
            self.state = State::Packing(packing);
        }
        if let State::Packing(packing) = &mut self.state {
            let packed = ready!(packing.poll_join_next(context));
            let packed = packed.ok_or_else(|| io::Error::other("a snapshot is not packed"))?;
            let (packed, file) = packed.map_err(io::Error::other)?;
            self.state = State::File(tokio::fs::File::from_std(file), Some(packed));
        }
        let State::File(file, _) = &mut self.state else {
            return Poll::Ready(Err(io::Error::other("a snapshot is not packed")));
        };
        let mut file = Pin::new(file);
        if let Some(seek) = self.seek.take() {
            file.as_mut().start_seek(seek)?;
        }
        Poll::Ready(Ok(file))
    }
}

impl AsyncRead for SnapshotStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_file(context))?.poll_read(context, buffer)
    }
}

impl AsyncSeek for SnapshotStream {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        match &mut self.state {
            State::File(file, _) => Pin::new(file).start_seek(position),
            State::Kept(_) | State::Packing(_) => {
                self.seek = Some(position);
                Ok(())
            }
        }
    }

    /// Also called before a seek, to end the one before: nothing is packed for that.
    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        if self.seek.is_none() && !matches!(self.state, State::File(..)) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_file(context))?.poll_complete(context)
    }
}

impl AsyncWrite for SnapshotStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_file(context))?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_file(context))?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_file(context))?.poll_shutdown(context)
    }
}
