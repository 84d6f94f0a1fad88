//! Reading a properties file.
//!
//! Java reads such files as ISO 8859-1, but editors write UTF-8, and a path with an umlaut should be the path that
//! the operator sees. So a file that is valid UTF-8 is read as that, any other as ISO 8859-1. Everything else (escapes,
//! continued lines, comments, separators) is Java's format. `java-properties` decodes bytes as windows-1252, which is
//! neither; it is given ASCII only, with all other characters escaped.

use java_properties::PropertiesIter;

/// All entries in their order in the file; a key may occur twice, then the last one counts. The error says where.
pub fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    };
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else if (c as u32) < 0x1_0000 {
            ascii.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            return Err(format!("the character {c:?} cannot stand in a properties file"));
        }
    }
    let mut entries = Vec::new();
    PropertiesIter::new(ascii.as_bytes())
        .read_into(|key, value| entries.push((key, value)))
        .map_err(|error| error.to_string())?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(bytes: &[u8]) -> Vec<(String, String)> {
        parse(bytes).expect("a readable file")
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn java_format() {
        let file = b"# comment\n! other\na=1\n b : 2\nc 3\nd=x,\\\n   y\ne=tab\\tend\n\nf=\n";
        let expected = [
            pair("a", "1"),
            pair("b", "2"),
            pair("c", "3"),
            pair("d", "x,y"),
            pair("e", "tab\tend"),
            pair("f", ""),
        ];
        assert_eq!(pairs(file), expected);
    }

    #[test]
    fn utf_8_and_latin_1() {
        assert_eq!(pairs("log.dirs=/data/größe/日".as_bytes()), [pair("log.dirs", "/data/größe/日")]);
        assert_eq!(pairs(b"log.dirs=/gr\xf6\xdfe\x80"), [pair("log.dirs", "/größe\u{80}")]);
        assert_eq!(pairs(b"\xef\xbb\xbfnode.id=1"), [pair("node.id", "1")]);
        assert_eq!(pairs(b"a=\\u00f6"), [pair("a", "ö")]);
    }

    #[test]
    fn broken_escapes_are_errors() {
        assert!(parse(b"a=\\u12").is_err());
        assert!(parse("a=😀".as_bytes()).is_err());
    }
}
