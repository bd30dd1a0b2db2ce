//! The copies of archived files that a listing shows.

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{ObjectPath, PartsSeen};
use std::collections::{BTreeMap, BTreeSet};

/// Parts that are being written at once. The last part is written when all others are there: if an upload was cut, the
/// file lacks its end.
pub const PARTS_AT_ONCE: usize = 2;

/// One copy of a file, as one writing of it has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Its path; of a file that lies in parts, without the number of a part.
    pub path: ObjectPath,
    /// In how many parts it lies.
    pub of: Option<u16>,
}

/// The copies under the name of one file.
#[derive(Debug, PartialEq, Eq)]
pub enum Copies {
    /// One content, perhaps in several generations, the highest first.
    One(Vec<Copy>),
    /// Several contents: only the lost catalog kept invariant 3, and no repository tells which one is right.
    Different(Vec<Copy>),
    /// The first parts of a file whose upload was cut. No repository is counted for a file before it has every part, so
    /// here the file was never archived.
    Cut,
}

/// The objects of one file, from a listing.
#[derive(Debug, Default)]
pub struct Listed {
    objects: Vec<ObjectPath>,
    sets: BTreeMap<(ObjectPath, u16), PartsSeen>,
}

impl Listed {
    /// One more object.
    pub fn add(&mut self, path: ObjectPath) {
        let Some(part) = path.part() else {
            self.objects.push(path);
            return;
        };
        let set = self.sets.entry((path.whole(), part.of()));
        set.or_insert_with(|| PartsSeen::first(part)).add(part);
    }

    /// The copies that these objects form. An incomplete set of parts that was not cut was whole once: it counts as a
    /// content like others, unless the same content is there completely. The first parts of cut uploads count only
    /// where there is no other copy.
    pub fn copies(self) -> Copies {
        let copy = |path: &ObjectPath, of| Copy { path: path.clone(), of };
        let objects = self.objects.iter().map(|path| copy(path, None));
        let complete = self.sets.iter().filter(|(_, seen)| seen.is_complete());
        let complete = complete.map(|((path, of), _)| copy(path, Some(*of)));
        let mut copies: Vec<Copy> = objects.chain(complete).collect();
        let whole: BTreeSet<_> = copies.iter().filter_map(|copy| copy.path.name()).collect();
        let ahead = u32::try_from(PARTS_AT_ONCE).unwrap_or(u32::MAX);
        let has_lost = |seen: &PartsSeen| !seen.is_complete() && !seen.is_cut(ahead);
        let torn = self.sets.iter().filter(|(_, seen)| has_lost(seen));
        let torn = torn.filter(|((path, _), _)| path.name().is_none_or(|name| !whole.contains(&name)));
        let torn: Vec<Copy> = torn.map(|((path, of), _)| copy(path, Some(*of))).collect();
        copies.extend(torn);
        if copies.is_empty() {
            return Copies::Cut;
        }
        let names: BTreeSet<_> = copies.iter().filter_map(|copy| copy.path.name()).collect();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.path.generation()));
        if names.len() > 1 {
            Copies::Different(copies)
        } else {
            Copies::One(copies)
        }
    }
}

/// Paths of archived files, by file.
pub fn grouped(paths: Vec<ObjectPath>) -> BTreeMap<WalFileName, Copies> {
    let mut files: BTreeMap<WalFileName, Listed> = BTreeMap::new();
    for path in paths {
        if let ObjectPath::Segment { file, .. } = &path {
            files.entry(*file).or_default().add(path);
        }
    }
    judged(files)
}

/// The copies of each file that was listed.
pub fn judged(files: BTreeMap<WalFileName, Listed>) -> BTreeMap<WalFileName, Copies> {
    let files = files.into_iter();
    files.map(|(file, listed)| (file, listed.copies())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(file: &str, name: char, suffix: &str) -> ObjectPath {
        let folder = "stanza/main/archive/15-1/0000000100000000";
        let name: String = std::iter::repeat_n(name, 64).collect();
        ObjectPath::parse(&format!("{folder}/{file}-{name}{suffix}")).unwrap()
    }

    fn copy(path: ObjectPath, of: Option<u16>) -> Copy {
        Copy { path, of }
    }

    #[test]
    fn invariant_3_two_contents_are_told_from_two_writings() {
        let (one, two) = ("000000010000000000000001", "000000010000000000000002");
        let paths = vec![
            path(two, 'a', ""),
            path(one, 'b', ""),
            path(two, 'c', ".g1"),
            path(one, 'b', ".g2"),
        ];
        let files = grouped(paths);
        let of = |file: &str| &files[&file.parse::<WalFileName>().unwrap()];
        let both = vec![copy(path(one, 'b', ".g2"), None), copy(path(one, 'b', ""), None)];
        assert_eq!(*of(one), Copies::One(both));
        assert!(matches!(of(two), Copies::Different(paths) if paths.len() == 2));
    }

    #[test]
    fn parts_are_one_copy_when_all_are_there() {
        let file = "000000010000000000000001";
        let of = |suffixes: &[&str], name| suffixes.iter().map(|suffix| path(file, name, suffix)).collect();
        let judged = |paths: Vec<ObjectPath>| grouped(paths).pop_first().unwrap().1;
        let all = [".p003of003", ".p001of003", ".p002of003"];
        let whole = copy(path(file, 'a', ""), Some(3));
        assert_eq!(judged(of(&all, 'a')), Copies::One(vec![whole.clone()]));
        // The cut upload of another content does not count, nor does a cut upload of another generation.
        let mut more: Vec<_> = of(&all, 'a');
        more.extend::<Vec<_>>(of(&[".p001of003"], 'b'));
        more.extend::<Vec<_>>(of(&[".g1.p001of003", ".g1.p003of003"], 'a'));
        assert_eq!(judged(more), Copies::One(vec![whole.clone()]));
        // A cut upload was never acknowledged; an upload that has lost a part was.
        assert_eq!(judged(of(&[".p001of003"], 'a')), Copies::Cut);
        assert_eq!(judged(of(&[".p001of003", ".p003of003"], 'a')), Copies::One(vec![whole]));
        // Of a whole content and a torn one, either may be the acknowledged content.
        let mut torn: Vec<_> = of(&all, 'a');
        torn.extend::<Vec<_>>(of(&[".p001of003", ".p003of003"], 'b'));
        assert!(matches!(judged(torn), Copies::Different(copies) if copies.len() == 2));
        let mut two: Vec<_> = of(&all, 'a');
        two.extend::<Vec<_>>(of(&all, 'b'));
        assert!(matches!(judged(two), Copies::Different(copies) if copies.len() == 2));
    }
}
