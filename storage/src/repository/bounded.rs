//! Reading no more of an object than one of its kind can have, whatever a store announces and sends.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::{GetResult, GetResultPayload};

use crate::error::{Damage, StoreError};

/// Collects the answer of a store to a read of `path`.
///
/// # Errors
/// The object has more than `longest` bytes: the store is not read further. Or the store fails.
pub(super) async fn collect(result: GetResult, path: &str, longest: u64) -> Result<Bytes, StoreError> {
    let failed = |error| StoreError::from_store("reading", path, error);
    let too_long = |length| StoreError::damaged(path, Damage::TooLong { length });
    // Bounded before anything is allocated.
    let length = result.meta.size;
    if length > longest {
        return Err(too_long(length));
    }
    if let GetResultPayload::File(..) = result.payload {
        return result.bytes().await.map_err(failed);
    }
    // A store may send more bytes than the size that it announced.
    let mut content = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut pieces = result.into_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(failed)?;
        let sum = content.len() as u64 + piece.len() as u64;
        if sum > longest {
            return Err(too_long(sum));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use futures::stream;
    use object_store::{ObjectMeta, path::Path};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// The answer of a store that announces `announced` bytes and sends a mebibyte after another without end; how many
    /// it has sent.
    fn endless(announced: u64) -> (GetResult, Arc<AtomicU64>) {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let pieces = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from(vec![0; 1 << 20]))
        });
        let result = GetResult {
            payload: GetResultPayload::Stream(pieces.boxed()),
            meta: ObjectMeta {
                location: Path::from("chunk/00/x"),
                last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
                size: announced,
                e_tag: None,
                version: None,
            },
            range: 0..announced,
            attributes: object_store::Attributes::default(),
            extensions: Default::default(),
        };
        (result, sent)
    }

    #[tokio::test]
    async fn a_store_that_sends_without_end_is_not_read_further() {
        let (result, sent) = endless(100);
        let read = collect(result, "chunk/00/x", 8 * MIB).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
        assert_eq!(sent.load(Ordering::Relaxed), 9, "one more than may be");
        let (result, sent) = endless(2 << 30);
        assert!(collect(result, "chunk/00/x", 8 * MIB).await.is_err());
        assert_eq!(sent.load(Ordering::Relaxed), 0, "nothing of it is read");
    }
}
