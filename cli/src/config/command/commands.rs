//! The description of each command: its words, its help, its examples.

use super::{Argument, Command, CommandSpec, clients, nodes, repositories, retention};

/// Every command, in the order of [`Command`].
pub const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        command: Command::Annotate,
        name: "annotate",
        summary: "Add, change or remove notes of a backup",
        about: "Sets key=value notes of an existing backup. An empty value removes the key. `info --set` shows them.",
        arguments: &[],
        examples: &[(
            "pgmesh --stanza=main --set=20261123-020001F --annotation=why='before the upgrade' annotate",
            "note why the backup was taken",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::ArchiveForget,
        name: "archive-forget",
        summary: "Take a copy's WAL out of the archive, so that the original's goes in",
        about: "When a copy of a cluster has archived WAL (a clone that came first, a restore for a test), or the \
                cluster was put back to a snapshot, the archive holds another history than the cluster, which is \
                refused with exit 44 or 45. The refusal, `status` and `doctor` name the file to give here. Forgets \
                this file and all later WAL of its timeline, and the timelines that branch off from there; a history \
                file stands for its whole timeline. The cluster's own WAL goes in when its archiver tries again, \
                within a minute.\n\n\
                Forgotten WAL cannot be brought back: --dry-run lists it. Refused when backups need the WAL, unless \
                --with-backups removes them too. Refused while WAL is pushed to the timeline, while no server is \
                refused because of this WAL, and while the stanza is being restored, unless --force is given. Always \
                refused while a backup runs. The first segment is marked as missing until other content is pushed; if \
                it is forgotten once more, the mark is removed, too. Needs an administrator's certificate, as a node \
                has it. `--output=json`: `timelines` (`timeline`, `first`, `last`, `files`, `bytes`), `backups` (the \
                first 20), `backup-count`.",
        arguments: &[Argument::required(
            "FILE",
            "the first file: a segment, or a timeline's history file",
        )],
        examples: &[
            (
                "pgmesh --stanza=main --dry-run archive-forget 0000000100000002000000A4",
                "WAL of timeline 1 from after a snapshot that was put back",
            ),
            (
                "pgmesh --stanza=main archive-forget 00000002.history",
                "all that a promoted copy has archived of timeline 2",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::ArchiveGet,
        name: "archive-get",
        summary: "Fetch a WAL segment (restore_command)",
        about: "Writes the checked bytes of a WAL segment, history, backup or partial file to a path. Exits 1 only \
                when the catalog says for certain that the file was never archived and that nothing later of its \
                history is (see --archive-hole); when that cannot be known it \
                exits above 125, so that PostgreSQL stops instead of ending recovery early. While standby.signal is \
                present PostgreSQL retries, and the exit code stays below 126.",
        arguments: &[
            Argument::required("SEGMENT", "the file's name, %f in restore_command"),
            Argument::required("DEST", "where to write it, %p in restore_command"),
        ],
        examples: &[(
            "restore_command = 'pgmesh --stanza=main archive-get %f \"%p\"'",
            "in postgresql.conf; restore writes this line itself",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::ArchivePush,
        name: "archive-push",
        summary: "Archive a WAL segment (archive_command)",
        about: "Sends one WAL file to all repositories of the stanza and exits 0 when archive-ack of them hold it \
                durably and the catalog has recorded it. The same file again succeeds with a warning; other content \
                under a known name is refused with exit 45.",
        arguments: &[Argument::required("PATH", "the file, %p in archive_command")],
        examples: &[(
            "archive_command = 'pgmesh --stanza=main archive-push %p'",
            "in postgresql.conf",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::Backup,
        name: "backup",
        summary: "Back up the running cluster",
        about: "Reads the cluster once through PostgreSQL's backup API and stores it in all repositories of the \
                stanza. A backup that was killed is taken up again by the next one.",
        arguments: &[],
        examples: &[
            ("pgmesh --stanza=main --type=full backup", "a full backup"),
            (
                "pgmesh --stanza=main --type=full --process-max=4 --start-fast backup",
                "four readers, no waiting for a checkpoint",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::CatalogAcceptLoss,
        name: "catalog-accept-loss",
        summary: "Give up lost entries of the catalog, and serve again",
        about: "When the node-path of every node was replaced by an older copy, the catalog has lost the entries that \
                it had acknowledged since. The repositories show this, and the mesh serves nothing. This command \
                gives up the lost entries: the mesh serves again, with the backups and the WAL that the catalog \
                knows. Other backups and WAL stay in the repositories as orphans. 'catalog-rebuild' from a repository \
                finds them again; newer copies of the node-paths lose nothing.\n\n\
                The same command takes a mesh back from another catalog that has taken over, if a node was rescued \
                (`node rescue`) although the other nodes were not gone. Stop the rescued node first: everything that \
                it has acknowledged meanwhile is given up, and it joins again with an empty node-path. No backup is \
                taken until the repositories have been compared with the catalog.",
        arguments: &[Argument::required(
            "POSITION",
            "the position that the catalog had reached, as doctor and status show it",
        )],
        examples: &[(
            "pgmesh --config=/etc/pgmesh/node.conf catalog-accept-loss 48112",
            "when there are no newer copies",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::CatalogRebuild,
        name: "catalog-rebuild",
        summary: "Make a node anew from a repository when all nodes are gone",
        about: "Needs a repository of any type, declared in the node's file with its passphrase, and no network \
                between nodes. Makes node-path as `node init` does, under the mesh's old identity and with a new \
                certificate authority, and fills the catalog with what the repository says of itself: stanzas, \
                backups, WAL. All WAL is read and checked. Chunks are only listed; `verify` reads their content. \
                Nothing in the repository is changed or deleted; a mark is added that keeps out nodes of the old mesh \
                that still run: they acknowledge and delete nothing there any more. So a repository that a mesh has \
                written to in the last ten minutes is refused without `--force`. For some minutes after the start no \
                backup is taken.\n\n\
                Where the file declares several repositories, --repo says which one is read; the others are taken up \
                when the node starts, and `repo-sync` fills them. Objects that cannot be used are listed, each with a \
                remedy. `--output=json`: `stanzas`, `chunks`, `unnamed`, and `problems`, each with `kind`, `stanza`, \
                `subject`, `what` and `remedy`. Interrupted, it is run again and starts over. Afterwards: `node \
                start`, then let every host join (`invite`, `join`), and run `check`. If no backup tells the data \
                directory of a cluster, its WAL is refused until `stanza-adopt` is run on its host.",
        arguments: &[],
        examples: &[
            (
                "pgmesh --config=/etc/pgmesh/node.conf catalog-rebuild",
                "on a new host whose file declares the repository that is left",
            ),
            (
                "pgmesh --config=/etc/pgmesh/node.conf --repo=2 --process-max=8 catalog-rebuild",
                "from the second of several, eight objects at once",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::Check,
        name: "check",
        summary: "Prove that archiving works from end to end",
        about: "Compares the configuration with the running cluster, switches the WAL and waits until the segment is \
                in every repository. Names WAL that is missing from the archive and the recovery targets that it costs; exits 55 \
                when no backup can be recovered to the present because of it. Names the WAL that waits in pg_wal and what PostgreSQL \
                says of archive_command; where no segment is switched, it exits 82 when the archiver is stuck. Names background workers of nodes that have ended unexpectedly.",
        arguments: &[],
        examples: &[("pgmesh --stanza=main check", "after every change of the configuration")],
        hidden: false,
    },
    clients::LIST,
    clients::REVOKE,
    clients::ROTATE,
    CommandSpec {
        command: Command::Completions,
        name: "completions",
        summary: "Print completions for a shell",
        about: "Prints a completion script for bash, zsh, fish, elvish or powershell.",
        arguments: &[Argument::required("SHELL", "bash, zsh, fish, elvish or powershell")],
        examples: &[(
            "pgmesh completions bash > /etc/bash_completion.d/pgmesh",
            "for all users of bash",
        )],
        hidden: true,
    },
    CommandSpec {
        command: Command::Doctor,
        name: "doctor",
        summary: "Look for everything that is wrong with the mesh",
        about: "Looks at this host's configuration and certificate, dials each node, and asks the mesh how it does; on a PG host also which WAL waits there and what PostgreSQL says of archive_command, for the given stanza or all that the files have a section for: a line a check, with ok, warn or FAIL, what was found, and what to do about it. Exits 0 when nothing failed, else with the code of the first failure. `--output=json`: `status` (ok, warn, fail) and `checks`, each with `check`, `verdict`, `found`, `remedy` and `code`.",
        arguments: &[],
        examples: &[
            (
                "pgmesh --config=/etc/pgmesh/node.conf doctor",
                "on a node, before and after every change",
            ),
            (
                "pgmesh --output=json doctor",
                "on a PG host, as the user of PostgreSQL, for monitoring",
            ),
        ],
        hidden: false,
    },
    retention::EXPIRE,
    CommandSpec {
        command: Command::Help,
        name: "help",
        summary: "Explain a command or an option",
        about: "Without an argument: all commands. With a command: its options. With a command and an option: all \
                about that option.",
        arguments: &[
            Argument::optional("COMMAND", "the command to explain"),
            Argument::optional("OPTION", "the option of that command to explain"),
        ],
        examples: &[
            ("pgmesh help restore", "the options of restore"),
            ("pgmesh help restore target-action", "one option at length"),
        ],
        hidden: false,
    },
    retention::HOLD,
    CommandSpec {
        command: Command::Info,
        name: "info",
        summary: "Show stanzas, backups and repositories",
        about: "Shows what is archived and backed up, per stanza and repository, and what is wrong with it. \
                `--output=json` has the keys that pgBackRest's monitoring plugins read, and beside them of each stanza `wal-holes`: \
                missing WAL and the recovery targets that it costs.",
        arguments: &[],
        examples: &[
            ("pgmesh info", "everything, for people"),
            ("pgmesh --stanza=main --output=json info", "one stanza, for programs"),
            (
                "pgmesh --stanza=main --set=20261123-020001F info",
                "one backup at length",
            ),
        ],
        hidden: false,
    },
    clients::INVITE,
    clients::JOIN,
    nodes::DEMOTE,
    nodes::DRAIN,
    nodes::INIT,
    nodes::JOIN,
    nodes::LIST,
    nodes::PROMOTE,
    nodes::REMOVE,
    nodes::RESCUE,
    nodes::RESUME,
    nodes::START,
    retention::RELEASE,
    repositories::CHECK,
    repositories::GET,
    repositories::LS,
    repositories::REMOVE,
    repositories::REPLACE,
    repositories::SYNC,
    repositories::UPDATE,
    CommandSpec {
        command: Command::Restore,
        name: "restore",
        summary: "Restore a backup, up to any moment after it",
        about: "Writes a backup to pg1-path and the settings by which PostgreSQL recovers to the target when it \
                starts. Refuses a running cluster, and a directory that is not empty without --force or --delta.",
        arguments: &[],
        examples: &[
            ("pgmesh --stanza=main restore", "the newest backup and all WAL after it"),
            (
                "pgmesh --stanza=main --type=time --target='2026-11-23 04:29:57+00' --target-action=promote restore",
                "as it was at that second",
            ),
            (
                "pgmesh --stanza=main --repo-direct --repo=1 --config=/etc/pgmesh/disaster.conf restore",
                "from one repository and its passphrase, with no node alive",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::SessionEnd,
        name: "session-end",
        summary: "End the session of a backup or restore that hangs",
        about: "Ends an open session of any client: the stanza of a backup is free again, and garbage that was kept \
                for the session is deleted. The process that held it fails at its next request; a new backup does not \
                send again what was stored. `doctor` names sessions that are old.",
        arguments: &[Argument::required(
            "ID",
            "the session's number, as doctor and status say it",
        )],
        examples: &[(
            "pgmesh --config=/etc/pgmesh/node.conf session-end 4711",
            "after the host of a backup was lost",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::StanzaAdopt,
        name: "stanza-adopt",
        summary: "Say that a cluster was moved here",
        about: "Each timeline is archived by one data directory, so that a copy of the cluster cannot pollute the \
                archive. When the cluster itself was moved (rsync, cp, a restored image), the mesh cannot tell it \
                from a copy and refuses it with exit 44. This command, run on the cluster's host, makes its data \
                directory the writer, and names the former writer, whose WAL is refused from then on. The command is \
                refused if the former writer has pushed within the last minutes.",
        arguments: &[],
        examples: &[("pgmesh --stanza=main stanza-adopt", "on the new host, after a move")],
        hidden: false,
    },
    CommandSpec {
        command: Command::StanzaCreate,
        name: "stanza-create",
        summary: "Make the mesh know a cluster",
        about: "Registers the cluster at pg1-path under the stanza's name. Doing it again changes nothing; another \
                cluster under the same name is refused with exit 28.",
        arguments: &[],
        examples: &[("pgmesh --stanza=main stanza-create", "once, before archiving starts")],
        hidden: false,
    },
    CommandSpec {
        command: Command::StanzaDelete,
        name: "stanza-delete",
        summary: "Forget a stanza with all its backups and WAL",
        about: "Deletes everything that belongs to a stanza. Unless --force is given, the stanza must have been \
                stopped, and PostgreSQL must not run: the command looks for a server on pg1-path; without pg1-path, \
                WAL of the last five minutes counts as a running server. Refused while a backup runs.",
        arguments: &[],
        examples: &[(
            "pgmesh --stanza=old stop && pgmesh --stanza=old stanza-delete",
            "after the cluster is gone",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::StanzaUpgrade,
        name: "stanza-upgrade",
        summary: "Follow a cluster through pg_upgrade",
        about: "Starts a new database id for the upgraded cluster under the same stanza. Earlier backups and WAL \
                stay restorable.",
        arguments: &[],
        examples: &[(
            "pgmesh --stanza=main stanza-upgrade",
            "after pg_upgrade, before archiving goes on",
        )],
        hidden: false,
    },
    CommandSpec {
        command: Command::Start,
        name: "start",
        summary: "Let commands run again after `stop`",
        about: "Takes back `pgmesh stop` for one stanza, or for all when no stanza is given.",
        arguments: &[],
        examples: &[("pgmesh --stanza=main start", "after maintenance")],
        hidden: false,
    },
    CommandSpec {
        command: Command::Status,
        name: "status",
        summary: "Show how the whole mesh does",
        about: "Leader, term and quorum; of each node its part, state, address, program, log positions, round trip and uptime; of each repository its health, content and debt; of a shared one its place, which nodes reach it and which have it open; what object lock or `delete=n` keeps; what has no good copy; what is missing from the WAL; how many sessions are open. `--output=json` has the keys `mesh`, `node`, `leader`, `term`, `quorum`, `catalog-format`, `apply-level`: how commands of the catalog are applied, the highest level that the programs of all nodes have, `joint`: whether the voters are being changed, `next-voters`: to which, `nodes` (`name`, `id`, `region`, `addresses`, `role`, `state`, `program`, `apply-level`: the highest of its program, `repositories`, `reachable`, `error`, `round-trip-us`, `uptime`, `clock`, `term`, `leader-id`, `last-log`, `last-applied`, `snapshot`, `certificate-expires`, `disk-free`, `trouble`: why it does not take part in consensus, `began-anew`: where its former catalog is kept, `skipped-entries`, `stuck`: hosts whose WAL it refuses, with `stanza`, `host`, `address`, `data-directory`, `file`, `since`, `last`, `code`, `why` and `remedy`, `workers`: background workers that have ended unexpectedly since its start, with `node`, `worker`, `ends`: how often, `last`, `why` and `running`, `failure`), `repositories` (`key`, `type`, `host`, `place`, `nodes` (`name`, `reaches`, `health`; the ways to a shared one), `health`, `objects`, `bytes`, `debt`, `kept`, `orphans`: objects that the catalog does not know: `scanned`: when the last scan ended, `scanning`, what it has `seen`, of that what an `earlier` era of the catalog named and how many are `unreadable`, `foreign` files, what is `waiting` for a second look, what was `deleted`), `lost` (`objects`, `more`, `chunks`, `since`, `searching`, `catalog`: what the catalog itself has lost, `uncompared`: repositories that are to be compared with it, `stanzas`: of each its `backup`, `wal`, `wal-files` and `description`): what has no good copy anywhere; `wal-holes`: of each stanza whose WAL has holes the first ones and what they cost; `unopened` (`key`, `node`, `why`): repositories that a node declares and nobody could open yet, `expired`: backups that have expired and are not deleted yet (`repositories` with `key` and `backups`, `unlisted`: stanzas whose chunks are not known in full, so that none is deleted, `since` and `why`: the leader could not delete them), `rotation`: that of the mesh's authority that is under way, as `mesh rotate-ca` has it, `sessions-open`, and `sessions` (`id`, `kind`, `stanza`, `holder`, `node`, `opened`, `quiet`: seconds without progress), the oldest 100.",
        arguments: &[],
        examples: &[
            ("pgmesh --config=/etc/pgmesh/node.conf status", "for people"),
            (
                "pgmesh --config=/etc/pgmesh/node.conf --output=json status",
                "for programs",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::Stop,
        name: "stop",
        summary: "Refuse pushes and backups of a stanza",
        about: "Until `pgmesh start`, commands that write for the stanza exit 62. Without a stanza: for all of them. \
                With --force, running backups and restores are ended, too: they fail at their next request.",
        arguments: &[],
        examples: &[("pgmesh --stanza=main stop", "before maintenance")],
        hidden: false,
    },
    CommandSpec {
        command: Command::Verify,
        name: "verify",
        summary: "Read and check everything that is stored",
        about: "Reads every object of every repository, checks its MAC, digest and length, resolves every backup's \
                extents, and reports WAL that is missing, with the recovery targets that it costs. Exits 26 when anything is damaged or missing, and 103 when nothing is \
                but a repository could not be read.",
        arguments: &[],
        examples: &[
            ("pgmesh verify", "all stanzas in all repositories"),
            (
                "pgmesh --stanza=main --repo=2 --output=json verify",
                "one repository, for programs",
            ),
        ],
        hidden: false,
    },
    CommandSpec {
        command: Command::Version,
        name: "version",
        summary: "Print the program's version",
        about: "Prints the program's name and version. `--verbose` also prints the formats that the program reads and writes: of the catalog, of the wire protocol, of repositories and of what lies in them. Nodes of one mesh have the same catalog format and speak the same wire protocol; `pgmesh status` shows the mesh's apply level.",
        arguments: &[],
        examples: &[("pgmesh version", ""), ("pgmesh version --verbose", "with the formats")],
        hidden: false,
    },
];
