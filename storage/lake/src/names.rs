//! Names of columns. Glue lower-cases names and Athena wants letters, digits and underscores, so that is what a column gets,
//! whatever its member is called; the member's own name stays in the column's description.

use std::fmt::Write;

/// Athena's bound is 255; this leaves room for suffixes.
const BYTES_MAX: usize = 128;

/// `Adj Close` is `adj_close`, `CloseUSD` is `close_usd`.
pub fn snake_case(member: &str) -> String {
    let mut name = String::with_capacity(member.len().min(BYTES_MAX) + 4);
    let mut before = ' ';
    let mut characters = member.chars().peekable();
    while let Some(character) = characters.next() {
        if name.len() >= BYTES_MAX {
            break;
        }
        let is_word_start = character.is_ascii_uppercase()
            && (before.is_ascii_lowercase()
                || before.is_ascii_digit()
                || (before.is_ascii_uppercase() && characters.peek().is_some_and(char::is_ascii_lowercase)));
        if (is_word_start || !character.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        if character.is_ascii_alphanumeric() {
            name.push(character.to_ascii_lowercase());
        }
        before = character;
    }
    let name = name.trim_end_matches('_');
    match name.bytes().next() {
        None => "col".to_owned(),
        Some(b'0'..=b'9') => format!("col_{name}"),
        Some(_) => name.to_owned(),
    }
}

/// `name`, or the first of `name_2`, `name_3`, ... that is not used.
pub fn unused(name: String, is_used: impl Fn(&str) -> bool) -> String {
    let mut unused = name;
    let bytes = unused.len();
    let mut number = 1u32;
    while is_used(&unused) {
        number += 1;
        unused.truncate(bytes);
        write!(unused, "_{number}").expect("memory takes it");
    }
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_athena_takes() {
        for (member, name) in [
            ("Adj Close", "adj_close"),
            ("CloseUSD", "close_usd"),
            ("HTTPServer2Name", "http_server2_name"),
            ("already_snake", "already_snake"),
            ("_partition", "partition"),
            ("a--b  c", "a_b_c"),
            ("2024", "col_2024"),
            ("", "col"),
            ("価格", "col"),
            ("Größe", "gr_e"),
            ("x.y/z", "x_y_z"),
        ] {
            assert_eq!(snake_case(member), name, "{member}");
        }
        assert!(snake_case(&"Ab".repeat(10_000)).len() <= BYTES_MAX + 1);
    }

    #[test]
    fn collisions_get_numbers() {
        let used = ["price", "price_2"];
        assert_eq!(unused("price".to_owned(), |name| used.contains(&name)), "price_3");
        assert_eq!(unused("volume".to_owned(), |name| used.contains(&name)), "volume");
    }
}
