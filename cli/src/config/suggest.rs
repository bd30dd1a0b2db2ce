//! The nearest name to a mistyped one.

/// The candidate nearest to `word`, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_only() {
        let names = ["process-max", "compress-type", "delta"];
        assert_eq!(nearest("proces-max", names), Some("process-max"));
        assert_eq!(nearest("compres-tpye", names), Some("compress-type"));
        assert_eq!(nearest("dleta", names), Some("delta"));
        assert_eq!(nearest("something-else", names), None);
    }
}
