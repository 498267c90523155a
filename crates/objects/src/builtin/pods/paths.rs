//! Paths of files in a Pod's volumes that are in each other's way.

use crate::builtin::field::Field;
use crate::builtin::pods::looks::Looks;

/// A path in a volume, and what brings it; empty where the volume has one source.
#[derive(Clone, Debug, PartialEq)]
struct Place<'a> {
    path: &'a str,
    source: String,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.path)?;
        if !self.source.is_empty() {
            write!(f, " ({})", self.source)?;
        }
        Ok(())
    }
}

impl Place<'_> {
    fn collides(&self, other: &Place<'_>) -> bool {
        let below = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let named = !self.path.is_empty() && !other.path.is_empty();
        named && (below(self.path, other.path) || below(other.path, self.path))
    }
}

/// Sources whose files are listed: their key, what they are called, and the key of their object's name.
const LISTED: [(&str, &str, &str); 3] = [
    ("configMap", "ConfigMap", "name"),
    ("secret", "Secret", "secretName"),
    ("downwardAPI", "DownwardAPI", ""),
];

/// What a client is told of the paths in the volumes of a Pod.
pub(in crate::builtin) fn overlaps(spec: &Field<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let mut looks = Looks::new();
    for volume in spec.at("volumes").items() {
        let name = volume.at("name").text();
        for (key, what, naming) in LISTED {
            let source = volume.at(key);
            let places = listed(&source, "").collect();
            let what = match naming {
                "" => what.to_owned(),
                naming => format!("{what} {:?}", source.at(naming).text()),
            };
            let found = collisions(places, &mut looks);
            out.extend(
                found.into_iter().map(|text| format!("volume {name:?} ({what}): overlapping paths: {text}")),
            );
        }
        let mut places = Vec::new();
        for source in volume.under(&["projected", "sources"]).items() {
            if source.value.as_object().is_none_or(serde_json::Map::is_empty) {
                out.push(format!("volume {name:?} (Projected) has no sources provided"));
            }
            places.extend(projected(&source));
        }
        let found = collisions(places, &mut looks);
        out.extend(
            found.into_iter().map(|text| format!("volume {name:?} (Projected): overlapping paths: {text}")),
        );
    }
    out
}

/// The paths that a source lists.
fn listed<'a>(source: &Field<'a>, called: &str) -> impl Iterator<Item = Place<'a>> + use<'a> {
    let called = called.to_owned();
    source.at("items").items().map(move |item| Place { path: item.at("path").text(), source: called.clone() })
}

/// The paths that one of several sources brings.
fn projected<'a>(source: &Field<'a>) -> Vec<Place<'a>> {
    let one = |path: Field<'a>, source: String| Place { path: path.text(), source };
    for (key, what, naming) in LISTED {
        let part = source.at(key);
        if part.at("items").is_given() {
            let name = part.at("name").text();
            let called = if naming.is_empty() { what.to_owned() } else { format!("{what} {name:?}") };
            return listed(&part, &called).collect();
        }
    }
    let (token, bundle) = (source.at("serviceAccountToken"), source.at("clusterTrustBundle"));
    if token.is_given() {
        return vec![one(token.at("path"), "ServiceAccountToken".to_owned())];
    }
    if bundle.is_given() {
        let key = if bundle.at("name").is_given() { "name" } else { "signerName" };
        return vec![one(bundle.at("path"), format!("ClusterTrustBundle {:?}", bundle.at(key).text()))];
    }
    let parts = [
        ("certificateChainPath", "chain"),
        ("keyPath", "key"),
        ("credentialBundlePath", "credential bundle"),
    ];
    let certificate = source.at("podCertificate");
    let given = parts.into_iter().filter(|(key, _)| !certificate.at(key).text().is_empty());
    given.map(|(key, what)| one(certificate.at(key), format!("PodCertificate {what}"))).collect()
}

fn collisions(places: Vec<Place<'_>>, looks: &mut Looks) -> Vec<String> {
    let trimmed = places.into_iter().map(|place| Place { path: place.path.trim_end_matches('/'), ..place });
    let places: Vec<Place<'_>> = trimmed.collect();
    looks.pairs(&places, |place, other| place.collides(other).then(|| format!("{place} with {other}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_in_each_others_way_are_told() {
        let spec = json!({"volumes": [
            {"name": "c", "configMap": {"name": "m", "items": [{"path": "a"}, {"path": "a/b"}, {"path": "ab"}]}},
            {"name": "p", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"path": "t"}]}}, {"serviceAccountToken": {"path": "t/"}}, {}]}}]});
        assert_eq!(
            overlaps(&Field::root(&spec)),
            [
                r#"volume "c" (ConfigMap "m"): overlapping paths: "a/b" with "a""#,
                r#"volume "p" (Projected) has no sources provided"#,
                r#"volume "p" (Projected): overlapping paths: "t" (ServiceAccountToken) with "t" (Secret "s")"#,
            ]
        );
    }

    #[test]
    fn of_very_many_paths_some_are_told() {
        let items = vec![json!({"path": "a"}); 20_000];
        let spec = json!({"volumes": [{"name": "c", "configMap": {"name": "m", "items": items}}]});
        let told = overlaps(&Field::root(&spec));
        assert!((100..2_000).contains(&told.len()), "{}", told.len());
    }
}
