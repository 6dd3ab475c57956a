//! "Did you mean …?"

/// The candidate that `word` was probably meant to be, if one is near enough: mistyped, or else the only
/// one that it shortens or adds something to.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    mistyped(word, candidates).or_else(|| shortened(word, candidates))
}

fn mistyped<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let wanted = normal(word);
    candidates
        .iter()
        .map(|candidate| (distance(&wanted, &normal(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= allowance(word.len().max(candidate.len())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `replicas_to_ack` and `replicas` are `replicas_to_acknowledge`, `timeout_ms` is `timeout`; what could be two
/// is none.
fn shortened<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let mut like = candidates.iter().copied().filter(|candidate| is_short_for(word, candidate));
    like.next().filter(|_| like.next().is_none())
}

fn is_short_for(word: &str, candidate: &str) -> bool {
    let (short, whole) = (normal(word), normal(candidate));
    if short.len().min(whole.len()) < SHORTEST {
        return false;
    }
    if whole.starts_with(&short) || short.starts_with(&whole) {
        return true;
    }
    let (short, whole) = (parts(word), parts(candidate));
    short.len() == whole.len()
        && short.iter().zip(&whole).all(|(short, whole)| whole.starts_with(&short[..]))
}

/// What is shorter than this begins too many words.
const SHORTEST: usize = 4;

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

/// The words of a name, in lower case; none is empty.
fn parts(name: &str) -> Vec<Vec<char>> {
    let mut parts = vec![Vec::new()];
    for c in name.chars().take(64) {
        if matches!(c, '_' | '-') || c.is_uppercase() {
            parts.push(Vec::new());
        }
        if let (false, Some(part)) = (matches!(c, '_' | '-'), parts.last_mut()) {
            part.extend(c.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
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

    #[test]
    fn what_is_shortened_or_longer_finds_its_word_if_there_is_but_one() {
        let words = [
            "replicas_to_acknowledge",
            "acknowledge_within",
            "command_timeout",
            "connect_timeout",
            "url",
        ];
        for word in ["replicas_to_ack", "replicasToAck", "replicas", "repl_to_ack"] {
            assert_eq!(nearest(word, &words), Some("replicas_to_acknowledge"), "{word}");
        }
        assert_eq!(nearest("acknowledge", &words), Some("acknowledge_within"));
        assert_eq!(nearest("command_timeout_ms", &words), Some("command_timeout"));
        assert_eq!(nearest("conn_time", &words), Some("connect_timeout"));
        assert_eq!(nearest("co_timeout", &words), None, "two are like it");
        assert_eq!(nearest("uri_of_it", &words), None);
    }
}
