//! Notices whether a request makes progress: a slow request may take long, a silent one is given up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpRequestBody};

/// Bytes handed to the connection at once: few enough that a slow connection shows progress.
const PIECE: usize = 64 << 10;

/// The number of looks at the progress within the time-out.
const LOOKS: u32 = 5;

/// Counts the steps of one exchange. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Notes a step.
    pub fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when no step was made for `limit`.
    pub async fn stalled(&self, limit: Duration) {
        let (mut before, mut quiet) = (self.0.load(Ordering::Relaxed), 0);
        while quiet < LOOKS {
            tokio::time::sleep(limit / LOOKS).await;
            let now = self.0.load(Ordering::Relaxed);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }
}

/// A body on its way out, in pieces.
pub struct Sent {
    body: HttpRequestBody,
    piece: Bytes,
    progress: Progress,
}

impl Sent {
    pub fn new(body: HttpRequestBody, progress: Progress) -> Self {
        Self {
            body,
            piece: Bytes::new(),
            progress,
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.made();
        while self.piece.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let length = self.piece.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().unwrap_or(0);
        SizeHint::with_exact(rest + self.piece.len() as u64)
    }
}
