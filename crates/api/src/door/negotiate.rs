//! Which shape and encoding the client wants.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use yunfan_objects::{ApiError, protobuf};

/// Encoding of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Json,
    PrettyJson,
    Yaml,
    /// Of Kubernetes' own kinds, and of what every kind has in common.
    Protobuf,
}

impl Encoding {
    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::PrettyJson => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// The media type of a stream of events.
    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            other => other.media_type(),
        }
    }
}

/// Shape of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    #[default]
    Whole,
    /// `meta.k8s.io` Table, of this apiVersion.
    Table(&'static str),
    /// PartialObjectMetadata, or a list of them, of this apiVersion.
    Metadata(&'static str, Number),
    /// Aggregated discovery.
    Discovery,
}

/// Whether metadata of one object or of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    One,
    Many,
}

/// Shape and encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

/// The forms of what is Kubernetes' own, and behind them those of a watch.
const FORMS: [&str; 5] = [
    "application/json",
    "application/yaml",
    protobuf::MEDIA_TYPE,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
/// How many of them an object has.
const PLAIN: usize = 3;

/// What a place can answer with, besides JSON and YAML as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Offer {
    discovery: bool,
    tables: bool,
    /// Whether what is there has a protobuf form, as all that is Kubernetes' own.
    protobuf: bool,
    /// Whether it can be watched.
    watches: bool,
}

/// One form that a client accepts.
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    /// A parameter; empty if it is not there.
    pub(crate) fn param(&self, name: &str) -> &'a str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value)
    }

    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        Self { media, params: parts.filter_map(|part| part.split_once('=')).collect() }
    }
}

/// The forms that a client accepts, what it wants most first. Of two that are wanted as much, the one that is
/// named first; none, if there is no such header. What is wanted least may be had all the same.
pub(crate) fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let given = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let forms = given.flat_map(|text| text.split(',')).map(str::trim).filter(|form| !form.is_empty());
    let mut all: Vec<(f32, Clause<'_>)> =
        forms.map(Clause::parse).map(|clause| (clause.param("q").parse().unwrap_or(1.0), clause)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, clause)| clause).collect()
}

/// The best of what we have (`have` says what a clause would get) for a client; the first of `accepted` for one that did not say.
pub(crate) fn best<T>(
    headers: &HeaderMap,
    accepted: &[&str],
    have: impl Fn(&Clause<'_>) -> Option<T>,
) -> Result<T, ApiError> {
    let mut clauses = clauses(headers);
    if clauses.is_empty() {
        clauses.extend(accepted.first().map(|first| Clause::parse(first)));
    }
    clauses.iter().find_map(have).ok_or_else(|| ApiError::not_acceptable(accepted))
}

/// Whether an answer may be compressed.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|text| text.split(',')).any(|form| {
        let clause = Clause::parse(form.trim());
        clause.media == "gzip" && clause.param("q").parse() != Ok(0.0_f32)
    })
}

/// Reads the `Accept` header for a place that is no stored kind. `discovery` says whether aggregated discovery may be
/// asked for here, `tables` whether tables may.
pub(crate) fn format(
    headers: &HeaderMap,
    pretty: bool,
    discovery: bool,
    tables: bool,
) -> Result<Format, ApiError> {
    negotiate(headers, pretty, Offer { discovery, tables, protobuf: true, watches: false })
}

/// Reads the `Accept` header for objects of a kind: not all have a protobuf form.
/// `watches` says whether it is the place of lists and watches.
pub(crate) fn object_format(
    headers: &HeaderMap,
    pretty: bool,
    protobuf: bool,
    watches: bool,
) -> Result<Format, ApiError> {
    negotiate(headers, pretty, Offer { discovery: false, tables: true, protobuf, watches })
}

/// What a client has its errors in: JSON, unless it asks for another form first.
pub(crate) fn error_encoding(headers: &HeaderMap) -> Encoding {
    match clauses(headers).first() {
        Some(clause) if clause.media == protobuf::MEDIA_TYPE => Encoding::Protobuf,
        Some(clause) if clause.media == Encoding::Yaml.media_type() => Encoding::Yaml,
        _ => Encoding::Json,
    }
}

/// Programs that people look through at what they get.
const VIEWERS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

fn negotiate(headers: &HeaderMap, pretty: bool, offer: Offer) -> Result<Format, ApiError> {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let pretty = pretty || VIEWERS.iter().any(|viewer| agent.starts_with(viewer));
    let accepted = if offer.protobuf { &FORMS[..PLAIN] } else { &FORMS[..PLAIN - 1] };
    // A media type that nothing there has is refused before anybody looks for its parameters.
    let known = |clause: &Clause<'_>| clause.media == "*/*" || accepted.contains(&clause.media);
    let asked = clauses(headers);
    if offer.protobuf && !asked.is_empty() && !asked.iter().any(known) {
        return Err(ApiError::no_representation(if offer.watches { &FORMS } else { accepted }));
    }
    best(headers, accepted, |clause| {
        let pretty = pretty || clause.param("pretty") == "1";
        let encoding = match clause.media {
            "application/json" | "application/*" | "*/*" if pretty => Encoding::PrettyJson,
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
            protobuf::MEDIA_TYPE => Encoding::Protobuf,
            _ => return None,
        };
        let shape = shape(clause, offer)?;
        let fits = match (encoding, shape) {
            (Encoding::Protobuf, Shape::Whole) => offer.protobuf,
            // Cells may be anything, which has no protobuf form.
            (Encoding::Protobuf, Shape::Table(_) | Shape::Discovery) => false,
            _ => true,
        };
        fits.then_some(Format { encoding, shape })
    })
}

fn shape(clause: &Clause<'_>, offer: Offer) -> Option<Shape> {
    match (clause.param("as"), clause.param("g"), clause.param("v")) {
        ("", ..) => Some(Shape::Whole),
        ("Table", "meta.k8s.io", version) if offer.tables => meta_version(version).map(Shape::Table),
        ("PartialObjectMetadata", "meta.k8s.io", version) if offer.tables => {
            meta_version(version).map(|version| Shape::Metadata(version, Number::One))
        }
        ("PartialObjectMetadataList", "meta.k8s.io", version) if offer.tables => {
            meta_version(version).map(|version| Shape::Metadata(version, Number::Many))
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if offer.discovery => Some(Shape::Discovery),
        _ => None,
    }
}

fn meta_version(version: &str) -> Option<&'static str> {
    match version {
        "v1" => Some("meta.k8s.io/v1"),
        "v1beta1" => Some("meta.k8s.io/v1beta1"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &'static str) -> Result<Format, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        format(&headers, false, true, true)
    }

    #[test]
    fn errors_come_in_the_form_that_is_asked_for_first() {
        let of = |accept: &'static str| {
            error_encoding(&HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a header"))]))
        };
        assert_eq!(of("application/yaml"), Encoding::Yaml);
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json"), Encoding::Protobuf);
        assert_eq!(of("application/json,application/yaml"), Encoding::Json);
        assert_eq!(of("*/*"), Encoding::Json);
    }

    #[test]
    fn the_first_form_that_we_have_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(table).map(|f| f.shape), Ok(Shape::Table("meta.k8s.io/v1")));
        let early = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
        assert_eq!(of(early).map(|f| f.shape), Ok(Shape::Table("meta.k8s.io/v1beta1")));
        let protobuf = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(of(protobuf).map(|f| f.encoding), Ok(Encoding::Protobuf));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, protobuf.parse().expect("a header"));
        // A custom kind has no protobuf form, but its metadata has.
        assert_eq!(object_format(&headers, false, false, false).map(|f| f.encoding), Ok(Encoding::Json));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        headers.insert(ACCEPT, metadata.parse().expect("a header"));
        let format =
            Format { encoding: Encoding::Protobuf, shape: Shape::Metadata("meta.k8s.io/v1", Number::One) };
        assert_eq!(object_format(&headers, false, false, false), Ok(format));
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        let refused = of(table).map_err(|error| error.message().to_owned());
        let types = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(refused, Err(format!("only the following media types are accepted: {types}")));
        headers.insert(ACCEPT, "*/*".parse().expect("a header"));
        headers.insert(USER_AGENT, "curl/8.0".parse().expect("a header"));
        assert_eq!(object_format(&headers, false, true, false).map(|f| f.encoding), Ok(Encoding::PrettyJson));
        assert_eq!(of("application/yaml").map(|f| f.encoding), Ok(Encoding::Yaml));
        assert_eq!(of("application/json;q=0.5,application/yaml").map(|f| f.encoding), Ok(Encoding::Yaml));
        assert_eq!(of("application/yaml;q=0,*/*;q=0.1").map(|f| f.encoding), Ok(Encoding::Json));
        for least in ["", "*/*;q=0", "text/html, application/json;q=0"] {
            assert_eq!(of(least).map(|f| f.encoding), Ok(Encoding::Json), "{least}");
        }
        assert!(of("application/*").is_err());
        let refused = of("text/html").map_err(|error| error.message().to_owned());
        let text = format!("406: Not Acceptable\n\nAvailable representations: {types}");
        assert_eq!(refused, Err(text.clone()));
        headers.insert(ACCEPT, "text/html".parse().expect("a header"));
        headers.remove(USER_AGENT);
        let collection =
            object_format(&headers, false, true, true).map_err(|error| error.message().to_owned());
        let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(collection, Err(format!("{text}, {streams}")));
        let custom = object_format(&headers, false, false, true).map_err(|error| error.message().to_owned());
        let only = "only the following media types are accepted: application/json, application/yaml";
        assert_eq!(custom, Err(only.to_owned()));
        let discovery =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(of(discovery).map(|f| f.shape), Ok(Shape::Discovery));
    }
}
