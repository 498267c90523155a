//! The form of a case: requests, one after the other, and what their answers must hold.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Answer;

/// A file of `tests/cases`: requests that follow one another, in a namespace of their own.
///
/// In paths, bodies and expected answers, `$ns` is the namespace, and `$NAME` what an earlier step has kept by that name.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    /// The requests.
    pub steps: Vec<Step>,
}

/// One request, and what is known of its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Method and path: `GET /api/v1/namespaces/$ns/pods`.
    pub request: String,
    /// Headers beside those that the body asks for.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// That the body is a patch, and of which kind.
    pub patch: Option<Patch>,
    /// In which other shape the answer is asked for.
    pub shape: Option<Shape>,
    /// The body, sent as JSON.
    pub body: Option<Value>,
    /// The body as it is sent, where it is not JSON or no good JSON.
    pub text: Option<String>,
    /// The status that the answer must have, where it is to be seen here and not in the recorded answer alone.
    pub status: Option<u16>,
    /// What the body must hold: objects may have more keys, anything else must be equal. A text `~words` must be contained in a text,
    /// `*` is anything that is there, `-` is a key that must be missing.
    #[serde(default)]
    pub answer: Value,
    /// Headers that the answer must have, by lower-case name, with the same forms of text.
    #[serde(default)]
    pub answer_headers: BTreeMap<String, Value>,
    /// Names for values of the answer, by JSON pointer, for the steps that follow.
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
    /// JSON pointers into the answer (`*` is any key or index) that may differ between two servers, with the reason.
    #[serde(default)]
    pub differs: BTreeMap<String, String>,
    /// What is known to be answered otherwise here than there, and is to be mended: the step must differ as long as this stands.
    pub gap: Option<String>,
    /// Repeats the request until its status and answer are as expected: for what happens a moment later.
    #[serde(default)]
    pub eventually: bool,
}

/// The kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // Each is named as its media type.
pub enum Patch {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Patch {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What an object can be shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shape {
    /// A row of a table.
    Table,
    /// Its metadata alone.
    Metadata,
    /// A list of the metadata of several.
    MetadataList,
}

impl Shape {
    /// The media type that asks for it.
    pub fn media_type(self) -> String {
        let kind = match self {
            Self::Table => "Table",
            Self::Metadata => "PartialObjectMetadata",
            Self::MetadataList => "PartialObjectMetadataList",
        };
        format!("application/json;as={kind};v=v1;g=meta.k8s.io")
    }
}

impl Case {
    /// Reads a file of cases.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let steps =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, steps }
    }

    /// The namespace that the case runs in.
    pub fn namespace(&self) -> String {
        format!("case-{}", self.name)
    }

    fn recorded_path(&self) -> std::path::PathBuf {
        crate::repository().join("tests/cases/recorded").join(format!("{}.json", self.name))
    }

    /// What a `kube-apiserver` has answered to each step, when that was recorded.
    #[track_caller]
    pub fn recorded(&self) -> Vec<Answer> {
        let path = self.recorded_path();
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let answers: Vec<Answer> =
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        answers.iter().map(Answer::plain).collect()
    }

    /// Records the [`plain`](Answer::plain) answers, a line for each step.
    #[track_caller]
    pub fn record(&self, answers: &[Answer]) {
        let line = |answer| serde_json::to_string(answer).expect("answers have a JSON form");
        let lines: Vec<String> = answers.iter().map(line).collect();
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        let path = self.recorded_path();
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// All cases, by name.
    #[track_caller]
    pub fn all() -> Vec<Self> {
        let dir = crate::repository().join("tests/cases");
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}
