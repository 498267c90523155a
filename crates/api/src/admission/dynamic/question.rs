//! What is asked about: a request, and its object in the version that whoever is asked wants to see.

use serde_json::{Value, json};
use yunfan_identity::UserInfo;
use yunfan_objects::{ApiError, Descriptor, GroupResource, GroupVersionKind, builtin, decode};

use crate::kinds::Kind;
use crate::warnings::Warnings;
use crate::webhook::Webhooks;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Update,
    Delete,
    /// A stream, or a proxied request.
    Connect,
}

impl Action {
    /// The word that rules have for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    /// The kind of its options; streams have none.
    fn options(self) -> Option<&'static str> {
        match self {
            Self::Create => Some("CreateOptions"),
            Self::Update => Some("UpdateOptions"),
            Self::Delete => Some("DeleteOptions"),
            Self::Connect => None,
        }
    }
}

/// A request, as those who are asked about it are told of it.
pub(crate) struct Question<'a> {
    pub(crate) action: Action,
    /// Kind of the objects: of some subresources another one than the resource's.
    pub(crate) kind: GroupVersionKind,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) plural: &'a str,
    /// Empty for none.
    pub(crate) subresource: &'a str,
    /// Of a Namespace its own name; empty for cluster scope.
    pub(crate) namespace: &'a str,
    /// Empty where it is not known yet.
    pub(crate) name: &'a str,
    pub(crate) user: &'a UserInfo,
    pub(crate) dry_run: bool,
    /// What the request's options say.
    pub(crate) options: &'a Value,
    pub(crate) warnings: &'a Warnings,
    /// The resource's kind with its other versions, where it is one that is stored.
    pub(crate) stored: Option<&'a Kind>,
}

impl<'a> Question<'a> {
    /// About an object of a kind, or of what its subresource speaks.
    pub(crate) fn about(
        kind: &'a Kind,
        action: Action,
        subresource: &'a str,
        (namespace, name): (&'a str, &'a str),
        user: &'a UserInfo,
        options: &'a Value,
        warnings: &'a Warnings,
    ) -> Self {
        let descriptor = &kind.descriptor;
        let spoken = descriptor.subresource(subresource).map(|below| below.spoken(descriptor));
        let is_namespace = kind.is("", "namespaces");
        Self {
            action,
            kind: spoken.unwrap_or_else(|| descriptor.gvk()),
            group: &descriptor.group,
            version: &descriptor.version,
            plural: &descriptor.plural,
            subresource,
            namespace: if is_namespace { name } else { namespace },
            name,
            user,
            dry_run: false,
            options,
            warnings,
            stored: Some(kind),
        }
    }

    /// Group and plural, for messages.
    pub(super) fn resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.plural)
    }

    /// The options with their kind; null where there are none.
    pub(super) fn shown_options(&self) -> Value {
        let Some(kind) = self.action.options() else { return Value::Null };
        let mut options = if self.options.is_object() { self.options.clone() } else { json!({}) };
        options["kind"] = json!(kind);
        options["apiVersion"] = json!("meta.k8s.io/v1");
        options
    }

    /// The request as JSON, as it is shown to those who ask for it as `view`; `uid` and the objects are left out.
    pub(super) fn request(&self, view: &View) -> Value {
        let kind = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let place = |group: &str, version: &str, plural: &str| json!({"group": group, "version": version, "resource": plural});
        let mut request = json!({
            "kind": kind(&view.kind),
            "resource": place(&view.group, &view.version, &view.plural),
            "requestKind": kind(&self.kind),
            "requestResource": place(self.group, self.version, self.plural),
            "operation": self.action.word(),
            "userInfo": json!(self.user),
            "dryRun": self.dry_run,
            "options": self.shown_options(),
        });
        for (key, text) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                request[key] = json!(text);
            }
        }
        request
    }

    /// The request in its own words.
    pub(super) fn own_view(&self) -> View {
        View {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            plural: self.plural.to_owned(),
            kind: self.kind.clone(),
        }
    }

    /// The same object's other places: other versions, and other groups that show it.
    pub(super) fn other_views(&self) -> Vec<View> {
        let Some(stored) = self.stored else { return Vec::new() };
        let own = self.own_view();
        let views = stored.resource.versions.iter().filter_map(|other| {
            let kind = match self.subresource {
                "" => other.gvk(),
                name => other.subresource(name)?.spoken(other),
            };
            let (group, version, plural) = (other.group.clone(), other.version.clone(), other.plural.clone());
            Some(View { group, version, plural, kind })
        });
        views.filter(|view| *view != own).collect()
    }

    /// The kind's version whose objects those of this kind are; none for what is not stored.
    fn descriptor(&self, kind: &GroupVersionKind) -> Option<&Descriptor> {
        let versions = &self.stored?.resource.versions;
        versions.iter().find(|version| version.gvk() == *kind).map(AsRef::as_ref)
    }

    /// An object with these fields laid over it, by the schema of its kind.
    ///
    /// # Errors
    /// In words: a field that does not fit, or can't be changed by itself; a kind that has no schema here.
    pub(super) fn laid_over(
        &self,
        kind: &GroupVersionKind,
        object: &Value,
        fields: &Value,
    ) -> Result<Value, String> {
        let descriptor = self.descriptor(kind).ok_or_else(|| format!("{kind} has no fields to apply to"))?;
        descriptor.laid_over(object, fields)
    }

    /// Brings a changed object into the shape of its kind, and fills in what has a default.
    ///
    /// # Errors
    /// 500 where it can't be read as one.
    pub(super) fn settle(&self, kind: &GroupVersionKind, object: &mut Value) -> Result<(), ApiError> {
        let Some(descriptor) = self.descriptor(kind) else {
            return settle_plain(kind, object).map_err(|error| ApiError::internal(error.message()));
        };
        descriptor.shape(object).map_err(|error| ApiError::internal(error.message()))?;
        descriptor.default(object);
        Ok(())
    }
}

/// Brings an object of a kind that is not stored into its shape. The options of streams have no schema, and are read as what they
/// may be; an object they must be.
fn settle_plain(kind: &GroupVersionKind, object: &mut Value) -> Result<(), ApiError> {
    let family = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let name = format!("io.k8s.api.{family}.{}.{}", kind.version, kind.kind);
    let definitions = builtin::definitions();
    if definitions.contains(&name) {
        // Of an Eviction's two versions the client may have sent the older, which has the same fields.
        let given = GroupVersionKind::read(object);
        let same = given.group == kind.group && given.kind == kind.kind;
        let wanted = if same { &given } else { kind };
        return decode::shape_plain(object, wanted, &definitions.reference(&name)).map(drop);
    }
    match object.is_object() {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!("{} must be an object", kind.kind))),
    }
}

/// A place that a request can be seen at: its own, or one of another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) kind: GroupVersionKind,
}

/// The objects of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    /// What is to be; none for a deletion.
    pub(crate) object: Option<Value>,
    /// What was; none for a creation.
    pub(crate) old: Option<Value>,
}

impl Subject {
    /// Brings both into the version of a view.
    ///
    /// # Errors
    /// 500 where a hook that converts fails.
    pub(super) async fn show_as(
        &mut self,
        hooks: &Webhooks,
        question: &Question<'_>,
        kind: &GroupVersionKind,
    ) -> Result<(), ApiError> {
        let wanted = kind.api_version();
        let shown =
            |object: &Option<Value>| object.as_ref().is_none_or(|o| o["apiVersion"] == wanted.as_str());
        let Some((stored, to)) = question.stored.zip(question.descriptor(kind)) else { return Ok(()) };
        if shown(&self.object) && shown(&self.old) {
            return Ok(());
        }
        for slot in [&mut self.object, &mut self.old] {
            if let Some(object) = slot.take() {
                *slot = Some(stored.resource.converted(hooks, object, to).await?);
            }
        }
        Ok(())
    }
}
