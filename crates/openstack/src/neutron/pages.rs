//! Pages of Neutron's lists: forward from a marker or, with `page_reverse`, back from it; with the ways on and back.

use serde_json::{Value, json};

use crate::body::Params;
use crate::error::Fault;
use crate::page::query;

/// The longest page.
const MAX: usize = 10_000;

/// A page, and its links where it was asked to be one or there is more.
pub(super) struct Page {
    pub(super) views: Vec<Value>,
    pub(super) links: Option<Value>,
}

/// How many entries are asked for; 0 asks for all.
fn limit(params: &Params) -> Result<Option<usize>, Fault> {
    let Some(text) = params.get("limit").filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.parse::<usize>().map_err(|_| {
        Fault::bad(format!("Limit must be an integer 0 or greater and not '{text}'")).named("BadRequest")
    })?;
    Ok(Some(number).filter(|number| *number > 0))
}

/// Cuts out the page that `limit`, `marker` and `page_reverse` ask for, of a list in its order.
pub(super) fn cut(params: &Params, url: &str, mut views: Vec<Value>) -> Result<Page, Fault> {
    let asked = limit(params)?;
    let (size, reverse) = (asked.unwrap_or(MAX).min(MAX), params.flag("page_reverse")? == Some(true));
    let at = match params.get("marker").filter(|marker| !marker.is_empty()) {
        None => None,
        Some(marker) => {
            let at = views.iter().position(|view| view["id"] == marker);
            Some(at.ok_or_else(|| Fault::bad(format!("marker [{marker}] not found")))?)
        }
    };
    let all = views.len();
    let (start, end) = if reverse {
        let end = at.unwrap_or(all);
        (end.saturating_sub(size), end)
    } else {
        let start = at.map_or(0, |at| at + 1);
        (start, (start + size).min(all))
    };
    views.truncate(end);
    let views = views.split_off(start.min(end));
    if asked.is_none() && views.len() == all {
        return Ok(Page { views, links: None });
    }
    // As with Neutron, a full page has one behind it, which may be empty.
    let full = views.len() >= size;
    let id = |view: Option<&Value>| view.and_then(|view| view["id"].as_str()).map(str::to_owned);
    let mut links = Vec::new();
    let mut link = |rel: &str, marker: Option<String>, back: bool| {
        let marker = marker.map(|id| ("marker", id));
        let more = marker.into_iter().chain(back.then(|| ("page_reverse", "True".to_owned())));
        let more: Vec<(&str, String)> = more.collect();
        links.push(json!({"rel": rel, "href": format!("{url}?{}", query(params, &["marker", "page_reverse"], &more))}));
    };
    if full || reverse {
        link("next", id(views.last()), false);
    }
    if full || !reverse {
        link("previous", id(views.first()), true);
    }
    Ok(Page { views, links: Some(Value::Array(links)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let params = Params(query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let views = ["a", "b", "c", "d"].map(|id| json!({"id": id})).to_vec();
        let page = cut(&params, "u", views).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let links = page.links.iter().flat_map(|links| links.as_array().unwrap());
        let links = links.map(|link| format!("{} {}", text(&link["rel"]), text(&link["href"]))).collect();
        (page.views.iter().map(|view| text(&view["id"])).collect(), links)
    }

    #[test]
    fn pages_lead_on_and_back() {
        assert_eq!(page(&[]).0.len(), 4);
        assert!(page(&[("limit", "0")]).1.is_empty(), "0 is no limit");
        let (ids, links) = page(&[("limit", "2"), ("sort_key", "id")]);
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(
            links,
            [
                "next u?limit=2&sort_key=id&marker=b",
                "previous u?limit=2&sort_key=id&marker=a&page_reverse=True"
            ]
        );
        assert_eq!(page(&[("limit", "2"), ("marker", "b")]).0, ["c", "d"]);
        let (ids, links) = page(&[("limit", "2"), ("marker", "d")]);
        assert!(ids.is_empty() && links.len() == 1 && links[0].starts_with("previous"), "{links:?}");
        let (ids, links) = page(&[("limit", "3"), ("marker", "c"), ("page_reverse", "True")]);
        assert_eq!((ids, links.len()), (vec!["a".to_owned(), "b".to_owned()], 1));
        assert_eq!(page(&[("limit", "2"), ("page_reverse", "true")]).0, ["c", "d"]);
        let wrong = Params(vec![("limit".to_owned(), "-1".to_owned())]);
        assert!(cut(&wrong, "u", Vec::new()).is_err());
    }
}
