//! What expressions mean, what is refused, and that nothing hostile gets through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use yunfan_cel::{Budget, Decl, DeclKind, Environment, EvalError, Key, Type, Value};

fn scalar(ty: Type, max: u64) -> Arc<Decl> {
    Arc::new(Decl { kind: DeclKind::Scalar(ty), max, min_bytes: 2 })
}

/// `self` with a number, a text, a list of numbers, a map, and a list of texts of no declared length.
fn declared() -> Arc<Decl> {
    let list = |of: Arc<Decl>, max| Arc::new(Decl { kind: DeclKind::List(of), max, min_bytes: 2 });
    let fields = BTreeMap::from([
        ("n".to_owned(), scalar(Type::Int, 1)),
        ("s".to_owned(), scalar(Type::String, 20)),
        ("list".to_owned(), list(scalar(Type::Int, 1), 10)),
        ("many".to_owned(), list(scalar(Type::String, 1_000_000), 1_000_000)),
        (
            "map".to_owned(),
            Arc::new(Decl { kind: DeclKind::Map(scalar(Type::Int, 1)), max: 5, min_bytes: 2 }),
        ),
    ]);
    Arc::new(Decl { kind: DeclKind::Object(Arc::new(fields)), max: 5, min_bytes: 2 })
}

fn value() -> Value {
    let key = |name: &str| Key::String(name.into());
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(Arc::new(entries.into_iter().map(|(name, value)| (key(name), value)).collect()))
    };
    map(vec![
        ("n", Value::Int(3)),
        ("s", "héllo".into()),
        ("list", vec![Value::Int(1), Value::Int(2), Value::Int(3)].into()),
        ("many", (0..1000).map(|_| "some text".into()).collect::<Vec<Value>>().into()),
        ("map", map(vec![("a", Value::Int(1)), ("b", Value::Int(2))])),
    ])
}

fn run(source: &str) -> Result<Value, String> {
    let program = Environment::new([]).compile(source, &[("self", declared())]).map_err(|e| e.to_string())?;
    let mut budget = Budget::new(1_000_000, Duration::from_secs(5));
    program.run(&[("self", value())], &mut budget).map_err(|e| e.to_string())
}

#[test]
fn expressions_that_are_true() {
    for source in [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 / 2 == 3 && -7 % 3 == -1",
        "1 < 1.5 && 2u > 1 && 'a' < 'b'",
        "self.n == 3 && self.s == 'héllo' && size(self.s) == 5 && self.s.size() == 5",
        "has(self.n) && !has(self.map.c) && self.map['a'] == 1 && 'b' in self.map",
        "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x > 2)",
        "self.list.map(x, x * 2) == [2, 4, 6] && self.list.filter(x, x != 2) == [1, 3]",
        "self.list.map(x, x > 1, x) == [2, 3] && self.map.all(k, k < 'c')",
        "self.list.all(i, v, v == i + 1) && self.map.transformMap(k, v, v + 1)['b'] == 3",
        "self.list.transformList(i, v, i * v) == [0, 2, 6]",
        "false || true ? 'a' == 'a' : false",
        "(1 / 0 == 1) || true",
        "!((1 / 0 == 1) && false)",
        "[1, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [3, 1, 2].sort() == [1, 2, 3]",
        "[1, 2, 2].distinct() == [1, 2] && [[1], [2]].flatten() == [1, 2] && [1, 2, 3].slice(1, 2) == [2]",
        "['b', 'a'].sortBy(x, x) == ['a', 'b'] && [1, 2].reverse() == [2, 1] && lists.range(2) == [0, 1]",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && 'abc'.substring(1) == 'bc'",
        "'AbC'.lowerAscii() == 'abc' && ' x '.trim() == 'x' && 'aaa'.replace('a', 'b', 2) == 'bba'",
        "'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.charAt(1) == 'e'",
        "'%s is %d or %.2f %x'.format(['a', 3, 1.5, 255]) == 'a is 3 or 1.50 ff'",
        "'abc123'.matches('^[a-z]+[0-9]+$') && 'abc123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "url('https://a.example:8443/p?x=1&x=2').getHostname() == 'a.example' && url('https://a:1/').getPort() == '1'",
        "url('https://a/p?x=1&x=2').getQuery()['x'] == ['1', '2'] && isURL('/a') && !isURL('a b')",
        "url('https://u:p@a.example/x y<z>?q=a b#f').getEscapedPath() == '/x%20y%3Cz%3E' && isURL('mailto:x') && !isURL('https://a b/')",
        "url('https://a/p#f?x=1').getQuery() == {} && !isURL('https://a#f/p') && !isURL('https://a/%zz') && !isURL(' ')",
        "url('//a/b').getHost() == 'a' && url('https://a/%41%20b').getEscapedPath() == '/%41%20b'",
        "[1e30, 1000000.0, 123456.5, 0.0001, 0.00001, -0.0].map(x, string(x)) == ['1e+30', '1e+06', '123456.5', '0.0001', '1e-05', '-0']",
        "'%e %.2e %e'.format([1234.5, -0.00012, 1e100]) == '1.234500×10⁰³ -1.200000×10⁻⁰⁴ 1.000000×10¹⁰⁰'",
        "'%.2f %f %f'.format([1234567.891, -12345.5, 0.1]) == '1,234,567.89 -12,345.500000 0.100000'",
        "'%s %s %s %s'.format([['a', 'b'], [2.5], [duration('1h')], {'b': 'x', 'a': 'y'}]) == '[\"a\", \"b\"] [2.500000] [duration(\"3600s\")] {\"a\":\"y\", \"b\":\"x\"}'",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('10.0.0.256') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('11.0.0.0/9')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('::/0').prefixLength() == 0 && isCIDR('1.2.3.4/32')",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('1.0.0-a.1') && !isSemver('1.0') && semver('v1.0', true).major() == 1",
        "semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "duration('1h') > duration('59m') && timestamp('2024-01-02T03:04:05Z').getDayOfMonth() == 1",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "optional.of(1).hasValue() && optional.none().orValue(2) == 2 && self.map[?'z'].orValue(7) == 7",
        "self.?n.orValue(0) == 3 && optional.of(2).optMap(x, x + 1).value() == 3",
        "[?optional.none(), ?optional.of(1)] == [1] && type(1) == int && string(1) == '1' && int('4') == 4",
        "b'abc' == bytes('abc') && \"\\u0041\" == 'A' && r'\\n'.size() == 2 && '''a\nb'''.size() == 3",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1 && -9223372036854775808 < 0",
    ] {
        assert!(matches!(run(source), Ok(Value::Bool(true))), "{source}: {:?}", run(source));
    }
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    for (source, wanted) in [
        ("self.z == 100", "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^"),
        ("self = 42", "ERROR: <input>:1:6: Syntax error: token recognition error at: '= '"),
        ("self.n == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.s + 1 == 'a'", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("other", "undeclared reference to 'other' (in container '')"),
        ("nothing(1)", "undeclared reference to 'nothing'"),
        ("self.n.startsWith('a')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
        ("self.n.all(x, true)", "expression of type 'int' cannot be range of a comprehension"),
        ("self.list.all(x, x)", "expected type 'bool' but found 'int'"),
        ("self.list.all(x, x.y)", "type 'int' does not support field selection"),
        ("[1, 'a'] == []", "expected type 'int' but found 'string'"),
        ("self.n ? 1 : 2", "found no matching overload for '_?_:_'"),
    ] {
        let error = run(source).unwrap_err();
        assert!(error.contains(wanted), "{source}: {error}");
    }
}

#[test]
fn values_get_names_only_where_the_environment_says_so() {
    const SOURCE: &str = "cel.bind(x, self.n + 1, x * x) == 16";
    let compile = |environment: Environment| environment.compile(SOURCE, &[("self", declared())]);
    let refused = compile(Environment::new([])).expect_err("cel is no variable").to_string();
    assert!(refused.contains("undeclared reference to 'cel'"), "{refused}");
    let program = compile(Environment::new([]).with_bindings()).expect("a program");
    let mut budget = Budget::new(1_000_000, Duration::from_secs(5));
    let found = program.run(&[("self", value())], &mut budget).expect("a value");
    assert!(found.equals(&Value::Bool(true)), "{found:?}");
}

#[test]
fn errors_at_run_time_are_errors() {
    for (source, wanted) in [
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("[1][5] == 1", "index out of bounds: 5"),
        ("self.map.zz == 1", "no such key: zz"),
        ("self.list.all(x, x / 0 == 1)", "division by zero"),
        ("'a'.matches('(' + '')", "error parsing regexp"),
        ("dyn('a') + dyn(1) == 'a'", "no such overload"),
        ("optional.none().value() == 1", "dereference"),
        ("'abc'.substring(2, 9) == ''", "index out of range"),
    ] {
        let error = run(source).unwrap_err();
        assert!(error.contains(wanted), "{source}: {error}");
    }
}

#[test]
fn cost_is_estimated_by_declared_sizes() {
    let cost = |source: &str| {
        Environment::new([]).compile(source, &[("self", declared())]).expect(source).max_cost()
    };
    assert!(cost("self.n > 0") < 10);
    assert!(cost("self.list.all(x, self.list.all(y, x == y))") < 2_000);
    assert!(cost("self.many.all(x, self.many.all(y, x == y))") > 100_000_000);
    assert!(cost("self.many.all(x, x == 'string constant')") > 1_000_000);
    assert!(cost("lists.range(self.n).all(x, true)") > 1_000_000);
}

#[test]
fn a_run_ends_when_its_budget_does() {
    let variables = [("self", declared())];
    for source in [
        "self.many.all(x, self.many.all(y, self.many.all(z, z == x)))",
        "lists.range(9223372036854775807).size() > 0",
        "self.many.map(x, self.many.map(y, self.many)).size() > 0",
        "self.many.map(x, self.many.join('')).join('').size() > 0",
        "lists.range(100000).map(x, lists.range(100000)).size() > 0",
        "'a'.replace('', self.s + self.s).size() > 0 && lists.range(1000).all(x, lists.range(1000).all(y, 'aaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('(a*)*b') || true))",
    ] {
        let program = Environment::new([]).compile(source, &variables).expect(source);
        let mut budget = Budget::new(100_000, Duration::from_secs(20));
        let ended = program.run(&[("self", value())], &mut budget);
        assert!(matches!(ended, Err(EvalError::Limit)), "{source}: {ended:?}");
    }
    let program = Environment::new([]).compile("self.many.all(x, self.many.all(y, x == y))", &variables);
    let mut no_time = Budget::new(u64::MAX, Duration::ZERO);
    let ended = program.expect("compiles").run(&[("self", value())], &mut no_time);
    assert!(matches!(ended, Err(EvalError::Limit)));
}

/// Random expressions, some of them sensible: none may panic, hang or use more than its budget.
#[test]
fn random_expressions_do_no_harm() {
    const PIECES: [&str; 78] = [
        "self",
        ".n",
        ".s",
        ".list",
        ".many",
        ".map",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        ">=",
        " in ",
        "1",
        "0",
        "-1",
        "1.5",
        "2u",
        "'a'",
        "\"b\"",
        "b'c'",
        "true",
        "null",
        "x",
        "y",
        ".all(x, ",
        ".map(x, ",
        ".filter(x, ",
        ".exists(x, ",
        ".sortBy(x, ",
        "has(",
        "size(",
        ".size()",
        ".matches('",
        "a*')",
        ".split('')",
        ".join('')",
        ".replace('', 'xx')",
        ".format([",
        "dyn(",
        "string(",
        "int(",
        "duration('1h')",
        "timestamp(0)",
        "optional.of(",
        ".orValue(",
        "ip('::1')",
        "cidr('10.0.0.0/8')",
        "semver('1.0.0')",
        "url('/a')",
        ".slice(0, ",
        ".substring(1)",
        ".flatten()",
        ".distinct()",
        "lists.range(",
        "9223372036854775807",
        "-9223372036854775808",
        "\\",
        "'",
        "`",
        "\u{e9}",
        "//",
        ".?",
    ];
    let environment = Environment::new([]);
    let variables = [("self", declared())];
    let mut rng = rand::rngs::StdRng::seed_from_u64(20_261_121);
    let mut compiled = 0;
    for round in 0..30_000 {
        let length = rng.random_range(1..24);
        let mut source: String = (0..length).map(|_| PIECES[rng.random_range(0..PIECES.len())]).collect();
        if round % 2 == 0 {
            // Closing what is open makes many more of them compile.
            let open: Vec<char> = source.chars().filter(|c| matches!(c, '(' | '[' | '{')).collect();
            source.extend(open.iter().rev().map(|c| match c {
                '(' => ')',
                '[' => ']',
                _ => '}',
            }));
        }
        let Ok(program) = environment.compile(&source, &variables) else { continue };
        compiled += 1;
        let mut budget = Budget::new(20_000, Duration::from_secs(5));
        let _ = program.run(&[("self", value())], &mut budget);
    }
    assert!(compiled > 100, "too few of them compile to say anything: {compiled}");
}
