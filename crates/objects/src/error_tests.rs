use serde_json::json;

use crate::error::{ApiError, FieldError};
use crate::{GroupResource, GroupVersionKind};

#[test]
fn messages_are_worded_as_kubernetes_words_them() {
    let pods = GroupResource::new("", "pods");
    let deployments = GroupResource::new("apps", "deployments");
    assert_eq!(ApiError::not_found(&pods, "x").message(), "pods \"x\" not found");
    assert_eq!(
        ApiError::already_exists(&deployments, "x").message(),
        "deployments.apps \"x\" already exists"
    );
    assert_eq!(
        ApiError::modified(&pods, "x").message(),
        "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        ApiError::forbidden(&pods, "", "User \"u\" cannot list").message(),
        "pods is forbidden: User \"u\" cannot list"
    );
}

#[test]
fn invalid_lists_every_field_and_gives_causes() {
    let kind = GroupVersionKind::new("", "v1", "Pod");
    let one = FieldError::required("spec.containers[0].name", "");
    let error = ApiError::invalid(&kind, "x", std::slice::from_ref(&one));
    assert_eq!(error.message(), "Pod \"x\" is invalid: spec.containers[0].name: Required value");
    let status = error.to_status();
    assert_eq!(status["code"], 422);
    assert_eq!(
        status["details"]["causes"][0],
        json!({"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].name"})
    );
    let two = FieldError::not_supported("spec.restartPolicy", "Now", &["Always", "Never"]);
    assert_eq!(
        ApiError::invalid(&kind, "x", &[one, two]).message(),
        "Pod \"x\" is invalid: [spec.containers[0].name: Required value, spec.restartPolicy: Unsupported value: \"Now\": supported values: \"Always\", \"Never\"]"
    );
}
