//! Refusals that name neither object nor field: Kubernetes says no more of these.

use crate::error::Details;
use crate::{ApiError, FieldError, Reason};

impl ApiError {
    /// 405, for a method that a path is not served with.
    pub fn no_such_method() -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    /// 500 without a reason: a fault of the request that Kubernetes takes for one of the server.
    pub fn unclassified(message: impl Into<String>) -> Self {
        Self::new(500, Reason::Unknown, message)
    }

    /// 422: the request as a whole does not fit, and nothing more is said.
    pub fn rejected() -> Self {
        Self::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
            .with_details(Details::default())
    }

    /// 415, for a patch that Kubernetes' own kinds do not take.
    pub fn no_such_type() -> Self {
        Self::new(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type")
            .with_details(Details::default())
    }
}

impl FieldError {
    /// The same finding, where what was looked at is this field of something larger. Its words stay.
    pub(crate) fn below(mut self, field: &str) -> Self {
        self.field = match self.field.as_str() {
            "" | "<nil>" => field.to_owned(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_no_class_has_no_reason() {
        let status = ApiError::unclassified("odd").to_status();
        assert_eq!((&status["code"], &status["message"]), (&json!(500), &json!("odd")));
        assert!(status.get("reason").is_none() && status.get("details").is_none());
        assert_eq!(ApiError::no_such_method().to_status()["details"], json!({}));
    }
}
