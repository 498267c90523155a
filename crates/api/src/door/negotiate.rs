//! Which shape and encoding the client wants.

use http::HeaderMap;
use http::header::ACCEPT;
use yunfan_objects::ApiError;

/// Encoding of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Json,
    PrettyJson,
    Yaml,
}

impl Encoding {
    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::PrettyJson => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Shape of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    #[default]
    Whole,
    /// `meta.k8s.io` Table.
    Table,
    /// PartialObjectMetadata, or a list of them.
    Metadata,
    /// Aggregated discovery, in this version.
    Discovery(DiscoveryVersion),
}

/// Versions of aggregated discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscoveryVersion {
    V2,
    V2Beta1,
}

/// Shape and encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

const ACCEPTED: [&str; 2] = ["application/json", "application/yaml"];

/// Reads the `Accept` header: the first form that we have wins. `discovery` says whether
/// aggregated discovery may be asked for here, `objects` whether tables may.
pub(crate) fn format(
    headers: &HeaderMap,
    pretty: bool,
    discovery: bool,
    objects: bool,
) -> Result<Format, ApiError> {
    let json = if pretty { Encoding::PrettyJson } else { Encoding::Json };
    let plain = Format { encoding: json, shape: Shape::Whole };
    let mut given = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if given.peek().is_none() {
        return Ok(plain);
    }
    let mut forms: Vec<(f32, Format)> = Vec::new();
    for form in given.flat_map(|text| text.split(',')) {
        let mut parts = form.split(';').map(str::trim);
        let encoding = match parts.next().unwrap_or_default() {
            "" => continue,
            "application/json" | "application/*" | "*/*" => json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let params: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let param = |name: &str| params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
        let shape = match (param("as"), param("g"), param("v")) {
            ("", ..) => Shape::Whole,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") if objects => Shape::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1")
                if objects =>
            {
                Shape::Metadata
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if discovery => {
                Shape::Discovery(DiscoveryVersion::V2)
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") if discovery => {
                Shape::Discovery(DiscoveryVersion::V2Beta1)
            }
            _ => continue,
        };
        let quality = param("q").parse().unwrap_or(1.0);
        forms.push((quality, Format { encoding, shape }));
    }
    // Of two that are wanted as much, the first.
    let best = forms.into_iter().reduce(|best, form| if form.0 > best.0 { form } else { best });
    best.map(|(_, format)| format).ok_or_else(|| ApiError::not_acceptable(&ACCEPTED))
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
    fn the_first_form_that_we_have_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(table).map(|f| f.shape), Ok(Shape::Table));
        assert_eq!(of("application/vnd.kubernetes.protobuf, */*").map(|f| f.encoding), Ok(Encoding::Json));
        assert_eq!(of("application/yaml").map(|f| f.encoding), Ok(Encoding::Yaml));
        assert_eq!(of("application/json;q=0.5,application/yaml").map(|f| f.encoding), Ok(Encoding::Yaml));
        assert_eq!(of("text/html").map_err(|e| e.code()), Err(406));
        let discovery =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(of(discovery).map(|f| f.shape), Ok(Shape::Discovery(DiscoveryVersion::V2)));
    }
}
