//! A small reader of JSON (RFC 8259), for reports that were written before. It is total: whatever the
//! bytes are, there is a value or a place where they are wrong.

use std::fmt;

/// Values in values in values ...: deeper than any report goes, far from the end of the stack.
const DEPTH_MAX: usize = 64;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number from 0 on.
    Unsigned(u64),
    /// A whole number below 0.
    Signed(i64),
    /// Any other number, as it is written: nothing of it is lost to rounding.
    Number(Box<str>),
    /// A string.
    String(String),
    /// Values in order.
    Array(Vec<Value>),
    /// Values by name, in the order of the text; a name may come again.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads one value, with nothing but space around it.
    pub fn parse(bytes: &[u8]) -> Result<Value, Flaw> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value(0).and_then(|value| {
            reader.space();
            match reader.peek() {
                None => Ok(value),
                Some(_) => Err(Wrong("more behind the value")),
            }
        });
        value.map_err(|Wrong(what)| reader.flaw(what))
    }

    /// A member of an object, the last one where its name comes again.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Value::Object(members) = self else {
            return None;
        };
        let found = members.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    /// A string's text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number from 0 on.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// A whole number.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Unsigned(number) => i64::try_from(*number).ok(),
            Value::Signed(number) => Some(*number),
            _ => None,
        }
    }

    /// Any number, as near as an f64 is to it.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Unsigned(number) => Some(*number as f64),
            Value::Signed(number) => Some(*number as f64),
            Value::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// `true` or `false`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

/// Where the bytes are not JSON, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: &'static str,
    /// The bytes end where more must follow: what is there may be the beginning of a value.
    pub cut_short: bool,
}

impl fmt::Display for Flaw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flaw {
            line, column, what, ..
        } = self;
        write!(out, "line {line}, column {column}: {what}")
    }
}

/// What is wrong at the reader's place.
#[derive(Clone, Copy, Debug)]
struct Wrong(&'static str);

const CUT_SHORT: Wrong = Wrong("it ends in the middle of a value");

type Read<T> = Result<T, Wrong>;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn flaw(&self, what: &'static str) -> Flaw {
        let before = &self.bytes[..self.at.min(self.bytes.len())];
        let start = before.iter().rposition(|byte| *byte == b'\n');
        let line = &before[start.map_or(0, |at| at + 1)..];
        Flaw {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: line.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1,
            what,
            cut_short: what == CUT_SHORT.0,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// What comes behind space; there must be something.
    fn next(&mut self) -> Read<u8> {
        self.space();
        self.peek().ok_or(CUT_SHORT)
    }

    fn value(&mut self, depth: usize) -> Read<Value> {
        if depth > DEPTH_MAX {
            return Err(Wrong("nested too deep"));
        }
        match self.next()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            _ => Err(Wrong("no value of JSON begins like this")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Read<Value> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else if word.as_bytes().starts_with(rest) {
            self.at = self.bytes.len();
            Err(CUT_SHORT)
        } else {
            Err(Wrong("no value of JSON begins like this"))
        }
    }

    fn object(&mut self, depth: usize) -> Read<Value> {
        let mut members = Vec::new();
        self.at += 1;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            if self.next()? != b'"' {
                return Err(Wrong("a name in quotes is missing"));
            }
            let name = self.string()?;
            if self.next()? != b':' {
                return Err(Wrong("a colon is missing"));
            }
            self.at += 1;
            members.push((name, self.value(depth + 1)?));
            if self.goes_on(b'}')? {
                continue;
            }
            return Ok(Value::Object(members));
        }
    }

    fn array(&mut self, depth: usize) -> Read<Value> {
        let mut values = Vec::new();
        self.at += 1;
        if self.next()? == b']' {
            self.at += 1;
            return Ok(Value::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            if !self.goes_on(b']')? {
                return Ok(Value::Array(values));
            }
        }
    }

    /// Behind a member: whether another one follows.
    fn goes_on(&mut self, end: u8) -> Read<bool> {
        let found = self.next()?;
        if found != b',' && found != end {
            return Err(Wrong("a comma or the end is missing"));
        }
        self.at += 1;
        Ok(found == b',')
    }

    fn string(&mut self) -> Read<String> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
                .unwrap_or(rest.len());
            match std::str::from_utf8(&rest[..plain]) {
                Ok(plain) => text.push_str(plain),
                Err(error) => {
                    self.at += error.valid_up_to();
                    // The bytes of a character that is not whole may go on behind the end.
                    let cut = error.error_len().is_none() && plain == rest.len();
                    return Err(if cut { CUT_SHORT } else { Wrong("not UTF-8") });
                }
            }
            self.at += plain;
            match self.peek() {
                None => return Err(CUT_SHORT),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(Wrong("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let kind = *self.bytes.get(self.at + 1).ok_or(CUT_SHORT)?;
        let character = match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.code_point(),
            _ => return Err(Wrong("no such escape in a string")),
        };
        self.at += 2;
        Ok(character)
    }

    /// `\uXXXX`, or two of them where they are one character.
    fn code_point(&mut self) -> Read<char> {
        const LONE: Wrong = Wrong("half of a surrogate pair");
        let high = self.unit(self.at)?;
        let (code, len) = match high {
            0xd800..=0xdbff => {
                let rest = &self.bytes[self.at + 6..];
                if !rest.starts_with(b"\\u") {
                    let cut = b"\\u".starts_with(rest);
                    return Err(if cut { CUT_SHORT } else { LONE });
                }
                match self.unit(self.at + 6)? {
                    low @ 0xdc00..=0xdfff => (0x10000 + ((high - 0xd800) << 10) + low - 0xdc00, 12),
                    _ => return Err(LONE),
                }
            }
            code => (code, 6),
        };
        let character = char::from_u32(code).ok_or(LONE)?;
        self.at += len;
        Ok(character)
    }

    /// The four digits behind the `\u` at a place.
    fn unit(&self, at: usize) -> Read<u32> {
        let mut unit = 0;
        for at in at + 2..at + 6 {
            let digit = char::from(*self.bytes.get(at).ok_or(CUT_SHORT)?);
            let digit = digit
                .to_digit(16)
                .ok_or(Wrong("no such escape in a string"))?;
            unit = unit << 4 | digit;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero_first = self.peek() == Some(b'0');
        if self.digits()? > 1 && zero_first {
            return Err(Wrong("a number begins with 0"));
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            (self.at, whole) = (self.at + 1, false);
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            (self.at, whole) = (self.at + 1, false);
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        // Only ASCII was passed.
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
        let exact = || {
            let unsigned = text.parse().map(Value::Unsigned);
            unsigned.or_else(|_| text.parse().map(Value::Signed)).ok()
        };
        let exact = if whole { exact() } else { None };
        Ok(exact.unwrap_or_else(|| Value::Number(text.as_ref().into())))
    }

    /// Passes digits, at least one. Returns how many.
    fn digits(&mut self) -> Read<usize> {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        match (count, self.peek()) {
            (0, None) => Err(CUT_SHORT),
            (0, Some(_)) => Err(Wrong("a digit is missing")),
            _ => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"v":1,"type":"flow","original":{"src":"10.77.1.2","dport":443},
        "status":["seen_reply", "snat" ],"mark":4294967295,"complete":false,"none":null,
        "rule":"-m comment --comment \"a\\b\u001b[2J\" \ud83d\ude00 \u00e9 é €","d":-1.25e+3}"#;

    fn parse(text: &str) -> Value {
        Value::parse(text.as_bytes()).unwrap_or_else(|flaw| panic!("{text}: {flaw}"))
    }

    fn flaw(text: &str) -> String {
        Value::parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn a_line_as_reports_have_them() {
        let value = parse(SAMPLE);
        let original = value.get("original").unwrap();
        assert_eq!(
            original.get("src").and_then(Value::as_str),
            Some("10.77.1.2")
        );
        assert_eq!(original.get("dport").and_then(Value::as_u64), Some(443));
        assert_eq!(
            value.get("rule").and_then(Value::as_str),
            Some("-m comment --comment \"a\\b\x1b[2J\" \u{1f600} é é €")
        );
        assert_eq!(value.get("complete").and_then(Value::as_bool), Some(false));
        assert_eq!(value.get("none"), Some(&Value::Null));
        assert_eq!(value.get("d").and_then(Value::as_f64), Some(-1250.0));
        assert_eq!(value.get("nothing"), None);
    }

    #[test]
    fn numbers_are_exact_or_as_written() {
        for (text, value) in [
            ("0", Value::Unsigned(0)),
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            (
                "18446744073709551616",
                Value::Number("18446744073709551616".into()),
            ),
            ("-9223372036854775808", Value::Signed(i64::MIN)),
            ("-0", Value::Signed(0)),
            ("1.0", Value::Number("1.0".into())),
            ("1E400", Value::Number("1E400".into())),
        ] {
            assert_eq!(parse(text), value, "{text}");
        }
        assert_eq!(parse("18446744073709551615").as_i64(), None);
        assert_eq!(parse("-7").as_i64(), Some(-7));
    }

    #[test]
    fn escapes_space_and_names_that_come_again() {
        assert_eq!(parse("\t\r\n [ ] "), Value::Array(vec![]));
        assert_eq!(parse(" {\n} "), Value::Object(vec![]));
        assert_eq!(
            parse(r#"{"a":1,"a":2}"#).get("a"),
            Some(&Value::Unsigned(2))
        );
        assert_eq!(
            parse(r#""\"\\\/\b\f\n\r\tA""#),
            Value::String("\"\\/\x08\x0c\n\r\tA".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("", "line 1, column 1: it ends in the middle of a value"),
            (
                "{\n \"é\":x}",
                "line 2, column 6: no value of JSON begins like this",
            ),
            ("{1:2}", "line 1, column 2: a name in quotes is missing"),
            ("{\"a\" 1}", "line 1, column 6: a colon is missing"),
            ("[1 2]", "line 1, column 4: a comma or the end is missing"),
            (
                "[1,]",
                "line 1, column 4: no value of JSON begins like this",
            ),
            ("01", "line 1, column 3: a number begins with 0"),
            ("1. ", "line 1, column 3: a digit is missing"),
            ("-x", "line 1, column 2: a digit is missing"),
            ("1e+x", "line 1, column 4: a digit is missing"),
            ("1 1", "line 1, column 3: more behind the value"),
            (
                "\"\t\"",
                "line 1, column 2: a control character in a string",
            ),
            (r#""\x""#, "line 1, column 2: no such escape in a string"),
            (
                r#""\u12g4""#,
                "line 1, column 2: no such escape in a string",
            ),
            (r#""\ud800""#, "line 1, column 2: half of a surrogate pair"),
            (
                r#""\ud800\u0041""#,
                "line 1, column 2: half of a surrogate pair",
            ),
            (r#""\udc00""#, "line 1, column 2: half of a surrogate pair"),
            (
                "nul!",
                "line 1, column 1: no value of JSON begins like this",
            ),
            ("'a'", "line 1, column 1: no value of JSON begins like this"),
        ] {
            assert_eq!(flaw(text), expected, "{text}");
        }
        let wrong = Value::parse(b"\"a\xff\"").unwrap_err();
        assert_eq!(wrong.to_string(), "line 1, column 3: not UTF-8");
        assert!(!wrong.cut_short);
    }

    #[test]
    fn depth_has_a_limit() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        parse(&nested(DEPTH_MAX));
        assert!(flaw(&nested(DEPTH_MAX + 2)).ends_with("nested too deep"));
        assert!(flaw(&"[".repeat(1_000_000)).ends_with("nested too deep"));
        assert!(flaw(&"{\"a\":".repeat(1_000_000)).ends_with("nested too deep"));
    }

    #[test]
    fn every_beginning_of_a_value_is_known_as_one() {
        for len in 0..SAMPLE.len() {
            let flaw = Value::parse(&SAMPLE.as_bytes()[..len]).unwrap_err();
            assert!(flaw.cut_short, "{len}: {flaw}");
        }
    }

    #[test]
    fn no_byte_anywhere_makes_it_panic() {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        let (mut read, mut refused) = (0, 0);
        for at in 0..bytes.len() {
            let before = bytes[at];
            for byte in 0..=255 {
                bytes[at] = byte;
                match Value::parse(&bytes) {
                    Ok(_) => read += 1,
                    Err(flaw) => {
                        refused += 1;
                        assert!(flaw.line <= 4 && flaw.column <= SAMPLE.len() + 1);
                    }
                }
            }
            bytes[at] = before;
        }
        // Both happen: the test reaches what is behind the first byte.
        assert!(read > 1000 && refused > 1000, "{read} {refused}");
    }
}
