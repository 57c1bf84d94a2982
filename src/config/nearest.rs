//! The nearest known name, for people who mistyped one.

/// The candidate that was most likely meant, if any is near.
///
/// The same last part in another section counts as very near: `server.grpc` means `listen.grpc`.
pub(super) fn nearest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    separator: char,
) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 3).max(2);
    let last = |name: &str| name.rsplit(separator).next().map(str::to_owned);
    candidates
        .into_iter()
        .map(|candidate| {
            let moved = candidate.contains(separator) && last(typed) == last(candidate);
            (if moved { 1 } else { distance(typed, candidate) }, candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be added, removed or replaced (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        let steps = right.iter().zip(row.iter().zip(row.iter().skip(1)));
        for (to, (diagonal, above)) in steps {
            let replaced = diagonal + usize::from(from != *to);
            let beside = next.last().copied().unwrap_or(usize::MAX - 1);
            next.push(replaced.min(above + 1).min(beside + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits() {
        for (left, right, edits) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("grpc", "gprc", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(left, right), edits, "{left} {right}");
        }
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not_made_up() {
        let known = ["listen.grpc", "listen.health", "store.path"];
        assert_eq!(nearest("listen.gprc", known, '.'), Some("listen.grpc"));
        assert_eq!(nearest("server.grpc", known, '.'), Some("listen.grpc"));
        assert_eq!(nearest("zebra.quagga", known, '.'), None);
    }
}
