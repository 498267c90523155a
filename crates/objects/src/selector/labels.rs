//! The text of a label selector: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5`, read word by word as Kubernetes does, so that
//! a refusal names the same word.

use super::{Operator, Requirement};
use crate::FieldError;
use crate::meta;

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// A word: what stands between blanks and signs, or a sign. The end of the text is the empty sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'t> {
    Name(&'t str),
    Sign(&'t str),
}

const END: Word<'_> = Word::Sign("");

impl<'t> Word<'t> {
    fn text(self) -> &'t str {
        match self {
            Self::Name(text) | Self::Sign(text) => text,
        }
    }
}

/// Longer signs come before those that they begin with.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

/// The words of a text that are still to be read.
struct Words<'t> {
    rest: &'t str,
}

impl<'t> Words<'t> {
    fn peek(&self) -> Word<'t> {
        let rest = self.rest.trim_start_matches(is_blank);
        let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
        let is_end =
            |letter: char| is_blank(letter) || matches!(letter, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        match sign {
            Some(sign) => Word::Sign(&rest[..sign.len()]),
            None if rest.is_empty() => END,
            None => Word::Name(&rest[..rest.find(is_end).unwrap_or(rest.len())]),
        }
    }

    fn next(&mut self) -> Word<'t> {
        let word = self.peek();
        self.rest = &self.rest.trim_start_matches(is_blank)[word.text().len()..];
        word
    }
}

/// The conditions of a selector, at most `limit`.
///
/// # Errors
/// Which word is out of place, or what is wrong with a key or a value.
pub(super) fn parse(text: &str, limit: usize) -> Result<Vec<Requirement>, String> {
    let mut words = Words { rest: text };
    let mut found = Vec::new();
    match words.peek() {
        END => return Ok(found),
        Word::Name(_) | Word::Sign("!") => {}
        other => {
            return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text()));
        }
    }
    loop {
        found.push(requirement(&mut words).map_err(|why| format!("unable to parse requirement: {why}"))?);
        if found.len() > limit {
            return Err(format!("a label selector may have at most {limit} requirements"));
        }
        match (words.next(), words.peek()) {
            (END, _) => return Ok(found),
            (Word::Sign(","), Word::Name(_) | Word::Sign("!")) => {}
            (Word::Sign(","), other) => {
                return Err(format!("found '{}', expected: identifier after ','", other.text()));
            }
            (other, _) => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
    }
}

fn requirement(words: &mut Words<'_>) -> Result<Requirement, String> {
    let absent = words.peek() == Word::Sign("!");
    if absent {
        words.next();
    }
    let key = match words.next() {
        Word::Name(key) => key,
        other => return Err(format!("found '{}', expected: identifier", other.text())),
    };
    let wrong = meta::qualified_name(key);
    if !wrong.is_empty() {
        return Err(FieldError::invalid("<nil>", key, wrong.join("; ")).to_string());
    }
    let operator = match words.peek() {
        _ if absent => Operator::DoesNotExist,
        END | Word::Sign(",") => Operator::Exists,
        _ => comparison(words, key)?,
    };
    Ok(Requirement { key: key.to_owned(), operator })
}

fn comparison(words: &mut Words<'_>, key: &str) -> Result<Operator, String> {
    let operator = words.next();
    let values = match operator {
        Word::Name("in" | "notin") => several(words)?,
        Word::Sign("=" | "==" | "!=" | ">" | "<") => vec![one(words)?],
        other => return Err(format!("found '{}', expected: {OPERATORS}", other.text())),
    };
    let mut errors = Vec::new();
    let bound = match operator {
        Word::Sign(">" | "<") => values[0].parse::<i64>().unwrap_or_else(|_| {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            errors.push(FieldError::invalid("values[0]", values[0].as_str(), why));
            0
        }),
        _ => 0,
    };
    for (index, value) in values.iter().enumerate() {
        let wrong = meta::label_value(value);
        if !wrong.is_empty() {
            let field = format!("values[{index}][{key}]");
            errors.push(FieldError::invalid(field, value.as_str(), wrong.join("; ")));
        }
    }
    match errors.as_slice() {
        [] => {}
        [one] => return Err(one.to_string()),
        many => {
            let texts: Vec<String> = many.iter().map(FieldError::to_string).collect();
            return Err(format!("[{}]", texts.join(", ")));
        }
    }
    Ok(match operator.text() {
        "in" => Operator::In(values),
        "=" | "==" => Operator::Is(values.concat()),
        "!=" => Operator::IsNot(values.concat()),
        ">" => Operator::Greater(bound),
        "<" => Operator::Less(bound),
        _ => Operator::NotIn(values),
    })
}

/// The value of an exact comparison; nothing is the empty one.
fn one(words: &mut Words<'_>) -> Result<String, String> {
    if matches!(words.peek(), END | Word::Sign(",")) {
        return Ok(String::new());
    }
    match words.next() {
        Word::Name(value) => Ok(value.to_owned()),
        other => Err(format!("found '{}', expected: identifier", other.text())),
    }
}

/// `(a, b, c)`: each value once, in order. Where nothing stands between two signs, that is the empty value.
fn several(words: &mut Words<'_>) -> Result<Vec<String>, String> {
    match words.next() {
        Word::Sign("(") => {}
        other => return Err(format!("found '{}' expected: '('", other.text())),
    }
    if !matches!(words.peek(), Word::Name(_) | Word::Sign("," | ")")) {
        return Err(format!("found '{}', expected: ',', ')' or identifier", words.peek().text()));
    }
    let mut values = std::collections::BTreeSet::new();
    loop {
        let value = match words.peek() {
            Word::Name(value) => {
                words.next();
                value
            }
            Word::Sign("," | ")") => "",
            other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
        };
        values.insert(value.to_owned());
        match words.next() {
            Word::Sign(",") => {}
            Word::Sign(")") => return Ok(values.into_iter().collect()),
            other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        parse(text, 3).expect_err(text)
    }

    #[test]
    fn values_may_be_empty_and_operators_names() {
        let all = parse("x in (foo,,baz), y notin (),z=,in", 9).expect("is one");
        let values = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let operators: Vec<Operator> = all.into_iter().map(|each| each.operator).collect();
        let wanted = [
            Operator::In(values(&["", "baz", "foo"])),
            Operator::NotIn(values(&[""])),
            Operator::Is(String::new()),
            Operator::Exists,
        ];
        assert_eq!(operators, wanted);
    }

    #[test]
    fn a_refusal_names_the_word() {
        for (text, wanted) in [
            ("app===x", "unable to parse requirement: found '=', expected: identifier"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("!a b", "found 'b', expected: ',' or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a,", "found '', expected: identifier after ','"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (=", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b,=", "unable to parse requirement: found '=', expected: ',', or identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("a,b,c,d", "a label selector may have at most 3 requirements"),
        ] {
            assert_eq!(why(text), wanted, "{text}");
        }
        assert!(
            why("-a")
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must")
        );
        assert!(
            why("a=-")
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid")
        );
        assert!(why("ä").starts_with("unable to parse requirement: <nil>: Invalid value: \"ä\""));
    }
}
