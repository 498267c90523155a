//! What a list or a watch asks for in its query, checked as Kubernetes checks its `ListOptions`.

use std::time::Duration;

use yunfan_objects::selector::{FieldSelector, LabelSelector};
use yunfan_objects::{ApiError, FieldError, GroupVersionKind, Reason, golang};
use yunfan_store::Revision;

use super::params::Params;
use super::resource::no_revision;
use crate::registry::{RevisionMatch, parse_revision};

const MATCH: &str = "resourceVersionMatch";
const INITIAL: &str = "sendInitialEvents";

/// The query of a list or a watch, but for its selectors.
#[derive(Debug)]
pub(super) struct ReadOptions {
    pub(super) revision: Option<Revision>,
    pub(super) matching: Option<RevisionMatch>,
    /// 0 = all.
    pub(super) limit: usize,
    pub(super) token: Option<String>,
    /// Whether a watch begins with what is there.
    pub(super) initial: Option<bool>,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
}

impl ReadOptions {
    /// Reads and checks the query: numbers before all else, as kube-apiserver does, which decodes the query before it looks at what
    /// stands there.
    pub(super) fn parse(params: &Params, watch: bool) -> Result<Self, ApiError> {
        let timeout = number(params, "timeoutSeconds")?;
        let limit = number(params, "limit")?;
        let mut matching = params.get(MATCH);
        let revision = params.get("resourceVersion");
        let mut initial = (!params.all(INITIAL).is_empty()).then(|| params.flag(INITIAL));
        if watch && initial.is_none() && matching.is_none() && matches!(revision, None | Some("0")) {
            // What such a watch always did, before it had a name.
            (initial, matching) = (Some(true), Some("NotOlderThan"));
        }
        let token = params.get("continue");
        let errors = if watch {
            watch_errors(initial, matching, token)
        } else {
            list_errors(initial, matching, token, revision)
        };
        if !errors.is_empty() {
            check_selectors(params)?;
            let options = GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions");
            return Err(ApiError::invalid(&options, "", &errors));
        }
        Ok(Self {
            revision: match (watch, token) {
                (true, _) => watch_revision(revision)?,
                (false, None) => parse_revision(revision)?,
                // With a token any but 0 is refused behind the token, whatever it says.
                (false, Some(_)) => revision.map(|text| text.parse().unwrap_or(Revision::MAX)),
            },
            matching: matching.map(|text| match text {
                "Exact" => RevisionMatch::Exact,
                _ => RevisionMatch::NotOlderThan,
            }),
            limit: limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            token: token.map(str::to_owned),
            initial,
            bookmarks: params.flag("allowWatchBookmarks"),
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }
}

/// Refuses selectors that can't be read: what can't be decoded is told before what is decoded and wrong.
fn check_selectors(params: &Params) -> Result<(), ApiError> {
    LabelSelector::parse(params.get("labelSelector").unwrap_or_default())?;
    FieldSelector::conditions(params.get("fieldSelector").unwrap_or_default())?;
    Ok(())
}

/// A number that counts for nothing when it is negative.
fn number(params: &Params, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let number: i64 =
        text.parse().map_err(|_| ApiError::bad_request(golang::number_error("ParseInt", text)))?;
    Ok(Some(u64::try_from(number).unwrap_or(0)))
}

fn watch_revision(text: Option<&str>) -> Result<Option<Revision>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let unread = || ApiError::new(500, Reason::Unknown, no_revision(text).unwrap_or_default());
    text.parse().map(Some).map_err(|_| unread())
}

fn list_errors(
    initial: Option<bool>,
    matching: Option<&str>,
    token: Option<&str>,
    revision: Option<&str>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(matching) = matching {
        if revision.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if token.is_some() {
            errors.push(FieldError::forbidden(MATCH, NO_TOKEN));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(MATCH, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && revision == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(MATCH, why));
        }
    }
    if initial.is_some() {
        errors.push(FieldError::forbidden(INITIAL, "sendInitialEvents is forbidden for list"));
    }
    errors
}

const NO_TOKEN: &str = "resourceVersionMatch is forbidden when continue is provided";

fn watch_errors(initial: Option<bool>, matching: Option<&str>, token: Option<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if initial.is_some() && matching != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(MATCH, why));
    }
    if let Some(matching) = matching {
        if initial.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(MATCH, matching, &["NotOlderThan"]));
        }
        if token.is_some() {
            errors.push(FieldError::forbidden(MATCH, NO_TOKEN));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_before_the_rest_is_judged() {
        let why = |query: &str, watch| match ReadOptions::parse(&Params::parse(Some(query)), watch) {
            Ok(_) => (200, String::new()),
            Err(error) => (error.code(), error.message().to_owned()),
        };
        let number = "strconv.ParseInt: parsing \"abc\": invalid syntax".to_owned();
        for query in [
            "limit=abc&resourceVersionMatch=Odd",
            "timeoutSeconds=abc&resourceVersionMatch=Exact",
            "limit=abc&resourceVersion=abc",
        ] {
            assert_eq!(why(query, false), (400, number.clone()), "{query}");
            assert_eq!(why(query, true), (400, number.clone()), "{query}");
        }
        assert_eq!(why("resourceVersionMatch=Odd&resourceVersion=1", false).0, 422);
        assert_eq!(why("resourceVersion=abc", false).0, 400);
        assert_eq!(why("resourceVersion=abc&continue=x", false).0, 200, "the token is looked at first");
    }
}
