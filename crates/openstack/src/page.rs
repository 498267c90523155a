//! Pages of a list: order, marker and limit, and the link to the next page.

use std::cmp::Reverse;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::body::Params;
use crate::error::Fault;

/// All but the unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest page, and how long one is when the client does not say.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) default: usize,
    pub(crate) max: usize,
}

/// How many entries a page has, at most.
pub(crate) fn limit(params: &Params, limits: Limits) -> Result<usize, Fault> {
    match params.get("limit") {
        None | Some("") => Ok(limits.default),
        Some(text) => text.parse::<usize>().map(|n| n.min(limits.max)).map_err(|_| {
            Fault::bad(format!("Invalid input for query parameter limit: {text} is no number of entries"))
        }),
    }
}

/// What is left of a list behind the query's `offset`, which Cinder and parts of Nova know beside the marker.
pub(crate) fn offset<T>(params: &Params, mut items: Vec<T>) -> Result<Vec<T>, Fault> {
    let Some(text) = params.get("offset") else { return Ok(items) };
    let offset: usize = text.parse().map_err(|_| {
        Fault::bad(format!("Invalid input for query parameter offset: {text} is no number of entries"))
    })?;
    Ok(items.split_off(offset.min(items.len())))
}

/// As [`cut`] in Cinder's way: a full page has one after it, which may be empty, and a marker that is nobody's id is not found (404).
pub(crate) fn cut_full<T>(
    params: &Params,
    limits: Limits,
    items: Vec<T>,
    (what, id): (&str, impl Fn(&T) -> String),
) -> Result<(Vec<T>, Option<String>), Fault> {
    if let Some(marker) = params.get("marker").filter(|marker| !marker.is_empty())
        && !items.iter().any(|item| id(item) == marker)
    {
        return Err(Fault::not_found(what, marker));
    }
    let limit = limit(params, limits)?;
    let (page, _) = cut(params, limits, items, &id)?;
    let next = page.last().filter(|_| page.len() == limit).map(&id);
    Ok((page, next))
}

/// Cuts out the page that `limit` and `marker` ask for. Returns the page and, where there is more, the id of its last entry.
pub(crate) fn cut<T>(
    params: &Params,
    limits: Limits,
    items: Vec<T>,
    id: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<String>), Fault> {
    let limit = limit(params, limits)?;
    let start = match params.get("marker") {
        None | Some("") => 0,
        Some(marker) => {
            let at = items.iter().position(|item| id(item) == marker);
            at.ok_or_else(|| Fault::bad(format!("marker [{marker}] not found")))? + 1
        }
    };
    let more = items.len().saturating_sub(start) > limit;
    let page: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    let next = if more { page.last().map(id) } else { None };
    Ok((page, next))
}

/// The query of the next page: that of this one with another marker.
pub(crate) fn next_query(params: &Params, marker: &str) -> String {
    query(params, &["marker"], &[("marker", marker.to_owned())])
}

/// A query without some of its members, and with some more.
pub(crate) fn query(params: &Params, without: &[&str], more: &[(&str, String)]) -> String {
    let kept = params.0.iter().filter(|(name, _)| !without.contains(&name.as_str()));
    let all = kept.map(|(name, value)| (name.as_str(), value.as_str()));
    let all = all.chain(more.iter().map(|(name, value)| (*name, value.as_str())));
    let encoded = |text| utf8_percent_encode(text, RESERVED);
    all.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

/// `[{"rel": "next", "href": URL}]`, or nothing on the last page.
pub(crate) fn links(url: &str, params: &Params, next: Option<&str>) -> Option<Value> {
    next.map(|marker| json!([{"rel": "next", "href": format!("{url}?{}", next_query(params, marker))}]))
}

/// A page as an answer: its entries under their name, and the way to the next page.
pub(crate) fn body(
    name: &str,
    entries: Vec<Value>,
    (url, params, next): (&str, &Params, Option<&str>),
) -> Value {
    // Not by `json!`, which would copy all of it.
    let mut body = Map::new();
    body.insert(name.to_owned(), Value::Array(entries));
    if let Some(links) = links(url, params, next) {
        body.insert(format!("{name}_links"), links);
    }
    Value::Object(body)
}

/// Refuses a `sort_key` that is none of these, also where there is nothing to sort.
pub(crate) fn check_keys(params: &Params, known: &[&str]) -> Result<(), Fault> {
    match params.all("sort_key").find(|key| !known.contains(key)) {
        Some(wrong) => Err(Fault::bad(format!(
            "Invalid input for query parameter sort_key: {wrong} cannot be sorted by"
        ))),
        None => Ok(()),
    }
}

/// Sorts as the query's `sort_key` and `sort_dir` say, newest first when they say nothing. `key` gives
/// the value of an entry by the name of the sort key, or `None` for a name that is none.
pub(crate) fn sort<T>(
    params: &Params,
    default: (&str, &str),
    items: &mut [T],
    key: impl Fn(&T, &str) -> Option<String>,
) -> Result<(), Fault> {
    let mut keys: Vec<&str> = params.all("sort_key").collect();
    let mut dirs: Vec<&str> = params.all("sort_dir").collect();
    for pair in params.all("sort").flat_map(|sort| sort.split(',')).filter(|pair| !pair.is_empty()) {
        let (name, dir) = pair.split_once(':').unwrap_or((pair, default.1));
        keys.push(name);
        dirs.push(dir);
    }
    if keys.is_empty() {
        keys.push(default.0);
    }
    if let Some(wrong) = dirs.iter().find(|dir| !matches!(**dir, "asc" | "desc")) {
        return Err(Fault::bad(format!(
            "Invalid input for query parameter sort_dir: {wrong} is neither asc nor desc"
        )));
    }
    if let (Some(first), Some(wrong)) =
        (items.first(), keys.iter().find(|name| items.first().is_some_and(|item| key(item, name).is_none())))
    {
        let _ = first;
        return Err(Fault::bad(format!(
            "Invalid input for query parameter sort_key: {wrong} cannot be sorted by"
        )));
    }
    // Stable, so sorting by the last key first gives the order of all of them.
    for (at, name) in keys.iter().enumerate().rev() {
        // The keys are texts that are made for it, so each is made once.
        if dirs.get(at).copied().unwrap_or(default.1) == "desc" {
            items.sort_by_cached_key(|item| Reverse(key(item, name)));
        } else {
            items.sort_by_cached_key(|item| key(item, name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { default: 1000, max: 1000 };

    fn params(query: &[(&str, &str)]) -> Params {
        Params(query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn pages_follow_each_other() {
        let items = vec!["a", "b", "c"];
        let id = |item: &&str| (*item).to_owned();
        let (page, next) = cut(&params(&[("limit", "2")]), LIMITS, items.clone(), id).unwrap();
        assert_eq!((page, next.as_deref()), (vec!["a", "b"], Some("b")));
        let (page, next) =
            cut(&params(&[("limit", "2"), ("marker", "b")]), LIMITS, items.clone(), id).unwrap();
        assert_eq!((page, next), (vec!["c"], None));
        assert!(cut(&params(&[("marker", "x")]), LIMITS, items.clone(), id).is_err());
        assert!(cut(&params(&[("limit", "-1")]), LIMITS, items, id).is_err());
    }

    #[test]
    fn in_cinder_a_full_page_has_a_next_one() {
        let id = |item: &&str| (*item).to_owned();
        let of = |query: &[(&str, &str)]| cut_full(&params(query), LIMITS, vec!["a", "b"], ("Volume", id));
        assert_eq!(of(&[("limit", "2")]).unwrap(), (vec!["a", "b"], Some("b".to_owned())));
        assert_eq!(of(&[("limit", "2"), ("marker", "b")]).unwrap(), (vec![], None));
        assert_eq!(of(&[("limit", "3")]).unwrap().1, None);
        assert_eq!(of(&[("marker", "x")]).unwrap_err().status, axum::http::StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_next_link_keeps_the_rest_of_the_query() {
        assert_eq!(next_query(&params(&[("name", "a b"), ("marker", "x")]), "y"), "name=a%20b&marker=y");
    }

    #[test]
    fn sorting_takes_both_spellings() {
        let key = |item: &(u8, u8), name: &str| match name {
            "a" => Some(item.0.to_string()),
            "b" => Some(item.1.to_string()),
            _ => None,
        };
        let mut items = [(1, 1), (2, 1), (1, 2)];
        sort(&params(&[("sort", "a:asc,b:desc")]), ("a", "desc"), &mut items, key).unwrap();
        assert_eq!(items, [(1, 2), (1, 1), (2, 1)]);
        sort(&params(&[("sort_key", "a"), ("sort_dir", "desc")]), ("a", "desc"), &mut items, key).unwrap();
        assert_eq!(items[0], (2, 1));
        assert!(sort(&params(&[("sort_key", "c")]), ("a", "desc"), &mut items, key).is_err());
    }
}
