//! The passphrase of a repository: in the configuration, in a file of its own, or from a command that asks a key store.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::Passphrase;
use zeroize::Zeroizing;

use super::repositories::DeclaredRepository;

/// The options that give a passphrase. A repository has at most one of them.
pub(super) const OPTIONS: [&str; 3] = ["cipher-pass", "cipher-pass-file", "cipher-pass-command"];
/// The longest passphrase, in bytes.
const LONGEST: u64 = 4096;
/// The time in which the key store must answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl DeclaredRepository {
    /// The passphrase of repository `number`, if one is declared. A command is run anew each time.
    ///
    /// # Errors
    /// 31: the passphrase or its option cannot be used. 41: its file cannot be read, or other users can read it. 27:
    /// its command fails.
    pub fn passphrase(&self, number: u16) -> Result<Option<Passphrase>, Failure> {
        let Some(name) = OPTIONS.iter().find(|name| self.secrets.contains_key(**name)) else {
            return Ok(None);
        };
        let given = self
            .secrets
            .get(*name)
            .map(|secret| secret.expose())
            .unwrap_or_default();
        let title = format!("repo{number}-{name}");
        let text = match *name {
            "cipher-pass-file" => of_file(&title, Path::new(given))?,
            "cipher-pass-command" => of_command(&title, given)?,
            _ => Zeroizing::new(given.to_owned()),
        };
        let passphrase = Passphrase::new(text.to_string());
        passphrase
            .map(Some)
            .map_err(|error| Failure::new(ExitCode::OptionInvalid, format!("{title} cannot be used")).because(error))
    }
}

fn of_file(title: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: &dyn std::error::Error| {
        Failure::new(
            ExitCode::FileOpen,
            format!("{title}: {} cannot be read", path.display()),
        )
        .because(chain(error))
    };
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        let what = format!("{title}: {} is not a file that only its owner can read", path.display());
        return Err(Failure::new(ExitCode::FileOpen, what)
            .because("every user who can read this file can decrypt the repository")
            .remedy(format!("chmod 0600 {}", path.display())));
    }
    first_line(title, &mut file.take(LONGEST + 2)).map_err(|error| unreadable(&error))?
}

fn of_command(title: &str, command: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |why: String| {
        Failure::new(ExitCode::Config, format!("{title} gave no passphrase"))
            .because(why)
            .remedy(format!("run it by hand: {command}"))
    };
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| failed(chain(&error)))?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| failed(chain(&error)))? {
            Some(status) => break status,
            None if began.elapsed() >= PATIENCE => {
                // `kill` fails only for a command that has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it has not ended within {} s", PATIENCE.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if !status.success() {
        return Err(failed(format!("it ended with {status}")));
    }
    let Some(output) = child.stdout.take() else {
        return Err(failed("it has no output".to_owned()));
    };
    first_line(title, &mut output.take(LONGEST + 2)).map_err(|error| failed(chain(&error)))?
}

/// The only line of a short text. A line end within a passphrase is an accident and refused.
fn first_line(title: &str, text: &mut dyn Read) -> Result<Result<Zeroizing<String>, Failure>, std::io::Error> {
    let mut line = Zeroizing::new(String::new());
    text.read_to_string(&mut line)?;
    if line.ends_with('\n') {
        line.pop();
    }
    if line.is_empty() || line.contains('\n') || line.len() as u64 > LONGEST {
        let what = format!("{title} must give one line of at most {LONGEST} bytes");
        return Ok(Err(Failure::new(ExitCode::OptionInvalid, what)));
    }
    Ok(Ok(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn declared(name: &str, value: &str) -> DeclaredRepository {
        DeclaredRepository {
            secrets: [(name.to_owned(), Secret::new(value.to_owned()))].into(),
            ..DeclaredRepository::default()
        }
    }

    #[test]
    fn a_passphrase_comes_from_a_file_that_only_its_owner_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pass");
        fs::write(&file, "correct horse battery staple\n").unwrap();
        let of = || declared("cipher-pass-file", file.to_str().unwrap()).passphrase(3);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let failure = of().unwrap_err();
        assert_eq!(failure.code, ExitCode::FileOpen);
        assert!(failure.remedy.unwrap().contains("chmod 0600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(of().unwrap().is_some());
        fs::write(&file, "two\nlines\n").unwrap();
        assert_eq!(of().unwrap_err().code, ExitCode::OptionInvalid);
        fs::remove_file(&file).unwrap();
        assert_eq!(of().unwrap_err().code, ExitCode::FileOpen);
        assert!(DeclaredRepository::default().passphrase(3).unwrap().is_none());
    }

    #[test]
    fn a_passphrase_comes_from_a_command_that_succeeds() {
        let of = |command: &str| declared("cipher-pass-command", command).passphrase(3);
        assert!(of("echo correct horse battery staple").unwrap().is_some());
        let failure = of("echo half; exit 3").unwrap_err();
        assert_eq!(failure.code, ExitCode::Config);
        assert!(failure.cause.unwrap().contains("exit status: 3"));
        assert!(of("true").is_err(), "nothing is no passphrase");
        assert!(of("head -c 10000 /dev/zero | tr '\\0' x").is_err(), "nor is too much");
    }
}
