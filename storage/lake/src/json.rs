//! JSON (RFC 8259) read in one pass into a flat row of nodes that say where in the text each value lies.
//!
//! serde_json would do but for three things that a table needs: a number or a nested value as it was written (integers beyond
//! 64 bits, `1e400`, JSON text of what has no column of its own) without a second pass, members that come twice, and memory that is
//! kept from record to record. A test holds that both take the same texts for JSON.

use std::borrow::Cow;
use std::collections::HashSet;

/// Objects and arrays within each other; serde_json's bound.
pub const NESTING_MAX: usize = 127;
/// Values and names of one text: what a record of some megabytes of `[[[],[]...` would otherwise multiply in memory.
pub const NODES_MAX: usize = 4 << 20;

/// Members of an object up to which each name is compared with each.
const PAIRWISE_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean(bool),
    /// Digits with or without a minus.
    Integer,
    /// With a fraction or an exponent.
    Real,
    String {
        is_escaped: bool,
    },
    Object,
    Array,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// The text of the value, quotes and brackets included.
    start: u32,
    end: u32,
    /// The node after this one and all in it.
    next: u32,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("not JSON: {expected} expected at byte {at}")]
    Syntax { at: usize, expected: &'static str },
    #[error("not UTF-8 from byte {at} on")]
    Utf8 { at: usize },
    #[error("half a surrogate pair at byte {at}, which is no character")]
    Surrogate { at: usize },
    /// Which of them is meant nobody knows. Found at any depth, so that it depends on nothing but the text.
    #[error("member {0:?} twice in one object")]
    Duplicate(String),
    #[error("nested deeper than {NESTING_MAX}")]
    Nesting,
    #[error("more than {NODES_MAX} values")]
    Nodes,
    #[error("longer than 4 GiB")]
    Length,
}

/// The memory for reading texts one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    nodes: Vec<Node>,
    /// The nodes of the objects and arrays that are open.
    open: Vec<u32>,
    /// Where the names of the object at hand begin and end.
    names: Vec<(u32, u32)>,
}

impl Reader {
    pub fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Value<'a>, JsonError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError::Length);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Utf8 { at: error.valid_up_to() })?;
        self.nodes.clear();
        self.open.clear();
        let Reader { nodes, open, names } = self;
        Scan { text, bytes, at: 0, nodes, open, names }.document()?;
        Ok(Value { text, nodes: &self.nodes, at: 0 })
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: &'a mut Vec<Node>,
    open: &'a mut Vec<u32>,
    names: &'a mut Vec<(u32, u32)>,
}

impl Scan<'_> {
    fn document(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.value()?;
        // Each turn stands behind a value, or behind the bracket that opened an object or array.
        while let Some(&around) = self.open.last() {
            let is_object = self.nodes[around as usize].kind == Kind::Object;
            let is_first = self.nodes.len() == around as usize + 1;
            self.skip_space();
            match (self.peek(), is_object) {
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    self.close(around);
                    if is_object {
                        self.check_members(around)?;
                    }
                    continue;
                }
                (Some(b','), _) if !is_first => {
                    self.at += 1;
                    self.skip_space();
                }
                (Some(_), _) if is_first => {}
                (_, true) => return Err(self.syntax(if is_first { "a name or }" } else { ", or }" })),
                (_, false) => return Err(self.syntax(if is_first { "a value or ]" } else { ", or ]" })),
            }
            if is_object {
                if self.peek() != Some(b'"') {
                    return Err(self.syntax("a name"));
                }
                self.string()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return Err(self.syntax(":"));
                }
                self.at += 1;
                self.skip_space();
            }
            self.value()?;
        }
        self.skip_space();
        if self.at < self.bytes.len() { Err(self.syntax("the end")) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn syntax(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn push(&mut self, kind: Kind, start: usize) -> Result<(), JsonError> {
        if self.nodes.len() >= NODES_MAX {
            return Err(JsonError::Nodes);
        }
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { kind, start: start as u32, end: self.at as u32, next });
        Ok(())
    }

    fn close(&mut self, around: u32) {
        self.open.pop();
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[around as usize];
        node.end = self.at as u32;
        node.next = next;
    }

    /// That each member of an object is there once.
    fn check_members(&mut self, object: u32) -> Result<(), JsonError> {
        self.names.clear();
        let end = self.nodes[object as usize].next;
        let mut at = object + 1;
        let mut is_escaped = false;
        while at < end {
            let name = self.nodes[at as usize];
            is_escaped |= name.kind == Kind::String { is_escaped: true };
            self.names.push((name.start + 1, name.end - 1));
            at = self.nodes[at as usize + 1].next;
        }
        let name_at = |(start, end): (u32, u32)| &self.text[start as usize..end as usize];
        let twice = if is_escaped {
            let mut seen = HashSet::with_capacity(self.names.len());
            self.names.iter().map(|name| unescaped(name_at(*name))).find(|name| !seen.insert(name.clone()))
        } else if self.names.len() <= PAIRWISE_MAX {
            let is_before =
                |at: usize| self.names[..at].iter().any(|before| name_at(*before) == name_at(self.names[at]));
            (1..self.names.len()).find(|at| is_before(*at)).map(|at| name_at(self.names[at]).to_owned())
        } else {
            let mut seen = HashSet::with_capacity(self.names.len());
            let twice = self.names.iter().find(|name| !seen.insert(name_at(**name)));
            twice.map(|name| name_at(*name).to_owned())
        };
        twice.map_or(Ok(()), |name| Err(JsonError::Duplicate(name)))
    }

    /// A scalar, or the opening of an object or array.
    fn value(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(bracket @ (b'{' | b'[')) => {
                if self.open.len() >= NESTING_MAX {
                    return Err(JsonError::Nesting);
                }
                self.at += 1;
                self.open.push(self.nodes.len() as u32);
                self.push(if bracket == b'{' { Kind::Object } else { Kind::Array }, start)
            }
            Some(b't') => self.word(b"true", Kind::Boolean(true)),
            Some(b'f') => self.word(b"false", Kind::Boolean(false)),
            Some(b'n') => self.word(b"null", Kind::Null),
            _ => Err(self.syntax("a value")),
        }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.syntax("a value"));
        }
        let start = self.at;
        self.at += word.len();
        self.push(kind, start)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax("a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let mut kind = Kind::Integer;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            kind = Kind::Real;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            kind = Kind::Real;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        self.push(kind, start)
    }

    fn string(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let mut is_escaped = false;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                Some(_) => return Err(self.syntax("no control character")),
                None => return Err(self.syntax("the end of a string")),
            }
        }
        self.at += 1;
        self.push(Kind::String { is_escaped }, start)
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let unit = self.hex4()?;
                let is_pair = match unit {
                    0xd800..=0xdbff if self.bytes[self.at..].starts_with(b"\\u") => {
                        self.at += 1;
                        matches!(self.hex4()?, 0xdc00..=0xdfff)
                    }
                    0xd800..=0xdfff => false,
                    _ => true,
                };
                if !is_pair {
                    return Err(JsonError::Surrogate { at: start });
                }
            }
            _ => return Err(self.syntax("an escape")),
        }
        Ok(())
    }

    /// At the `u`.
    fn hex4(&mut self) -> Result<u32, JsonError> {
        let unit = self.bytes.get(self.at + 1..self.at + 5).and_then(hex4);
        let unit = unit.ok_or_else(|| self.syntax("u and four hex digits"))?;
        self.at += 5;
        Ok(unit)
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, &digit| Some(unit * 16 + char::from(digit).to_digit(16)?))
}

/// One value of a text that was read.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    text: &'a str,
    nodes: &'a [Node],
    at: u32,
}

impl<'a> Value<'a> {
    fn node(&self) -> &'a Node {
        &self.nodes[self.at as usize]
    }

    fn with(&self, at: u32) -> Value<'a> {
        Value { at, ..*self }
    }

    pub fn kind(&self) -> Kind {
        self.node().kind
    }

    /// As it was written.
    pub fn text(&self) -> &'a str {
        let node = self.node();
        &self.text[node.start as usize..node.end as usize]
    }

    /// What a string says; of other values their text.
    pub fn content(&self) -> Cow<'a, str> {
        let text = self.text();
        match self.kind() {
            Kind::String { is_escaped: false } => Cow::Borrowed(&text[1..text.len() - 1]),
            Kind::String { is_escaped: true } => Cow::Owned(unescaped(&text[1..text.len() - 1])),
            _ => Cow::Borrowed(text),
        }
    }

    /// Names and values of an object, nothing of others.
    pub fn members(&self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> + use<'a> {
        let mut rest = self.inside(Kind::Object);
        std::iter::from_fn(move || Some((rest.next()?, rest.next()?)))
    }

    /// Of an array, nothing of others.
    pub fn elements(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        self.inside(Kind::Array)
    }

    fn inside(&self, of: Kind) -> Inside<'a> {
        let end = if self.kind() == of { self.node().next } else { self.at + 1 };
        Inside { value: self.with(self.at + 1), end }
    }
}

struct Inside<'a> {
    value: Value<'a>,
    end: u32,
}

impl<'a> Iterator for Inside<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.value.at >= self.end {
            return None;
        }
        let value = self.value;
        self.value.at = value.node().next;
        Some(value)
    }
}

/// Of what was checked when it was read.
fn unescaped(text: &str) -> String {
    let mut content = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('\\') {
        content.push_str(&rest[..position]);
        let escape = rest.as_bytes()[position + 1];
        rest = &rest[position + 2..];
        match escape {
            b'u' => {
                let unit = |text: &str| hex4(&text.as_bytes()[..4]).expect("checked when it was read");
                let mut code = unit(rest);
                rest = &rest[4..];
                if (0xd800..0xdc00).contains(&code) {
                    let low = unit(&rest[2..]);
                    rest = &rest[6..];
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                content.push(char::from_u32(code).expect("checked when it was read"));
            }
            b'b' => content.push('\u{8}'),
            b'f' => content.push('\u{c}'),
            b'n' => content.push('\n'),
            b'r' => content.push('\r'),
            b't' => content.push('\t'),
            itself => content.push(itself.into()),
        }
    }
    content.push_str(rest);
    content
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(value: Value) -> serde_json::Value {
        match value.kind() {
            Kind::Null => serde_json::Value::Null,
            Kind::Boolean(boolean) => boolean.into(),
            Kind::Integer | Kind::Real => serde_json::from_str(value.text()).expect("a number"),
            Kind::String { .. } => value.content().into_owned().into(),
            Kind::Object => {
                value.members().map(|(name, value)| (name.content().into_owned(), tree(value))).collect()
            }
            Kind::Array => value.elements().map(tree).collect(),
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 100, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Value>()),
            ]
        })
    }

    /// Texts of which serde_json says the same.
    fn assert_same(reader: &mut Reader, text: &[u8]) {
        let theirs = serde_json::from_slice::<serde_json::Value>(text);
        match (reader.read(text), theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(tree(ours), theirs),
            (Err(_), Err(_)) => {}
            (Err(JsonError::Duplicate(_)), Ok(_)) => {}
            (Ok(_), Err(theirs)) if theirs.to_string().starts_with("number out of range") => {}
            (ours, theirs) => panic!("{:?}: {ours:?}, {theirs:?}", String::from_utf8_lossy(text)),
        }
    }

    proptest! {
        #[test]
        fn reads_what_serde_json_reads(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            assert_same(&mut Reader::default(), &text.unwrap());
        }

        #[test]
        fn refuses_what_serde_json_refuses(value in json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut text = serde_json::to_vec(&value).unwrap();
            let at = at.index(text.len());
            if cut { text.truncate(at) } else { text[at] = byte }
            assert_same(&mut Reader::default(), &text);
        }

        #[test]
        fn takes_any_bytes(text in "[\\[\\]{}\",:\\\\u0-9a-fDdE+. -]{0,40}") {
            assert_same(&mut Reader::default(), text.as_bytes());
        }
    }

    #[test]
    fn the_edges_of_the_grammar() {
        let mut reader = Reader::default();
        for text in [
            "",
            " ",
            "{",
            "}",
            "[",
            "]",
            "{}",
            "[]",
            " [ ] ",
            "[,]",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "[1}",
            "{\"a\":1]",
            "nul",
            "nullx",
            "null null",
            "true",
            "01",
            "-",
            "-0",
            "-01",
            "1.",
            ".5",
            "1.e3",
            "1e",
            "1e+",
            "1e5",
            "-1.5E-7",
            "+1",
            "NaN",
            "Infinity",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\\n\"",
            "\"\u{1}\"",
            "\"\u{7f}\"",
            "\u{feff}{}",
            "{}{}",
            "[[]]x",
            "\"\\u0000\"",
            "\"\\/\\b\\f\\n\\r\\t\\\\\\\"\"",
        ] {
            assert_same(&mut reader, text.as_bytes());
        }
        assert_same(&mut reader, b"\"\xff\"");
        assert_same(&mut reader, b"\xef\xbb\xbf{}");
    }

    #[test]
    fn numbers_are_kept_as_they_were_written() {
        let mut reader = Reader::default();
        for (text, kind) in [
            ("18446744073709551616", Kind::Integer),
            ("1e400", Kind::Real),
            ("-0", Kind::Integer),
            ("1.50", Kind::Real),
        ] {
            let value = reader.read(text.as_bytes()).unwrap();
            assert_eq!((value.kind(), value.text()), (kind, text));
        }
    }

    #[test]
    fn a_member_twice_is_found_at_any_depth() {
        let mut reader = Reader::default();
        let many: Vec<String> = (0..100).map(|n| format!("\"m{n}\": {{\"a\": [{{\"a\": 1}}]}}")).collect();
        let many = many.join(",");
        for text in [
            r#"{"a": 1, "a": null}"#.to_owned(),
            r#"{"b": [[{"c": {"a": {}, "b": 1, "a": 2}}]]}"#.to_owned(),
            r#"{"a": 1, "\u0061": 2}"#.to_owned(),
            format!("{{\"a\": 1, {many}, \"a\": 1}}"),
        ] {
            assert_eq!(
                reader.read(text.as_bytes()).unwrap_err(),
                JsonError::Duplicate("a".to_owned()),
                "{text}"
            );
        }
        for text in [
            r#"{"a": {"a": [{"a": 1}, {"a": 1}]}, "A": 1, "": 2, "\u0062": 1}"#.to_owned(),
            format!("{{{many}}}"),
        ] {
            assert!(reader.read(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn nesting_and_values_are_bounded() {
        let mut reader = Reader::default();
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(reader.read(nested(NESTING_MAX).as_bytes()).is_ok());
        assert_eq!(reader.read(nested(NESTING_MAX + 1).as_bytes()).unwrap_err(), JsonError::Nesting);
        assert_eq!(reader.read("[".repeat(1 << 20).as_bytes()).unwrap_err(), JsonError::Nesting);
        let values = |count| "[".to_owned() + &"1,".repeat(count - 1) + "1]";
        assert!(reader.read(values(NODES_MAX - 1).as_bytes()).is_ok());
        assert_eq!(reader.read(values(NODES_MAX).as_bytes()).unwrap_err(), JsonError::Nodes);
    }
}
