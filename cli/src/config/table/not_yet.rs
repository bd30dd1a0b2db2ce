//! Options of pgBackRest that pgmesh does not have. A file that sets one gets a warning that says so, never a crash;
//! an option moves from here to its group when it comes to life.

use crate::config::option::{IndexKey, OptionSpec};

const ASYNC: &str = "pgmesh pushes and fetches each WAL segment at once and has no queue of its own";
const FOREIGN_STORE: &str = "pgmesh has no repositories over CIFS or SFTP";
const REMOTE: &str = "pgmesh runs on the PostgreSQL host and reaches repositories through its nodes (mesh-node)";
const TLS_SERVER: &str = "a pgmesh node makes its own certificates and listens at node-listen";
const BUNDLE: &str = "pgmesh always bundles small files";
const BLOCK: &str = "pgmesh stores chunks and needs no block map";
const NETWORK: &str = "pgmesh speaks QUIC, which sees to keep-alive and compression by itself";
const LISTING: &str = "pgmesh lists and prints objects in one way so far";
const INTERNAL: &str = "it is of use inside pgBackRest only";

const fn plain(name: &'static str, sentence: &'static str) -> OptionSpec {
    OptionSpec::not_yet(name, sentence)
}

const fn repo(name: &'static str, sentence: &'static str) -> OptionSpec {
    OptionSpec::not_yet(name, sentence).indexed(IndexKey::Repo)
}

const fn pg(name: &'static str, sentence: &'static str) -> OptionSpec {
    OptionSpec::not_yet(name, sentence).indexed(IndexKey::Pg)
}

/// All of them, each with its sentence.
pub const OPTIONS: &[OptionSpec] = &[
    plain("archive-async", ASYNC),
    plain("archive-get-queue-max", ASYNC),
    plain("archive-push-queue-max", ASYNC),
    plain(
        "archive-missing-retry",
        "pgmesh knows from its catalog whether a segment exists and asks only once",
    ),
    plain("archive-copy", "pgmesh does not copy WAL into a backup"),
    plain("cmd", "pgmesh calls itself by the path it was started from"),
    plain("cmd-ssh", REMOTE),
    plain("compress", "compress-type=none says the same"),
    plain("compress-level-network", NETWORK),
    plain("sck-block", NETWORK),
    plain("sck-keep-alive", NETWORK),
    plain("tcp-keep-alive-count", NETWORK),
    plain("tcp-keep-alive-idle", NETWORK),
    plain("tcp-keep-alive-interval", NETWORK),
    plain(
        "protocol-timeout",
        "io-timeout is the only time-out of pgmesh's own protocol",
    ),
    plain("config-path", "config and config-include-path say the same"),
    plain("filter", LISTING),
    plain("recurse", LISTING),
    plain("sort", LISTING),
    plain("raw", LISTING),
    plain("ignore-missing", LISTING),
    plain("report", "pgmesh has no support report"),
    plain(
        "job-retry",
        "pgmesh repeats what failed until io-timeout or archive-timeout",
    ),
    plain(
        "job-retry-interval",
        "pgmesh repeats what failed until io-timeout or archive-timeout",
    ),
    plain("log-subprocess", "pgmesh is one process"),
    plain("neutral-umask", "pgmesh restores the modes that the backup recorded"),
    plain(
        "page-header-check",
        "pgmesh checks page checksums, which cover the header",
    ),
    plain("pg-version-force", "pgmesh reads the version from the cluster itself"),
    plain("beta", INTERNAL),
    plain("priority", "the process keeps the priority that it was started with"),
    plain("exec-id", INTERNAL),
    plain("process", INTERNAL),
    plain("remote-type", INTERNAL),
    plain("limit", LISTING),
    plain("scope", INTERNAL),
    plain("tls-server-address", TLS_SERVER),
    plain("tls-server-auth", TLS_SERVER),
    plain("tls-server-ca-file", TLS_SERVER),
    plain("tls-server-cert-file", TLS_SERVER),
    plain("tls-server-crl-file", TLS_SERVER),
    plain("tls-server-key-file", TLS_SERVER),
    plain("tls-server-port", TLS_SERVER),
    repo("block", BLOCK),
    repo("block-age-map", BLOCK),
    repo("block-checksum-size-map", BLOCK),
    repo("block-size-map", BLOCK),
    repo("block-size-super", BLOCK),
    repo("block-size-super-full", BLOCK),
    repo("bundle", BUNDLE),
    repo("bundle-limit", BUNDLE),
    repo("bundle-size", BUNDLE),
    repo("hardlink", "pgmesh stores each chunk once and needs no links"),
    repo("symlink", "pgmesh stores each chunk once and needs no links"),
    repo("local", REMOTE),
    repo("target-time", "pgmesh reads the repository as it is now"),
    repo("host", REMOTE),
    repo("host-ca-file", REMOTE),
    repo("host-ca-path", REMOTE),
    repo("host-cert-file", REMOTE),
    repo("host-cmd", REMOTE),
    repo("host-config", REMOTE),
    repo("host-config-include-path", REMOTE),
    repo("host-config-path", REMOTE),
    repo("host-key-file", REMOTE),
    repo("host-port", REMOTE),
    repo("host-type", REMOTE),
    repo("host-user", REMOTE),
    repo("sftp-host", FOREIGN_STORE),
    repo("sftp-host-fingerprint", FOREIGN_STORE),
    repo("sftp-host-key-check-type", FOREIGN_STORE),
    repo("sftp-host-key-hash-type", FOREIGN_STORE),
    repo("sftp-host-port", FOREIGN_STORE),
    repo("sftp-host-user", FOREIGN_STORE),
    repo("sftp-known-host", FOREIGN_STORE),
    repo("sftp-private-key-file", FOREIGN_STORE),
    repo("sftp-private-key-passphrase", FOREIGN_STORE).secret(),
    repo("sftp-public-key-file", FOREIGN_STORE),
    repo("s3-role", "the metadata service tells the role by itself"),
    pg("local", REMOTE),
    pg("host-ca-file", REMOTE),
    pg("host-ca-path", REMOTE),
    pg("host-cert-file", REMOTE),
    pg("host-cmd", REMOTE),
    pg("host-config", REMOTE),
    pg("host-config-include-path", REMOTE),
    pg("host-config-path", REMOTE),
    pg("host-key-file", REMOTE),
    pg("host-port", REMOTE),
    pg("host-type", REMOTE),
    pg("host-user", REMOTE),
];
