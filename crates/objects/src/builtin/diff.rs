//! How upstream tells what a change changed: the lines that differ of two values written out, with those around them.

use std::collections::HashMap;

/// Lines around a difference that are shown with it.
const AROUND: usize = 3;
/// From so many lines on a text has common ones.
const MANY: usize = 200;
/// Most pairs of lines that are held against each other for one difference; what is left then counts as changed from its
/// first difference to its last.
const MAX_PAIRS: usize = 4_000_000;

/// The difference of two JSON texts.
pub(super) fn of_json(before: &str, after: &str) -> String {
    let (before, after) = (lines(before), lines(after));
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.iter().map(String::as_str).collect(), after.iter().map(String::as_str).collect());
    // Equal lines are equal numbers: lines are long, and held against each other often.
    let mut numbers = HashMap::new();
    let mut number = |line| {
        let next = numbers.len();
        *numbers.entry(line).or_insert(next)
    };
    let old: Vec<usize> = before.iter().copied().map(&mut number).collect();
    let new: Vec<usize> = after.iter().copied().map(&mut number).collect();
    let common = common(&new, numbers.len());
    let (mut matches, mut pairs) = (Vec::new(), MAX_PAIRS);
    find_matches(&old, &new, &common, (0, 0), &mut pairs, &mut matches);
    matches.push((before.len(), after.len(), 0));
    written(&before, &after, &matches)
}

/// Which lines of a long text are so common that no run begins with them, as Go's difflib, and the one of Python that it is made
/// after, have it: those that are more than a hundredth of it.
fn common(text: &[usize], numbers: usize) -> Vec<bool> {
    let mut counts = vec![0; numbers];
    text.iter().for_each(|number| counts[*number] += 1);
    let most = if text.len() < MANY { usize::MAX } else { text.len() / 100 + 1 };
    counts.into_iter().map(|count| count > most).collect()
}

/// A JSON text without blanks as lines, each level a blank further in.
fn lines(text: &str) -> Vec<String> {
    let (mut out, mut line, mut depth) = (Vec::new(), String::new(), 0_usize);
    let (mut quoted, mut escaped) = (false, false);
    let mut chars = text.chars().peekable();
    let mut end = |line: &mut String, depth: usize| {
        out.push(std::mem::replace(line, " ".repeat(depth)));
    };
    while let Some(c) = chars.next() {
        if quoted {
            line.push(c);
            (quoted, escaped) = (escaped || c != '"', c == '\\' && !escaped);
            continue;
        }
        match c {
            '{' | '[' => {
                line.push(c);
                if let Some(close @ ('}' | ']')) = chars.peek().copied() {
                    line.push(close);
                    chars.next();
                } else {
                    depth += 1;
                    end(&mut line, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                end(&mut line, depth);
                line.push(c);
            }
            ',' => {
                line.push(c);
                end(&mut line, depth);
            }
            ':' => line.push_str(": "),
            c => {
                quoted = c == '"';
                line.push(c);
            }
        }
    }
    end(&mut line, 0);
    out
}

/// A run of equal lines: where it begins in each text, and how long it is.
type Run = (usize, usize, usize);

/// The longest common run, then those before it and behind it; `pairs` is how many pairs of lines may still be looked at.
fn find_matches(
    before: &[usize],
    after: &[usize],
    common: &[bool],
    at: (usize, usize),
    pairs: &mut usize,
    found: &mut Vec<Run>,
) {
    let (i, j, length) = match pairs.checked_sub(before.len().saturating_mul(after.len())) {
        Some(left) => {
            *pairs = left;
            longest(before, after, common)
        }
        None => (0, 0, before.iter().zip(after).take_while(|(before, after)| before == after).count()),
    };
    if length == 0 {
        return;
    }
    find_matches(&before[..i], &after[..j], common, at, pairs, found);
    found.push((at.0 + i, at.1 + j, length));
    let (next_i, next_j) = (i + length, j + length);
    find_matches(&before[next_i..], &after[next_j..], common, (at.0 + next_i, at.1 + next_j), pairs, found);
}

/// The longest run of lines that both have, the first of several: of those that are not common, with the common ones beside it.
fn longest(before: &[usize], after: &[usize], common: &[bool]) -> Run {
    let mut best = (0, 0, 0);
    // How long the run is that ends with the line above and each line of the other text.
    let mut above = vec![0; after.len() + 1];
    for (i, line) in before.iter().enumerate() {
        let mut current = vec![0; after.len() + 1];
        if common[*line] {
            above = current;
            continue;
        }
        for (j, _) in after.iter().enumerate().filter(|(_, other)| *other == line) {
            current[j + 1] = above[j] + 1;
            if current[j + 1] > best.2 {
                best = (i + 1 - current[j + 1], j + 1 - current[j + 1], current[j + 1]);
            }
        }
        above = current;
    }
    let (mut i, mut j, mut length) = best;
    while i > 0 && j > 0 && before[i - 1] == after[j - 1] {
        (i, j, length) = (i - 1, j - 1, length + 1);
    }
    while before.get(i + length).is_some_and(|line| after.get(j + length) == Some(line)) {
        length += 1;
    }
    (i, j, length)
}

/// The differences between runs, those near each other together.
fn written(before: &[&str], after: &[&str], matches: &[Run]) -> String {
    // What differs: lines of the one text, and lines of the other.
    let mut changes: Vec<[usize; 4]> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (next_i, next_j, length) in matches {
        if i < *next_i || j < *next_j {
            changes.push([i, *next_i, j, *next_j]);
        }
        (i, j) = (next_i + length, next_j + length);
    }
    let mut out = String::new();
    let near = |left: &[usize; 4], right: &[usize; 4]| right[0] - left[1] <= 2 * AROUND;
    for group in changes.chunk_by(near) {
        let (first, last) = (group[0], group[group.len() - 1]);
        let lead = AROUND.min(first[0]);
        let tail = AROUND.min(before.len() - last[1]);
        let range = |start: usize, end: usize| match end - start {
            1 => format!("{}", start + 1),
            0 => format!("{start},0"),
            length => format!("{},{length}", start + 1),
        };
        let (from, to) = (first[0] - lead, first[2] - lead);
        out.push_str(&format!("@@ -{} +{} @@\n", range(from, last[1] + tail), range(to, last[3] + tail)));
        let mut at = from;
        let mut push = |mark: char, lines: &[&str]| {
            lines.iter().for_each(|line| out.push_str(&format!("{mark}{line}\n")));
        };
        for [start, end, new_start, new_end] in group {
            push(' ', &before[at..*start]);
            push('-', &before[*start..*end]);
            push('+', &after[*new_start..*new_end]);
            at = *end;
        }
        push(' ', &before[at..at + tail]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_the_lines_around_it() {
        let before = r#"{"a":null,"b":["x","y"],"c":{"d":"e \", f","g":{}},"h":1,"i":2,"j":3,"k":4}"#;
        let after = r#"{"a":null,"b":["x"],"c":{"d":"e \", f","g":{}},"h":1,"i":2,"j":3,"k":5}"#;
        assert_eq!(
            of_json(before, after),
            "@@ -1,8 +1,7 @@\n {\n  \"a\": null,\n  \"b\": [\n-  \"x\",\n-  \"y\"\n+  \"x\"\n  ],\n  \"c\": {\n   \"d\": \"e \\\", f\",\n\
             @@ -11,5 +10,5 @@\n  \"h\": 1,\n  \"i\": 2,\n  \"j\": 3,\n- \"k\": 4\n+ \"k\": 5\n }\n"
        );
        assert_eq!(of_json("{}", "{}"), "");
    }

    #[test]
    fn what_is_common_in_a_long_text_is_no_match_by_itself() {
        let many = |first: &str| {
            let rest: Vec<String> = (0..120).map(|n| format!("\"k{n}\":{{\"a\":{n}}}")).collect();
            format!("{{{first},{}}}", rest.join(","))
        };
        let before = many(r#""x":null,"y":{"b":1}"#);
        let after = many(r#""x":{"c":2},"y":null"#);
        let shown = of_json(&before, &after);
        let wanted =
            "- \"x\": null,\n- \"y\": {\n-  \"b\": 1\n- },\n+ \"x\": {\n+  \"c\": 2\n+ },\n+ \"y\": null,\n";
        assert!(shown.contains(wanted), "{shown}");
    }
}
