//! The name that somebody may have meant.

/// The nearest of `names`, if one is near.
pub(crate) fn did_you_mean(wrong: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let near = names.map(|name| (distance(wrong, &name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + wrong.len() / 4 => Some(name),
        _ => None,
    }
}

/// The edit distance of two names (Levenshtein, 1965).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
