//! Files of users as kube-apiserver has them: lines of comma-separated values (RFC 4180), one user each.

use std::path::Path;

use yunfan_identity::UserInfo;

use crate::error::ConfigError;

/// Most users of a file.
const MOST: usize = 100_000;

/// The secret in each line, and whose it is: `SECRET,NAME,UID,"GROUP,GROUP"`; the groups may be left out. Empty lines and
/// those that begin with `#` say nothing.
///
/// # Errors
/// The first line that is wrong.
pub(super) fn users(path: &Path, text: &str) -> Result<Vec<(String, UserInfo)>, ConfigError> {
    let mut users = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // What stands in the line is a secret: errors do not repeat it.
        let fail = |why: &str| ConfigError::file(path, format!("line {}", index + 1), why);
        let fields =
            fields(line).ok_or_else(|| fail("has a quote that is not closed or stands in a value"))?;
        let [secret, name, uid, rest @ ..] = fields.as_slice() else {
            return Err(fail("needs at least three values: the secret, the user's name and uid"));
        };
        if rest.len() > 1 {
            return Err(fail("has more than four values; put several groups between quotes: \"a,b\""));
        }
        if secret.is_empty() || name.is_empty() {
            return Err(fail("has an empty secret or name; give both"));
        }
        let groups =
            rest.iter().flat_map(|groups| groups.split(',')).map(str::trim).filter(|g| !g.is_empty());
        let mut user = UserInfo::authenticated(name.as_str(), groups);
        user.uid.clone_from(uid);
        users.push((secret.clone(), user));
        if users.len() > MOST {
            return Err(fail(&format!("is one more than the {MOST} users that a file may have")));
        }
    }
    Ok(users)
}

/// The values of a line; `None` where quotes are wrong.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), line);
    loop {
        rest = rest.trim_start();
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return None;
            }
            fields.push(field.trim_end().to_owned());
            match more {
                Some(more) => rest = more,
                None => return Some(fields),
            }
            continue;
        };
        let (mut field, mut inner) = (String::new(), quoted);
        let after = loop {
            let (part, more) = inner.split_once('"')?;
            field.push_str(part);
            match more.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    inner = more;
                }
                None => break more.trim_start(),
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_user() {
        let text = "# people\n\ntoken1,ann,7\n\"a,b\"\"c\",bob,8,\"dev,ops\"\n x , carol , 9 , one ";
        let users = users(Path::new("f"), text).expect("users");
        let shown: Vec<(&str, &str, Vec<&str>)> = users
            .iter()
            .map(|(secret, user)| {
                (secret.as_str(), user.name.as_str(), user.groups.iter().map(String::as_str).collect())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("token1", "ann", vec!["system:authenticated"]),
                ("a,b\"c", "bob", vec!["dev", "ops", "system:authenticated"]),
                ("x", "carol", vec!["one", "system:authenticated"]),
            ]
        );
        assert_eq!(users[1].1.uid, "8");
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_not_shown() {
        for line in
            ["hunter2,ann", "hunter2,,7", ",ann,7", "hunter2,ann,7,a,b", "\"hunter2,ann,7", "hunt\"er2,ann,7"]
        {
            let error = users(Path::new("/f"), &format!("\n{line}")).expect_err(line).to_string();
            assert!(error.starts_with("/f: line 2: ") && !error.contains("hunter2"), "{error}");
        }
    }
}
