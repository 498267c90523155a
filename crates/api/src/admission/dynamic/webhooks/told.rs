//! What the audit log is told of webhooks, in kube-apiserver's words: which changed what, and which failed and was passed over.

use serde_json::{Value, json};

use super::{Hook, Turn};
use crate::admission::dynamic::Question;
use crate::audit::PATCH_NOTE;

const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
const FAILED_OPEN: &str = "failed-open.";
const VALIDATING: &str = "validating.webhook.admission.k8s.io/";

impl Turn {
    /// A key of an annotation.
    fn key(self, beginning: &str) -> String {
        format!("{beginning}round_{}_index_{}", u8::from(self.second), self.index)
    }
}

/// The value of an annotation: which hook it was, and more, in the order in which kube-apiserver has it.
fn value(hook: &Hook, more: &str) -> String {
    let (configuration, webhook) = (json!(hook.configuration), json!(hook.name));
    format!("{{\"configuration\":{configuration},\"webhook\":{webhook},{more}}}")
}

/// A mutating hook was asked.
pub(super) fn mutation(question: &Question<'_>, hook: &Hook, turn: Turn, mutated: bool) {
    if question.warnings.keeps_notes() {
        let more = format!("\"mutated\":{mutated}");
        question.warnings.note(&turn.key(MUTATION), || value(hook, &more));
    }
}

/// What it changed. Of objects that no record shows, their changes are not shown either.
pub(super) fn patch(question: &Question<'_>, hook: &Hook, turn: Turn, patch: &Value) {
    let secret = yunfan_audit::is_cut(question.group, question.plural, question.subresource);
    if question.warnings.keeps_notes() && !secret {
        let more = format!("\"patch\":{patch},\"patchType\":\"JSONPatch\"");
        question.warnings.note(&turn.key(PATCH_NOTE), || value(hook, &more));
    }
}

/// A hook could not be asked, and the request goes on.
pub(super) fn failed_open(question: &Question<'_>, hook: &Hook, turn: Turn) {
    if question.warnings.keeps_notes() {
        let kind = if turn.mutating { MUTATION } else { VALIDATING };
        question.warnings.note(&turn.key(&format!("{FAILED_OPEN}{kind}")), || hook.name.clone());
    }
}
