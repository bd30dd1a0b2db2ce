//! Values of tables: a format byte, then the record in the [`wire`] codec.

use pgmesh_storage::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ReadError;
use crate::table::Table;

/// The only format so far.
const FORMAT: u8 = 1;

/// The longest value in bytes. The largest records are stanzas with many timelines, far below this.
const LIMIT: usize = 16 << 20;

/// Encodes a record.
#[must_use]
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&wire::encode(record));
    bytes
}

/// Decodes the record that lies at `key` in `table`.
///
/// # Errors
/// [`ReadError::UnknownFormat`] and [`ReadError::MalformedValue`], both naming table and key.
pub fn decode<T: DeserializeOwned>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, ReadError> {
    match bytes.split_first() {
        Some((&FORMAT, record)) => wire::decode(record, LIMIT).map_err(|source| ReadError::MalformedValue {
            table,
            key: hex::encode(key),
            source,
        }),
        other => Err(ReadError::UnknownFormat {
            table,
            key: hex::encode(key),
            format: other.map(|(format, _)| *format),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let bytes = encode(&7_u64);
        assert_eq!(decode::<u64>(Table::Mesh, b"k", &bytes).unwrap(), 7);
        assert!(matches!(
            decode::<u64>(Table::Mesh, b"k", &[2, 7]),
            Err(ReadError::UnknownFormat { format: Some(2), .. })
        ));
        assert!(matches!(
            decode::<u64>(Table::Mesh, b"k", &[]),
            Err(ReadError::UnknownFormat { format: None, .. })
        ));
        assert!(matches!(
            decode::<u64>(Table::Mesh, b"k", &[1, 7, 7]),
            Err(ReadError::MalformedValue { .. })
        ));
    }
}
