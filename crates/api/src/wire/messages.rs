//! The table of messages: `messages.txt.gz`, made by `generate/messages.py`, which describes its lines.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

/// How a message is written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An object of its fields.
    Object,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Its one text.
    Quantity,
    /// A number or a text.
    IntOrString,
    /// JSON bytes.
    Json,
    /// The list of its one field.
    List,
    /// Nanoseconds as Go writes durations.
    Duration,
    /// A truth value, or a schema.
    OrBool,
    /// A schema, or a list.
    OrArray,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldType {
    Text,
    Bytes,
    Bool,
    Int,
    Double,
    Float,
    Message(&'static str),
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Once, and an empty value says as much as none.
    UnlessEmpty,
    Once,
    Many,
    /// A map with text keys.
    Map,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// None for one whose own fields are those of the message it is in.
    pub(super) name: Option<&'static str>,
    pub(super) count: Count,
    pub(super) holds: FieldType,
}

/// One message.
pub(super) struct Message {
    pub(super) form: Form,
    pub(super) fields: Vec<Field>,
}

/// The table.
#[derive(Default)]
pub(super) struct Messages {
    kinds: HashMap<(&'static str, &'static str), &'static str>,
    messages: HashMap<&'static str, Message>,
}

impl Messages {
    /// The table, read at its first use.
    pub(super) fn get() -> &'static Self {
        static TABLE: LazyLock<Messages> = LazyLock::new(|| {
            let mut text = String::with_capacity(128 * 1024);
            let read = flate2::read::GzDecoder::new(include_bytes!("messages.txt.gz").as_slice())
                .read_to_string(&mut text);
            if let Err(error) = read {
                tracing::error!(%error, "the table of messages is damaged");
            }
            // It lives as long as the process, and everything in it points into the one text.
            parse(Box::leak(text.into_boxed_str()))
        });
        &TABLE
    }

    /// The message of a kind.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&'static str> {
        // Every group has these two, as aliases of the same.
        match kind {
            "DeleteOptions" => return Some("apimachinery.pkg.apis.meta.v1.DeleteOptions"),
            "Status" => return Some("apimachinery.pkg.apis.meta.v1.Status"),
            _ => {}
        }
        self.kinds.get(&(api_version, kind)).copied()
    }

    /// A message by name.
    pub(super) fn message(&self, name: &str) -> Option<&Message> {
        self.messages.get(name)
    }
}

fn parse(text: &'static str) -> Messages {
    let mut table = Messages::default();
    let mut current = "";
    for line in text.lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        match words.as_slice() {
            ["K", version, kind, message] => {
                table.kinds.insert((version.trim_start_matches('/'), kind), message);
            }
            ["M", name, form @ ..] => {
                current = name;
                let form = form_of(form.first().copied().unwrap_or_default());
                table.messages.insert(name, Message { form, fields: Vec::new() });
            }
            [number, name, flags, holds] => {
                let field = Field {
                    number: number.parse().unwrap_or(0),
                    name: (*name != "-").then_some(*name),
                    count: match *flags {
                        "*" => Count::Many,
                        "%" => Count::Map,
                        "0" => Count::UnlessEmpty,
                        _ => Count::Once,
                    },
                    holds: type_of(holds),
                };
                if let Some(message) = table.messages.get_mut(current) {
                    message.fields.push(field);
                }
            }
            _ => {}
        }
    }
    table
}

fn form_of(word: &str) -> Form {
    match word {
        "time" => Form::Time,
        "microtime" => Form::MicroTime,
        "quantity" => Form::Quantity,
        "intorstring" => Form::IntOrString,
        "json" => Form::Json,
        "list" => Form::List,
        "duration" => Form::Duration,
        "orbool" => Form::OrBool,
        "orarray" => Form::OrArray,
        _ => Form::Object,
    }
}

fn type_of(word: &'static str) -> FieldType {
    match word {
        "y" => FieldType::Bytes,
        "b" => FieldType::Bool,
        "i" => FieldType::Int,
        "d" => FieldType::Double,
        "f" => FieldType::Float,
        "s" => FieldType::Text,
        // The generator writes nothing else than these and m:NAME.
        other => FieldType::Message(other.trim_start_matches("m:")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_is_named_is_there() {
        let table = Messages::get();
        for (name, message) in &table.messages {
            for field in &message.fields {
                assert!(field.number > 0, "{name}");
                if let FieldType::Message(other) = field.holds {
                    assert!(table.messages.contains_key(other), "{name} needs {other}");
                }
            }
        }
        for message in table.kinds.values() {
            assert!(table.messages.contains_key(message), "{message}");
        }
        assert_eq!(table.of_kind("apps/v1", "Deployment"), Some("api.apps.v1.Deployment"));
        assert_eq!(table.of_kind("v1", "Pod"), Some("api.core.v1.Pod"));
    }
}
