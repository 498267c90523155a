//! Expressions of dynamic admission: what those of webhooks and admission policies may name, and how they are
//! compiled, both when they are written and when they are run.

mod authorizer;
pub mod typecheck;
mod values;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use yunfan_cel::{CompileError, Decl, DeclKind, Environment, MAX_REQUEST_BYTES, Program, Type};

use crate::validations;

pub use authorizer::{Access, Authority, authorizer, resource_check};
pub use values::{to_cel, to_json};

/// The name behind which a policy's variables stand.
pub const VARIABLES: &str = "variables";
/// What is asked of the authorizer about the request's own resource, in two parts.
pub const REQUEST_RESOURCE: (&str, &str) = ("authorizer", "requestResource");

/// Which variables an expression may name beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
}

static ENVIRONMENT: LazyLock<Environment> =
    LazyLock::new(|| Environment::new(validations::libraries().into_iter().chain([authorizer::library()])));

/// The same, for expressions that say how an object is changed.
static CHANGING: LazyLock<Environment> = LazyLock::new(|| {
    let libraries = validations::libraries().into_iter().chain([authorizer::library(), values::escapes()]);
    Environment::new(libraries).with_messages(message)
});

/// Steps of a JSON patch; and `Object`, the fields to be laid over the object, with a name of its own for what is
/// inside of each field.
fn message(name: &str, field: Option<&str>) -> Option<Type> {
    let inner = name == "Object" || name.starts_with("Object.");
    match (name, field) {
        ("JSONPatch", Some("op" | "path" | "from")) => Some(Type::String),
        ("JSONPatch", Some("value")) => Some(Type::Dyn),
        ("JSONPatch", Some(_)) => None,
        (_, Some(field)) if inner => Some(Type::Message(format!("{name}.{field}").into())),
        (name, None) if inner || name == "JSONPatch" => Some(Type::Message(name.into())),
        _ => None,
    }
}

/// What expressions that change objects give: steps of a JSON patch, or fields to lay over the object.
pub fn change_types() -> [Type; 2] {
    [Type::list(Type::Message("JSONPatch".into())), Type::Message("Object".into())]
}

fn decl(kind: DeclKind) -> Arc<Decl> {
    Arc::new(Decl { kind, max: MAX_REQUEST_BYTES, min_bytes: 1 })
}

fn scalar(ty: Type) -> Arc<Decl> {
    decl(DeclKind::Scalar(ty))
}

fn object<const N: usize>(fields: [(&str, Arc<Decl>); N]) -> Arc<Decl> {
    let fields = fields.into_iter().map(|(name, decl)| (name.to_owned(), decl));
    decl(DeclKind::Object(Arc::new(fields.collect())))
}

fn texts() -> Arc<Decl> {
    decl(DeclKind::List(scalar(Type::String)))
}

/// `request`: an AdmissionRequest without the objects, which have variables of their own.
static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || scalar(Type::String);
    let named = |last| object([("group", text()), ("version", text()), (last, text())]);
    let extra = decl(DeclKind::Map(texts()));
    let user = object([("username", text()), ("uid", text()), ("groups", texts()), ("extra", extra)]);
    object([
        ("kind", named("kind")),
        ("resource", named("resource")),
        ("subResource", text()),
        ("requestKind", named("kind")),
        ("requestResource", named("resource")),
        ("requestSubResource", text()),
        ("name", text()),
        ("namespace", text()),
        ("operation", text()),
        ("userInfo", user),
        ("dryRun", scalar(Type::Bool)),
        ("options", scalar(Type::Dyn)),
    ])
});

/// `namespaceObject`: a Namespace, but for owners and managers.
static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let (text, time, number) = (|| scalar(Type::String), || scalar(Type::Timestamp), || scalar(Type::Int));
    let map = || decl(DeclKind::Map(scalar(Type::String)));
    let metadata = object([
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", map()),
        ("annotations", map()),
        ("UID", text()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", number()),
        ("deletionTimestamp", time()),
        ("generation", number()),
        ("resourceVersion", text()),
        ("finalizers", texts()),
    ]);
    let condition = object([
        ("status", text()),
        ("type", text()),
        ("lastTransitionTime", time()),
        ("message", text()),
        ("reason", text()),
    ]);
    let conditions = decl(DeclKind::List(condition));
    object([
        ("metadata", metadata),
        ("spec", object([("finalizers", texts())])),
        ("status", object([("conditions", conditions), ("phase", text())])),
    ])
});

/// Compiles the expressions of one webhook or policy; knows the variables that the policy has declared so far.
#[derive(Debug, Default)]
pub struct Compiler {
    variables: Option<BTreeMap<String, Arc<Decl>>>,
    changes: bool,
    /// What is known of the objects, and of the parameters.
    object: Option<Arc<Decl>>,
    params: Option<Arc<Decl>>,
}

impl Compiler {
    /// For expressions that know no composed variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// For expressions that know those that [`variable`](Self::variable) adds.
    pub fn composed() -> Self {
        Self { variables: Some(BTreeMap::new()), ..Self::default() }
    }

    /// The same, for expressions that say how an object is changed.
    pub fn changing() -> Self {
        Self { changes: true, ..Self::composed() }
    }

    /// The same, where something is known of the objects and of the parameters.
    fn about(self, object: Option<Arc<Decl>>, params: Option<Arc<Decl>>) -> Self {
        Self { object, params, ..self }
    }

    /// Makes a program of an expression that gives one of these types; of any type where there are none.
    ///
    /// # Errors
    /// What is wrong with it, as the field error of it says.
    pub fn compile(&self, source: &str, sight: Sight, wanted: &[Type]) -> Result<Program, String> {
        let program = self.check(source, sight).map_err(|error| format!("compilation failed: {error}"))?;
        let steps = |ty: &Type| matches!(ty, Type::List(of) if matches!(**of, Type::Message(_)));
        // No steps at all, as one of two ways, make a list of anything.
        let open = wanted.iter().any(steps) && *program.output() == Type::list(Type::Dyn);
        if wanted.is_empty() || open || wanted.contains(program.output()) {
            return Ok(program);
        }
        let name = |ty: &Type| match ty {
            Type::Null => "null_type".to_owned(),
            other => other.to_string(),
        };
        let shown: Vec<String> = wanted.iter().map(name).collect();
        Err(match shown.as_slice() {
            [one] => format!("must evaluate to {one} but got {}", program.output()),
            many => format!("must evaluate to one of [{}] but got {}", many.join(" "), program.output()),
        })
    }

    /// Makes a program of an expression, whatever it gives.
    fn check(&self, source: &str, sight: Sight) -> Result<Program, CompileError> {
        let shape = |known: &Option<Arc<Decl>>| known.clone().unwrap_or_else(|| scalar(Type::Dyn));
        let mut known = vec![
            ("object", shape(&self.object)),
            ("oldObject", shape(&self.object)),
            ("namespaceObject", NAMESPACE.clone()),
            ("request", REQUEST.clone()),
        ];
        if sight.params {
            known.push(("params", shape(&self.params)));
        }
        if sight.authorizer {
            known.push(("authorizer", scalar(authorizer::AUTHORIZER)));
            known.push(("authorizer.requestResource", scalar(authorizer::RESOURCE)));
        }
        if let Some(variables) = &self.variables {
            known.push((VARIABLES, decl(DeclKind::Object(Arc::new(variables.clone())))));
        }
        let environment = if self.changes { &CHANGING } else { &ENVIRONMENT };
        environment.compile(source, &known)
    }

    /// Compiles a variable of a policy, which the expressions after it may name.
    ///
    /// # Errors
    /// As [`compile`](Self::compile); the variable can then be named, and may be of any type.
    pub fn variable(&mut self, name: &str, source: &str, sight: Sight) -> Result<Program, String> {
        let made = self.compile(source, sight, &[]);
        let ty = made.as_ref().map_or(Type::Dyn, |program| program.output().clone());
        self.variables.get_or_insert_default().insert(name.to_owned(), scalar(ty));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sight = Sight { params: true, authorizer: true };

    #[test]
    fn expressions_see_the_request_and_what_they_are_let_see() {
        let compile = |source: &str, sight| Compiler::new().compile(source, sight, &[Type::Bool]).map(drop);
        for good in [
            "object.metadata.name == 'a' && oldObject == null",
            "request.userInfo.groups.exists(g, g == 'x') || request.options.dryRun == 'All'",
            "namespaceObject.metadata.labels['a'] == 'b'",
            "params.limit > 3",
            "authorizer.group('apps').resource('deployments').namespace('x').check('create').allowed()",
            "authorizer.requestResource.check('delete').allowed()",
            "authorizer.path('/healthz').check('get').reason() == ''",
            "[1].all(request, request == 1)",
        ] {
            assert_eq!(compile(good, ALL), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("params.limit > 3", "undeclared reference to 'params' (in container '')"),
            ("authorizer.requestResource.check('delete').allowed()", "undeclared reference to 'authorizer'"),
            ("request.uid == ''", "undefined field 'uid'"),
            ("variables.a == 1", "undeclared reference to 'variables'"),
            ("object.a", "must evaluate to bool but got dyn"),
            ("1 +", "compilation failed: ERROR: <input>:1:4: Syntax error"),
        ] {
            let found = compile(bad, Sight::default()).unwrap_err();
            assert!(found.contains(why), "{bad}: {found}");
        }
    }

    #[test]
    fn changes_are_messages_of_their_own() {
        let [steps, fields] = change_types();
        let compile = |source: &str, wanted: &Type| {
            Compiler::changing().compile(source, ALL, std::slice::from_ref(wanted)).map(drop)
        };
        assert_eq!(
            compile("Object{spec: Object.spec{replicas: 3, template: object.spec.template}}", &fields),
            Ok(())
        );
        assert_eq!(
            compile(
                "Object{spec: Object.spec{items: [Object.spec.items{name: 'a', ?more: object.?x}]}}",
                &fields
            ),
            Ok(())
        );
        let step =
            "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: Object.spec{x: 1}}]";
        assert_eq!(compile(step, &steps), Ok(()));
        assert_eq!(compile("has(object.a) ? [JSONPatch{op: 'remove', path: '/a'}] : []", &steps), Ok(()));
        for (bad, wanted, why) in [
            ("1", &steps, "must evaluate to list(JSONPatch) but got int"),
            ("Object.spec{}", &fields, "must evaluate to Object but got Object.spec"),
            (
                "Object{spec: Object.wrong{}}",
                &fields,
                "expected type of field 'spec' is 'Object.spec' but provided type is 'Object.wrong'",
            ),
            ("[JSONPatch{ops: 'add'}]", &steps, "undefined field 'ops'"),
            (
                "[JSONPatch{op: 1}]",
                &steps,
                "expected type of field 'op' is 'string' but provided type is 'int'",
            ),
            ("Other{}", &fields, "undeclared reference to 'Other' (in container '')"),
        ] {
            let found = compile(bad, wanted).unwrap_err();
            assert!(found.contains(why), "{bad}: {found}");
        }
        let plain = Compiler::new().compile("Object{}", ALL, &[]).map(drop).unwrap_err();
        assert!(plain.contains("undeclared reference to 'Object'"), "{plain}");
    }

    #[test]
    fn variables_are_known_once_they_are_declared() {
        let mut compiler = Compiler::composed();
        let check = |compiler: &Compiler, source: &str| compiler.compile(source, ALL, &[]).map(drop);
        assert!(check(&compiler, "variables.a").unwrap_err().contains("undefined field 'a'"));
        compiler.variable("a", "1 + 2", ALL).expect("it is one");
        assert_eq!(check(&compiler, "variables.a + 1"), Ok(()));
        assert!(check(&compiler, "variables.a + 'x'").unwrap_err().contains("no matching overload"));
        compiler.variable("wrong", "1 +", ALL).unwrap_err();
        assert_eq!(check(&compiler, "variables.wrong + 'x'"), Ok(()), "what is wrong is told once");
    }
}
