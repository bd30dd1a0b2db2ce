//! openraft's own conformance suite on both stores.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::{Folder, LogStore, StateStore};
use crate::consensus::TypeConfig;
use crate::options::CatalogOptions;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore), StorageError<u64>> {
        let guard = tempfile::tempdir().unwrap();
        let folder = Folder::create(&guard.path().join("catalog")).await.unwrap();
        let options = CatalogOptions::default();
        let log = LogStore::open(&folder, &options).unwrap();
        let state = StateStore::open(&folder, &options).unwrap();
        Ok((guard, log, state))
    }
}

#[test]
fn openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}
