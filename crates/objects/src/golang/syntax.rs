//! Where a text stops to be JSON.

use crate::codec::MAX_DEPTH;

const SHORT: &str = "unexpected end of JSON input";

/// What is wrong with the syntax of a text that should be JSON; none where nothing is, or where it nests deeper than
/// any body may.
pub fn json_error(text: &[u8]) -> Option<String> {
    let mut scan = Scan { text, at: 0 };
    match scan.value(0).and_then(|()| scan.end()) {
        Ok(()) | Err(Stop::TooDeep) => None,
        Err(Stop::Short) => Some(SHORT.to_owned()),
        Err(Stop::Wrong(byte, place)) => Some(format!("invalid character {} {place}", quoted(byte))),
    }
}

enum Stop {
    Short,
    TooDeep,
    /// This byte, and where it stands.
    Wrong(u8, &'static str),
}

/// A byte as Go shows a character.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => r#"'"'"#.to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0x00..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

/// The letters that follow the first one of a word, and what is said where another stands there.
type Letters = [(u8, &'static str)];
const TRUE: [(u8, &str); 3] = [
    (b'r', "in literal true (expecting 'r')"),
    (b'u', "in literal true (expecting 'u')"),
    (b'e', "in literal true (expecting 'e')"),
];
const FALSE: [(u8, &str); 4] = [
    (b'a', "in literal false (expecting 'a')"),
    (b'l', "in literal false (expecting 'l')"),
    (b's', "in literal false (expecting 's')"),
    (b'e', "in literal false (expecting 'e')"),
];
const NULL: [(u8, &str); 3] = [
    (b'u', "in literal null (expecting 'u')"),
    (b'l', "in literal null (expecting 'l')"),
    (b'l', "in literal null (expecting 'l')"),
];

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The next byte that is no white space.
    fn next_token(&mut self) -> Result<u8, Stop> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(Stop::Short)
    }

    fn end(&mut self) -> Result<(), Stop> {
        match self.next_token() {
            Ok(byte) => Err(Stop::Wrong(byte, "after top-level value")),
            Err(_) => Ok(()),
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::TooDeep);
        }
        match self.next_token()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal(&TRUE),
            b'f' => self.literal(&FALSE),
            b'n' => self.literal(&NULL),
            byte => Err(Stop::Wrong(byte, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Stop> {
        self.at += 1;
        if self.next_token()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            match self.next_token()? {
                b'"' => self.string()?,
                byte => return Err(Stop::Wrong(byte, "looking for beginning of object key string")),
            }
            match self.next_token()? {
                b':' => self.at += 1,
                byte => return Err(Stop::Wrong(byte, "after object key")),
            }
            self.value(depth + 1)?;
            match self.next_token()? {
                b',' => self.at += 1,
                b'}' => break,
                byte => return Err(Stop::Wrong(byte, "after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Stop> {
        self.at += 1;
        if self.next_token()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.next_token()? {
                b',' => self.at += 1,
                b']' => break,
                byte => return Err(Stop::Wrong(byte, "after array element")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.at += 1;
        loop {
            match self.peek().ok_or(Stop::Short)? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    self.escape()?;
                }
                byte if byte < 0x20 => return Err(Stop::Wrong(byte, "in string literal")),
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    /// Stops at the last byte of what follows a backslash.
    fn escape(&mut self) -> Result<(), Stop> {
        match self.peek().ok_or(Stop::Short)? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    let byte = self.peek().ok_or(Stop::Short)?;
                    if !byte.is_ascii_hexdigit() {
                        return Err(Stop::Wrong(byte, r"in \u hexadecimal character escape"));
                    }
                }
                Ok(())
            }
            byte => Err(Stop::Wrong(byte, "in string escape code")),
        }
    }

    fn number(&mut self) -> Result<(), Stop> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek().ok_or(Stop::Short)? {
            b'0' => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self, place: &'static str) -> Result<(), Stop> {
        match self.peek().ok_or(Stop::Short)? {
            b'0'..=b'9' => {}
            byte => return Err(Stop::Wrong(byte, place)),
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, letters: &Letters) -> Result<(), Stop> {
        self.at += 1;
        for (letter, place) in letters {
            match self.peek().ok_or(Stop::Short)? {
                byte if byte == *letter => self.at += 1,
                byte => return Err(Stop::Wrong(byte, place)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_words() {
        for (text, words) in [
            ("", SHORT),
            ("{\"a\": 1", SHORT),
            ("{'a': 1}", r"invalid character '\'' looking for beginning of object key string"),
            ("{\"a\": 1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\": 1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru\"", "invalid character '\"' in literal true (expecting 'e')"),
            ("\"a\\q\"", "invalid character 'q' in string escape code"),
            ("\"a\n\"", r"invalid character '\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("\u{9e}", r"invalid character 'Â' looking for beginning of value"),
        ] {
            assert_eq!(json_error(text.as_bytes()).as_deref(), Some(words), "{text}");
        }
    }

    #[test]
    fn what_is_json_has_no_fault() {
        for text in ["{\"a\": [1, -0.5e+3, \"\\u00e9\\n\", true, false, null]}", " [] ", "0"] {
            assert_eq!(json_error(text.as_bytes()), None, "{text}");
        }
        assert_eq!(json_error("[".repeat(1_000_000).as_bytes()), None);
    }
}
