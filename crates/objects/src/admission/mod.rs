//! Expressions of dynamic admission: what those of webhooks and admission policies may name, and how they are
//! compiled, both when they are written and when they are run.

mod authorizer;
mod values;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use yunfan_cel::{Decl, DeclKind, Environment, MAX_REQUEST_BYTES, Program, Type};

use crate::validations;

pub use authorizer::{Access, Authority, authorizer, resource_check};
pub use values::to_cel;

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
}

impl Compiler {
    /// For expressions that know no composed variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// For expressions that know those that [`variable`](Self::variable) adds.
    pub fn composed() -> Self {
        Self { variables: Some(BTreeMap::new()) }
    }

    /// Makes a program of an expression that gives one of these types; of any type where there are none.
    ///
    /// # Errors
    /// What is wrong with it, as the field error of it says.
    pub fn compile(&self, source: &str, sight: Sight, wanted: &[Type]) -> Result<Program, String> {
        let dynamic = || scalar(Type::Dyn);
        let mut known = vec![
            ("object", dynamic()),
            ("oldObject", dynamic()),
            ("namespaceObject", NAMESPACE.clone()),
            ("request", REQUEST.clone()),
        ];
        if sight.params {
            known.push(("params", dynamic()));
        }
        if sight.authorizer {
            known.push(("authorizer", scalar(authorizer::AUTHORIZER)));
            known.push(("authorizer.requestResource", scalar(authorizer::RESOURCE)));
        }
        if let Some(variables) = &self.variables {
            known.push((VARIABLES, decl(DeclKind::Object(Arc::new(variables.clone())))));
        }
        let program =
            ENVIRONMENT.compile(source, &known).map_err(|error| format!("compilation failed: {error}"))?;
        if wanted.is_empty() || wanted.contains(program.output()) {
            return Ok(program);
        }
        let shown: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        Err(match shown.as_slice() {
            [one] => format!("must evaluate to {one} but got {}", program.output()),
            many => format!("must evaluate to one of [{}] but got {}", many.join(" "), program.output()),
        })
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
