//! The query of a request.

use std::collections::HashMap;

use super::path::percent_decode;

/// Query parameters as they came, percent-decoded; a name may repeat.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(HashMap<String, Vec<String>>);

impl Params {
    /// Reads a query.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(name)).or_default().push(decode(value));
        }
        Self(map)
    }

    /// The first value of a parameter; none when it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// A truth value: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.0.get(name).and_then(|v| v.first()).map(String::as_str) {
            None | Some("false" | "0" | "f" | "F" | "False" | "FALSE") => false,
            Some(_) => true,
        }
    }
}

fn decode(text: &str) -> String {
    if text.contains('+') { percent_decode(&text.replace('+', " ")) } else { percent_decode(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let params =
            Params::parse(Some("watch&limit=5&command=ls&command=-l&labelSelector=a%3Db%2Cc+d&pretty=false"));
        assert!(params.flag("watch"));
        assert!(!params.flag("pretty"));
        assert_eq!(params.all("command"), ["ls", "-l"]);
        assert_eq!(params.get("labelSelector"), Some("a=b,c d"));
    }
}
