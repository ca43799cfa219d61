//! "Did you mean".

/// The candidate that `written` was most likely meant to be, when one is close enough to be worth a guess.
pub(super) fn closest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerance = (written.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_miss_is_worth_a_guess() {
        let keys = ["listen", "drain", "lock_wait"];
        assert_eq!(closest("lisen", keys), Some("listen"));
        assert_eq!(closest("lokc_wait", keys), Some("lock_wait"));
        assert_eq!(closest("port", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
