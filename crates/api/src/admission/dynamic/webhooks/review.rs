//! The AdmissionReview protocol (admission.k8s.io/v1 and v1beta1): the question, and what is believed of the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yunfan_objects::{ApiError, GroupVersionKind, meta};

use super::super::question::Subject;

/// Versions that are spoken.
const SPOKEN: [&str; 2] = ["v1", "v1beta1"];
/// The code of a denial that names none.
const DENIED: u64 = 400;

/// Makes the question, in the first of the hook's versions that is spoken.
///
/// # Errors
/// The hook understands none.
pub(super) fn question(
    accepted: &[String],
    uid: &str,
    mut request: Value,
    subject: &Subject,
) -> Result<Value, String> {
    let version = accepted.iter().find(|version| SPOKEN.contains(&version.as_str()));
    let version = version.ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
    request["uid"] = json!(uid);
    request["object"] = json!(subject.object);
    request["oldObject"] = json!(subject.old);
    Ok(
        json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request}),
    )
}

/// What a hook says.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// Why not: a Status, or null.
    pub(super) status: Value,
    /// What is to be changed, as text of a JSON patch.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
    /// For the audit log.
    pub(super) annotations: Vec<(String, String)>,
}

/// Reads an answer.
///
/// # Errors
/// What is wrong with it.
pub(super) fn answer(question: &Value, answer: &Value, mutating: bool) -> Result<Answer, String> {
    let response = &answer["response"];
    if response.is_null() {
        return Err("webhook response was absent".to_owned());
    }
    // The older version asked for neither.
    let strict = question["apiVersion"] == "admission.k8s.io/v1";
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if strict {
        let (wanted, given) = (text(&question["request"]["uid"]), text(&response["uid"]));
        if wanted != given {
            return Err(format!("expected response.uid={wanted:?}, got {given:?}"));
        }
        let (wanted, given) = (GroupVersionKind::read(question), GroupVersionKind::read(answer));
        if wanted != given {
            return Err(format!("expected webhook response of {wanted}, got {given}"));
        }
    }
    let allowed = match &response["allowed"] {
        Value::Bool(allowed) => *allowed,
        Value::Null => false,
        _ => return Err("response.allowed must be a boolean".to_owned()),
    };
    let annotations = annotations(&response["auditAnnotations"])?;
    let patch = patch(response, strict, mutating)?;
    let warnings = response["warnings"].as_array().into_iter().flatten().map(text).collect();
    Ok(Answer { allowed, status: response["status"].clone(), patch, warnings, annotations })
}

fn patch(response: &Value, strict: bool, mutating: bool) -> Result<Option<Vec<u8>>, String> {
    let given = response["patch"].as_str().unwrap_or_default();
    let kind = &response["patchType"];
    if strict && !mutating {
        for (is, what) in [(!given.is_empty(), "patch"), (!kind.is_null(), "patchType")] {
            if is {
                return Err(format!("validating webhook may not return response.{what}"));
            }
        }
    }
    if strict && mutating {
        match (given.is_empty(), kind.as_str()) {
            (false, None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (false, Some("")) => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            (false, Some(other)) if other != "JSONPatch" => {
                return Err(format!("unsupported patch type {other:?}"));
            }
            _ => {}
        }
    }
    if given.is_empty() || !mutating {
        return Ok(None);
    }
    STANDARD.decode(given).map(Some).map_err(|error| format!("response.patch: {error}"))
}

/// Audit annotations are texts by qualified names.
fn annotations(annotations: &Value) -> Result<Vec<(String, String)>, String> {
    let map = match annotations {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => return Err("response.auditAnnotations must be a map".to_owned()),
    };
    let annotation = |(key, value): (&String, &Value)| {
        if let Some(why) = meta::qualified_name(key).first() {
            return Err(format!("response.auditAnnotations: {key:?}: {why}"));
        }
        let text =
            value.as_str().ok_or_else(|| format!("response.auditAnnotations: {key:?} must be a string"))?;
        Ok((key.clone(), text.to_owned()))
    };
    map.iter().map(annotation).collect()
}

/// A hook's no, as the client gets it.
pub(super) fn denial(name: &str, status: &Value) -> ApiError {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let code = status["code"].as_u64().filter(|code| *code >= DENIED).unwrap_or(DENIED);
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    // What is no code of HTTP can't be sent.
    let code = u16::try_from(code).ok().filter(|code| *code < 600).unwrap_or(500);
    ApiError::said(code, message, text("reason"), &status["details"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(version: &str) -> Value {
        let subject = Subject { object: Some(json!({"a": 1})), old: None };
        question(&["v9".to_owned(), version.to_owned()], "7", json!({"name": "x"}), &subject).expect("spoken")
    }

    fn reply(version: &str, response: Value) -> Value {
        json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "response": response})
    }

    #[test]
    fn a_question_has_both_objects_or_null() {
        let asked = asked("v1");
        assert_eq!(asked["apiVersion"], "admission.k8s.io/v1");
        let request = json!({"uid": "7", "name": "x", "object": {"a": 1}, "oldObject": null});
        assert_eq!(asked["request"], request);
        let subject = Subject { object: None, old: None };
        assert!(question(&["v2".to_owned()], "1", json!({}), &subject).is_err());
    }

    #[test]
    fn a_good_answer_is_believed() {
        let given = reply(
            "v1",
            json!({"uid": "7", "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode("[]"),
                "warnings": ["w"], "auditAnnotations": {"a.b/c": "d"}}),
        );
        let read = answer(&asked("v1"), &given, true).expect("good");
        let wanted = Answer {
            allowed: true,
            status: Value::Null,
            patch: Some(b"[]".to_vec()),
            warnings: vec!["w".to_owned()],
            annotations: vec![("a.b/c".to_owned(), "d".to_owned())],
        };
        assert_eq!(read, wanted);
        let older = reply("v1beta1", json!({"allowed": true, "patch": STANDARD.encode("[]")}));
        assert!(answer(&asked("v1beta1"), &older, true).expect("good").patch.is_some());
        assert!(answer(&asked("v1beta1"), &older, false).expect("good").patch.is_none());
    }

    #[test]
    fn a_wrong_answer_is_not_believed() {
        let patch = STANDARD.encode("[]");
        for (mutating, response, wanted) in [
            (true, Value::Null, "webhook response was absent"),
            (true, json!({"uid": "8", "allowed": true}), "expected response.uid=\"7\", got \"8\""),
            (
                true,
                json!({"uid": "7", "patch": patch}),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                true,
                json!({"uid": "7", "patchType": "JSONPatch"}),
                "webhook returned response.patchType but not response.patch",
            ),
            (true, json!({"uid": "7", "patch": patch, "patchType": "Odd"}), "unsupported patch type \"Odd\""),
            (false, json!({"uid": "7", "patch": patch}), "validating webhook may not return response.patch"),
            (
                false,
                json!({"uid": "7", "patchType": "JSONPatch"}),
                "validating webhook may not return response.patchType",
            ),
            (true, json!({"uid": "7", "allowed": "yes"}), "response.allowed must be a boolean"),
            (
                true,
                json!({"uid": "7", "auditAnnotations": {"a b": "c"}}),
                "response.auditAnnotations: \"a b\"",
            ),
            (true, json!({"uid": "7", "patch": "%", "patchType": "JSONPatch"}), "response.patch: "),
        ] {
            let error = answer(&asked("v1"), &reply("v1", response), mutating).expect_err(wanted);
            assert!(error.starts_with(wanted), "{error}");
        }
        let other = answer(&asked("v1"), &reply("v1beta1", json!({"uid": "7"})), true).unwrap_err();
        let wanted = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview";
        assert_eq!(other, wanted);
    }

    #[test]
    fn a_denial_keeps_its_code_and_reason() {
        let no = |status: Value| denial("a.b.c", &status);
        let plain = no(Value::Null);
        assert_eq!(plain.message(), "admission webhook \"a.b.c\" denied the request without explanation");
        assert_eq!(plain.code(), 400);
        assert!(plain.to_status().get("reason").is_none());
        let told = no(json!({"code": 418, "reason": "Odd", "message": "no tea", "details": {"name": "x"}}))
            .to_status();
        assert_eq!((&told["code"], &told["reason"]), (&json!(418), &json!("Odd")));
        assert_eq!(told["message"], "admission webhook \"a.b.c\" denied the request: no tea");
        assert_eq!(told["details"], json!({"name": "x"}));
        assert_eq!(
            no(json!({"reason": "Odd"})).message(),
            "admission webhook \"a.b.c\" denied the request: Odd"
        );
        assert_eq!((no(json!({"code": 200})).code(), no(json!({"code": 70000})).code()), (400, 500));
    }
}
