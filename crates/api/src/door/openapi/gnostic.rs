//! The protobuf form of an OpenAPI v2 document (`openapi.v2.Document` of gnostic-models): a table says which member of the
//! JSON is which field of which message.

use serde_json::{Map, Value};
use yunfan_objects::protobuf::Writer;

/// A whole document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    fields(&DOCUMENT, document, &mut out);
    out.into_bytes()
}

/// A member of an object: its name, the field's number, and how its value is written.
type Field = (&'static str, u32, Form);

/// A message: its fields, and the number of those that begin with `x-`.
struct Shape {
    fields: &'static [Field],
    vendor: u32,
}

/// How a value is written.
enum Form {
    Text,
    Flag,
    Count,
    Float,
    /// As YAML text, which JSON is.
    Any,
    /// Each item in a field of its own.
    List(&'static Form),
    Message(&'static Shape),
    /// A message with the value in the field of this number.
    In(u32, &'static Form),
    /// A message with entries in the field of this number, each a message of a name and a value.
    Map(u32, &'static Form),
    /// A message with the value in the field that its own look says.
    OneOf(fn(&Value) -> (u32, &'static Form)),
}

static DOCUMENT: Shape = Shape {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Map(2, &Form::Message(&PATH))),
        ("definitions", 9, Form::Map(1, &SCHEMA_FORM)),
        ("parameters", 10, Form::Map(1, &Form::OneOf(parameter))),
        ("security", 12, Form::List(&Form::Map(1, &Form::In(1, &Form::List(&Form::Text))))),
        ("securityDefinitions", 13, Form::Map(1, &Form::In(2, &Form::Message(&API_KEY)))),
    ],
    vendor: 16,
};

static INFO: Shape = Shape { fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)], vendor: 7 };

static API_KEY: Shape = Shape {
    fields: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    vendor: 5,
};

const PARAMETERS: Form = Form::List(&Form::OneOf(parameter_or_reference));

static PATH: Shape = Shape {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, PARAMETERS),
    ],
    vendor: 10,
};

static OPERATION: Shape = Shape {
    fields: &[
        ("tags", 1, Form::List(&Form::Text)),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::List(&Form::Text)),
        ("consumes", 7, Form::List(&Form::Text)),
        ("parameters", 8, PARAMETERS),
        ("responses", 9, Form::Map(1, &Form::In(1, &Form::Message(&RESPONSE)))),
        ("schemes", 10, Form::List(&Form::Text)),
    ],
    vendor: 13,
};

static RESPONSE: Shape =
    Shape { fields: &[("description", 1, Form::Text), ("schema", 2, Form::In(1, &SCHEMA_FORM))], vendor: 5 };

static REFERENCE: Form = Form::Message(&Shape { fields: &[("$ref", 1, Form::Text)], vendor: 0 });

static BODY_PARAMETER: Form = Form::Message(&Shape {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    vendor: 6,
});

static QUERY_PARAMETER: Form = Form::Message(&Shape {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    vendor: 23,
});

static PATH_PARAMETER: Form = Form::Message(&Shape {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    vendor: 22,
});

static SCHEMA_FORM: Form = Form::Message(&SCHEMA);

static SCHEMA: Shape = Shape {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("multipleOf", 6, Form::Float),
        ("maximum", 7, Form::Float),
        ("exclusiveMaximum", 8, Form::Flag),
        ("minimum", 9, Form::Float),
        ("exclusiveMinimum", 10, Form::Flag),
        ("maxLength", 11, Form::Count),
        ("minLength", 12, Form::Count),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Count),
        ("minItems", 15, Form::Count),
        ("uniqueItems", 16, Form::Flag),
        ("maxProperties", 17, Form::Count),
        ("minProperties", 18, Form::Count),
        ("required", 19, Form::List(&Form::Text)),
        ("enum", 20, Form::List(&Form::Any)),
        ("additionalProperties", 21, Form::OneOf(additional)),
        ("type", 22, Form::In(1, &Form::Text)),
        ("items", 23, Form::In(1, &SCHEMA_FORM)),
        ("properties", 25, Form::Map(1, &SCHEMA_FORM)),
        ("example", 30, Form::Any),
    ],
    vendor: 31,
};

fn additional(value: &Value) -> (u32, &'static Form) {
    if value.is_boolean() { (2, &Form::Flag) } else { (1, &SCHEMA_FORM) }
}

fn parameter_or_reference(value: &Value) -> (u32, &'static Form) {
    if value.get("$ref").is_some() { (2, &REFERENCE) } else { (1, &Form::OneOf(parameter)) }
}

fn parameter(value: &Value) -> (u32, &'static Form) {
    if value["in"] == "body" { (1, &BODY_PARAMETER) } else { (2, &Form::OneOf(parameter_place)) }
}

fn parameter_place(value: &Value) -> (u32, &'static Form) {
    if value["in"] == "path" { (4, &PATH_PARAMETER) } else { (3, &QUERY_PARAMETER) }
}

fn fields(shape: &Shape, value: &Value, out: &mut Writer) {
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    for (name, number, form) in shape.fields {
        if let Some(value) = object.get(*name) {
            write(form, *number, value, out);
        }
    }
    for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
        message(shape.vendor, out, |out| {
            out.bytes(1, name.as_bytes());
            write(&Form::Any, 2, value, out);
        });
    }
}

fn message(number: u32, out: &mut Writer, content: impl FnOnce(&mut Writer)) {
    let written: Result<(), std::convert::Infallible> = out.message(number, |out| {
        content(out);
        Ok(())
    });
    let Ok(()) = written;
}

fn write(form: &Form, number: u32, value: &Value, out: &mut Writer) {
    match form {
        Form::Text => out.bytes(number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Flag => out.number(number, u64::from(value == &Value::Bool(true))),
        Form::Count => out.number(number, value.as_u64().unwrap_or_default()),
        Form::Float => out.double(number, value.as_f64().unwrap_or_default()),
        Form::Any => message(number, out, |out| out.bytes(2, value.to_string().as_bytes())),
        Form::List(item) => {
            value.as_array().into_iter().flatten().for_each(|value| write(item, number, value, out));
        }
        Form::Message(shape) => message(number, out, |out| fields(shape, value, out)),
        Form::In(inner, form) => message(number, out, |out| write(form, *inner, value, out)),
        Form::Map(inner, form) => message(number, out, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                message(*inner, out, |out| {
                    out.bytes(1, name.as_bytes());
                    write(form, 2, value, out);
                });
            }
        }),
        Form::OneOf(choose) => {
            let (inner, form) = choose(value);
            message(number, out, |out| write(form, inner, value, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_stand_in_their_fields() {
        let field = |number: u8, bytes: &[u8]| {
            [&[number << 3 | 2, u8::try_from(bytes.len()).expect("a short one")], bytes].concat()
        };
        let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/x"}}, "x-y": true});
        let kind = [&[0xb2, 1, 8][..], &field(1, b"object")].concat();
        let named = [field(1, b"a"), field(2, &field(1, b"#/definitions/x"))].concat();
        let properties = field(1, &named);
        let vendor = [field(1, b"x-y"), field(2, &field(2, b"true"))].concat();
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a short one");
        let wanted = [
            kind,
            [&[0xca, 1, length(&properties)][..], &properties].concat(),
            [&[0xfa, 1, length(&vendor)][..], &vendor].concat(),
        ]
        .concat();
        let mut out = Writer::default();
        fields(&SCHEMA, &schema, &mut out);
        assert_eq!(out.into_bytes(), wanted);

        let mut out = Writer::default();
        write(&PARAMETERS, 1, &json!([{"$ref": "#/parameters/a"}]), &mut out);
        assert_eq!(out.into_bytes(), field(1, &field(2, &field(1, b"#/parameters/a"))));
        let mut out = Writer::default();
        write(&PARAMETERS, 1, &json!([{"in": "query", "name": "dryRun"}]), &mut out);
        let query = [field(2, b"query"), field(4, b"dryRun")].concat();
        assert_eq!(out.into_bytes(), field(1, &field(1, &field(2, &field(3, &query)))));
    }
}
