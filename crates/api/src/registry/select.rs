//! Which objects a list or a watch is about.

use yunfan_objects::ApiError;
use yunfan_objects::selector::{FieldSelector, LabelSelector};

use crate::cache::{Demand, Entry, Fields, Term, Topic};
use crate::keys;
use crate::kinds::Kind;

/// A namespace and two selectors.
#[derive(Clone)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// The kind's selectable fields.
    selectable: Fields,
    /// Empty for all.
    pub(crate) namespace: String,
}

impl Selection {
    /// Reads the two selectors of a query.
    pub(crate) fn parse(
        kind: &Kind,
        namespace: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let allowed = &kind.descriptor.selectable_fields;
        let fields = FieldSelector::parse(fields.unwrap_or_default(), &kind.descriptor)?;
        // What is selected by namespace is found by namespace.
        let namespace = match fields.exact("metadata.namespace") {
            Some(one) if namespace.is_empty() && kind.descriptor.namespaced && is_part(one) => one,
            _ => namespace,
        };
        Ok(Self {
            labels: LabelSelector::parse(labels.unwrap_or_default())?,
            namespace: namespace.to_owned(),
            selectable: if fields.is_empty() { Fields::from([]) } else { allowed.as_slice().into() },
            fields,
        })
    }

    /// Whether everything (in the namespace) is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it asks for fields beside the name and the namespace, which are the same in all versions.
    pub(crate) fn has_fields(&self) -> bool {
        self.field_demands().next().is_some()
    }

    /// Everything in the namespace.
    pub(crate) fn whole(&self) -> Self {
        Self {
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
            selectable: Fields::from([]),
            namespace: self.namespace.clone(),
        }
    }

    /// Whether an object that can't be read may be selected: it has a key (and so a name) alone. `prefix` is that of this selection.
    pub(crate) fn may_match(&self, entry: &Entry, prefix: &str) -> bool {
        let named = self.fields.exact_name();
        entry.key.starts_with(prefix) && named.is_none_or(|name| entry.key.rsplit('/').next() == Some(name))
    }

    /// Whether this object is. The namespace is seen to elsewhere.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        if let Some(name) = self.fields.exact_name()
            && entry.key.rsplit('/').next() != Some(name)
        {
            return false;
        }
        (self.labels.is_empty() || self.labels.matches(entry.labels()))
            && (self.fields.is_empty() || self.fields.matches(&entry.fields(&self.selectable)))
    }

    /// First key of the range that it lies in, which is also the prefix of all keys there.
    pub(crate) fn prefix(&self, kind: &Kind) -> String {
        keys::namespace_prefix(&kind.resource.prefix, &self.namespace)
    }

    /// The key of the one object that it can match, where it names one.
    pub(crate) fn key(&self, kind: &Kind) -> Option<String> {
        let name = self.fields.exact_name().filter(|name| is_part(name))?;
        let known = !kind.descriptor.namespaced || !self.namespace.is_empty();
        known.then(|| kind.key(&self.namespace, name))
    }

    /// What indexes may be asked for.
    pub(crate) fn demands(&self) -> Vec<Demand> {
        let fields = self.field_demands().map(|(path, value)| Demand {
            term: Term::Field(path.to_owned(), self.selectable.clone()),
            values: vec![value.to_owned()],
        });
        let labels = self
            .labels
            .demands()
            .map(|(key, values)| Demand { term: Term::Label(key.to_owned()), values: values.to_vec() });
        fields.chain(labels).collect()
    }

    fn field_demands(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.demands().filter(|(path, _)| !matches!(*path, "metadata.name" | "metadata.namespace"))
    }

    /// The changes that a watch of it must be woken for.
    pub(crate) fn topic(&self, kind: &Kind) -> Topic {
        if let Some(key) = self.key(kind) {
            return Topic::Key(key);
        }
        // Topics see what is stored, which may have other fields than this version.
        let alike = kind.resource.converter.as_ref().is_none_or(|converter| converter.keeps_fields(kind));
        if let Some((path, value)) = self.field_demands().next().filter(|_| alike) {
            let (path, value) = (path.to_owned(), value.to_owned());
            return Topic::Field { path, value, selectable: self.selectable.clone() };
        }
        if self.namespace.is_empty() { Topic::All } else { Topic::Prefix(self.prefix(kind)) }
    }
}

/// Whether the text can be a part of a key.
fn is_part(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}
