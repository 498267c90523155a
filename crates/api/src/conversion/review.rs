//! The ConversionReview protocol (apiextensions.k8s.io/v1 and v1beta1): the question, and what is believed of
//! the answer.

use serde_json::{Value, json};
use yunfan_objects::meta;

/// Group of the review.
const GROUP: &str = "apiextensions.k8s.io";
/// Versions of the review that are spoken.
const SPOKEN: [&str; 2] = ["v1", "v1beta1"];

/// Makes the question. `accepted` is what the definition says its hook understands, the preferred one first.
///
/// # Errors
/// The hook understands none that is spoken here.
pub(super) fn question(
    accepted: &[String],
    uid: &str,
    wanted: &str,
    objects: &[Value],
) -> Result<Value, String> {
    let version = accepted.iter().find(|v| SPOKEN.contains(&v.as_str()));
    let version = version.ok_or("no supported conversion review versions")?;
    Ok(json!({
        "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    }))
}

/// `group/version, Kind=X` of an object, as messages name it.
pub(super) fn named(object: &Value) -> String {
    format!("{}, Kind={}", text(object, "apiVersion"), text(object, "kind"))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// The converted objects, checked against those that were sent. Of the metadata only labels and annotations
/// are taken from the answer.
///
/// # Errors
/// What is wrong with the answer, as clients are told.
pub(super) fn answer(
    question: &Value,
    answer: &Value,
    sent: &[Value],
    wanted: &str,
) -> Result<Vec<Value>, String> {
    let about = sent.first().map(named).unwrap_or_default();
    let fail = |why: String| format!("conversion webhook for {about} {why}");
    if text(answer, "apiVersion") != text(question, "apiVersion")
        || text(answer, "kind") != "ConversionReview"
    {
        let why = format!("failed: expected webhook response of {}, got {}", named(question), named(answer));
        return Err(fail(why));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err(fail("failed: no response provided".to_owned()));
    }
    let (asked, got) = (text(&question["request"], "uid"), text(response, "uid"));
    // The older version of the protocol did not ask for it.
    if asked != got && !text(answer, "apiVersion").ends_with("/v1beta1") {
        return Err(fail(format!("failed: expected response.uid={asked:?}, got {got:?}")));
    }
    let result = &response["result"];
    if text(result, "status") != "Success" {
        let why = match text(result, "message") {
            "" => format!("response.result.status was '{}', not 'Success'", text(result, "status")),
            message => message.to_owned(),
        };
        return Err(fail(format!("failed: {why}")));
    }
    let converted = response["convertedObjects"].as_array().map(Vec::as_slice).unwrap_or_default();
    if converted.len() != sent.len() {
        return Err(fail(format!("returned {} objects, expected {}", converted.len(), sent.len())));
    }
    let pairs = sent.iter().zip(converted).enumerate();
    pairs
        .map(|(index, (before, after))| {
            checked(before, after, wanted)
                .map_err(|why| fail(format!("returned invalid converted object at index {index}: {why}")))
        })
        .collect()
}

fn checked(before: &Value, after: &Value, wanted: &str) -> Result<Value, String> {
    if !after.is_object() {
        return Err("it is no object".to_owned());
    }
    if text(after, "apiVersion") != wanted {
        let got = text(after, "apiVersion");
        return Err(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    if text(after, "kind") != text(before, "kind") {
        let (expected, got) = (text(before, "kind"), text(after, "kind"));
        return Err(format!("invalid kind (expected {expected}, received {got})"));
    }
    for (key, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, got) = (text(&before["metadata"], key), text(&after["metadata"], key));
        if expected != got {
            return Err(format!("must have the same {shown}: {expected} != {got}"));
        }
    }
    let given = after["metadata"].as_object().ok_or("missing metadata in converted object")?;
    let mut out = after.clone();
    out["metadata"] = before["metadata"].clone();
    for field in ["labels", "annotations"] {
        let path = format!("metadata.{field}");
        let Some(metadata) = out["metadata"].as_object_mut() else { break };
        match given.get(field).filter(|value| !value.is_null()) {
            None => {
                metadata.remove(field);
            }
            Some(Value::Object(map)) => {
                if let Some((key, _)) = map.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("{path}[{key}] must be a string in converted object"));
                }
                let errors = match field {
                    "labels" => meta::validate_labels(Some(&given[field]), &path),
                    _ => meta::validate_annotations(Some(&given[field]), &path),
                };
                if let Some(error) = errors.first() {
                    return Err(error.to_string());
                }
                metadata.insert(field.to_owned(), given[field].clone());
            }
            Some(_) => return Err(format!("invalid {path} in converted object: must be an object")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Vec<Value> {
        vec![json!({"apiVersion": "x.io/v1", "kind": "Foo",
            "metadata": {"name": "a", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x.io/f"]}, "spec": {}})]
    }

    fn ask(change: impl FnOnce(&mut Value)) -> Result<Vec<Value>, String> {
        let question = question(&["v9".into(), "v1".into()], "7", "x.io/v2", &sent()).expect("a question");
        let mut reply = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
            "uid": "7", "result": {"status": "Success"}, "convertedObjects": [
                {"apiVersion": "x.io/v2", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "labels": {"c": "d"}}, "spec": {"n": 1}}]}});
        change(&mut reply);
        answer(&question, &reply, &sent(), "x.io/v2")
    }

    #[test]
    fn labels_may_change_and_no_other_metadata() {
        let converted = ask(|_| {}).expect("good").remove(0);
        assert_eq!(converted["metadata"]["labels"], json!({"c": "d"}));
        assert_eq!(converted["metadata"]["finalizers"], json!(["x.io/f"]));
        assert_eq!((&converted["apiVersion"], &converted["spec"]["n"]), (&json!("x.io/v2"), &json!(1)));
    }

    #[test]
    fn a_wrong_answer_is_not_believed() {
        let first = "/response/convertedObjects/0";
        let cases = [
            (
                "/response/uid",
                json!("8"),
                "conversion webhook for x.io/v1, Kind=Foo failed: expected response.uid=\"7\", got \"8\"",
            ),
            (
                "/response/result",
                json!({"status": "Failure", "message": "no"}),
                "conversion webhook for x.io/v1, Kind=Foo failed: no",
            ),
            (
                "/response/result/status",
                json!("Odd"),
                "failed: response.result.status was 'Odd', not 'Success'",
            ),
            (
                "/response/convertedObjects",
                json!([]),
                "conversion webhook for x.io/v1, Kind=Foo returned 0 objects, expected 1",
            ),
            ("/response", json!(null), "failed: no response provided"),
            (
                "/apiVersion",
                json!("x/v1"),
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview",
            ),
            (
                &format!("{first}/apiVersion"),
                json!("x.io/v3"),
                "invalid groupVersion (expected x.io/v2, received x.io/v3)",
            ),
            (&format!("{first}/kind"), json!("Bar"), "invalid kind (expected Foo, received Bar)"),
            (&format!("{first}/metadata/name"), json!("b"), "must have the same name: a != b"),
            (&format!("{first}/metadata/uid"), json!("v"), "must have the same UID: u != v"),
            (&format!("{first}/metadata/labels"), json!({"a": 1}), "metadata.labels[a] must be a string"),
            (&format!("{first}/metadata/labels"), json!({"a": "b c"}), "metadata.labels: Invalid value"),
        ];
        for (pointer, value, wanted) in cases {
            let error = ask(|reply| *reply.pointer_mut(pointer).expect("is there") = value).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_hook_that_speaks_another_protocol_is_not_asked() {
        assert!(question(&["v2".into()], "1", "x.io/v2", &[]).is_err());
        let older = question(&["v1beta1".into()], "1", "x.io/v2", &[]).expect("known");
        assert_eq!(older["apiVersion"], "apiextensions.k8s.io/v1beta1");
    }
}
