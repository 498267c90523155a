//! `authorizer` in expressions: may the one who asks, or a service account, do something else?

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use yunfan_cel::{Budget, EvalError, Library, Opaque, Type, Value, table};

use crate::meta;

/// Units that a question to the authorizer costs.
const CHECK: u64 = 350_000;

pub(super) const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
pub(super) const RESOURCE: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// What somebody may do or not. What does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The service account that is asked about, as namespace and name; the user of the request where there is none.
    pub account: Option<(String, String)>,
    /// Verb of the API; of a path the method in lower case.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// As `scale`.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name of one object.
    pub name: String,
    /// A path that is no resource.
    pub path: String,
    /// The field selector of a list, a watch or a deletion of many.
    pub field_selector: String,
    /// Its label selector.
    pub label_selector: String,
}

/// Who knows what the user of a request may do.
pub trait Authority: Debug + Send + Sync {
    /// Whether they may, and why or why not.
    fn check(&self, access: &Access) -> (bool, String);
}

/// A step on the way to a question; which one is in the name.
#[derive(Debug)]
struct Step {
    name: &'static str,
    authority: Arc<dyn Authority>,
    access: Access,
}

/// What came out.
#[derive(Debug, PartialEq)]
struct Verdict(bool, String);

impl Opaque for Step {
    fn type_name(&self) -> &'static str {
        self.name
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn same(&self, other: &dyn Opaque) -> bool {
        other
            .as_any()
            .downcast_ref::<Self>()
            .is_some_and(|o| (self.name, &self.access) == (o.name, &o.access))
    }
}

impl Opaque for Verdict {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn same(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
    }
}

/// The variable `authorizer` of one request.
pub fn authorizer(authority: Arc<dyn Authority>) -> Value {
    made("kubernetes.authorization.Authorizer", authority, Access::default())
}

/// The variable `authorizer.requestResource`: the resource of the request, ready to be asked about.
pub fn resource_check(authority: Arc<dyn Authority>, access: Access) -> Value {
    made("kubernetes.authorization.ResourceCheck", authority, access)
}

fn made(name: &'static str, authority: Arc<dyn Authority>, access: Access) -> Value {
    Value::Opaque(Arc::new(Step { name, authority, access }))
}

fn text(values: &[Value], index: usize) -> Result<String, EvalError> {
    match values.get(index) {
        Some(Value::String(text)) => Ok(text.to_string()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn step(values: &[Value]) -> Result<&Step, EvalError> {
    values.first().and_then(Value::opaque).ok_or(EvalError::NoSuchOverload)
}

/// The next step, with one thing more known.
fn next(
    values: &[Value],
    name: &'static str,
    set: impl FnOnce(&mut Access, String),
) -> Result<Value, EvalError> {
    let before = step(values)?;
    let mut access = before.access.clone();
    set(&mut access, text(values, 1)?);
    Ok(made(name, before.authority.clone(), access))
}

fn filled(values: &[Value], what: &str) -> Result<(), EvalError> {
    match text(values, 1)?.trim() {
        "" => Err(EvalError::failed(format!("{what} must not be empty"))),
        _ => Ok(()),
    }
}

fn account(values: &[Value]) -> Result<Value, EvalError> {
    let (namespace, name) = (text(values, 1)?, text(values, 2)?);
    for (what, wrongs) in [("name", meta::dns_subdomain(&name)), ("namespace", meta::dns_label(&namespace))] {
        if let Some(why) = wrongs.first() {
            return Err(EvalError::failed(format!("Invalid service account {what}: {why}")));
        }
    }
    let before = step(values)?;
    let access = Access { account: Some((namespace, name)), ..before.access.clone() };
    Ok(made(before.name, before.authority.clone(), access))
}

fn check(values: &[Value], budget: &mut Budget) -> Result<Value, EvalError> {
    budget.charge(CHECK)?;
    let before = step(values)?;
    let (allowed, reason) =
        before.authority.check(&Access { verb: text(values, 1)?, ..before.access.clone() });
    Ok(Value::Opaque(Arc::new(Verdict(allowed, reason))))
}

fn verdict(values: &[Value]) -> Result<&Verdict, EvalError> {
    values.first().and_then(Value::opaque).ok_or(EvalError::NoSuchOverload)
}

/// All functions of it. Our authorizer never fails.
pub(super) fn library() -> Library {
    const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
    const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
    const SAME: &str =
        "kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.ResourceCheck";
    table(&[
        (
            "path",
            "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.PathCheck",
            |v, _| {
                filled(v, "path")?;
                next(v, "kubernetes.authorization.PathCheck", |access, text| access.path = text)
            },
        ),
        (
            "group",
            "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.GroupCheck",
            |v, _| next(v, GROUP_CHECK, |access, text| access.group = text),
        ),
        (
            "serviceAccount",
            "kubernetes.authorization.Authorizer.(string, string) kubernetes.authorization.Authorizer",
            |v, _| account(v),
        ),
        (
            "resource",
            "kubernetes.authorization.GroupCheck.(string) kubernetes.authorization.ResourceCheck",
            |v, _| {
                filled(v, "resource")?;
                next(v, RESOURCE_CHECK, |access, text| access.resource = text)
            },
        ),
        ("subresource", SAME, |v, _| next(v, RESOURCE_CHECK, |access, text| access.subresource = text)),
        ("namespace", SAME, |v, _| next(v, RESOURCE_CHECK, |access, text| access.namespace = text)),
        ("name", SAME, |v, _| next(v, RESOURCE_CHECK, |access, text| access.name = text)),
        ("fieldSelector", SAME, |v, _| next(v, RESOURCE_CHECK, |access, text| access.field_selector = text)),
        ("labelSelector", SAME, |v, _| next(v, RESOURCE_CHECK, |access, text| access.label_selector = text)),
        (
            "check",
            "kubernetes.authorization.PathCheck.(string) kubernetes.authorization.Decision | kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.Decision",
            check,
        ),
        ("allowed", "kubernetes.authorization.Decision.() bool", |v, _| Ok(Value::Bool(verdict(v)?.0))),
        ("reason", "kubernetes.authorization.Decision.() string", |v, _| Ok(verdict(v)?.1.as_str().into())),
        ("errored", "kubernetes.authorization.Decision.() bool", |v, _| {
            verdict(v).map(|_| Value::Bool(false))
        }),
        ("error", "kubernetes.authorization.Decision.() string", |v, _| verdict(v).map(|_| "".into())),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use yunfan_cel::Lookup;

    use super::super::{Compiler, Sight};
    use super::*;

    /// Lets everybody read, and accounts nothing.
    #[derive(Debug)]
    struct Readers;

    impl Authority for Readers {
        fn check(&self, access: &Access) -> (bool, String) {
            (access.verb == "get" && access.account.is_none(), format!("{access:?}"))
        }
    }

    struct Request(Value);

    impl Lookup for Request {
        fn get(&self, space: &str, field: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
            ((space, field) == super::super::REQUEST_RESOURCE).then(|| Ok(self.0.clone()))
        }
    }

    fn run(source: &str, cost: u64) -> Result<Value, EvalError> {
        let sight = Sight { params: false, authorizer: true };
        let program =
            Compiler::new().compile(source, sight, &[]).unwrap_or_else(|why| panic!("{source}: {why}"));
        let authority: Arc<dyn Authority> = Arc::new(Readers);
        let own = Access { resource: "pods".to_owned(), ..Access::default() };
        let request = Request(resource_check(authority.clone(), own));
        let variables = [("authorizer", authorizer(authority))];
        program.run_with(&variables, &request, &mut Budget::new(cost, Duration::from_secs(5)))
    }

    #[test]
    fn the_authorizer_is_asked_what_the_expression_says() {
        let found = run(
            "authorizer.group('apps').resource('deployments').subresource('scale').namespace('n').name('x').fieldSelector('a=b').labelSelector('c').check('get').reason()",
            1_000_000,
        );
        let Ok(Value::String(said)) = found else { panic!("{found:?}") };
        for part in [
            "group: \"apps\"",
            "resource: \"deployments\"",
            "subresource: \"scale\"",
            "namespace: \"n\"",
            "name: \"x\"",
            "field_selector: \"a=b\"",
            "label_selector: \"c\"",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        for (source, wanted) in [
            ("authorizer.requestResource.check('get').allowed()", true),
            ("authorizer.requestResource.check('delete').allowed()", false),
            ("authorizer.serviceAccount('n', 'a').path('/x').check('get').allowed()", false),
            ("authorizer.path('/x').check('get').errored()", false),
        ] {
            assert!(matches!(run(source, 1_000_000), Ok(Value::Bool(found)) if found == wanted), "{source}");
        }
    }

    #[test]
    fn wrong_and_costly_questions_are_refused() {
        let why = |source: &str| run(source, 1_000_000).unwrap_err().to_string();
        assert_eq!(why("authorizer.path(' ')"), "path must not be empty");
        assert_eq!(why("authorizer.group('').resource('')"), "resource must not be empty");
        assert!(
            why("authorizer.serviceAccount('a.b', 'x')").starts_with("Invalid service account namespace")
        );
        assert_eq!(run("authorizer.path('/x').check('get')", CHECK - 1).unwrap_err(), EvalError::Limit);
    }
}
