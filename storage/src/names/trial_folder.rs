//! The folder of a `repo-check`. It lies among the repository's objects, and is none of them.

/// The beginning of the folder's name.
const PREFIX: &str = "pgmesh-check-";
/// The number of random bytes that follow, in hexadecimal: two checks at the same time need different folders.
const TOKEN_LENGTH: usize = 6;

/// The folder of one check.
pub(crate) fn check_folder(token: [u8; TOKEN_LENGTH]) -> String {
    format!("{PREFIX}{}", hex::encode(token))
}

/// Whether a path, relative to the repository's root, lies in the folder of a check.
pub(crate) fn is_in_check_folder(path: &str) -> bool {
    let folder = path.split_once('/').map(|(folder, _)| folder);
    let token = folder.and_then(|folder| folder.strip_prefix(PREFIX));
    token.is_some_and(|token| {
        token.len() == 2 * TOKEN_LENGTH && token.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trial_leaves_is_known_by_its_folder() {
        let folder = check_folder([0, 1, 2, 0xab, 0xcd, 0xef]);
        assert_eq!(folder, "pgmesh-check-000102abcdef");
        assert!(is_in_check_folder(&format!("{folder}/one/object")));
        for other in [
            folder.as_str(),
            "pgmesh-check-/one/object",
            "pgmesh-check-000102abcdeg/one/object",
            "pgmesh-check-000102ABCDEF/one/object",
            "pgmesh-check-000102abcdef00/one/object",
            "five/pgmesh-check-000102abcdef/one/object",
            "chunk/ab/one",
            "",
        ] {
            assert!(!is_in_check_folder(other), "{other:?}");
        }
    }
}
