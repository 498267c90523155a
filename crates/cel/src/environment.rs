//! What expressions may name, and how they become programs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ast::Expr;
use crate::budget::Budget;
use crate::check::Checker;
use crate::cost;
use crate::decl::Decl;
use crate::eval::{EvalError, Lookup, Scope};
use crate::library::{self, Function, Library};
use crate::parser;
use crate::types::Type;
use crate::value::Value;

/// Most faults told of one expression.
const MAX_FAULTS: usize = 16;

/// What is wrong, and where: characters from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) message: String,
}

/// Why an expression is refused: each fault with its place and the line that it is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

impl CompileError {
    fn new(source: &str, faults: &[Fault]) -> Self {
        let shown: Vec<String> = faults.iter().take(MAX_FAULTS).map(|fault| shown(source, fault)).collect();
        Self(shown.join("\n"))
    }
}

/// A fault as cel-go shows it.
fn shown(source: &str, fault: &Fault) -> String {
    if source.is_empty() {
        // There is no line to show, and no first character.
        return format!("ERROR: <input>:1:0: {}", fault.message);
    }
    let before: String = source.chars().take(fault.at).collect();
    let row = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let line: String = source.lines().nth(row).unwrap_or_default().chars().take(400).collect();
    let dots = ".".repeat(column.min(400));
    format!("ERROR: <input>:{}:{}: {}\n | {line}\n | {dots}^", row + 1, column + 1, fault.message)
}

/// The type of the message of this name, or of one of its fields; `None` for what is not declared. A field that is
/// itself a message holds anything but other messages.
pub type Messages = fn(name: &str, field: Option<&str>) -> Option<Type>;

/// The functions that expressions may call.
#[derive(Debug)]
pub struct Environment {
    functions: Arc<HashMap<&'static str, Function>>,
    messages: Messages,
    binds: bool,
}

impl Environment {
    /// The standard functions, and those of these libraries.
    pub fn new(libraries: impl IntoIterator<Item = Library>) -> Self {
        let mut functions: HashMap<&'static str, Function> = HashMap::new();
        for library in library::standard().into_iter().chain(libraries) {
            for function in library {
                match functions.get_mut(function.name) {
                    Some(known) => known.extend(function),
                    None => {
                        functions.insert(function.name, function);
                    }
                }
            }
        }
        Self { functions: Arc::new(functions), messages: |_, _| None, binds: false }
    }

    /// The same, with messages that expressions may make: `Name{field: value}`.
    #[must_use]
    pub fn with_messages(mut self, messages: Messages) -> Self {
        self.messages = messages;
        self
    }

    /// The same, with `cel.bind(name, value, expression)`.
    #[must_use]
    pub fn with_bindings(mut self) -> Self {
        self.binds = true;
        self
    }

    /// Makes a program of an expression over these variables. One with a dot in its name is what stands behind that dot of
    /// another, as [`Lookup`](crate::Lookup) gives it.
    ///
    /// # Errors
    /// What is no expression, names what is not declared, or calls a function with the wrong types.
    pub fn compile(&self, source: &str, variables: &[(&str, Arc<Decl>)]) -> Result<Program, CompileError> {
        let variables: Vec<Variable> =
            variables.iter().map(|(name, decl)| Variable::plain(name, decl.clone())).collect();
        self.compile_with(source, &variables)
    }

    /// The same, where some variables may have no value: those are `optional`.
    ///
    /// # Errors
    /// As there.
    pub fn compile_optional(
        &self,
        source: &str,
        variables: &[(&str, Arc<Decl>)],
        optional: &[(&str, Arc<Decl>)],
    ) -> Result<Program, CompileError> {
        let plain = variables.iter().map(|(name, decl)| Variable::plain(name, decl.clone()));
        let maybe = optional.iter().map(|(name, decl)| Variable {
            name: (*name).to_owned(),
            ty: Type::optional(decl.to_type()),
            decl: decl.clone(),
        });
        self.compile_with(source, &plain.chain(maybe).collect::<Vec<_>>())
    }

    fn compile_with(&self, source: &str, variables: &[Variable]) -> Result<Program, CompileError> {
        let refuse = |faults: &[Fault]| CompileError::new(source, faults);
        let qualified = |name: &str| self.functions.contains_key(name) || self.binds && name == parser::BIND;
        let expr = parser::parse(source, &qualified).map_err(|fault| refuse(&[fault]))?;
        let types = variables.iter().map(|v| (v.name.clone(), v.ty.clone())).collect();
        let mut checker = Checker::new(&self.functions, self.messages, types);
        let ty = checker.check(&expr);
        if !checker.faults.is_empty() {
            return Err(refuse(&checker.faults));
        }
        let decls = variables.iter().map(|v| (v.name.clone(), v.decl.clone())).collect();
        let max_cost = cost::estimate(&expr, decls, &checker.types);
        Ok(Program { expr: Arc::new(expr), ty, max_cost, functions: self.functions.clone() })
    }
}

struct Variable {
    name: String,
    ty: Type,
    decl: Arc<Decl>,
}

impl Variable {
    fn plain(name: &str, decl: Arc<Decl>) -> Self {
        Self { name: name.to_owned(), ty: decl.to_type(), decl }
    }
}

/// A checked expression, ready to run; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Program {
    expr: Arc<Expr>,
    ty: Type,
    max_cost: u64,
    functions: Arc<HashMap<&'static str, Function>>,
}

impl Program {
    /// Type of what comes out.
    pub fn output(&self) -> &Type {
        &self.ty
    }

    /// Most units of cost that a run can take, by the declared sizes.
    pub fn max_cost(&self) -> u64 {
        self.max_cost
    }

    /// Whether it looks at this variable.
    pub fn mentions(&self, variable: &str) -> bool {
        self.expr.node.mentions(variable)
    }

    /// The fields of a variable that it names.
    pub fn fields_of(&self, variable: &str) -> BTreeSet<String> {
        let mut fields = BTreeSet::new();
        self.expr.node.fields_of(variable, &mut fields);
        fields
    }

    /// Runs it.
    ///
    /// # Errors
    /// What the language calls an error (a division by zero, a key that is not there), or a budget that is used up.
    pub fn run(&self, variables: &[(&str, Value)], budget: &mut Budget) -> Result<Value, EvalError> {
        Scope::new(&self.functions, variables, None, budget).eval(&self.expr)
    }

    /// The same, with values that are made only where they are needed.
    ///
    /// # Errors
    /// As there.
    pub fn run_with(
        &self,
        variables: &[(&str, Value)],
        lookup: &dyn Lookup,
        budget: &mut Budget,
    ) -> Result<Value, EvalError> {
        Scope::new(&self.functions, variables, Some(lookup), budget).eval(&self.expr)
    }
}
