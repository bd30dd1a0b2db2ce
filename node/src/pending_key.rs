//! The key of a join, durable before its token is redeemed: a host that is killed in between asks again with the same
//! key and the same token, and gets the same answer.

use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::{Identity, JoinToken, KeyRequest};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What the names of the files begin with.
const PREFIX: &str = ".joining-";

/// The key that joins by this token, made and kept in the directory unless an earlier attempt has done so. `purpose`
/// tells several keys of one token apart.
///
/// # Errors
/// 98 or 41: the key cannot be made, read or written; the token is not used up.
pub fn pending_key(directory: &Path, token: &JoinToken, purpose: &str) -> Result<KeyRequest, Failure> {
    let unwritable = |error: pgmesh_transport::IdentityError| {
        Failure::new(ExitCode::FileOpen, format!("{} cannot be written", directory.display())).because(chain(&error))
    };
    Identity::prepare(directory).map_err(unwritable)?;
    let mut name = PREFIX.to_owned();
    for byte in token.id.0 {
        // Writing to a text does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    let name = format!("{name}-{purpose}.key");
    let unreadable = |error: pgmesh_transport::IdentityError| {
        let what = format!("the key of an earlier join in {} cannot be used", directory.display());
        Failure::new(ExitCode::Crypto, what).because(chain(&error))
    };
    if let Some(kept) = KeyRequest::kept(directory, &name).map_err(unreadable)? {
        return Ok(kept);
    }
    let made = KeyRequest::generate()
        .map_err(|error| Failure::new(ExitCode::Crypto, "a key cannot be made").because(chain(&error)))?;
    made.keep(directory, &name).map_err(unwritable)?;
    Ok(made)
}

/// Whether a file is a key that waits for its certificate.
pub(crate) fn is_pending_key(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PREFIX) && path.extension().is_some_and(|kind| kind == "key"))
}

/// Removes the keys of joins that are done, or were given up. A file that stays does no harm: its key is no member's.
pub fn forget_pending_keys(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| is_pending_key(path)) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "the key of a join that is done stays");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use pgmesh_transport::{Fingerprint, Role};

    fn token() -> JoinToken {
        JoinToken::generate(Vec::new(), Fingerprint([0; 32]), Role::Admin, 0).unwrap()
    }

    #[test]
    fn the_same_token_asks_with_the_same_key_and_another_one_with_another() {
        let (folder, one, other) = (tempfile::tempdir().unwrap(), token(), token());
        let directory = folder.path().join("identity");
        let first = pending_key(&directory, &one, "identity").unwrap();
        let again = pending_key(&directory, &one, "identity").unwrap();
        assert_eq!(first.csr_der().unwrap(), again.csr_der().unwrap(), "the same request");
        let others = [
            pending_key(&directory, &other, "identity"),
            pending_key(&directory, &one, "admin"),
        ];
        assert!(others.into_iter().all(|other| other.unwrap().key() != first.key()));
        let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o777;
        let files = || fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        assert!(files().all(|path| is_pending_key(&path) && mode(&path) == 0o600));
        assert_eq!(files().count(), 3);
        forget_pending_keys(&directory);
        assert_eq!(files().count(), 0);
    }
}
