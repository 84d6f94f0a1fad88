//! Tables for people: columns as wide as their widest cell, two spaces between, numbers to the right.

use std::io::{self, Write};

pub struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
    /// As the first rows that were written made it.
    columns: Option<Vec<Column>>,
}

#[derive(Clone, Copy)]
struct Column {
    width: usize,
    to_right: bool,
}

impl Table {
    pub fn new<T: AsRef<str>>(titles: &[T]) -> Table {
        let titles = titles.iter().map(|title| title.as_ref().to_owned()).collect();
        Table { titles, rows: Vec::new(), columns: None }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "a row has a cell for each title");
        self.rows.push(cells);
    }

    /// Rows that are not written yet.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows so far, the titles before the first of all. Later ones have columns as wide as these.
    pub fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        let columns = match &self.columns {
            Some(columns) => columns.clone(),
            None => {
                let columns = self.columns();
                write_line(out, &self.titles, &columns)?;
                self.columns.insert(columns).clone()
            }
        };
        self.rows.drain(..).try_for_each(|row| write_line(out, &row, &columns))
    }

    fn columns(&self) -> Vec<Column> {
        let numeric = |cell: &String| cell == "-" || cell.parse::<f64>().is_ok();
        let column = |c: usize| {
            let cells = self.rows.iter().map(|row| row[c].chars().count());
            Column {
                width: cells.chain([self.titles[c].chars().count()]).max().unwrap_or(0),
                to_right: self.rows.iter().all(|row| numeric(&row[c])),
            }
        };
        (0..self.titles.len()).map(column).collect()
    }
}

fn write_line(out: &mut impl Write, cells: &[String], columns: &[Column]) -> io::Result<()> {
    let mut text = String::new();
    for (c, (cell, column)) in cells.iter().zip(columns).enumerate() {
        let pad = " ".repeat(column.width.saturating_sub(cell.chars().count()));
        if c > 0 {
            text.push_str("  ");
        }
        if column.to_right {
            text.push_str(&pad);
            text.push_str(cell);
        } else {
            text.push_str(cell);
            text.push_str(&pad);
        }
    }
    writeln!(out, "{}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["TOPIC", "LAG", "HOST"]);
        table.row(vec!["orders".into(), "7".into(), "-".into()]);
        table.row(vec!["a".into(), "-".into(), "10.0.0.1".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        table.row(vec!["later".into(), "1234".into(), "x".into()]);
        table.write(&mut out).unwrap();
        let expected = "TOPIC   LAG  HOST\norders    7  -\na         -  10.0.0.1\nlater   1234  x\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
