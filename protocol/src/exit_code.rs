//! How a program of pgmesh ends: the one list of exit codes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Declares [`ExitCode`] from one table: number, name, when, remedy.
macro_rules! exit_codes {
    ($($name:ident = $number:literal, $when:literal, $remedy:literal;)*) => {
        /// The exit code of a pgmesh process, and of a [`Failure`](crate::Failure).
        ///
        /// The numbers and names are pgBackRest's, so that scripts and plugins keep working; 200 is pgmesh's own.
        /// PostgreSQL reads a `restore_command` that exits 1 to 125 as "end of archive" and one above 125 as "stop
        /// recovery". `docs/exit-codes.md` is this table for users.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ExitCode {
            $(#[doc = $when] $name = $number,)*
        }

        impl ExitCode {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, as here.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// When a program ends so, as one sentence.
            pub const fn when(self) -> &'static str {
                match self {
                    $(Self::$name => $when,)*
                }
            }

            /// The user's remedy, as one sentence.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }

            /// The code of a number; none where this program does not know it.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

exit_codes! {
    Ok = 0, "Done.", "Nothing.";
    NotFound = 1,
        "`archive-get`: the segment was never archived. Only a linearizable catalog read may say so (invariant 7).",
        "Nothing: PostgreSQL knows by this that the archive ends here.";
    Assert = 25, "A defect in pgmesh itself.", "Report it with what you did and with the log.";
    Checksum = 26, "Bytes do not match their checksum.",
        "`verify` tells which copies are damaged; good copies in other repositories repair them.";
    Config = 27, "The configuration cannot be read, or its parts contradict each other.",
        "Correct the file and the option that the message names.";
    FileInvalid = 28, "A file or a stored object is not what it should be.",
        "Look at the file that the message names: it is another kind of file, or was cut short.";
    Format = 29, "Text or bytes in a format that is not understood.",
        "Upgrade the older program; otherwise the file is damaged.";
    OptionInvalid = 31, "An option that does not exist here, or whose value is not allowed.",
        "Correct the option; `pgmesh help COMMAND` lists what is allowed.";
    OptionInvalidValue = 32, "A value of an option of `expire` or of retention is out of its range or has another form.",
        "Give a value that the hint of the message allows.";
    OptionRequired = 37, "An option or an argument is missing.", "Give the option that the message names.";
    PgRunning = 38, "PostgreSQL runs, and must not.", "Stop the server, or choose another directory.";
    Protocol = 39, "The other side of a connection broke the protocol, or refused the request by role.",
        "Use an identity with the right role; upgrade the older of the two programs.";
    PathNotEmpty = 40, "A directory that should be empty is not.",
        "Choose an empty directory, or give `--delta` or `--force` where the command knows them.";
    FileOpen = 41, "A file cannot be opened, or others can read a secret in it.",
        "Correct the owner and the mode of the file.";
    ArchiveMismatch = 44, "A WAL segment belongs to another cluster or version.",
        "Check `pg1-path` and the stanza; `stanza-upgrade` or `stanza-adopt` after a change of the cluster.";
    ArchiveDuplicate = 45, "The WAL segment is archived already with other content (invariant 3).",
        "Find the second server that archives to the same stanza, and stop it.";
    VersionNotSupported = 46, "A version of PostgreSQL, of a program or of a format that is not supported.",
        "Upgrade the program that the message names.";
    CommandInvalid = 48, "The command does not exist or cannot be used as things are.",
        "Follow the hint in the message; `pgmesh help` lists the commands.";
    HostConnect = 49, "No node could be reached.",
        "Start the nodes, and check their addresses and the firewall; `doctor` tells which answer.";
    LockAcquire = 50, "Another process or session holds the lock.",
        "Wait until it has ended; `status` names the session that holds it.";
    BackupMismatch = 51, "A backup belongs to another cluster.", "Check the stanza and `pg1-path`.";
    FileMissing = 55, "A file or an object is missing.",
        "Check the name; `doctor` and `verify` tell what the mesh has lost.";
    DbConnect = 56, "PostgreSQL could not be reached.",
        "Start the server, and check the `pg1-*` options and `pg_hba.conf`.";
    DbMismatch = 58, "PostgreSQL and the stanza disagree about the cluster.",
        "Check `pg1-path` and `pg1-port`; run `stanza-upgrade` after an upgrade of PostgreSQL.";
    Stop = 62, "The stanza was stopped, or was not stopped where it has to be.",
        "`pgmesh --stanza=NAME start` lets it go on, `stop` stops it.";
    ArchiveCommandInvalid = 68, "PostgreSQL's `archive_command` is not pgmesh's.",
        "Set `archive_command` as the message says.";
    BackupSetInvalid = 75, "The backup set asked for does not exist or cannot be used.",
        "`pgmesh info` lists the backups.";
    TablespaceMap = 76, "A tablespace mapping that does not fit.",
        "Correct `tablespace-map`; `info --set` lists the tablespaces of a backup.";
    LinkMap = 78, "A link mapping that does not fit.", "Correct `link-map`, or make the directory that it names.";
    ArchiveTimeout = 82, "WAL was not archived in time, or a write reached too few repositories.",
        "`doctor` tells which repositories are away; try again when they are back.";
    ArchiveDisabled = 87, "PostgreSQL's `archive_mode` is off.", "Set `archive_mode = on` and restart PostgreSQL.";
    Crypto = 95, "A wrong passphrase, or another failure of keys and certificates.",
        "Check `repo1-cipher-pass`, or join again for a new certificate.";
    RepoInvalid = 103, "A repository is damaged, missing or declared differently.",
        "`pgmesh --repo=N repo-check` tries it step by step.";
    Command = 104, "A command that pgmesh ran failed.", "See the message for the command and its output.";
    Runtime = 122, "The operating system refused something, or something else failed at run time.",
        "See the cause in the message; try again where it says so.";
    Unknown = 125, "Anything else, such as a code of a newer program.", "Upgrade this program, and see the message.";
    ArchiveUnknown = 200,
        "`archive-get` cannot know whether the segment exists: PostgreSQL stops instead of ending recovery early (invariant 7).",
        "Bring the nodes back, then start PostgreSQL again.";
}

impl ExitCode {
    /// The number that the process returns.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl Serialize for ExitCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

/// Reads a peer's code. A number that is not known here, or that says success, becomes [`ExitCode::Unknown`]: a
/// failure.
impl<'de> Deserialize<'de> for ExitCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = Self::from_number(u8::deserialize(deserializer)?);
        Ok(match code {
            None | Some(Self::Ok | Self::NotFound) => Self::Unknown,
            Some(code) => code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::wire;

    #[test]
    fn a_code_is_one_byte_and_one_of_a_newer_peer_is_unknown() {
        for code in ExitCode::ALL {
            assert_eq!(wire::encode(code), [code.number()]);
            assert_eq!(ExitCode::from_number(code.number()), Some(*code));
        }
        let read = |number: u8| wire::decode::<ExitCode>(&[number], 1).unwrap();
        assert_eq!(read(103), ExitCode::RepoInvalid);
        for number in [0, 1, 24, 126, 255] {
            assert_eq!(read(number), ExitCode::Unknown, "{number}");
        }
    }

    #[test]
    fn only_the_unknown_archive_stops_recovery() {
        assert!(ExitCode::ArchiveUnknown.number() > 125);
        assert!(ExitCode::Unknown.number() <= 125);
    }

    #[test]
    fn the_table_for_users_has_a_line_for_each_code() {
        // Asked when it runs: another clone may have built it.
        let own = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let path = format!("{own}/../docs/exit-codes.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).skip(2).collect();
        let without_invariants = |when: &str| {
            when.rsplit_once(" (invariant ").map_or(when.to_owned(), |(head, _)| {
                let end = if head.ends_with('.') { "" } else { "." };
                format!("{head}{end}")
            })
        };
        let expected: Vec<String> = ExitCode::ALL
            .iter()
            .map(|code| {
                let (number, name) = (code.number(), code.name());
                format!(
                    "| {number} | {name} | {} | {} |",
                    without_invariants(code.when()),
                    code.remedy()
                )
            })
            .collect();
        assert_eq!(
            rows,
            expected,
            "docs/exit-codes.md and ExitCode differ; the lines should be:\n{}",
            expected.join("\n")
        );
    }
}
