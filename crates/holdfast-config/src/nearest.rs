//! "Did you mean …?"

/// The candidate that `word` was probably meant to be, if one is near enough.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let wanted = normal(word);
    candidates
        .iter()
        .map(|candidate| (distance(&wanted, &normal(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= allowance(word.len().max(candidate.len())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn allowance(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        _ => 3,
    }
}

/// `maxDuration`, `max-duration` and `max_duration` are one word.
fn normal(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).take(64).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut least =
                (rows[i - 1][j - 1] + change).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_find_their_word() {
        let words = ["timeout", "max_duration", "connect_timeout", "url", "headers"];
        assert_eq!(nearest("tiemout", &words), Some("timeout"));
        assert_eq!(nearest("maxDuration", &words), Some("max_duration"));
        assert_eq!(nearest("ulr", &words), Some("url"));
        assert_eq!(nearest("header", &words), Some("headers"));
        assert_eq!(nearest("colour", &words), None);
        assert_eq!(nearest("x", &words), None);
        assert_eq!(nearest("", &words), None);
    }
}
