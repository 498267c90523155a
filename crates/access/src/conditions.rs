//! Expressions (CEL) of configuration files: compiled once when the file is read, run within a budget.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use yunfan_cel::{Budget, Decl, DeclKind, Environment, MAX_REQUEST_BYTES, Program, Type, Value};
use yunfan_objects::validations;

/// Most units of one run.
const UNITS: u64 = 1_000_000;
/// Longest time of one run.
const TIME: Duration = Duration::from_millis(500);

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment::new(validations::libraries()));

/// A declared shape with as many parts as fit into a request.
pub(crate) fn decl(kind: DeclKind) -> Arc<Decl> {
    Arc::new(Decl { kind, max: MAX_REQUEST_BYTES, min_bytes: 1 })
}

/// A value without parts.
pub(crate) fn scalar(ty: Type) -> Arc<Decl> {
    decl(DeclKind::Scalar(ty))
}

/// Texts.
pub(crate) fn texts() -> Arc<Decl> {
    decl(DeclKind::List(scalar(Type::String)))
}

/// Texts by name, several for each.
pub(crate) fn text_lists() -> Arc<Decl> {
    decl(DeclKind::Map(texts()))
}

/// Fields.
pub(crate) fn object<const N: usize>(fields: [(&str, Arc<Decl>); N]) -> Arc<Decl> {
    let fields = fields.into_iter().map(|(name, decl)| (name.to_owned(), decl));
    decl(DeclKind::Object(Arc::new(fields.collect())))
}

/// An expression that gives one of some types.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) source: String,
    pub(crate) program: Program,
}

impl Expression {
    /// Compiles it over one variable; of any type where none is wanted.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(source: &str, variable: (&str, Arc<Decl>), wanted: &[Type]) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("must be an expression".to_owned());
        }
        let program = ENVIRONMENT
            .compile(source, &[variable])
            .map_err(|error| format!("is no expression that can be used: {error}"))?;
        let found = program.output();
        if !wanted.is_empty() && !wanted.contains(found) && *found != Type::Dyn {
            let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            return Err(format!("gives {found}; it must give {}", names.join(" or ")));
        }
        Ok(Self { source: source.to_owned(), program })
    }

    /// Runs it.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn run(&self, variable: (&str, Value)) -> Result<Value, String> {
        let mut budget = Budget::new(UNITS, TIME);
        let value = self.program.run(&[variable], &mut budget);
        value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_checked_when_it_is_read() {
        let new = |source: &str| {
            let shape = object([("user", scalar(Type::String))]);
            Expression::new(source, ("request", shape), &[Type::Bool]).map(drop)
        };
        assert_eq!(new("request.user == 'ann'"), Ok(()));
        assert!(new("request.usr == 'ann'").unwrap_err().contains("undefined field 'usr'"));
        assert_eq!(new("request.user").unwrap_err(), "gives string; it must give bool");
        assert!(new(" ").is_err());
    }
}
