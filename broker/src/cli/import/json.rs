//! JSON documents out of pieces of a file: one after the other, whatever stands between them (line ends, spaces, nothing), or
//! as the elements of one array.

use serde::de::IgnoredAny;

use super::document::{DOCUMENT_BYTES_MAX, Malformed};

#[derive(Default)]
pub struct JsonReader {
    bytes: Vec<u8>,
    /// Of `bytes`: what is behind it is not read yet.
    at: usize,
    /// Of `at`.
    line: u64,
    place: Place,
    /// The line on which the array began that this is in.
    array: Option<u64>,
    is_ended: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Between,
    /// In an array, where an element may begin.
    Element,
    /// In an array, behind an element.
    AfterElement,
    /// On a line of what was not understood.
    Lost,
}

impl JsonReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// The next object as it stands there, and its line. None: more bytes are needed, or there are no more.
    pub fn next(&mut self) -> Option<Result<(u64, Vec<u8>), Malformed>> {
        if self.place == Place::Start {
            const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
            if self.bytes.len() < BYTE_ORDER_MARK.len() && !self.is_ended {
                return None;
            }
            self.line = 1;
            self.at = if self.bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            self.place = Place::Between;
        }
        loop {
            if self.place == Place::Lost && !self.pass_line() {
                return None;
            }
            self.pass(u8::is_ascii_whitespace);
            match (self.place, *self.bytes.get(self.at)?) {
                (Place::Between, b'[') => {
                    self.array = Some(self.line);
                    self.go_on(Place::Element);
                }
                (Place::Element | Place::AfterElement, b']') => {
                    self.array = None;
                    self.go_on(Place::Between);
                }
                (Place::AfterElement, b',') => self.go_on(Place::Element),
                (Place::AfterElement, _) => {
                    return Some(Err(self.lost("a comma was expected between elements")));
                }
                (Place::Between | Place::Element | Place::Start | Place::Lost, b'{') => return self.object(),
                (Place::Between | Place::Element | Place::Start | Place::Lost, _) => {
                    return Some(Err(self.lost("no JSON object begins there")));
                }
            }
        }
    }

    /// Whether the file ended where it may.
    pub fn rest(&self) -> Option<Malformed> {
        let is_cut = self.at < self.bytes.len() && self.place != Place::Lost;
        (is_cut || self.array.is_some())
            .then(|| Malformed { line: self.line, reason: "the file ends within it".to_owned() })
    }

    fn object(&mut self) -> Option<Result<(u64, Vec<u8>), Malformed>> {
        let rest = &self.bytes[self.at..];
        let mut documents = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match documents.next() {
            Some(Ok(_)) => {
                let text = rest[..documents.byte_offset()].to_vec();
                let line = self.line;
                self.line += line_ends(&text);
                self.at += text.len();
                self.place = if self.array.is_some() { Place::AfterElement } else { Place::Between };
                if let Err(error) = std::str::from_utf8(&text) {
                    return Some(Err(Malformed { line, reason: error.to_string() }));
                }
                Some(Ok((line, text)))
            }
            Some(Err(error)) if error.is_eof() => {
                if rest.len() > DOCUMENT_BYTES_MAX {
                    let reason = format!("it is longer than {} MiB", DOCUMENT_BYTES_MAX >> 20);
                    return Some(Err(self.lost(&reason)));
                }
                None
            }
            Some(Err(error)) => {
                let reason = error.to_string();
                // Its line and column count from the object's own beginning.
                let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
                Some(Err(self.lost(reason)))
            }
            None => None,
        }
    }

    fn go_on(&mut self, place: Place) {
        self.at += 1;
        self.place = place;
    }

    fn pass(&mut self, is_passed: impl Fn(&u8) -> bool) {
        let passed = self.bytes[self.at..].iter().take_while(|byte| is_passed(byte)).count();
        self.line += line_ends(&self.bytes[self.at..self.at + passed]);
        self.at += passed;
    }

    /// After this, lines are left out up to one that begins with an object.
    fn lost(&mut self, reason: &str) -> Malformed {
        self.place = Place::Lost;
        // An array that began on this line may end on it as well.
        self.array = self.array.filter(|line| *line < self.line);
        Malformed { line: self.line, reason: reason.to_owned() }
    }

    /// To the beginning of the next line. False: it has not come yet.
    fn pass_line(&mut self) -> bool {
        let Some(end) = self.bytes[self.at..].iter().position(|byte| *byte == b'\n') else {
            self.at = self.bytes.len();
            return false;
        };
        self.at += end + 1;
        self.line += 1;
        self.place = if self.array.is_some() { Place::Element } else { Place::Between };
        true
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use crate::cli::import::document::{Format, read_in_pieces};

    fn read(text: &[u8]) -> Vec<String> {
        read_in_pieces(Format::Json, false, text, &[1, 2, 3, 7])
    }

    #[test]
    fn objects_are_found_however_they_stand() {
        let expected = [r#"1 {"a":1}"#, r#"1 {"b":"}{"}"#, r#"1 {"c":[{}]}"#];
        assert_eq!(read(br#"{"a":1}{"b":"}{"} {"c":[{}]}"#), expected);
        assert_eq!(read(br#" [{"a":1}, {"b":"}{"} ,{"c":[{}]}] "#), expected);
        assert_eq!(read(b"{\"a\":1}\r\n\n{\"a\":2}"), [r#"1 {"a":1}"#, r#"3 {"a":2}"#]);
        assert_eq!(read(b"\xef\xbb\xbf{\n \"a\": 1\n}\n{}\n"), ["1 {\n \"a\": 1\n}", "4 {}"]);
        assert_eq!(read(b""), Vec::<String>::new());
        assert_eq!(read(b"[]\n[{}]"), ["2 {}"]);
    }

    #[test]
    fn a_line_that_is_none_does_not_hide_the_next() {
        assert_eq!(
            read(b"{\"a\":1}\n{\"a\" 2}\n{\"a\":3}\n"),
            [r#"1 {"a":1}"#, "!2 expected `:`", r#"3 {"a":3}"#]
        );
        assert_eq!(
            read(b"nope\n17\n{}\n"),
            ["!1 no JSON object begins there", "!2 no JSON object begins there", "3 {}"]
        );
        assert_eq!(
            read(b"[1]\n{}\n[{} 2]\n{}\n"),
            [
                "!1 no JSON object begins there",
                "2 {}",
                "3 {}",
                "!3 a comma was expected between elements",
                "4 {}"
            ]
        );
        assert_eq!(read(b"{\"a\":\"\xff\"}\n{}\n").len(), 2);
        assert_eq!(
            read(b"[\n{} {}\n,{},\n{},\n]{}"),
            [
                "2 {}",
                "!2 a comma was expected between elements",
                "!3 no JSON object begins there",
                "4 {}",
                "5 {}"
            ]
        );
    }

    #[test]
    fn an_end_too_early_is_told() {
        assert_eq!(read(b"{}\n{\"a\":"), ["1 {}", "!2 the file ends within it"]);
        assert_eq!(read(b"[{},\n{}"), ["1 {}", "2 {}", "!2 the file ends within it"]);
    }
}
