//! Options of repositories (`repoN-…`) and PostgreSQL clusters (`pgN-…`).

use super::sets::{POSTGRES, POSTGRES_PATH, POSTGRES_SESSION, REPOSITORY};
use crate::config::kind::Kind;
use crate::config::option::{IndexKey, OptionSpec};
use std::time::Duration;

const fn repository(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
        .commands(REPOSITORY)
        .indexed(IndexKey::Repo)
}

const fn postgres(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
        .commands(POSTGRES_SESSION)
        .indexed(IndexKey::Pg)
}

/// Options of repositories of any type.
pub const OPTIONS: &[OptionSpec] = &[
    repository("type", Kind::Choice(&["posix", "s3", "azure", "gcs"]), "kind of storage")
        .default("posix")
        .about(
            "posix: a directory of the node that hosts the repository. s3, azure and gcs: a bucket that every node with \
            the credentials reaches. cifs and sftp are pgBackRest's only.",
            "repo2-type=s3",
        ),
    repository("path", Kind::Path, "where the repository lies").about(
        "For posix: a directory of its own, on storage that does not fail together with the others. In a bucket: what \
        stands before the names of all objects; the bucket's root where it is not given.",
        "repo1-path=/backup/repo1",
    ),
    repository(
        "cipher-type",
        Kind::Choice(&["none", "aes-256-cbc"]),
        "encryption of the repository",
    )
    .default("none")
    .about(
        "Every object is encrypted and then authenticated. Chosen once, when the repository is created.",
        "repo1-cipher-type=aes-256-cbc",
    ),
    repository("cipher-pass", Kind::Text, "passphrase of the repository")
        .secret()
        .about(
            "Only in a file or the environment. Each repository should have its own; whoever loses it loses the \
            repository. `openssl rand -base64 48` makes a good one.",
            "repo1-cipher-pass=…",
        ),
    repository("cipher-pass-file", Kind::Text, "file with the passphrase of the repository")
        .secret()
        .about(
            "One line, in a file that only its owner can read. In place of cipher-pass: so the configuration holds no \
            secret.",
            "repo1-cipher-pass-file=/etc/pgmesh/repo1.pass",
        ),
    repository("cipher-pass-command", Kind::Text, "command that prints the passphrase of the repository")
        .secret()
        .about(
            "In place of cipher-pass: the client of a key store, such as Vault or a cloud's KMS. Run by sh when the \
            repository is opened; it has 30 seconds, and prints one line.",
            "repo1-cipher-pass-command=vault kv get -field=pass secret/pgmesh/repo1",
        ),
    repository("delete", Kind::Flag, "whether objects may be deleted").default("y").about(
        "With n the credentials need no permission to delete: what is not needed any more stays, is marked in the catalog \
        and counted by status.",
        "repo2-delete=n",
    ),
    repository(
        "object-lock",
        Kind::Choice(&["none", "governance", "compliance"]),
        "retention of every object in a bucket",
    )
    .about(
        "Each object is written with a date before which nobody can delete it (compliance), or nobody without a special \
        permission (governance). The bucket must allow it. Default: none.",
        "repo2-object-lock=compliance",
    ),
    repository(
        "object-lock-period",
        Kind::Duration {
            min: Duration::from_secs(60),
            max: Duration::from_secs(100 * 366 * 24 * 3600),
        },
        "how long object-lock keeps an object",
    )
    .about("From the moment it is written.", "repo2-object-lock-period=30d"),
];

/// Options of PostgreSQL clusters.
pub const POSTGRES_OPTIONS: &[OptionSpec] = &[
    postgres("path", Kind::Path, "data directory of the cluster")
        .commands(POSTGRES)
        .required(POSTGRES_PATH)
        .about("What PostgreSQL calls PGDATA.", "pg1-path=/var/lib/postgresql/15/main"),
    postgres("host", Kind::Text, "host of the cluster").about(
        "The server is connected to over TCP, with the password that PGPASSWORD, PGPASSFILE or ~/.pgpass gives. On another \
            host than this one only a primary that backup-standby needs can be: of it pgN-path is not read.",
        "pg2-host=db1.example.com",
    ),
    postgres("port", Kind::Integer { min: 0, max: 65535 }, "port of the cluster")
        .default("5432")
        .about("It names the socket as well.", "pg1-port=5433"),
    postgres("socket-path", Kind::Path, "directory of the cluster's socket").about(
        "Default: where PostgreSQL's own programs look, /var/run/postgresql.",
        "pg1-socket-path=/tmp",
    ),
    postgres("user", Kind::Text, "database user to connect as")
        .about("Default: the name of the user that runs pgmesh.", "pg1-user=postgres"),
    postgres("database", Kind::Text, "database to connect to")
        .default("postgres")
        .about("Nothing is stored there; any database serves.", "pg1-database=postgres"),
];
