//! From text to tokens.

use crate::ast::Literal;
use crate::environment::Fault;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Literal(Literal),
    Ident(String),
    /// An operator or a bracket.
    Mark(&'static str),
    End,
}

impl Token {
    /// As messages show it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Literal(Literal::String(text)) => format!("'{text:?}'"),
            Self::Literal(literal) => format!("'{literal:?}'"),
            Self::Ident(name) => format!("'{name}'"),
            Self::Mark(mark) => format!("'{mark}'"),
            Self::End => "'<EOF>'".to_owned(),
        }
    }
}

/// Longer ones first.
const MARKS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", ":", "?", "<", ">", "+", "-",
    "*", "/", "%", "!",
];

/// Words that CEL keeps for itself: no variable may be named so (the language's specification, "Syntax").
pub const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// The tokens of a text with their places, counted in characters. `End` is the last one.
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        let token = lexer.next()?;
        let end = token == Token::End;
        out.push((start, token));
        if end {
            return Ok(out);
        }
    }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn fault(&self, at: usize, message: impl Into<String>) -> Fault {
        Fault { at, message: format!("Syntax error: {}", message.into()) }
    }

    fn skip_blank(&mut self) {
        while let Some(c) = self.peek(0) {
            if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if c.is_whitespace() {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, Fault> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some((raw, bytes, length)) = self.text_prefix() {
            self.at += length;
            return self.text(raw, bytes);
        }
        if c == '_' || c.is_ascii_alphabetic() {
            return Ok(self.word());
        }
        if c == '`' {
            return self.quoted_field();
        }
        for mark in MARKS {
            if mark.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c)) {
                self.at += mark.len();
                return Ok(Token::Mark(mark));
            }
        }
        // A half of an operator takes along what stands where its other half should.
        let next = self.peek(1).filter(|_| matches!(c, '=' | '&' | '|'));
        let shown: String = [Some(c), next].into_iter().flatten().collect();
        Err(self.fault(self.at, format!("token recognition error at: '{shown}'")))
    }

    fn word(&mut self) -> Token {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c == '_' || c.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        match word.as_str() {
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            "null" => Token::Literal(Literal::Null),
            "in" => Token::Mark("in"),
            _ => Token::Ident(word),
        }
    }

    fn quoted_field(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        self.at += 1;
        let mut name = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            if c == '`' {
                return Ok(Token::Ident(name));
            }
            name.push(c);
        }
        Err(self.fault(start, "token recognition error at: '`'"))
    }

    fn number(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        let hex = self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X'));
        if hex {
            self.at += 2;
        }
        let mut float = false;
        while let Some(c) = self.peek(0) {
            let part_of = if hex {
                c.is_ascii_hexdigit()
            } else if c == '.' && !float && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
                float = true;
                true
            } else if matches!(c, 'e' | 'E') {
                float = true;
                if matches!(self.peek(1), Some('+' | '-')) {
                    self.at += 1;
                }
                true
            } else {
                c.is_ascii_digit()
            };
            if !part_of {
                break;
            }
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        let unsigned = !float && matches!(self.peek(0), Some('u' | 'U'));
        if unsigned {
            self.at += 1;
        }
        let (digits, radix) = if hex { (&text[2..], 16) } else { (text.as_str(), 10) };
        let literal = if float {
            text.parse().ok().map(Literal::Double)
        } else if unsigned {
            u64::from_str_radix(digits, radix).ok().map(Literal::Uint)
        } else {
            // One more than fits, for a minus before it: the parser puts the two together.
            u64::from_str_radix(digits, radix).ok().and_then(|n| match i64::try_from(n) {
                Ok(n) => Some(Literal::Int(n)),
                Err(_) if n == 1 << 63 => Some(Literal::Int(i64::MIN)),
                Err(_) => None,
            })
        };
        let kind = if float {
            "double"
        } else if unsigned {
            "uint"
        } else {
            "int"
        };
        literal.map(Token::Literal).ok_or_else(|| self.fault(start, format!("invalid {kind} literal")))
    }

    /// Raw, bytes, and the length of the prefix.
    fn text_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for ahead in 0..3 {
            match self.peek(ahead)? {
                '"' | '\'' => return Some((raw, bytes, ahead)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
        }
        None
    }

    fn text(&mut self, raw: bool, bytes: bool) -> Result<Token, Fault> {
        let start = self.at;
        let quote = self.peek(0).unwrap_or_default();
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let length = if triple { 3 } else { 1 };
        self.at += length;
        let mut out: Vec<u8> = Vec::new();
        loop {
            let Some(c) = self.peek(0) else {
                return Err(self.fault(start, "token recognition error: the text does not end"));
            };
            if c == quote && (0..length).all(|i| self.peek(i) == Some(quote)) {
                self.at += length;
                break;
            }
            if matches!(c, '\n' | '\r') && !triple {
                return Err(self.fault(start, "token recognition error: a line break in a text"));
            }
            self.at += 1;
            let mut buffer = [0; 4];
            if c == '\\' && !raw {
                self.escape(bytes, &mut out)?;
            } else {
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
        if bytes {
            return Ok(Token::Literal(Literal::Bytes(out)));
        }
        let text = String::from_utf8(out).map_err(|_| self.fault(start, "invalid text"))?;
        Ok(Token::Literal(Literal::String(text)))
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        let at = self.at - 1;
        let c = self.peek(0).ok_or_else(|| self.fault(at, "invalid escape sequence"))?;
        self.at += 1;
        let plain = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => Some(c as u8),
            _ => None,
        };
        if let Some(byte) = plain {
            out.push(byte);
            return Ok(());
        }
        let (digits, radix) = match c {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(self.fault(at, format!("invalid escape sequence '\\{c}'"))),
        };
        let mut code = 0u32;
        for _ in 0..digits {
            let digit = self.peek(0).and_then(|c| c.to_digit(radix));
            let digit = digit.ok_or_else(|| self.fault(at, "invalid escape sequence"))?;
            code = code.wrapping_mul(radix).wrapping_add(digit);
            self.at += 1;
        }
        if bytes && digits < 4 {
            out.push(u8::try_from(code).map_err(|_| self.fault(at, "invalid escape sequence"))?);
            return Ok(());
        }
        let c = char::from_u32(code).ok_or_else(|| self.fault(at, "invalid unicode code point"))?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }
}
