//! Passwords, found as libpq finds them: `PGPASSWORD`, else the file at `PGPASSFILE`, else `~/.pgpass`.

use pgmesh_storage::SecretText;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The password for a connection, where there is one. `host` is `localhost` for a Unix socket.
pub fn password(host: &str, port: u16, database: &str, user: &str) -> Option<SecretText> {
    if let Some(password) = env::var("PGPASSWORD").ok().filter(|text| !text.is_empty()) {
        return Some(SecretText::new(password));
    }
    let text = SecretText::new(read(&path()?)?);
    let port = port.to_string();
    text.expose()
        .lines()
        .find_map(|line| matching(line, [host, &port, database, user]))
}

fn path() -> Option<PathBuf> {
    let given = env::var_os("PGPASSFILE").filter(|path| !path.is_empty());
    given.map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
        Some(Path::new(&home).join(".pgpass"))
    })
}

/// The file's text; none when there is no such file, or when others can read it, as libpq has it.
fn read(path: &Path) -> Option<String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("the password file {} is not used: {error}", path.display());
            return None;
        }
    };
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        tracing::warn!(
            "the password file {} is not used: it must be a file that only its owner can read (chmod 0600)",
            path.display()
        );
        return None;
    }
    fs::read_to_string(path)
        .inspect_err(|error| tracing::warn!("the password file {} is not used: {error}", path.display()))
        .ok()
}

/// The password of a line `host:port:database:user:password` that is about this connection.
fn matching(line: &str, wanted: [&str; 4]) -> Option<SecretText> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for wanted in wanted {
        let (field, after) = field(rest)?;
        if field.text != wanted && !field.is_wildcard {
            return None;
        }
        rest = after;
    }
    let password = unescaped(rest);
    (!password.is_empty()).then(|| SecretText::new(password))
}

struct Field {
    text: String,
    /// `*`, which stands for anything; `\*` does not.
    is_wildcard: bool,
}

/// The first field, and the text behind its colon.
fn field(text: &str) -> Option<(Field, &str)> {
    let mut escaped = false;
    let end = text.char_indices().find_map(|(at, letter)| {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == ':' {
            return Some(at);
        }
        None
    })?;
    let (raw, rest) = (text.get(..end)?, text.get(end + 1..)?);
    let field = Field {
        text: unescaped(raw),
        is_wildcard: raw == "*",
    };
    Some((field, rest))
}

/// A backslash stands before a colon or a backslash that is meant as such.
fn unescaped(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        let taken = if letter == '\\' {
            letters.next().unwrap_or('\\')
        } else {
            letter
        };
        plain.push(taken);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        matching(line, ["db1", "5432", "postgres", "back:up"]).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn lines_are_read_as_libpq_reads_them() {
        assert_eq!(
            found("db1:5432:postgres:back\\:up:se:c\\\\ret"),
            Some("se:c\\ret".to_owned())
        );
        assert_eq!(found("*:*:*:*:any"), Some("any".to_owned()));
        assert_eq!(found("db2:5432:postgres:back\\:up:x"), None);
        assert_eq!(found("\\*:5432:postgres:back\\:up:x"), None);
        assert_eq!(found("#*:*:*:*:x"), None);
        assert_eq!(found("*:*:*:*:"), None);
        assert_eq!(found("nonsense"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        fs::write(&path, "*:*:*:*:x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&path).is_some());
        assert_eq!(read(&folder.path().join("none")), None);
    }
}
