//! The query of a request.

use percent_encoding::percent_decode_str;

/// The values of the parameters with one of these names, decoded (WHATWG URL §5.1), in their order; `None` for
/// one that is not UTF-8.
pub fn parameters<'a>(
    query: &'a str,
    names: &'a [&str],
) -> impl Iterator<Item = Option<String>> + 'a {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(|(have, _)| decoded(have).is_some_and(|have| names.contains(&&*have)))
        .map(|(_, value)| decoded(value))
}

fn decoded(part: &str) -> Option<String> {
    let spaced = part.replace('+', " ");
    let text = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_or_are_none() {
        for (query, user) in [
            ("user=a+b%2Bc", Some("a b+c")),
            ("x&us%65r=%e2%82%AC", Some("€")),
            ("user=%zz%", Some("%zz%")),
            ("user", Some("")),
            ("user=%FF", None),
            ("%FF&user=%C3", None),
        ] {
            let found: Vec<_> = parameters(query, &["user"]).collect();
            assert_eq!(found, [user.map(Into::into)], "{query}");
        }
        let values = |query, names| parameters(query, names).flatten().collect::<Vec<_>>();
        assert!(values("User=a&&=b", &["user"]).is_empty());
        assert_eq!(
            values("user=a&userId=b&user=c", &["userId", "user"]),
            ["a", "b", "c"]
        );
    }
}
