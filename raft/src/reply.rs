//! The catalog's answers to the commands that it has accepted.

use pgmesh_storage::{BackupLabel, DbId};
use serde::{Deserialize, Serialize};

use crate::model::{LogIndex, ObjectRef, Replica, SessionId};

/// The answer to an accepted command; [`Command`](crate::Command) says which variant belongs to which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is so now.
    Done,
    /// The file is archived.
    Pushed {
        /// The replicas that count.
        replicas: Vec<Replica>,
    },
    /// The same bytes were archived before (invariant 3).
    AlreadyThere {
        /// The replicas that count, together with the replicas that this push added.
        replicas: Vec<Replica>,
    },
    /// The stanza's current database.
    Database(DbId),
    /// The session is open.
    Session(SessionId),
    /// The session is the node's to keep alive.
    Adopted {
        /// Its lease from now on.
        lease: LogIndex,
    },
    /// One step of a stanza's deletion.
    Deleting {
        /// Whether rows are left: propose it again.
        more: bool,
    },
    /// One step of owing all objects to a new repository.
    Backfilled {
        /// Debts written in this step.
        debts: u32,
        /// Whether objects are left: propose it again.
        more: bool,
    },
    /// How many of the replicas were taken into account.
    Added {
        /// The number; the others were of unknown objects or of a generation that must not be used.
        accepted: u32,
    },
    /// A bad replica was withdrawn, or had been before.
    Withdrawn {
        /// How many good replicas are left.
        remaining: u16,
    },
    /// The chunks are suspected.
    Suspected {
        /// Since this position.
        since: LogIndex,
    },
    /// How many chunks were condemned by this command.
    Condemned {
        /// The number.
        chunks: u32,
    },
    /// How many condemned or suspected chunks were taken back.
    Reprieved {
        /// The number.
        chunks: u32,
    },
    /// Orphans were made garbage.
    Discarded {
        /// How many; the others were passed over.
        objects: u32,
        /// Their bytes in the repository.
        bytes: u64,
    },
    /// The node has another number.
    Renumbered {
        /// Its number in the Raft group.
        node_id: u64,
        /// The number that it had before, which must leave the Raft group.
        replaced: u64,
    },
    /// One step of forgetting a repository.
    Retiring {
        /// Whether rows are left: propose it again.
        more: bool,
    },
    /// The repository is not forgotten: an object is nowhere else.
    StillNeeded {
        /// The object.
        object: ObjectRef,
    },
    /// One step of owing a repository everything that its lost disk held.
    Replacing {
        /// Whether objects are left: propose it again.
        more: bool,
    },
    /// The token was good and is used up: its bearer is a member of the mesh.
    Joined {
        /// The certificate that it was given, DER.
        certificate: Vec<u8>,
        /// Its number in the Raft group, if it is a node.
        node_id: Option<u64>,
    },
    /// Certificates count no more.
    Revoked {
        /// How many; 0 where all had been revoked before.
        certificates: u32,
    },
    /// Backups that the repository kept until now.
    Expired {
        /// Their labels.
        labels: Vec<BackupLabel>,
    },
    /// WAL files that the repository kept until now.
    ExpiredWal {
        /// How many.
        files: u32,
        /// How many stay until another repository has its copy.
        waiting: u32,
    },
    /// Objects were released in a repository.
    Released {
        /// How many.
        objects: u32,
        /// Their stored bytes.
        bytes: u64,
        /// How many stay for a while: another repository owes a copy of them, or a running backup may have added them.
        waiting: u32,
    },
    /// The hold on a backup has changed.
    Held {
        /// The backup, and the backups that it depends on.
        labels: Vec<BackupLabel>,
    },
    /// The former authority counts no more.
    CutOff {
        /// The clients whose certificates were of it: the first of them.
        names: Vec<String>,
        /// How many more there are.
        more: u64,
    },
}
