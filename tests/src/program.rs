//! The place of the program under test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::account::set_mode;

/// The `pgmesh` that was built together with this test, under a path that the tests' account may enter.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn pgmesh(scratch: &Path) -> PathBuf {
    let built = built_program();
    let link = scratch.join("pgmesh");
    if !link.exists() {
        // The target folder may lie in a home folder that the account cannot enter: a second name of the same file is
        // outside it.
        if fs::hard_link(&built, &link).is_err() {
            fs::copy(&built, &link).unwrap_or_else(|error| panic!("copying {}: {error}", built.display()));
        }
    }
    link
}

/// `target/debug/pgmesh`, beside which this executable lies (`target/debug/deps/one_node-…` or `target/debug/demo`).
fn built_program() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this executable");
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("pgmesh"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no pgmesh beside {}: build it first with `make build` (or `cargo build --workspace --bins`)",
            this.display()
        )
    })
}

/// A program among the workspace's examples, built together with this test.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let built = built_program().with_file_name("examples").join(name);
    assert!(
        built.is_file(),
        "no {}: build it first with `cargo build --workspace --examples`",
        built.display()
    );
    built
}

/// A folder that the test processes of one account share.
#[must_use]
pub fn shared_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pgmesh-shared-{}", rustix::process::geteuid().as_raw()));
    if !folder.exists() {
        Account::current().create_folder(&folder);
        set_mode(&folder, 0o755);
    }
    folder
}
