//! From tokens to the tree, by recursive descent with a limit on its depth.

use crate::ast::{Expr, Fold, FoldKind, Literal, Node};
use crate::environment::Fault;
use crate::lexer::{RESERVED, Token, tokens};

/// Longest expression, characters.
const MAX_LENGTH: usize = 100_000;
/// Deepest nesting. Evaluation recurses as deep, so this is also what its stack must hold.
const MAX_DEPTH: usize = 96;

/// The macro that gives a value a name; only where the environment has it.
pub(crate) const BIND: &str = "cel.bind";

/// Reads an expression. `qualified` says which names with a dot in them are functions, or [`BIND`]: whatever stands before the
/// dot of those is no value.
pub(crate) fn parse(text: &str, qualified: &dyn Fn(&str) -> bool) -> Result<Expr, Fault> {
    if text.len() > MAX_LENGTH && text.chars().count() > MAX_LENGTH {
        let message = format!("expression code point size exceeds limit: limit {MAX_LENGTH}");
        return Err(Fault { at: 0, message });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, qualified };
    let expr = parser.expression()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("<EOF>"));
    }
    Ok(expr)
}

/// A node, unless it nests too deep.
fn make(at: usize, node: Node) -> Result<Expr, Fault> {
    let expr = Expr::new(at, node);
    if expr.height > MAX_DEPTH { Err(too_deep(at)) } else { Ok(expr) }
}

fn too_deep(at: usize) -> Fault {
    Fault { at, message: format!("expression recursion limit exceeded: {MAX_DEPTH}") }
}

struct Parser<'q> {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
    qualified: &'q dyn Fn(&str) -> bool,
}

/// What an operand may begin with.
const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

const RELATIONS: [&str; 7] = ["<", "<=", ">", ">=", "==", "!=", "in"];

impl Parser<'_> {
    // `tokens` ends with `End`, which is never passed.
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }

    /// The name of the function, where the receiver is the first part of it.
    fn qualified(&self, receiver: &Expr, name: &str) -> Option<String> {
        let Node::Ident(space) = &receiver.node else { return None };
        Some(format!("{space}.{name}")).filter(|name| (self.qualified)(name))
    }

    fn place(&self) -> usize {
        self.tokens[self.at].0
    }

    fn eat(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(m) if *m == mark);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, mark: &str) -> Result<(), Fault> {
        if self.eat(mark) { Ok(()) } else { Err(self.unexpected(&format!("'{mark}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let message = format!("Syntax error: mismatched input {} expecting {wanted}", self.peek().shown());
        Fault { at: self.place(), message }
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(self.place()));
        }
        let out = inner(self);
        self.depth -= 1;
        out
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        self.deeper(|p| {
            let test = p.logical(true)?;
            let at = p.place();
            if !p.eat("?") {
                return Ok(test);
            }
            let yes = p.logical(true)?;
            p.expect(":")?;
            let no = p.expression()?;
            make(at, Node::Cond(Box::new(test), Box::new(yes), Box::new(no)))
        })
    }

    /// A chain of `||` or `&&`, as a balanced tree: long chains are common and must not nest.
    fn logical(&mut self, or: bool) -> Result<Expr, Fault> {
        let mut operands = Vec::new();
        let mut places = Vec::new();
        loop {
            operands.push(if or { self.logical(false)? } else { self.relation()? });
            places.push(self.place());
            if !self.eat(if or { "||" } else { "&&" }) {
                break;
            }
        }
        balance(or, operands, &places)
    }

    /// Operators of one rank, from the left.
    fn chain(
        &mut self,
        marks: &[&str],
        operand: fn(&mut Self) -> Result<Expr, Fault>,
    ) -> Result<Expr, Fault> {
        let mut left = operand(self)?;
        loop {
            let Token::Mark(mark) = *self.peek() else { return Ok(left) };
            if !marks.contains(&mark) {
                return Ok(left);
            }
            let at = self.place();
            self.at += 1;
            let right = operand(self)?;
            let name = if mark == "in" { "@in".to_owned() } else { format!("_{mark}_") };
            left = make(at, Node::Call { name, method: false, args: vec![left, right] })?;
        }
    }

    fn relation(&mut self) -> Result<Expr, Fault> {
        self.chain(&RELATIONS, |p| p.chain(&["+", "-"], |p| p.chain(&["*", "/", "%"], Self::unary)))
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let at = self.place();
        let name = if self.eat("!") {
            "!_"
        } else if self.eat("-") {
            if let Token::Literal(literal) = self.peek().clone() {
                let negative = match literal {
                    Literal::Int(n) => Some(Literal::Int(n.wrapping_neg())),
                    Literal::Double(n) => Some(Literal::Double(-n)),
                    _ => None,
                };
                if let Some(literal) = negative {
                    self.at += 1;
                    return self.members(make(at, Node::Literal(literal))?);
                }
            }
            "-_"
        } else {
            return self.member();
        };
        let operand = self.deeper(Self::unary)?;
        make(at, Node::Call { name: name.to_owned(), method: false, args: vec![operand] })
    }

    fn member(&mut self) -> Result<Expr, Fault> {
        let operand = self.primary()?;
        if let Node::Literal(Literal::Int(i64::MIN)) = operand.node {
            return Err(Fault { at: operand.at, message: "invalid int literal".to_owned() });
        }
        self.members(operand)
    }

    fn members(&mut self, mut operand: Expr) -> Result<Expr, Fault> {
        loop {
            let at = self.place();
            if self.eat(".") {
                let optional = self.eat("?");
                let Token::Ident(field) = self.peek().clone() else {
                    return Err(match self.peek() {
                        Token::End => {
                            let message = "Syntax error: no viable alternative at input '.'".to_owned();
                            Fault { at: self.place(), message }
                        }
                        _ => self.unexpected("IDENTIFIER"),
                    });
                };
                self.at += 1;
                let open = self.place();
                operand = if !optional && self.eat("(") {
                    let args = self.arguments(")")?;
                    match self.qualified(&operand, &field) {
                        Some(name) if name == BIND && args.len() == 3 => bind(open, args)?,
                        Some(name) => make(open, Node::Call { name, method: false, args })?,
                        None => method(open, operand, field, args)?,
                    }
                } else {
                    let node = Node::Select { operand: Box::new(operand), field, optional, test: false };
                    make(at, node)?
                };
            } else if self.eat("[") {
                let name = if self.eat("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                let args = vec![operand, index];
                operand = make(at, Node::Call { name: name.to_owned(), method: false, args })?;
            } else if matches!(self.peek(), Token::Mark("{"))
                && let Some(name) = dotted(&operand)
            {
                operand = self.message(at, name)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn message(&mut self, at: usize, name: String) -> Result<Expr, Fault> {
        self.at += 1;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let Token::Ident(field) = self.peek().clone() else { return Err(self.unexpected("IDENTIFIER")) };
            self.at += 1;
            self.expect(":")?;
            fields.push((optional, field, self.expression()?));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        make(at, Node::Message(name, fields))
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Fault> {
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.expression()?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let at = self.place();
        match self.peek().clone() {
            Token::Literal(literal) => {
                self.at += 1;
                make(at, Node::Literal(literal))
            }
            Token::Mark("(") => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Mark("[") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.eat("]") {
                    items.push((self.eat("?"), self.expression()?));
                    if !self.eat(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                make(at, Node::List(items))
            }
            Token::Mark("{") => self.map(at),
            Token::Mark(".") => {
                self.at += 1;
                self.ident(at)
            }
            _ => self.ident(at),
        }
    }

    fn map(&mut self, at: usize) -> Result<Expr, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expression()?;
            self.expect(":")?;
            items.push((optional, key, self.expression()?));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        make(at, Node::Map(items))
    }

    fn ident(&mut self, at: usize) -> Result<Expr, Fault> {
        let Token::Ident(name) = self.peek().clone() else {
            return Err(self.unexpected(PRIMARY));
        };
        if RESERVED.contains(&name.as_str()) {
            return Err(Fault { at, message: format!("reserved identifier: {name}") });
        }
        self.at += 1;
        let open = self.place();
        if self.eat("(") {
            let args = self.arguments(")")?;
            return function(open, name, args);
        }
        make(at, Node::Ident(name))
    }
}

/// Names with dots between them, as one.
fn dotted(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select { operand, field, optional: false, test: false } => {
            Some(format!("{}.{field}", dotted(operand)?))
        }
        _ => None,
    }
}

fn balance(or: bool, mut operands: Vec<Expr>, places: &[usize]) -> Result<Expr, Fault> {
    let right = match operands.len() {
        0 | 1 => {
            // The grammar gives at least one.
            let none = || Expr::new(0, Node::Literal(Literal::Bool(!or)));
            return Ok(operands.pop().unwrap_or_else(none));
        }
        count => operands.split_off(count / 2),
    };
    let middle = operands.len();
    let left = Box::new(balance(or, operands, &places[..middle])?);
    let right = Box::new(balance(or, right, &places[middle..])?);
    let node = if or { Node::Or(left, right) } else { Node::And(left, right) };
    make(places[middle - 1], node)
}

fn function(at: usize, name: String, mut args: Vec<Expr>) -> Result<Expr, Fault> {
    if name == "has" {
        let argument = if args.len() == 1 { args.pop() } else { None };
        return match argument {
            Some(Expr { node: Node::Select { operand, field, .. }, .. }) => {
                make(at, Node::Select { operand, field, optional: false, test: true })
            }
            other => {
                let at = other.map_or(at, |argument| argument.at);
                Err(Fault { at, message: "invalid argument to has() macro".to_owned() })
            }
        };
    }
    make(at, Node::Call { name, method: false, args })
}

/// `cel.bind(name, value, body)`: the body of a run over a list of that one value.
fn bind(at: usize, args: Vec<Expr>) -> Result<Expr, Fault> {
    let mut args = args.into_iter();
    let first = variable(at, args.next())?;
    let (Some(value), Some(body)) = (args.next(), args.next()) else {
        return Err(Fault { at, message: "bind() macro lacks an argument".to_owned() });
    };
    let range = make(value.at, Node::List(vec![(false, value)]))?;
    let fold = Fold { kind: FoldKind::Map, range, first, second: None, filter: None, body };
    let list = make(at, Node::Fold(Box::new(fold)))?;
    let index = make(at, Node::Literal(Literal::Int(0)))?;
    make(at, Node::Call { name: "_[_]".to_owned(), method: false, args: vec![list, index] })
}

/// A method, or one of the macros that look like one.
fn method(at: usize, receiver: Expr, name: String, mut args: Vec<Expr>) -> Result<Expr, Fault> {
    let kind = match (name.as_str(), args.len()) {
        ("all", 2 | 3) => Some(FoldKind::All),
        ("exists", 2 | 3) => Some(FoldKind::Exists),
        ("exists_one" | "existsOne", 2 | 3) => Some(FoldKind::ExistsOne),
        ("map", 2 | 3) => Some(FoldKind::Map),
        ("filter", 2) => Some(FoldKind::Filter),
        ("transformList", 3 | 4) => Some(FoldKind::TransformList),
        ("transformMap", 3 | 4) => Some(FoldKind::TransformMap),
        ("transformMapEntry", 3 | 4) => Some(FoldKind::TransformMapEntry),
        ("optMap", 2) => Some(FoldKind::OptMap),
        ("optFlatMap", 2) => Some(FoldKind::OptFlatMap),
        ("sortBy", 2) => Some(FoldKind::SortBy),
        _ => None,
    };
    let Some(kind) = kind else {
        args.insert(0, receiver);
        return make(at, Node::Call { name, method: true, args });
    };
    let mut args = args.into_iter();
    let first = variable(at, args.next())?;
    let transforms =
        matches!(kind, FoldKind::TransformList | FoldKind::TransformMap | FoldKind::TransformMapEntry);
    let quantifies = matches!(kind, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne);
    let two = transforms || (quantifies && args.len() == 2);
    let second = if two { Some(variable(at, args.next())?) } else { None };
    let filter = if args.len() == 2 { args.next() } else { None };
    let Some(body) = args.next() else {
        return Err(Fault { at, message: format!("{name}() macro lacks an argument") });
    };
    make(at, Node::Fold(Box::new(Fold { kind, range: receiver, first, second, filter, body })))
}

fn variable(at: usize, argument: Option<Expr>) -> Result<String, Fault> {
    match argument {
        Some(Expr { node: Node::Ident(name), .. }) => Ok(name),
        other => {
            let at = other.map_or(at, |other| other.at);
            Err(Fault { at, message: "argument must be a simple name".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Result<Expr, Fault> {
        parse(text, &|_| false)
    }

    #[test]
    fn what_stands_before_the_dot_may_belong_to_the_name() {
        let called = |text: &str| match parse(text, &|name| name == "sets.contains").expect("parses").node {
            Node::Call { name, method, args } => (name, method, args.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(called("sets.contains(a, b)"), ("sets.contains".to_owned(), false, 2));
        assert_eq!(called("sets.size()"), ("size".to_owned(), true, 1));
        assert_eq!(called("a.sets.contains(b)"), ("contains".to_owned(), true, 2));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for (text, at, message) in [
            ("self = 42", 5, "token recognition error at: '= '"),
            ("a +", 3, "mismatched input '<EOF>'"),
            ("a.", 2, "no viable alternative at input '.'"),
            ("a.)", 2, "expecting IDENTIFIER"),
            ("'abc", 0, "does not end"),
            ("if", 0, "reserved identifier: if"),
            ("a # b", 2, "token recognition error at: '#'"),
            ("9223372036854775808", 0, "invalid int literal"),
            ("has(a)", 4, "invalid argument to has() macro"),
            ("[1].all(a.b, true)", 9, "must be a simple name"),
            ("X{1: 1}", 2, "expecting IDENTIFIER"),
        ] {
            let fault = plain(text).unwrap_err();
            assert!(fault.message.contains(message), "{text}: {fault:?}");
            assert_eq!(fault.at, at, "{text}: {fault:?}");
        }
    }

    #[test]
    fn nesting_is_limited_and_long_chains_are_not_nesting() {
        for deep in [
            "(".repeat(5000),
            "!".repeat(5000) + "a",
            "-".repeat(5000) + "a",
            "[".repeat(5000),
            "a".to_owned() + &".b".repeat(5000),
            "a".to_owned() + &"+a".repeat(5000),
            "a".to_owned() + &"?a:a".repeat(5000),
            "(".repeat(90) + "a" + &("+a".repeat(90) + ")").repeat(90),
            "{1:".repeat(5000),
        ] {
            assert!(plain(&deep).is_err());
        }
        assert!(plain(&("a".to_owned() + &" && a".repeat(5000))).is_ok());
        assert!(plain(&"a".repeat(MAX_LENGTH + 1)).is_err());
    }
}
