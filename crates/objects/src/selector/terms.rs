//! The text of a field selector: `FIELD=VALUE,FIELD!=VALUE`, where a backslash in a value takes the meaning from a
//! comma, an equals sign or another backslash.

use crate::ApiError;

/// One condition on a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Term<'t> {
    pub(super) field: &'t str,
    /// Whether the field must have the value, or must not.
    pub(super) equal: bool,
    pub(super) value: String,
}

/// Longer operators come before those that they begin with.
const OPERATORS: [(&str, bool); 3] = [("!=", false), ("==", true), ("=", true)];

/// Takes a selector apart.
///
/// # Errors
/// 400 where a term has no operator, or a value is escaped wrongly.
pub(super) fn parse(text: &str) -> Result<Vec<Term<'_>>, ApiError> {
    split(text).filter(|term| !term.is_empty()).map(|term| parse_one(text, term)).collect()
}

fn parse_one<'t>(text: &str, term: &'t str) -> Result<Term<'t>, ApiError> {
    let operator = term.char_indices().find_map(|(at, _)| {
        let (word, equal) = OPERATORS.iter().find(|(word, _)| term[at..].starts_with(word))?;
        Some((&term[..at], *equal, &term[at + word.len()..]))
    });
    let Some((field, equal, value)) = operator else {
        return Err(ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")));
    };
    let value =
        unescape(value).map_err(|why| ApiError::bad_request(format!("invalid field selector: {why}")))?;
    Ok(Term { field, equal, value })
}

/// The terms: what stands between commas that no backslash comes before.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let ends = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid escape sequence: \\{c}")),
                None => return Err("invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_taken_apart() {
        let term = |field, equal, value: &str| Term { field, equal, value: value.to_owned() };
        for (text, wanted) in [
            ("", vec![]),
            ("a=b,,c!=d", vec![term("a", true, "b"), term("c", false, "d")]),
            ("a==b", vec![term("a", true, "b")]),
            ("a=", vec![term("a", true, "")]),
            (r"a!=x\,metadata.name=y", vec![]),
            (r"a!=x\,metadata.name\=y", vec![term("a", false, "x,metadata.name=y")]),
            (r"a=\\,b=c", vec![term("a", true, "\\"), term("b", true, "c")]),
        ] {
            assert_eq!(parse(text).unwrap_or_default(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_written_wrongly_is_refused() {
        for (text, why) in [
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            (r"a=\b", r"invalid field selector: invalid escape sequence: \b"),
            (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ] {
            let error = parse(text).expect_err("is refused");
            assert_eq!((error.code(), error.message()), (400, why));
        }
    }
}
