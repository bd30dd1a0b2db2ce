//! The account that runs PostgreSQL and pgmesh.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The account that every program of a test runs as. PostgreSQL refuses to run as root, and file permissions mean
/// nothing to root. So the account is `postgres` if root runs the tests, else the user who runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user and group to change to, `None` if no change is needed.
    change_to: Option<(u32, u32)>,
}

impl Account {
    /// The account to use here.
    ///
    /// # Panics
    /// As root on a machine without a user `postgres`.
    #[must_use]
    pub fn current() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self { change_to: None };
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("reading /etc/passwd");
        let change_to = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                ["postgres", _, user, group, ..] => Some((user.parse().ok()?, group.parse().ok()?)),
                _ => None,
            }
        });
        assert!(
            change_to.is_some(),
            "running as root, but there is no user postgres to run PostgreSQL as: `make setup` installs it"
        );
        Self { change_to }
    }

    /// Gives `path`, without the files below it, to this account.
    pub fn own(self, path: &Path) {
        if let Some((user, group)) = self.change_to {
            chown(path, Some(user), Some(group))
                .unwrap_or_else(|error| panic!("giving {} away: {error}", path.display()));
        }
    }

    /// Creates a folder and its parents. The folder belongs to this account, and no other account may enter it.
    pub fn create_folder(self, path: &Path) {
        fs::create_dir_all(path).unwrap_or_else(|error| panic!("creating {}: {error}", path.display()));
        self.own(path);
        set_mode(path, 0o700);
    }

    /// Writes a file that belongs to this account and that no other account may read.
    pub fn write(self, path: &Path, content: impl AsRef<[u8]>) {
        fs::write(path, content).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        self.own(path);
        set_mode(path, 0o600);
    }

    /// A command that runs as this account in `folder`. Its environment has none of the test's settings for PostgreSQL
    /// or pgmesh.
    #[must_use]
    pub fn command(self, program: impl AsRef<Path>, folder: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .env("LANG", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .current_dir(folder);
        if let Some((user, group)) = self.change_to {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Sets the permissions of a file or folder.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("setting the permissions of {}: {error}", path.display()));
}
