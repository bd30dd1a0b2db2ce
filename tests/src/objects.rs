//! The objects in a repository, and ways to harm them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The fixed header of a stored object (docs/architecture/at-rest.md); then 16 bytes of IV, the body and a tag of
/// 32.
const HEADER: usize = 36;
const IV: usize = 16;
const TAG: usize = 32;

/// The files of a posix repository, read behind pgmesh's back.
#[derive(Clone, Debug)]
pub struct Repository {
    path: PathBuf,
}

/// The kind of an object, told by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `chunk/…`
    Chunk,
    /// A WAL segment: `stanza/…/archive/<db-id>/<16 digits>/…`
    Segment,
    /// The change map of a segment, beside it: `<segment>.map-…`
    ChangeMap,
    /// `stanza/…/backup/…`
    Manifest,
    /// `stanza/…/db/…`
    StanzaInfo,
    /// `pgmesh.key/…`
    Key,
    /// `pgmesh.repo`
    Identity,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its path relative to the repository: its name for pgmesh.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
}

/// A way to harm a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit of the header.
    FlipHeader,
    /// One bit of the initialization vector.
    FlipIv,
    /// One bit in the middle of the ciphertext.
    FlipBody,
    /// One bit of the tag.
    FlipTag,
    /// The last byte is missing.
    CutTail,
    /// The second half is missing.
    CutHalf,
    /// The file is there and empty.
    Empty,
    /// One more byte at the end.
    Extend,
    /// The file is removed.
    Remove,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::FlipHeader,
        Self::FlipIv,
        Self::FlipBody,
        Self::FlipTag,
        Self::CutTail,
        Self::CutHalf,
        Self::Empty,
        Self::Extend,
        Self::Remove,
    ];

    /// Harms the file of an object.
    ///
    /// # Panics
    /// If the object is too short to have the part to harm.
    pub fn harm(self, object: &Object) {
        if self == Self::Remove {
            fs::remove_file(&object.file).expect("removing an object");
            return;
        }
        let mut content = fs::read(&object.file).expect("reading an object");
        let length = content.len();
        let mut flip = |range: Range<usize>| {
            assert!(
                !range.is_empty() && range.end <= length,
                "{} is too short for {self:?}",
                object.name
            );
            content[range.start + range.len() / 2] ^= 0x10;
        };
        match self {
            Self::FlipHeader => flip(0..HEADER),
            Self::FlipIv => flip(HEADER..HEADER + IV),
            Self::FlipBody => flip(HEADER + IV..length - TAG),
            Self::FlipTag => flip(length - TAG..length),
            Self::CutTail => content.truncate(length - 1),
            Self::CutHalf => content.truncate(length / 2),
            Self::Empty => content.clear(),
            Self::Extend => content.push(0),
            Self::Remove => {}
        }
        overwrite(&object.file, &content);
    }
}

impl Object {
    /// Exchanges the contents of two objects: each is whole, and under the other's name.
    pub fn swap(&self, other: &Self) {
        let mine = fs::read(&self.file).expect("reading an object");
        let theirs = fs::read(&other.file).expect("reading an object");
        overwrite(&self.file, &theirs);
        overwrite(&other.file, &mine);
    }

    /// The kind of the object, `None` for a file that is no object.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let parts: Vec<&str> = self.name.split('/').collect();
        match parts.as_slice() {
            ["chunk", ..] => Some(Kind::Chunk),
            ["stanza", _, "archive", _, directory, file] if directory.len() == 16 => {
                let is_map = file.contains(".map-");
                Some(if is_map { Kind::ChangeMap } else { Kind::Segment })
            }
            ["stanza", _, "backup", ..] => Some(Kind::Manifest),
            ["stanza", _, "db", ..] => Some(Kind::StanzaInfo),
            ["pgmesh.key", ..] => Some(Kind::Key),
            ["pgmesh.repo"] => Some(Kind::Identity),
            _ => None,
        }
    }
}

impl Repository {
    /// The repository in a folder.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All objects of one kind, by name.
    #[must_use]
    pub fn all(&self, kind: Kind) -> Vec<Object> {
        let mut objects = Vec::new();
        collect(&self.path, "", &mut objects);
        objects.retain(|object| object.kind() == Some(kind));
        objects.sort();
        objects
    }

    /// The objects of one kind and the inodes of their files. A new inode means that the object was written anew.
    #[must_use]
    pub fn inodes(&self, kind: Kind) -> BTreeMap<String, u64> {
        let inode = |object: Object| Some((object.name, fs::metadata(object.file).ok()?.ino()));
        self.all(kind).into_iter().filter_map(inode).collect()
    }

    /// The stored object of a WAL segment.
    ///
    /// # Panics
    /// If there is no such object.
    #[must_use]
    pub fn segment(&self, name: &str) -> Object {
        self.all(Kind::Segment)
            .into_iter()
            .find(|object| object.name.contains(name))
            .unwrap_or_else(|| panic!("no segment {name} in {}", self.path.display()))
    }

    /// Takes the repository away like a removed disk: a file stands in place of its folder, so that nothing can be
    /// written, not even a new folder.
    pub fn take_away(&self) {
        fs::rename(&self.path, self.away()).expect("taking a repository away");
        fs::write(&self.path, "not a folder").expect("writing a file in its place");
    }

    /// Ends [`take_away`](Self::take_away).
    pub fn bring_back(&self) {
        fs::remove_file(&self.path).expect("removing the file in its place");
        fs::rename(self.away(), &self.path).expect("bringing a repository back");
    }

    fn away(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".away");
        name.into()
    }

    /// The WAL segments in the repository, each by stanza, archive and name. The digest behind the name is left out,
    /// since each repository has its own form of it.
    #[must_use]
    pub fn segments(&self) -> BTreeSet<String> {
        let objects = self.all(Kind::Segment);
        let names = objects.iter().filter_map(|object| object.name.rsplit_once('-'));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// The bytes of all its files together.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let mut objects = Vec::new();
        collect(&self.path, "", &mut objects);
        objects
            .iter()
            .filter_map(|object| fs::metadata(&object.file).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Has the system forget its pages of the repository's files.
    pub fn leave_page_cache(&self) {
        rustix::fs::sync();
        let mut objects = Vec::new();
        collect(&self.path, "", &mut objects);
        for object in objects {
            // A file that has gone meanwhile has no pages.
            if let Ok(file) = fs::File::open(&object.file) {
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            }
        }
    }
}

/// Files come and go while a node works: a file that has gone is left out.
fn collect(folder: &Path, prefix: &str, objects: &mut Vec<Object>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), &format!("{name}/"), objects),
            Ok(kind) if kind.is_file() => objects.push(Object {
                name,
                file: entry.path(),
            }),
            _ => {}
        }
    }
}

/// Writes a file anew with its previous owner and permissions; a stored object may be read-only.
fn overwrite(file: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let before = fs::metadata(file)
        .expect("reading the permissions of an object")
        .permissions();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("making an object writable");
    fs::write(file, content).expect("writing an object");
    fs::set_permissions(file, before).expect("restoring the permissions of an object");
}
