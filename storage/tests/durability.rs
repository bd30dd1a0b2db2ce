//! Invariant 1, seen from outside: which system calls a put makes before it returns.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{chunk, create, posix};
use pgmesh_storage::{Cipher, Generation, PosixStore, Repository};

const ROOT_VARIABLE: &str = "PGMESH_DURABILITY_ROOT";
const TRACED: &str = "fsync,fdatasync,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat";

/// The content that the traced process puts.
const PLAIN: &[u8] = b"an object that must survive a power cut";

/// Runs under strace, started by the tests below: puts one object, then makes a directory as a mark that the put has
/// returned.
#[tokio::test]
#[ignore = "started under strace by the other tests"]
async fn traced_put() {
    let root = std::env::var_os(ROOT_VARIABLE)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{ROOT_VARIABLE} is not set: this is no test of its own"));
    let store = Arc::new(PosixStore::open(&root).unwrap());
    let repository = Repository::open(store, None, &[]).await.unwrap();
    let (name, payload) = chunk(PLAIN);
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    std::fs::create_dir(acknowledged(&root)).unwrap();
}

fn acknowledged(root: &Path) -> PathBuf {
    root.with_extension("acknowledged")
}

/// One successful system call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Sync(PathBuf),
    MakeDirectory(PathBuf),
    Link { from: PathBuf, to: PathBuf },
    Rename,
    Remove(PathBuf),
}

/// Runs [`traced_put`] on the repository in `root` and gives its calls, in the order of their completion.
fn trace(root: &Path) -> Vec<Call> {
    let output = root.with_extension("strace");
    let _ = std::fs::remove_dir(acknowledged(root));
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", &format!("trace={TRACED}"), "-o"])
        .arg(&output)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "traced_put", "--ignored", "--test-threads=1"])
        .env(ROOT_VARIABLE, root)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("this test needs strace (apt-get install strace): {error}"));
    assert!(status.success(), "the traced put failed: {status}");
    let mut unfinished = HashMap::new();
    std::fs::read_to_string(&output)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let (process, call) = line.split_once(' ')?;
            let call = call.trim_start();
            if let Some(begin) = call.strip_suffix(" <unfinished ...>") {
                unfinished.insert(process.to_owned(), begin.to_owned());
                return None;
            }
            match call.split_once(" resumed>") {
                Some((_, end)) => parse(&(unfinished.remove(process)? + end)),
                None => parse(call),
            }
        })
        .collect()
}

/// Reads `fsync(9</path>) = 0` and the like; `None` for calls that failed and for other lines.
fn parse(call: &str) -> Option<Call> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.trim() != "0" {
        return None;
    }
    let quoted: Vec<PathBuf> = arguments.split('"').skip(1).step_by(2).map(PathBuf::from).collect();
    let descriptor = || {
        let (_, path) = arguments.split_once('<')?;
        Some(PathBuf::from(path.split_once('>')?.0))
    };
    Some(match name {
        "fsync" | "fdatasync" => Call::Sync(descriptor()?),
        "mkdir" | "mkdirat" => Call::MakeDirectory(quoted.first()?.clone()),
        "link" | "linkat" => Call::Link {
            from: quoted.first()?.clone(),
            to: quoted.get(1)?.clone(),
        },
        "unlink" | "unlinkat" => Call::Remove(quoted.first()?.clone()),
        _ => Call::Rename,
    })
}

/// A repository in a folder of its own, and the path of the object that [`traced_put`] will put.
async fn prepare(base: &Path) -> (PathBuf, PathBuf) {
    let root = base.canonicalize().unwrap().join("repository");
    let repository = create(posix(&root), Cipher::None).await;
    let (name, _) = chunk(PLAIN);
    let target = root.join(repository.path_of(&name, Generation::FIRST).to_string());
    (root, target)
}

fn position(calls: &[Call], wanted: &Call) -> usize {
    calls
        .iter()
        .position(|call| call == wanted)
        .unwrap_or_else(|| panic!("{wanted:?} is missing from {calls:#?}"))
}

/// Asserts that `folder` was synced after position `after` and before the put returned.
fn assert_synced(calls: &[Call], folder: &Path, after: usize, root: &Path) {
    let returned = position(calls, &Call::MakeDirectory(acknowledged(root)));
    let sync = Call::Sync(folder.to_owned());
    assert!(
        calls[after..returned].contains(&sync),
        "{} is not synced between {:?} and the end of the put: {calls:#?}",
        folder.display(),
        calls[after]
    );
}

#[tokio::test]
async fn a_put_syncs_the_file_then_names_it_then_syncs_every_directory() {
    let base = tempfile::tempdir().unwrap();
    let (root, target) = prepare(base.path()).await;
    let calls = trace(&root);
    let (link, from) = calls
        .iter()
        .enumerate()
        .find_map(|(index, call)| match call {
            Call::Link { from, to } if *to == target => Some((index, from.clone())),
            _ => None,
        })
        .unwrap_or_else(|| panic!("the object was not linked into its place: {calls:#?}"));
    // The content before the name.
    assert!(position(&calls, &Call::Sync(from.clone())) < link, "{calls:#?}");
    // The name before the acknowledgement.
    let folder = target.parent().unwrap();
    assert_synced(&calls, folder, link, &root);
    // The names of the new directories too.
    for made in [folder, folder.parent().unwrap()] {
        let at = position(&calls, &Call::MakeDirectory(made.to_owned()));
        assert_synced(&calls, made.parent().unwrap(), at, &root);
    }
    // Nothing was renamed over anything, and the temporary file is gone.
    assert!(!calls.contains(&Call::Rename), "{calls:#?}");
    assert!(calls.contains(&Call::Remove(from)), "{calls:#?}");
}

#[tokio::test]
async fn directories_that_are_there_are_not_taken_for_durable() {
    let base = tempfile::tempdir().unwrap();
    let (root, target) = prepare(base.path()).await;
    // As another process left them that was killed before its syncs.
    let folder = target.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let calls = trace(&root);
    for above in [folder.parent().unwrap(), &root] {
        assert_synced(&calls, above, 0, &root);
    }
}

#[tokio::test]
async fn an_object_that_is_there_is_not_taken_for_durable() {
    let base = tempfile::tempdir().unwrap();
    let (root, target) = prepare(base.path()).await;
    let store = Arc::new(PosixStore::open(&root).unwrap());
    let repository = Repository::open(store, None, &[]).await.unwrap();
    let (name, payload) = chunk(PLAIN);
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let calls = trace(&root);
    assert!(
        !calls
            .iter()
            .any(|call| matches!(call, Call::Link { to, .. } if *to == target))
    );
    assert_synced(&calls, &target, 0, &root);
    assert_synced(&calls, target.parent().unwrap(), 0, &root);
}
