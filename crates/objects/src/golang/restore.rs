//! What is wrong with an object that a strategic merge patch made: it is read by another reader than a body, which has
//! other words for the same findings.

use crate::schema::go_names::is_text;

/// The finding of `encoding/json` (`json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type
/// map[string]string`) as `runtime.DefaultUnstructuredConverter` words it (`cannot restore map from string`); none for one that
/// it has no words of its own for.
pub fn restore_error(json: &str) -> Option<String> {
    let (given, rest) = json.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let (_, wanted) = rest.rsplit_once(" of type ")?;
    let given = match given.split(' ').next()? {
        "number" => "int64",
        "array" => "slice",
        "object" => "map",
        other => other,
    };
    let numeric = ["int", "uint", "float"].iter().any(|kind| wanted.starts_with(kind));
    Some(match wanted {
        _ if wanted.starts_with("map[") => format!("cannot restore map from {given}"),
        _ if wanted.starts_with("[]") => format!("cannot restore slice from {given}"),
        _ if given == "int64" && (wanted == "string" || is_text(wanted)) => {
            format!("cannot convert int64 to {wanted}")
        }
        _ if is_text(wanted) => "unrecognized type: string".to_owned(),
        "string" | "bool" => format!("unrecognized type: {wanted}"),
        _ if numeric => format!("unrecognized type: {wanted}"),
        // Quantities and times are texts, too, and take everything but an object for one.
        _ if given == "map" => "unrecognized type: string".to_owned(),
        _ => format!("cannot restore struct from: {given}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_worded_as_by_the_converter() {
        let labels = "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string";
        assert_eq!(restore_error(labels).as_deref(), Some("cannot restore map from string"));
        let containers = "json: cannot unmarshal number into Go struct field PodSpec.spec.containers of type []v1.Container";
        assert_eq!(restore_error(containers).as_deref(), Some("cannot restore slice from int64"));
        let spec = "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec";
        assert_eq!(restore_error(spec).as_deref(), Some("cannot restore struct from: slice"));
        let node = "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeName of type string";
        assert_eq!(restore_error(node).as_deref(), Some("cannot convert int64 to string"));
        let priority =
            "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32";
        assert_eq!(restore_error(priority).as_deref(), Some("unrecognized type: int32"));
        let phase = |given| {
            format!(
                "json: cannot unmarshal {given} into Go struct field PodStatus.status.phase of type v1.PodPhase"
            )
        };
        assert_eq!(restore_error(&phase("number")).as_deref(), Some("cannot convert int64 to v1.PodPhase"));
        assert_eq!(restore_error(&phase("array")).as_deref(), Some("unrecognized type: string"));
        assert_eq!(restore_error("parsing time \"x\" as …"), None);
    }
}
