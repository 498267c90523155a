//! How objects are written in an answer: as the stored bytes are where that will do, else decoded and made anew. One
//! renderer writes the items of a list and the events of a watch alike.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::table::{self, IncludeObject, View};
use yunfan_objects::{ApiError, Descriptor, protobuf};
use yunfan_store::Revision;

use super::negotiate::{Encoding, Format, Shape};
use super::respond;
use crate::cache::{ChangeType, Entry, Types, Variant};
use crate::kinds::Kind;

/// How the objects of one answer are written.
pub(crate) struct Renderer {
    pub(crate) kind: Kind,
    pub(crate) format: Format,
    include: IncludeObject,
    /// The apiVersion to write, where it is not the stored one.
    version: Option<String>,
}

impl Renderer {
    pub(crate) fn new(kind: Kind, format: Format, include: IncludeObject) -> Self {
        Self { version: kind.other_version(), kind, format, include }
    }

    /// The same for the kind as it is after a change of its definition.
    pub(crate) fn with_kind(&self, kind: Kind) -> Self {
        Self::new(kind, self.format, self.include)
    }

    fn descriptor(&self) -> &Descriptor {
        &self.kind.descriptor
    }

    /// What an object that stands alone says of its type.
    fn types(&self) -> Types<'_> {
        self.version.as_deref().map_or(Types::Stored, Types::Version)
    }

    /// Whether the stored bytes will do.
    fn is_copy(&self) -> bool {
        self.format.shape == Shape::Whole && self.format.encoding == Encoding::Json
    }

    /// The object in the version and shape that are asked for; of a table, the row.
    fn value(&self, entry: &Entry) -> Value {
        let whole = respond::whole(&self.kind, entry);
        match self.format.shape {
            Shape::Table(api_version) => {
                let view = View { include: self.include, api_version };
                table::row(self.descriptor(), &whole, view, Timestamp::now())
            }
            Shape::Metadata(api_version, _) => table::partial_metadata(&whole, api_version),
            Shape::Whole | Shape::Discovery => whole,
        }
    }

    /// Kind and apiVersion of a list.
    fn list_kind(&self) -> (&str, String) {
        let descriptor = self.descriptor();
        match self.format.shape {
            Shape::Table(api_version) => ("Table", api_version.to_owned()),
            Shape::Metadata(api_version, _) => ("PartialObjectMetadataList", api_version.to_owned()),
            Shape::Whole | Shape::Discovery => (descriptor.list_kind.as_str(), descriptor.api_version()),
        }
    }

    /// A whole list in protobuf: it begins with how long it is, so it cannot be sent before it is made.
    pub(crate) fn protobuf_list(
        &self,
        meta: &Value,
        entries: impl IntoIterator<Item = Arc<Entry>>,
    ) -> Result<Bytes, ApiError> {
        let mut items = Vec::new();
        for entry in entries {
            let object = self.value(&entry);
            let text = |key: &str| object[key].as_str().unwrap_or_default();
            protobuf::item(&protobuf::message(text("apiVersion"), text("kind"), &object)?, &mut items);
        }
        let (kind, version) = self.list_kind();
        Ok(protobuf::list(&version, kind, meta, &items)?.into())
    }

    /// What comes before the items of a list. (Lists in protobuf are made by [`protobuf_list`](Self::protobuf_list).)
    pub(crate) fn list_head(&self, meta: &Value) -> Bytes {
        let descriptor = self.descriptor();
        let (kind, version) = self.list_kind();
        let mut fields =
            vec![("kind", json!(kind)), ("apiVersion", json!(version)), ("metadata", meta.clone())];
        if matches!(self.format.shape, Shape::Table(_)) {
            fields.push(("columnDefinitions", table::column_definitions(descriptor)));
        }
        let items = if matches!(self.format.shape, Shape::Table(_)) { "rows" } else { "items" };
        let mut out = String::new();
        match self.format.encoding {
            Encoding::Json | Encoding::Protobuf => {
                out.push('{');
                out.extend(fields.iter().map(|(key, value)| format!("\"{key}\":{value},")));
                out.push_str(&format!("\"{items}\":"));
            }
            Encoding::PrettyJson => {
                out.push_str("{\n");
                for (key, value) in &fields {
                    out.push_str(&format!("  \"{key}\": {},\n", indented(&format!("{value:#}"), "  ")));
                }
                out.push_str(&format!("  \"{items}\": "));
            }
            Encoding::Yaml => {
                out.extend(fields.iter().map(|(key, value)| yaml(&json!({ *key: value }))));
                out.push_str(&format!("{items}:"));
            }
        }
        out.into()
    }

    /// One item of a list.
    pub(crate) fn list_item(&self, entry: &Entry, first: bool, out: &mut BytesMut) {
        if self.format.encoding != Encoding::Yaml {
            out.put_u8(if first { b'[' } else { b',' });
        }
        // The list says what its items are; of other kinds than Kubernetes' own, each item says it too, as upstream.
        let left = self.descriptor().builtin && self.format.shape == Shape::Whole;
        if self.is_copy() {
            return entry.render_into(if left { Types::Left } else { self.types() }, out);
        }
        let mut value = self.value(entry);
        if let Some(object) = value.as_object_mut().filter(|_| left) {
            object.remove("apiVersion");
            object.remove("kind");
        }
        let text = match self.format.encoding {
            Encoding::Json | Encoding::Protobuf => value.to_string(),
            Encoding::PrettyJson => format!("\n    {}", indented(&format!("{value:#}"), "    ")),
            Encoding::Yaml => format!("\n- {}", indented(yaml(&value).trim_end(), "  ")),
        };
        out.put_slice(text.as_bytes());
    }

    /// What comes behind the items of a list.
    pub(crate) fn list_tail(&self, empty: bool) -> &'static str {
        // As upstream, where nobody makes an empty list of what would be shown of none.
        let none = empty
            && match self.format.shape {
                Shape::Metadata(..) => true,
                Shape::Table(_) => self.descriptor().has_plain_table(),
                Shape::Whole | Shape::Discovery => false,
            };
        match (self.format.encoding, empty) {
            (Encoding::Json | Encoding::Protobuf, false) => "]}\n",
            (Encoding::Json | Encoding::Protobuf, true) if none => "null}\n",
            (Encoding::Json | Encoding::Protobuf, true) => "[]}\n",
            (Encoding::PrettyJson, false) => "\n  ]\n}\n",
            (Encoding::PrettyJson, true) if none => "null\n}\n",
            (Encoding::PrettyJson, true) => "[]\n}\n",
            (Encoding::Yaml, false) => "\n",
            (Encoding::Yaml, true) if none => " null\n",
            (Encoding::Yaml, true) => " []\n",
        }
    }

    /// Whether a watch can be written so: its events need a form that comes apart again.
    pub(crate) fn check_stream(&self) -> Result<(), ApiError> {
        match self.format.encoding {
            Encoding::Yaml => Err(ApiError::not_acceptable(if self.descriptor().builtin {
                &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"]
            } else {
                &["application/json;stream=watch"]
            })),
            Encoding::Json | Encoding::PrettyJson | Encoding::Protobuf => Ok(()),
        }
    }

    /// The name of this way of writing events: two renderers with the same name write the same bytes. A definition that
    /// changes makes another. Of tables, only a stream's first tells the columns.
    pub(crate) fn variant(&self, first: bool) -> Variant {
        let definition = self.kind.resource.definition.as_ref().map_or(0, |definition| definition.revision);
        let version = &self.descriptor().version;
        match self.format.shape {
            Shape::Table(meta) => {
                format!("{version} {definition} {meta} table {:?} {first}", self.include).into()
            }
            shape => {
                let packed = self.format.encoding == Encoding::Protobuf;
                format!("{version} {definition} {shape:?} {packed}").into()
            }
        }
    }

    /// An event of a watch.
    pub(crate) fn event(&self, kind: ChangeType, entry: &Entry, first: bool) -> Bytes {
        if self.format.shape == Shape::Whole && self.format.encoding != Encoding::Protobuf {
            let mut out = BytesMut::with_capacity(entry.bytes.len() + 96);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(kind.word().as_bytes());
            out.put_slice(b"\",\"object\":");
            entry.render_into(self.types(), &mut out);
            out.put_slice(b"}\n");
            return out.freeze();
        }
        let value = self.value(entry);
        let object = match self.format.shape {
            Shape::Table(version) => {
                let meta = json!({ "resourceVersion": entry.revision.to_string() });
                self.table(version, &meta, first, json!([value]))
            }
            _ => value,
        };
        self.frame(kind.word(), &object)
    }

    fn table(&self, version: &str, meta: &Value, first: bool, rows: Value) -> Value {
        let columns = if first { table::column_definitions(self.descriptor()) } else { Value::Null };
        json!({
            "kind": "Table", "apiVersion": version, "metadata": meta,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    /// A bookmark; `initial_end` says that what was there has been sent.
    pub(crate) fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let descriptor = self.descriptor();
        let mut meta = json!({ "resourceVersion": revision.to_string() });
        let plain = meta.clone();
        if initial_end {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.format.shape {
            // The row of an object of which nothing is known but that: clients look for the annotation there.
            Shape::Table(version) => {
                let blank = json!({ "kind": descriptor.kind, "apiVersion": descriptor.api_version(), "metadata": meta });
                let view = View { include: self.include, api_version: version };
                let row = table::row(descriptor, &blank, view, Timestamp::now());
                self.table(version, &plain, true, json!([row]))
            }
            Shape::Metadata(version, _) => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta })
            }
            _ => json!({ "kind": descriptor.kind, "apiVersion": descriptor.api_version(), "metadata": meta }),
        };
        self.frame("BOOKMARK", &object)
    }

    /// The last event of a watch that can't go on.
    pub(crate) fn error(&self, error: &ApiError) -> Bytes {
        self.frame("ERROR", &error.to_status())
    }

    fn frame(&self, word: &str, object: &Value) -> Bytes {
        if self.format.encoding != Encoding::Protobuf {
            return format!("{}\n", json!({ "type": word, "object": object })).into();
        }
        match protobuf::encode(object) {
            Ok(bytes) => protobuf::event(word, &bytes).into(),
            // A Status has a protobuf form, so this ends here.
            Err(error) => self.error(&error),
        }
    }
}

/// Moves all lines but the first to the right. (Neither JSON nor the YAML that we write has lines whose start counts.)
fn indented(text: &str, by: &str) -> String {
    text.replace('\n', &format!("\n{by}"))
}

fn yaml(value: &Value) -> String {
    // JSON is YAML, too.
    serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value}\n"))
}
