//! The second repository: a directory of the node nearest to the PG host or, with `--s3`, a bucket that all nodes
//! share.

use pgmesh_tests::stores::S3Server;
use pgmesh_tests::{Damage, Kind, Mesh, MeshBuilder, Object};

use crate::NEAR;

const BUCKET: &str = "backups";

/// The place of the second repository.
pub enum Second {
    /// Below the folder of its node.
    Directory,
    /// In a bucket of this server.
    Bucket(Box<S3Server>),
}

/// The damaged objects.
pub enum Harmed {
    /// Files.
    Objects(Vec<Object>),
    /// Names in the bucket.
    Names(Vec<String>),
}

impl Harmed {
    pub fn len(&self) -> usize {
        match self {
            Self::Objects(objects) => objects.len(),
            Self::Names(names) => names.len(),
        }
    }
}

impl Second {
    /// Starts the server of the bucket, if there is one.
    pub fn start(with_s3: bool) -> Self {
        if !with_s3 {
            return Self::Directory;
        }
        Self::Bucket(Box::new(S3Server::start(BUCKET)))
    }

    /// Declares the repository in the mesh.
    pub fn declare<'a>(&self, mesh: MeshBuilder<'a>) -> MeshBuilder<'a> {
        match self {
            Self::Directory => mesh,
            Self::Bucket(server) => {
                let bucket = server
                    .bucket(BUCKET, server.address())
                    .with("path", "/pgmesh")
                    .with("storage-timeout", "2s");
                mesh.without_repository(NEAR).shared_repository(NEAR, &bucket)
            }
        }
    }

    /// The repository, in words for the reader of the demo.
    pub fn what(&self) -> String {
        match self {
            Self::Directory => "a directory of beta".to_owned(),
            Self::Bucket(server) => format!("the bucket '{BUCKET}' of an S3 server (moto, {})", server.address()),
        }
    }

    /// The server of the bucket, if it is one.
    pub fn server(&self) -> Option<&S3Server> {
        match self {
            Self::Directory => None,
            Self::Bucket(server) => Some(server),
        }
    }

    /// Leaves the server running. Returns its process id.
    pub fn keep(&mut self) -> Option<u32> {
        match self {
            Self::Directory => None,
            Self::Bucket(server) => Some(server.keep()),
        }
    }

    /// The names of its chunks.
    fn names(server: &S3Server) -> Vec<String> {
        let names = server.names(BUCKET).into_iter();
        names.filter(|name| name.starts_with("pgmesh/chunk/")).collect()
    }

    /// How many chunks it has.
    pub fn chunks(&self, mesh: &Mesh) -> usize {
        match self {
            Self::Directory => mesh.objects(NEAR).all(Kind::Chunk).len(),
            Self::Bucket(server) => Self::names(server).len(),
        }
    }

    /// Damages some of its chunks.
    pub fn harm(&self, mesh: &Mesh) -> Harmed {
        match self {
            Self::Directory => {
                let chunks = mesh.objects(NEAR).all(Kind::Chunk);
                let every = chunks.len().div_ceil(Damage::ALL.len()).max(1);
                let harmed: Vec<Object> = chunks.into_iter().step_by(every).collect();
                for (damage, object) in Damage::ALL.iter().zip(&harmed) {
                    damage.harm(object);
                }
                Harmed::Objects(harmed)
            }
            Self::Bucket(server) => {
                let names = Self::names(server);
                let every = names.len().div_ceil(9).max(1);
                let harmed: Vec<String> = names.into_iter().step_by(every).collect();
                for (number, name) in harmed.iter().enumerate() {
                    server.harm(BUCKET, name, |content| match number % 3 {
                        0 => content.truncate(content.len() / 2),
                        1 => content.push(0),
                        _ => {
                            let middle = content.len() / 2;
                            content[middle] ^= 1;
                        }
                    });
                }
                Harmed::Names(harmed)
            }
        }
    }

    /// The number of damaged objects that have been made anew.
    pub fn renewed(&self, mesh: &Mesh, harmed: &Harmed) -> usize {
        let is_newer = |old: &str, new: &str| new.starts_with(old) && new != old;
        match (self, harmed) {
            (Self::Bucket(server), Harmed::Names(harmed)) => {
                let names = Self::names(server);
                harmed
                    .iter()
                    .filter(|old| names.iter().any(|new| is_newer(old, new)))
                    .count()
            }
            (_, Harmed::Objects(harmed)) => {
                let whole = mesh.objects(NEAR).all(Kind::Chunk);
                let renewed = |old: &&Object| whole.iter().any(|new| is_newer(&old.name, &new.name));
                harmed.iter().filter(renewed).count()
            }
            (Self::Directory, Harmed::Names(_)) => 0,
        }
    }
}
