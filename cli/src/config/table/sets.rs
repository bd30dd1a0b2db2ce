//! Sets of commands that several options share.

use crate::config::command::Command::*;
use crate::config::command::CommandSet;

/// Every command that talks to the mesh.
pub const MESH: CommandSet = CommandSet::of(&[
    Annotate,
    ArchiveForget,
    ArchiveGet,
    ArchivePush,
    Backup,
    Check,
    ClientList,
    ClientRevoke,
    MeshRotateCa,
    Doctor,
    Expire,
    Hold,
    Info,
    Invite,
    NodeDemote,
    NodeDrain,
    NodeList,
    NodePromote,
    NodeRemove,
    NodeResume,
    Release,
    RepoGet,
    RepoLs,
    RepoRemove,
    RepoReplace,
    RepoSync,
    RepoUpdate,
    Restore,
    CatalogAcceptLoss,
    SessionEnd,
    StanzaAdopt,
    StanzaCreate,
    StanzaDelete,
    StanzaUpgrade,
    Start,
    Status,
    Stop,
    Verify,
]);

/// Commands that work for one stanza and need its name.
pub const ONE_STANZA: CommandSet = CommandSet::of(&[
    Annotate,
    ArchiveForget,
    ArchiveGet,
    ArchivePush,
    Backup,
    Check,
    Expire,
    Hold,
    Release,
    Restore,
    StanzaAdopt,
    StanzaCreate,
    StanzaDelete,
    StanzaUpgrade,
]);

/// Commands that take a stanza's name.
pub const STANZA: CommandSet = ONE_STANZA.and(CommandSet::of(&[
    Doctor, Info, Invite, RepoGet, RepoLs, Start, Stop, Verify,
]));

/// Commands that run beside a PostgreSQL cluster.
pub const POSTGRES: CommandSet = CommandSet::of(&[
    ArchiveGet,
    ArchivePush,
    Backup,
    Check,
    Doctor,
    Restore,
    StanzaAdopt,
    StanzaCreate,
    StanzaDelete,
    StanzaUpgrade,
]);

/// Commands that cannot do without the cluster's directory.
pub const POSTGRES_PATH: CommandSet = CommandSet::of(&[
    ArchivePush,
    Backup,
    Check,
    Restore,
    StanzaAdopt,
    StanzaCreate,
    StanzaUpgrade,
]);

/// Commands that connect to PostgreSQL.
pub const POSTGRES_SESSION: CommandSet = CommandSet::of(&[
    Backup,
    Check,
    Doctor,
    StanzaAdopt,
    StanzaCreate,
    StanzaDelete,
    StanzaUpgrade,
]);

/// Commands that make or run a node.
pub const NODE: CommandSet = CommandSet::of(&[CatalogRebuild, NodeInit, NodeJoin, NodeRescue, NodeStart]);

/// Commands that read the declarations of repositories: commands of a node, and commands that can work without one.
pub const REPOSITORY: CommandSet = CommandSet::of(&[
    CatalogRebuild,
    NodeInit,
    NodeJoin,
    NodeRescue,
    NodeStart,
    RepoCheck,
    RepoGet,
    RepoLs,
    RepoUpdate,
    Restore,
    ArchiveGet,
]);

/// Every command that does work, and so may have something to log.
pub const WORK: CommandSet = MESH.and(NODE).and(CommandSet::of(&[Join, RepoCheck]));
